// Parameters of half types to the accumulation type, all of them in one launch.
#include "cuda/device.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxTensors = 4;

struct Conversion {
  const void* source;
  void* target;
  int64_t count;
  ScalarType type;
};

template <typename T, typename In>
__device__ void convert_from(Conversion task) {
  const In* in = static_cast<const In*>(task.source);
  T* out = static_cast<T*>(task.target);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < task.count; k += step) {
    out[k] = static_cast<T>(in[k]);
  }
}

template <typename T>
__device__ void convert_one(Conversion task) {
  switch (task.type) {
    case ScalarType::Half:
      return convert_from<T, torch::headeronly::Half>(task);
    case ScalarType::BFloat16:
      return convert_from<T, torch::headeronly::BFloat16>(task);
    case ScalarType::Float:
      return convert_from<T, float>(task);
    default:
      return convert_from<T, double>(task);
  }
}

// Row y of the grid takes tensor y. Parameters of their own, as indexing an array of them by a variable would copy it
// to local memory.
template <typename T>
__global__ void __launch_bounds__(kThreads) convert_kernel(Conversion first, Conversion second, Conversion third,
                                                           Conversion fourth) {
  if (blockIdx.y == 0) convert_one<T>(first);
  if (blockIdx.y == 1) convert_one<T>(second);
  if (blockIdx.y == 2) convert_one<T>(third);
  if (blockIdx.y == 3) convert_one<T>(fourth);
}

}  // namespace

void Device::convert(const Tensor* const* tensors, OptionalTensor* converted, size_t count, ScalarType dtype) const {
  require(count <= kMaxTensors, "convert: too many tensors");
  std::array<Conversion, kMaxTensors> all{};
  std::array<Tensor, kMaxTensors> sources;  // held until the launch
  unsigned used = 0;
  int64_t longest = 0;
  for (size_t k = 0; k < count; ++k) {
    if (tensors[k] == nullptr) continue;
    const Tensor source = to_contiguous(*tensors[k]);
    converted[k] = source;
    if (source.scalar_type() == dtype) continue;
    accumulation_type("parameters", source.scalar_type());  // refuses what the kernel does not know
    converted[k] = torch::stable::new_empty(source, source.sizes(), dtype);
    all[used] = {source.const_data_ptr(), converted[k]->mutable_data_ptr(), source.numel(), source.scalar_type()};
    longest = std::max(longest, source.numel());
    sources[used++] = source;
  }
  if (longest == 0) return;
  const dim3 grid = grid_size(std::min<int64_t>(cdiv(longest, kThreads), 4096), used);
  const auto convert_all = dtype == ScalarType::Double ? convert_kernel<double> : convert_kernel<float>;
  INDEED_LAUNCH(convert_all, grid, dim3(kThreads), 0, stream_, all[0], all[1], all[2], all[3]);
}

}  // namespace indeed::cuda
