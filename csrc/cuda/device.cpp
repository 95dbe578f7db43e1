#include "cuda/device.h"

#if defined(INDEED_CUDA_EMULATION)
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#define INDEED_MM_OUT aoti_torch_cpu_mm_out
#define INDEED_ADDMM_OUT aoti_torch_cpu_addmm_out
#else
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#define INDEED_MM_OUT aoti_torch_cuda_mm_out
#define INDEED_ADDMM_OUT aoti_torch_cuda_addmm_out
#endif

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
  Tensor all = Matrix{sums, rows, sizeof(RowSums) / sizeof(double), ScalarType::Double, device_}.view();
  torch::stable::zero_(all);
}

void Device::copy(Tensor& target, const Tensor& source) const {
  count_launch();
  torch::stable::copy_(target, source);
}

void Device::gemm(const Matrix& out, const Tensor& a, const Tensor& b, bool accumulate) const {
  if (out.rows == 0 || out.columns == 0) return;
  count_launch();
  const Tensor target = out.view();
  if (accumulate) {
    TORCH_ERROR_CODE_CHECK(INDEED_ADDMM_OUT(target.get(), target.get(), a.get(), b.get(), 1.0, 1.0));
  } else {
    TORCH_ERROR_CODE_CHECK(INDEED_MM_OUT(target.get(), a.get(), b.get()));
  }
}

}  // namespace indeed::cuda
