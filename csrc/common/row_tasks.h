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
  const int64_t* reverse_row;     // the row with source and partner exchanged; negative if there is none
  const int64_t* own_begin;       // [B + 1] offsets into own
  const int64_t* own;
  const int64_t* incoming_begin;  // [B + 1] offsets into incoming
  const int64_t* incoming;
};

// Weights of the identical and of the disparate term, on a GPU from memory where the host does not know them.
struct LossWeights {
  double identical, disparate;
  const double* tensor;  // [2] in place of them, or null
};

INDEED_HD double lam_identical(const LossWeights& lam) { return lam.tensor != nullptr ? lam.tensor[0] : lam.identical; }
INDEED_HD double lam_disparate(const LossWeights& lam) { return lam.tensor != nullptr ? lam.tensor[1] : lam.disparate; }

// Sums over the classes of one row, kept in double across class chunks.
struct RowSums {
  double original, identical, disparate;  // cross-entropies, unweighted
  double dot_identical, dot_disparate;    // sum dm m and sum dm (1 - m), see common/identical_map.h
};

// Eqs. (6) to (9) for one row.
INDEED_HD double row_loss(const RowSums& sums, const LossWeights& lam) {
  return sums.original + lam_identical(lam) * sums.identical + lam_disparate(lam) * sums.disparate;
}

// Logits of a chunk of classes [first_class, first_class + classes), without bias, rows `stride` apart; overwritten with
// the gradients of the loss by them (grad_logits) where `gradients` is set.
template <typename T>
struct BceChunk {
  int64_t first_class, classes, stride;
  T* original;                    // [B, classes]: W f, then G_O
  T* identical;                   // [R, classes]: W I, then G_I; null when both terms are left out
  const T* bias;                  // [C] or null
  const T* pos_weight;            // [C] or null
  const uint32_t* positive_bits;  // [B, words]; a class that is positive and not valid holds no label at all
  const uint32_t* valid_bits;     // [B, words] or null
  int64_t words;
  int64_t term_mask;              // kIdenticalTerm | kDisparateTerm
  LossWeights lam;
  const T* row_weight;            // [R] or null: scale of each row in the gradients
  T scale;                        // the same for all rows where row_weight is null,
  const T* upstream;              // times this number unless null
  bool gradients;
  RowSums* sums;                  // [R]
};

// What gradients of the terms are multiplied with, read once per kernel; `scale` where there is no row_weight.
template <typename T>
struct TermWeights {
  T scale, identical, disparate;
};

template <typename T>
INDEED_HD TermWeights<T> term_weights(const BceChunk<T>& b) {
  const T scale = b.upstream != nullptr ? b.scale * *b.upstream : b.scale;
  return {scale, static_cast<T>(lam_identical(b.lam)), static_cast<T>(lam_disparate(b.lam))};
}

template <typename T>
struct SixWayLogits {
  int64_t classes;
  const T *original, *identical, *disparate;           // [B, C], [R, C], [R, C], bias included
  T *grad_original, *grad_identical, *grad_disparate;  // null in the forward
};

// grad_features of samples: base, plus what flows through the maps of their own and incoming rows.
template <typename T, typename Feature = T>
struct MapBackward {
  int64_t width;  // columns to work on; the matrices may have more
  bool minmax;
  const Feature* features;  // [B, width], rows feature_stride apart, as those of the result are
  const T* map_gradient;    // T, [R, width], rows gradient_stride apart
  const T* base;            // [B, width], rows gradient_stride apart, or null for zero
  const T* grad_source;     // [R, width], rows gradient_stride apart, added to the source of each row, or null
  const MapStatistics<T>* statistics;
  const RowSums* sums;
  int64_t feature_stride, gradient_stride;
};

// The end of a class chunk: the bias gradient of its classes from sums per group of samples.
template <typename T>
struct BiasSums {
  const T* partials;  // [groups, classes]
  int64_t groups, first_class, classes;
};

// The loss and its components from the sums of every row.
struct LossSums {
  const RowSums* sums;
  LossWeights lam;
  int64_t reduction;  // Reduction
};

}  // namespace indeed
