// Row-local work of the method on the CPU. Each kernel covers a range and is called from torch's thread pool;
// one table of them exists per instruction set, and row_kernels<T>() picks the best this machine runs.
#pragma once

#include "common/row_tasks.h"

namespace indeed::cpu {

template <typename T>
struct RowKernels {
  // Identical features [R, n] of rows [begin, end), the statistics of their maps, and, unless null, f - identical.
  void (*form_rows)(const T* features, int64_t width, const RowView& rows, bool minmax, double eps, int64_t begin,
                    int64_t end, T* identical, T* disparate, MapStatistics<T>* statistics);
  // BCE of samples [begin, end) and their own rows, added to their sums; adds their bias gradient to
  // grad_bias [classes] unless null.
  void (*bce_epilogue)(const BceChunk<T>& chunk, const RowView& rows, int64_t begin, int64_t end, T* grad_bias);
  // The same for logits of three classifiers.
  void (*six_way)(const SixWayLogits<T>& logits, const BceChunk<T>& settings, const RowView& rows, int64_t begin,
                  int64_t end);
  // Adds sum dm m and sum dm (1 - m) of rows [begin, end), from T and identical features.
  void (*map_dots)(const T* features, const T* identical, const T* map_gradient, int64_t width, const RowView& rows,
                   int64_t begin, int64_t end, RowSums* sums);
  // grad_features [B, columns], rows `stride` apart, which may be the base itself; the task is of these columns.
  void (*map_backward)(const MapBackward<T>& task, const RowView& rows, int64_t batch, T* grad_features,
                       int64_t stride);
};

template <typename T>
const RowKernels<T>& row_kernels();

}  // namespace indeed::cpu
