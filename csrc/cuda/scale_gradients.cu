#include <array>

#include "cuda/device.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
struct Segment {
  T* data;
  int64_t count;
};

// Row y of the grid takes gradient y. Parameters of their own, as indexing an array of them by a variable would copy it
// to local memory.
template <typename T, typename Scale>
__global__ void __launch_bounds__(kThreads) scale_gradients_kernel(Segment<T> first, Segment<T> second, Segment<T> third,
                                                                   const Scale* scale) {
  const Scale factor = *scale;
  if (factor == Scale(1)) return;
  const Segment<T> segment = blockIdx.y == 0 ? first : blockIdx.y == 1 ? second : third;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < segment.count; k += step) {
    segment.data[k] = static_cast<T>(static_cast<Scale>(segment.data[k]) * factor);
  }
}

}  // namespace

template <typename T, typename Scale>
void Device::scale_gradients(const std::array<Tensor, 3>& gradients, const Tensor& scale) const {
  const auto segment = [&](int k) { return Segment<T>{gradients[k].mutable_data_ptr<T>(), gradients[k].numel()}; };
  const Segment<T> first = segment(0), second = segment(1), third = segment(2);
  const int64_t longest = std::max({first.count, second.count, third.count});
  if (longest == 0) return;
  const dim3 grid = grid_size(std::min<int64_t>(cdiv(longest, kThreads), 1 << 12), 3);
  INDEED_LAUNCH((scale_gradients_kernel<T, Scale>), grid, dim3(kThreads), 0, stream_, first, second, third,
                scale.const_data_ptr<Scale>());
}

#define INDEED_INSTANTIATE(T, Scale) \
  template void Device::scale_gradients<T, Scale>(const std::array<Tensor, 3>&, const Tensor&) const;
INDEED_INSTANTIATE(float, float)
INDEED_INSTANTIATE(double, double)
INDEED_INSTANTIATE(BFloat16, float)
#undef INDEED_INSTANTIATE

}  // namespace indeed::cuda
