// Parameters of half types to the accumulation type, all of them in one launch.
#include "cuda/device.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxTensors = 4;

struct Conversions {
  const void* source[kMaxTensors];
  void* target[kMaxTensors];
  int64_t count[kMaxTensors];
  ScalarType type[kMaxTensors];
};

template <typename T, typename In>
__device__ void convert_all(const void* source, void* target, int64_t count) {
  const In* in = static_cast<const In*>(source);
  T* out = static_cast<T*>(target);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < count; k += step) {
    out[k] = static_cast<T>(in[k]);
  }
}

// Row y of the grid takes tensor y.
template <typename T>
__global__ void __launch_bounds__(kThreads) convert_kernel(Conversions all) {
  const unsigned tensor = blockIdx.y;
  const void* source = all.source[tensor];
  void* target = all.target[tensor];
  const int64_t count = all.count[tensor];
  switch (all.type[tensor]) {
    case ScalarType::Half:
      return convert_all<T, torch::headeronly::Half>(source, target, count);
    case ScalarType::BFloat16:
      return convert_all<T, torch::headeronly::BFloat16>(source, target, count);
    case ScalarType::Float:
      return convert_all<T, float>(source, target, count);
    default:
      return convert_all<T, double>(source, target, count);
  }
}

}  // namespace

void Device::convert(const Tensor* const* tensors, std::optional<Tensor>* converted, size_t count,
                     ScalarType dtype) const {
  require(count <= kMaxTensors, "convert: too many tensors");
  Conversions all{};
  std::array<Tensor, kMaxTensors> sources;  // held until the launch
  unsigned used = 0;
  int64_t longest = 0;
  for (size_t k = 0; k < count; ++k) {
    if (tensors[k] == nullptr) continue;
    const Tensor source = dense(*tensors[k]);
    converted[k] = source;
    if (source.scalar_type() == dtype) continue;
    accumulation_type("parameters", source.scalar_type());  // refuses what the kernel does not know
    converted[k] = torch::stable::new_empty(source, source.sizes(), dtype);
    all.source[used] = source.const_data_ptr();
    all.target[used] = converted[k]->mutable_data_ptr();
    all.count[used] = source.numel();
    all.type[used] = source.scalar_type();
    longest = std::max(longest, source.numel());
    sources[used++] = source;
  }
  if (longest == 0) return;
  const int64_t blocks = std::min<int64_t>((longest + kThreads - 1) / kThreads, 4096);
  const dim3 grid(static_cast<unsigned>(blocks), used);
  if (dtype == ScalarType::Double) {
    INDEED_LAUNCH(convert_kernel<double>, grid, dim3(kThreads), 0, stream_, all);
  } else {
    INDEED_LAUNCH(convert_kernel<float>, grid, dim3(kThreads), 0, stream_, all);
  }
}

}  // namespace indeed::cuda
