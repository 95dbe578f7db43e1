// sum dm m and sum dm (1 - m) of every row, where no product with the weight gives them for free.
#include "cuda/device.h"
#include "cuda/reduce.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;

// One block per row.
template <typename T>
__global__ void __launch_bounds__(kThreads) map_dots_kernel(const T* features, const T* identical,
                                                            const T* map_gradient, int64_t width, RowView rows,
                                                            RowSums* sums) {
  INDEED_SHARED(double, shared, kMaxWarps);
  const int64_t row = blockIdx.x;
  double dot_identical = 0, dot_disparate = 0;
  if (rows.reverse_row[row] != kInvalidRow) {
    const T* source = features + rows.source[row] * width;
    const T* formed = identical + row * width;
    const T* gradient = map_gradient + row * width;
    for (int64_t k = threadIdx.x; k < width; k += blockDim.x) {
      dot_identical += static_cast<double>(gradient[k] * formed[k]);
      dot_disparate += static_cast<double>(gradient[k] * (source[k] - formed[k]));
    }
  }
  dot_identical = block_reduce(dot_identical, Sum{}, shared);
  dot_disparate = block_reduce(dot_disparate, Sum{}, shared);
  if (threadIdx.x == 0) sums[row] = {0, 0, 0, dot_identical, dot_disparate};
}

}  // namespace

template <typename T>
void Device::map_dots(const T* features, const T* identical, const T* map_gradient, int64_t width, const Rows& rows,
                      RowSums* sums) const {
  if (rows.count() == 0) return;
  INDEED_LAUNCH(map_dots_kernel<T>, grid_size(rows.count()), dim3(kThreads), 0, stream_, features,
                identical, map_gradient, width, rows.view(), sums);
}

template void Device::map_dots<float>(const float*, const float*, const float*, int64_t, const Rows&, RowSums*) const;
template void Device::map_dots<double>(const double*, const double*, const double*, int64_t, const Rows&,
                                       RowSums*) const;

}  // namespace indeed::cuda
