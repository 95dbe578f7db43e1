// The end of a class chunk: the bias gradient from its partial sums and, after the last chunk, the loss from the sums
// of its rows; both in a fixed order. Blocks of a launch of their own, or of one that has other work too.
#pragma once

#include <limits>

#include "cuda/device.h"
#include "cuda/reduce.h"

namespace indeed::cuda {

// A block reduces with this much shared memory, double, or less: one per thread.
constexpr int kReduceThreads = 256;

template <typename T, typename Out>
struct ReductionTask {
  BiasSums<T> bias;
  Out* grad_bias;       // or null
  int64_t bias_blocks;  // blocks [0, bias_blocks) take the bias, one more the loss, where it is asked for
  LossSums sums;
  RowView rows;
  T *loss, *components;  // components are null where the loss is not asked for; a loss of no rows is null by itself
  int64_t blocks() const { return bias_blocks + (components != nullptr ? 1 : 0); }
};

template <typename T, typename Out>
ReductionTask<T, Out> reduction_task(const Reductions<T>& task, const RowView& rows) {
  ReductionTask<T, Out> result{};
  result.bias = task.bias;
  result.sums = task.sums;
  result.rows = rows;
  if (task.grad_bias != nullptr) {
    result.grad_bias = static_cast<Out*>(task.grad_bias->mutable_data_ptr());
    result.bias_blocks = cdiv(task.bias.classes, kWarp);
  }
  if (task.loss != nullptr) {
    result.loss = task.loss->template mutable_data_ptr<T>();
    result.components = task.components->template mutable_data_ptr<T>();
  }
  return result;
}

// Classes [32 block, ...): a warp adds up a segment of the groups, then the segments are added in order.
template <typename T, typename Out>
__device__ void reduce_bias(const BiasSums<T>& bias, Out* out, int64_t block, double* shared) {
  const int64_t c = block * kWarp + lane_index();
  const int64_t length = cdiv(bias.groups, warp_count()), begin = warp_index() * length;
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
  for (int segment = 1; segment < warp_count(); ++segment) sum += shared[segment * kWarp + lane_index()];
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

// By block `block` of the task's.
template <typename T, typename Out>
__device__ void reduce_loss_and_bias(const ReductionTask<T, Out>& task, int64_t block, double* shared) {
  if (block < task.bias_blocks) {
    reduce_bias(task.bias, task.grad_bias, block, shared);
  } else {
    reduce_loss(task.sums, task.rows, task.loss, task.components, shared);
  }
}

}  // namespace indeed::cuda
