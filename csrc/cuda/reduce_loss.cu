// The reductions at the end of a class chunk as a launch of their own.
#include "cuda/reduce_loss.h"

namespace indeed::cuda {
namespace {

template <typename T, typename Out>
__global__ void __launch_bounds__(kReduceThreads) reduce_loss_kernel(ReductionTask<T, Out> task) {
  INDEED_SHARED(double, shared, kReduceThreads);
  reduce_loss_and_bias(task, blockIdx.x, shared);
}

template <typename T, typename Out>
void launch(const Reductions<T>& task, const RowView& rows, cudaStream_t stream) {
  const ReductionTask<T, Out> blocks = reduction_task<T, Out>(task, rows);
  if (blocks.blocks() == 0) return;
  INDEED_LAUNCH((reduce_loss_kernel<T, Out>), grid_size(blocks.blocks()), dim3(kReduceThreads), 0, stream, blocks);
}

}  // namespace

template <typename T>
void Device::reduce(const Reductions<T>& task, const Rows& rows) const {
  if constexpr (std::is_same_v<T, float>) {
    if (task.grad_bias != nullptr && task.grad_bias->scalar_type() == ScalarType::BFloat16) {
      return launch<T, BFloat16>(task, rows.view(), stream_);
    }
  }
  launch<T, T>(task, rows.view(), stream_);
}

template void Device::reduce(const Reductions<float>&, const Rows&) const;
template void Device::reduce(const Reductions<double>&, const Rows&) const;

}  // namespace indeed::cuda
