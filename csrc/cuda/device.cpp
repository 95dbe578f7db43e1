#include "cuda/device.h"

namespace indeed::cuda {

#if defined(INDEED_CUDA_EMULATION)
Device::Device(const Tensor& like) : device_(like.device()) {}
#else
Device::Device(const Tensor& like) : device_(like.device()), guard_(device_.index()) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_.index(), &stream));
  stream_ = static_cast<cudaStream_t>(stream);
}
#endif

void Device::require_same(const char* name, const OptionalTensor& tensor) const {
  if (!tensor.has_value()) return;
  const torch::stable::Device other = tensor->device();
  require(other.type() == device_.type() && other.index() == device_.index(), name,
          ": expected a tensor on the device of the features");
}

void Device::clear(RowSums* sums, int64_t rows) const {
  count_launch();
  constexpr int64_t kFields = sizeof(RowSums) / sizeof(double);
  Tensor all = torch::stable::from_blob(sums, {rows * kFields}, {1}, device_, ScalarType::Double);
  torch::stable::zero_(all);
}

}  // namespace indeed::cuda
