// The index of directed rows as a launch of its own.
#include "cuda/row_index.h"

#include "cuda/device.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads, 4) row_index_kernel(PairView pairs, RowIndex index) {
  INDEED_SHARED(int64_t, shared, kThreads);
  index_rows(pairs, index, blockIdx.x, gridDim.x, shared);
}

size_t index_bytes(int64_t count, int64_t batch) {
  return 5 * Device::Scratch::bytes_of<int64_t>(count) + 4 * Device::Scratch::bytes_of<int64_t>(batch + 1);
}

}  // namespace

Device::Rows::Rows(const Device& device, const Tensor& pairs, int64_t batch)
    : held_(contiguous(pairs)),
      scratch_(pairs, index_bytes(require_pairs(pairs, batch), batch)),
      pairs_{held_.const_data_ptr<int64_t>(), pairs.numel(), batch, pairs.dim() == 2} {
  device.require_same("pairs", pairs);
  for (int64_t** array : {&index_.source, &index_.partner, &index_.reverse_row, &index_.own, &index_.incoming}) {
    *array = scratch_.take<int64_t>(pairs_.count);
  }
  for (int64_t** array : {&index_.own_begin, &index_.incoming_begin, &index_.next[0], &index_.next[1]}) {
    *array = scratch_.take<int64_t>(batch + 1);
  }
}

void Device::Rows::index(const Device& device) const {
  const int64_t blocks = std::clamp<int64_t>(cdiv(pairs_.count, kThreads), 2, 1 << 10);
  INDEED_LAUNCH(row_index_kernel, grid_size(blocks), dim3(kThreads), 0, device.stream(), pairs_, index_);
}

}  // namespace indeed::cuda
