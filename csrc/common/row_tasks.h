// What the row kernels of every device are given and what they return. Plain data; pointers are of the device.
#pragma once

#include "common/identical_map.h"

namespace indeed {

// The directed rows (source, partner) a partner vector or pair list stands for. A sample's own rows are those it is
// the source of, its incoming rows those it is the partner of; both lists are in ascending row order, so that sums
// over them have a fixed order.
struct RowView {
  int64_t count;
  const int64_t* source;
  const int64_t* partner;
  const int64_t* twin;            // the row with source and partner exchanged; negative if there is none
  const int64_t* own_begin;       // [B + 1] offsets into own
  const int64_t* own;
  const int64_t* incoming_begin;  // [B + 1] offsets into incoming
  const int64_t* incoming;
};

// Sums over the classes of one row, kept in double across class blocks.
struct RowSums {
  double original, identical, disparate;  // cross-entropies, unweighted
  double dot_identical, dot_disparate;    // sum dm m and sum dm (1 - m), see common/identical_map.h
};

// Eqs. (6) to (9) for one row.
INDEED_HD double row_loss(const RowSums& sums, const double* lam) {
  return sums.original + lam[0] * sums.identical + lam[1] * sums.disparate;
}

// Logits of a block of classes [first_class, first_class + classes), without bias, rows `stride` apart;
// overwritten with effective gradients where `gradients` is set.
template <typename T>
struct BceBlock {
  int64_t first_class, classes, stride;
  T* original;              // [B, classes]: W f, then G_O
  T* identical;             // [R, classes]: W I, then G_I; null when both blocks are left out
  const T* bias;            // [C] or null
  const T* pos_weight;      // [C] or null
  const uint32_t* present;  // [B, words]
  const uint32_t* known;    // [B, words] or null
  int64_t words;
  int64_t blocks;           // kIdenticalBlock | kDisparateBlock
  const double* lam;        // [2]: of the identical and of the disparate block
  const T* row_weight;      // [R] or null: scale of each row in the gradients
  T scale;                  // the same for all rows where row_weight is null,
  const T* upstream;        // times this number unless null
  bool gradients;
  RowSums* sums;            // [R]
};

// The weights of a block, read once per kernel.
template <typename T>
struct BlockWeights {
  T scale, identical, disparate;
};

template <typename T>
INDEED_HD BlockWeights<T> block_weights(const BceBlock<T>& b) {
  const T scale = b.upstream != nullptr ? b.scale * *b.upstream : b.scale;
  return {scale, static_cast<T>(b.lam[0]), static_cast<T>(b.lam[1])};
}

template <typename T>
struct SixWayLogits {
  int64_t classes;
  const T *original, *identical, *disparate;           // [B, C], [R, C], [R, C], bias included
  T *grad_original, *grad_identical, *grad_disparate;  // null in the forward
};

// grad_features of samples: base, plus what flows through the maps of their own and incoming rows.
template <typename T>
struct MapBackward {
  int64_t width;  // columns to work on; the matrices may have more
  bool minmax;
  const T* features;      // [B, width], rows feature_stride apart, as those of the result are
  const T* map_gradient;  // T, [R, width], rows gradient_stride apart
  const T* base;          // [B, width], rows gradient_stride apart, or null for zero
  const T* direct;        // [R, width], rows gradient_stride apart, added to the source of each row, or null
  const MapStatistics<T>* statistics;
  const RowSums* sums;
  int64_t feature_stride, gradient_stride;
};

// The end of a class block: the bias gradient of its classes from sums per chunk of samples.
template <typename T>
struct BiasSums {
  const T* partials;  // [chunks, classes]
  int64_t chunks, first_class, classes;
};

// The loss and its components from the sums of every row.
struct LossSums {
  const RowSums* sums;
  const double* lam;
  int64_t reduction;  // Reduction
};

}  // namespace indeed
