// The matrix products of the fused loss, each with the row-local work around it, so that neither the identical
// features nor the gradients by them are ever a matrix in memory. One table exists per instruction set.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <atomic>

#include "cpu/row_kernels.h"

namespace indeed::cpu {

// Bits that say which elements of a row are not zero come in words.
constexpr int64_t kMaskBits = 64;

// Columns of the weight that are packed at a time, the unit of parallel work on it.
constexpr int64_t kPackDepth = 256;

inline int64_t mask_words(int64_t count) { return (count + kMaskBits - 1) / kMaskBits; }

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;

// A chunk of classes of the loss. Matrices over the stack [f; I] have B + R rows, the identical ones last.
template <typename T>
struct FusedChunk {
  const T* features;  // [B, n]
  int64_t batch, width;
  int64_t stacked;    // B + R, or B where both terms are left out
  const T* weight;    // [classes, n], the rows of this chunk
  T* weight_panels;   // panel_elements(classes, n), written by pack_weight
  // Where the weight is stored in a half type, it is read from here, and `weight` is this buffer, which pack_weight
  // writes.
  const void* stored_weight;
  ScalarType stored_type;
  T* converted_weight;
  bool skips_zeros;   // products skip zeros of the stack, of which there are many
  uint64_t* nonzero;  // [stacked, mask_words(n)]: where the stack is not zero, written with the first chunk, or null
  std::atomic<bool>* weight_is_finite;  // written by pack_weight where zeros are skipped
  BceChunk<T> bce;    // its logits: [B, classes], then [R, classes] right behind
  uint8_t* nonfinite_rows;  // [stacked]: rows of grad_logits that are not finite; null where zeros are not skipped
  bool minmax;
  double eps;
  MapStatistics<T>* statistics;  // [R], written with the first chunk
  bool first, last;              // of the chunks
  T* grad_weight;                // [classes, n] or null
  T* grad_features;              // [B, n] or null; written with the last chunk
  // These two instead where results are bfloat16; grad_weight is then a buffer.
  BFloat16* rounded_grad_weight;
  BFloat16* rounded_grad_features;

  bool wants_grad_features() const { return grad_features != nullptr || rounded_grad_features != nullptr; }
};

template <typename T>
struct FusedKernels {
  int64_t panel_columns;      // column tiles are multiples of this wide
  int64_t most_tile_columns;  // and no wider than this
  int64_t (*weight_panel_columns)(bool skips_zeros);
  int64_t sample_scratch_elements;
  int64_t (*tile_scratch_elements)(int64_t tile);

  // `count` elements, from `offset` on, of what is stored in T or a half type.
  void (*read)(const void* stored, ScalarType type, int64_t offset, int64_t count, T* out);
  // The transposed weight in panels of weight_panel_columns classes each: pieces [begin, end) of kPackDepth columns,
  // those of a panel behind one another.
  void (*pack_weight)(const FusedChunk<T>& chunk, int64_t begin, int64_t end);
  // Logits of samples [begin, end) and of the identical features of their own rows.
  void (*logits)(const FusedChunk<T>& chunk, const RowView& rows, int64_t begin, int64_t end, T* scratch);
  // Sets FusedChunk::nonfinite_rows of samples [begin, end) and their own rows.
  void (*mark_nonfinite_rows)(const FusedChunk<T>& chunk, const RowView& rows, int64_t begin, int64_t end);
  // A tile of columns, from `begin` on, of the weight and feature gradients. stack_gradient [B + R, tile] carries the
  // products by the stack from chunk to chunk. `next` is where the tile after it begins, the width if there is none.
  void (*grad_products)(const FusedChunk<T>& chunk, const RowView& rows, int64_t begin, int64_t next, int64_t tile,
                    T* stack_gradient, T* scratch);
};

template <typename T>
const FusedKernels<T>& fused_kernels();

}  // namespace indeed::cpu
