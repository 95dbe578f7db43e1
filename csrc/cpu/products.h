// The matrix products of the fused loss on the CPU. The identical features and the gradients by the stack exist only a
// few rows or columns at a time:
//
//   samples in parallel:  [O; Q] and their cross-entropies
//   columns in parallel:  ∂W, [V; T] and, after the last class chunk, ∂f
//
// Every sum has an order of its own that no number of threads changes.
#pragma once

#include <algorithm>

#include "cpu/row_index.h"
#include "cpu/fused_kernels.h"
#include "cpu/parallel.h"
#include "cpu/reduce.h"
#include "cpu/workspace.h"
#include "operators/fused_indeed_loss.h"

namespace indeed::cpu {

// Samples that share one partial sum of the bias gradient, the unit of parallel work on samples: enough groups for many
// threads at a usual batch. A matter of the batch alone, so that results do not depend on threads.
inline int64_t group_samples(int64_t batch) { return std::clamp<int64_t>(batch / 64, 1, 16); }

inline int64_t sample_groups(int64_t batch) {
  const int64_t samples = group_samples(batch);
  return (batch + samples - 1) / samples;
}

template <typename T>
class Products {
 public:
  // Logits, panels of the weight and, for half types, the weight and its gradient in the type of sums.
  static int64_t elements_per_class(const LossRequest& request, int64_t stacked) {
    const bool is_half = request.features.element_size() == 2;
    return stacked + (is_half ? 3 : 1) * request.features.size(1);
  }

  Products(const LossRequest& request, const RowView& rows, const LossSizes& sizes, ScalarType dtype)
      : request_(request),
        rows_(rows),
        sizes_(sizes),
        groups_(sample_groups(sizes.batch)),
        slots_(parallel_slots(4 * sizes.stacked * sizes.width * sizes.chunk / kMultiplications)),
        column_tile_(column_tile_width()),
        column_tiles_((sizes.width + column_tile_ - 1) / column_tile_),
        operand_type_(choose_operand_type(request.features.scalar_type(), dtype)),
        converts_(operand_type_ != dtype),
        rounds_(operand_type_ == ScalarType::BFloat16),
        features_(as_type(request.features, operand_type_)),
        skips_zeros_(sizes.classes > kFewClasses && has_many_zeros()) {}

  // The type that features and weights are read in.
  ScalarType operand_type() const { return operand_type_; }

  // Elements between two rows of logits of so many classes. An odd number of cache lines, which spreads rows over the
  // sets of a cache.
  int64_t logit_stride(int64_t classes) const {
    return skips_zeros_ ? ((classes + kRowElements - 1) / kRowElements | 1) * kRowElements : classes;
  }

  // Whether the feature gradient is written by the map's backward, in a type of its choice.
  bool maps_gradient() const { return true; }

  size_t scratch_bytes() const {
    const int64_t chunk_elements = sizes_.chunk * sizes_.width;
    return Workspace::bytes_of<T>(converts_ ? sizes_.batch * sizes_.width : 0) +
           Workspace::bytes_of<T>(converts_ ? chunk_elements : 0) +
           Workspace::bytes_of<T>(converts_ ? sizes_.classes : 0) +
           Workspace::bytes_of<T>(rounds_weight() ? chunk_elements : 0) +
           Workspace::bytes_of<uint8_t>(nonfinite_row_flags()) + Workspace::bytes_of<uint64_t>(nonzero_words()) +
           Workspace::bytes_of<T>(panel_elements()) +
           Workspace::bytes_of<T>(slots_ * scratch_elements()) + Workspace::bytes_of<T>(stack_gradient_elements());
  }

  void begin(Workspace& workspace, MapStatistics<T>* statistics, RowSums* sums, const Tensor& grad_features) {
    block_ = {};
    take_operands(workspace);
    block_.batch = sizes_.batch;
    block_.width = sizes_.width;
    block_.stacked = sizes_.stacked;
    block_.nonfinite_rows = workspace.take<uint8_t>(nonfinite_row_flags());
    block_.nonzero = workspace.take<uint64_t>(nonzero_words());
    block_.skips_zeros = skips_zeros_;
    block_.weight_is_finite = &weight_is_finite_;
    block_.weight_panels = workspace.take<T>(panel_elements());
    block_.minmax = request_.minmax;
    block_.eps = request_.eps;
    block_.statistics = statistics;
    if (request_.wants(kGradFeatures)) {
      void* out = grad_features.mutable_data_ptr();
      if (rounds_) {
        block_.rounded_grad_features = static_cast<BFloat16*>(out);
      } else {
        block_.grad_features = static_cast<T*>(out);
      }
    }
    scratch_ = workspace.take<T>(slots_ * scratch_elements());
    stack_gradient_ = workspace.take<T>(stack_gradient_elements());
    std::fill(sums, sums + rows_.count, RowSums{});
  }

  // Logits, cross-entropies and, unless null, bias_partials [bias_groups, classes].
  void logits_and_losses(const ClassChunk<T>& classes, T* bias_partials) {
    block_.bce = classes.bce;
    set_operands(classes);
    block_.first = classes.first;
    block_.last = classes.last;
    const int64_t count = classes.bce.classes;
    const int64_t packing_slots = std::min(slots_, parallel_slots(count * sizes_.width / kPackedElements));
    weight_is_finite_ = true;
    const int64_t columns = kernels().weight_panel_columns(skips_zeros_);
    const int64_t pieces = (count + columns - 1) / columns * ((sizes_.width + kPackDepth - 1) / kPackDepth);
    parallel(packing_slots, pieces, [&](int64_t, int64_t begin, int64_t end) {
      kernels().pack_weight(block_, begin, end);
    });
    parallel(slots_, groups_, [&](int64_t slot, int64_t begin, int64_t end) {
      const int64_t samples = group_samples(sizes_.batch);
      kernels().logits(block_, rows_, begin * samples, std::min(sizes_.batch, end * samples), scratch(slot));
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        T* partial = bias_partials != nullptr ? bias_partials + chunk * count : nullptr;
        if (partial != nullptr) std::fill(partial, partial + count, T(0));
        const int64_t first = chunk * samples, last = std::min(sizes_.batch, first + samples);
        row_kernels<T>().bce_epilogue(block_.bce, rows_, first, last, partial);
        if (nonfinite_row_flags() > 0) kernels().mark_nonfinite_rows(block_, rows_, first, last);
      }
    });
  }

  void grad_products_and_reductions(const ClassChunk<T>&, const Reductions<T>& reductions) {
    reduce(reductions, rows_.count);
    if (request_.output_mask == 0) return;
    parallel_items(slots_, column_tiles_, [&](int64_t slot, int64_t k, int64_t next) {
      T* stack_gradient = stack_gradient_ + (has_one_chunk() ? slot : k) * sizes_.stacked * column_tile_;
      kernels().grad_products(block_, rows_, k * column_tile_, std::min(sizes_.width, next * column_tile_), column_tile_, stack_gradient,
                          scratch(slot));
    });
  }

 private:
  // Work below which a thread is not worth waking.
  static constexpr int64_t kMultiplications = 1 << 18;
  static constexpr int64_t kPackedElements = 1 << 15;
  // A column tile of the products by the stack stays in the second-level cache.
  static constexpr int64_t kTileBytes = 1 << 20;

  static const FusedKernels<T>& kernels() { return fused_kernels<T>(); }

  // Where zeros are skipped: rows of logits are whole vectors of any instruction set, and with no more classes than
  // that there is nothing to gain.
  static constexpr int64_t kRowElements = 16, kFewClasses = 32;
  static constexpr double kManyZeros = 0.3;

  // Whether many features are zero, judged by pieces of a few rows; the result of the loss does not depend on it but for
  // rounding.
  bool has_many_zeros() const {
    if (features_.numel() == 0) return false;
    constexpr int64_t kRows = 16, kColumns = 64;
    T piece[kColumns];
    const int64_t rows = std::min(kRows, sizes_.batch), columns = std::min(kColumns, sizes_.width);
    int64_t zeros = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = sizes_.batch * i / rows * sizes_.width + (sizes_.width - columns) * i / rows;
      kernels().read(features_.const_data_ptr(), operand_type_, at, columns, piece);
      for (int64_t k = 0; k < columns; ++k) zeros += piece[k] == T(0);
    }
    return static_cast<double>(zeros) >= kManyZeros * static_cast<double>(rows * columns);
  }

  // Half types are converted where they are read, unless sums are double.
  static ScalarType choose_operand_type(ScalarType stored, ScalarType sums) {
    return accumulation_type("features", stored) == sums ? stored : sums;
  }

  bool rounds_weight() const { return rounds_ && request_.wants(kGradWeight); }

  // Memory for operands in the type of sums, and the features in it.
  void take_operands(Workspace& workspace) {
    if (!converts_) {
      block_.features = static_cast<const T*>(features_.const_data_ptr());
      return;
    }
    T* features = workspace.take<T>(sizes_.batch * sizes_.width);
    parallel_rows(sizes_.batch, sizes_.width, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * sizes_.width, count = (end - begin) * sizes_.width;
      kernels().read(features_.const_data_ptr(), operand_type_, first, count, features + first);
    });
    block_.features = features;
    block_.stored_type = operand_type_;
    block_.converted_weight = workspace.take<T>(sizes_.chunk * sizes_.width);
    bias_ = workspace.take<T>(sizes_.classes);
    if (rounds_weight()) grad_weight_ = workspace.take<T>(sizes_.chunk * sizes_.width);
  }

  void set_operands(const ClassChunk<T>& classes) {
    void* grad_weight = classes.grad_weight.has_value() ? classes.grad_weight->mutable_data_ptr() : nullptr;
    block_.rounded_grad_weight = rounds_ ? static_cast<BFloat16*>(grad_weight) : nullptr;
    block_.grad_weight = rounds_weight() ? grad_weight_ : static_cast<T*>(grad_weight);
    if (!converts_) {
      block_.bce.bias = static_cast<const T*>(classes.bias);
      block_.weight = static_cast<const T*>(classes.weight.const_data_ptr());
      return;
    }
    if (classes.bias != nullptr) {
      if (classes.first) kernels().read(classes.bias, operand_type_, 0, sizes_.classes, bias_);
      block_.bce.bias = bias_;
    }
    block_.stored_weight = classes.weight.const_data_ptr();
    block_.weight = block_.converted_weight;
  }

  bool has_one_chunk() const { return sizes_.chunk >= sizes_.classes; }

  // Narrower where there would be too few column tiles to go round.
  int64_t column_tile_width() const {
    int64_t tile = kernels().most_tile_columns;
    const int64_t row_bytes = sizes_.stacked * static_cast<int64_t>(sizeof(T));
    while (tile > 2 * kernels().panel_columns && tile * row_bytes > kTileBytes) tile /= 2;
    while (tile > kernels().panel_columns && sizes_.width < 2 * slots_ * tile) tile /= 2;
    return tile;
  }

  int64_t nonfinite_row_flags() const { return request_.wants(kGradWeight) && skips_zeros_ ? sizes_.stacked : 0; }

  int64_t nonzero_words() const { return skips_zeros_ ? sizes_.stacked * mask_words(sizes_.width) : 0; }

  int64_t panel_elements() const {
    const int64_t columns = kernels().panel_columns;
    return (sizes_.chunk + columns - 1) / columns * columns * sizes_.width;
  }

  int64_t scratch_elements() const {
    return std::max(kernels().sample_scratch_elements, kernels().tile_scratch_elements(column_tile_));
  }

  // [V; T]: one tile of it per thread, or all of them where the sum goes on with the next class chunk.
  int64_t stack_gradient_elements() const {
    if (!request_.wants(kGradFeatures)) return 0;
    return (has_one_chunk() ? slots_ : column_tiles_) * sizes_.stacked * column_tile_;
  }

  T* scratch(int64_t slot) const { return scratch_ + slot * scratch_elements(); }

  const LossRequest& request_;
  const RowView rows_;
  const LossSizes sizes_;
  const int64_t groups_, slots_, column_tile_, column_tiles_;
  const ScalarType operand_type_;
  const bool converts_, rounds_;  // operands to the type of sums, gradients to bfloat16
  const Tensor features_;
  const bool skips_zeros_;
  std::atomic<bool> weight_is_finite_{true};
  FusedChunk<T> block_{};
  T* bias_ = nullptr;            // these two only where operands are converted or gradients rounded
  T* grad_weight_ = nullptr;
  T* scratch_ = nullptr;         // one piece per thread
  T* stack_gradient_ = nullptr;  // column tiles of [V; T]
};

}  // namespace indeed::cpu
