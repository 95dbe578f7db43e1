// The end of a class chunk: the bias gradient from its partial sums and, after the last chunk, the loss from the sums
// of its rows; both in a fixed order.
#include <limits>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/reduce.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSegments = kThreads / kWarp;

// Classes [32 blockIdx.x, ...): a warp adds up a segment of the groups, then the segments are added in order.
template <typename T, typename Out>
__device__ void reduce_bias(const BiasSums<T>& bias, Out* out, double* shared) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kWarp + lane_index();
  const int64_t length = cdiv(bias.groups, kSegments), begin = warp_index() * length;
  const int64_t end = begin + length < bias.groups ? begin + length : bias.groups;
  double sum = 0;
  if (c < bias.classes) {
    for (int64_t group = begin; group < end; ++group) {
      sum += static_cast<double>(bias.partials[group * bias.classes + c]);
    }
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (warp_index() != 0 || c >= bias.classes) return;
  for (int segment = 1; segment < kSegments; ++segment) sum += shared[segment * kWarp + lane_index()];
  out[bias.first_class + c] = static_cast<Out>(static_cast<T>(sum));
}

template <typename T>
__device__ void reduce_loss(const LossSums& task, const RowView& rows, T* loss, T* components, double* shared) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const bool per_row = task.reduction == static_cast<int64_t>(Reduction::kNone);
  double total = 0, original = 0, identical = 0, disparate = 0;
  for (int64_t row = threadIdx.x; row < rows.count; row += blockDim.x) {
    const bool invalid = rows.reverse_row[row] == kInvalidRow;
    const RowSums sums = invalid ? RowSums{kNan, kNan, kNan, kNan, kNan} : task.sums[row];
    const double value = row_loss(sums, task.lam);
    if (per_row) loss[row] = static_cast<T>(value);
    total += value;
    original += sums.original;
    identical += sums.identical;
    disparate += sums.disparate;
  }
  total = block_reduce(total, Sum{}, shared);
  original = block_reduce(original, Sum{}, shared);
  identical = block_reduce(identical, Sum{}, shared);
  disparate = block_reduce(disparate, Sum{}, shared);
  if (threadIdx.x != 0) return;
  const bool mean = task.reduction == static_cast<int64_t>(Reduction::kMean);
  const double scale = mean && rows.count > 0 ? 1.0 / static_cast<double>(rows.count) : 1.0;
  if (!per_row) loss[0] = static_cast<T>(total * scale);
  components[0] = static_cast<T>(original * scale);
  components[1] = static_cast<T>(identical * scale);
  components[2] = static_cast<T>(disparate * scale);
}

// Blocks [0, bias_blocks): the bias. One more: the loss, where it is asked for.
template <typename T, typename Out>
__global__ void __launch_bounds__(kThreads) reduce_loss_kernel(BiasSums<T> bias, Out* grad_bias, int64_t bias_blocks,
                                                               LossSums sums, RowView rows, T* loss, T* components) {
  INDEED_SHARED(double, shared, kThreads);
  if (blockIdx.x < bias_blocks) {
    reduce_bias(bias, grad_bias, shared);
  } else {
    reduce_loss(sums, rows, loss, components, shared);
  }
}

template <typename T, typename Out>
void launch(const BiasSums<T>& bias, const Tensor* grad_bias, const LossSums& sums, const RowView& rows,
            const Tensor* loss, const Tensor& components, cudaStream_t stream) {
  Out* bias_out = grad_bias != nullptr ? static_cast<Out*>(grad_bias->mutable_data_ptr()) : nullptr;
  T* loss_out = loss != nullptr ? loss->mutable_data_ptr<T>() : nullptr;
  const int64_t bias_blocks = grad_bias != nullptr ? cdiv(bias.classes, kWarp) : 0;
  const int64_t blocks = bias_blocks + (loss != nullptr ? 1 : 0);
  if (blocks == 0) return;
  INDEED_LAUNCH((reduce_loss_kernel<T, Out>), grid_size(blocks), dim3(kThreads), 0, stream, bias, bias_out, bias_blocks,
                sums, rows, loss_out, components.mutable_data_ptr<T>());
}

}  // namespace

template <typename T>
void Device::reduce_loss_and_bias(const BiasSums<T>& bias, const Tensor* grad_bias, const LossSums& sums,
                                  const Rows& rows, const Tensor* loss, const Tensor& components) const {
  if constexpr (std::is_same_v<T, float>) {
    if (grad_bias != nullptr && grad_bias->scalar_type() == ScalarType::BFloat16) {
      return launch<T, torch::headeronly::BFloat16>(bias, grad_bias, sums, rows.view(), loss, components, stream_);
    }
  }
  launch<T, T>(bias, grad_bias, sums, rows.view(), loss, components, stream_);
}

#define INDEED_INSTANTIATE(T)                                                                                \
  template void Device::reduce_loss_and_bias<T>(const BiasSums<T>&, const Tensor*, const LossSums&, const Rows&, \
                                                const Tensor*, const Tensor&) const;
INDEED_INSTANTIATE(float)
INDEED_INSTANTIATE(double)
#undef INDEED_INSTANTIATE

}  // namespace indeed::cuda
