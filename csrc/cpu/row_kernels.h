// Row-local work of the method on the CPU. Each kernel covers a range and is called from torch's thread pool;
// one table of them exists per instruction set, and row_kernels<T>() picks the best this machine runs.
#pragma once

#include "common/identical_map.h"
#include "directed_rows.h"

namespace indeed::cpu {

// Sums over the classes of one row, kept in double across class blocks.
struct RowSums {
  double original, identical, disparate;     // cross-entropies, unweighted
  double dot_identical, dot_disparate;       // sum dm m and sum dm (1 - m), see common/identical_map.h
};

// Logits of a block of classes [first_class, first_class + classes), without bias, rows `stride` apart;
// overwritten with effective gradients where `gradients` is set.
template <typename T>
struct BceBlock {
  int64_t first_class, classes, stride;
  T* original;               // [B, classes]: W f, then G_O
  T* identical;              // [R, classes]: W I, then G_I; null when both blocks are left out
  const T* bias;             // [C] or null
  const T* pos_weight;       // [C] or null
  const uint32_t* present;   // [B, words]
  const uint32_t* known;     // [B, words] or null
  int64_t words;
  int64_t blocks;            // kIdenticalBlock | kDisparateBlock
  T lam_identical, lam_disparate;
  const T* row_weight;       // [R] or null: scale of each row in the gradients
  T scale;                   // the same for all rows where row_weight is null
  bool gradients;
  RowSums* sums;             // [R], added to
};

template <typename T>
struct SixWayLogits {
  int64_t classes;
  const T *original, *identical, *disparate;  // [B, C], [R, C], [R, C], bias included
  T *grad_original, *grad_identical, *grad_disparate;  // null in the forward
};

// grad_features of samples: base, plus what flows through the maps of their own and incoming rows.
template <typename T>
struct MapBackward {
  int64_t width;  // columns to work on; the matrices may have more
  bool minmax;
  const T* features;        // [B, width], rows feature_stride apart
  const T* map_gradient;    // T, [R, width], rows gradient_stride apart
  const T* base;            // [B, width], rows gradient_stride apart, or null for zero
  const T* direct;          // [R, width], rows gradient_stride apart, added to the source of each row, or null
  int64_t feature_stride, gradient_stride;
  const MapStatistics<T>* statistics;
  const RowSums* sums;
  T* grad_features;  // [B, width], rows feature_stride apart
};

template <typename T>
struct RowKernels {
  // Identical features [R, n] of rows [begin, end), the statistics of their maps, and, unless null, f - identical.
  void (*form_rows)(const T* features, int64_t width, const RowView& rows, bool minmax, double eps, int64_t begin,
                    int64_t end, T* identical, T* disparate, MapStatistics<T>* statistics);
  // BCE of samples [begin, end) and their own rows; adds their bias gradient to grad_bias [classes] unless null.
  void (*bce_block)(const BceBlock<T>& block, const RowView& rows, int64_t begin, int64_t end, T* grad_bias);
  // The same for logits of three classifiers.
  void (*six_way)(const SixWayLogits<T>& logits, const BceBlock<T>& settings, const RowView& rows, int64_t begin,
                  int64_t end);
  // sum dm m and sum dm (1 - m) of rows [begin, end) from T and identical features.
  void (*map_dots)(const T* features, const T* identical, const T* map_gradient, int64_t width, const RowView& rows,
                   int64_t begin, int64_t end, RowSums* sums);
  void (*map_backward)(const MapBackward<T>& task, const RowView& rows, int64_t begin, int64_t end);
};

template <typename T>
const RowKernels<T>& row_kernels();

}  // namespace indeed::cpu
