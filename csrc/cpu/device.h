// The CPU as a device of the composition in fused_loss.h, identical_disparate.h and six_way_bce.h. Every device
// offers the names this one has; kernels of a GPU are queued by them, here they have run when the call returns.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "arguments.h"
#include "common/options.h"
#include "cpu/directed_rows.h"
#include "cpu/operators.h"
#include "cpu/parallel.h"
#include "cpu/products.h"
#include "cpu/row_kernels.h"
#include "cpu/workspace.h"
#include "loss_arguments.h"

namespace indeed::cpu {

class Device {
 public:
  // Scratch memory: take<T>(count) elements, uninitialised, freed with the object.
  class Scratch : public Workspace {
   public:
    Scratch(const Tensor&, size_t bytes) : Workspace(bytes) {}
  };

  class Rows {
   public:
    Rows(const Device&, const Tensor& pairs, int64_t batch) : rows_(pairs, batch) {}
    int64_t count() const { return rows_.count(); }
    RowView view() const { return rows_.view(); }
    // Must be called before any use of the rows, except that form_stack does it itself.
    void index(const Device&) const {}

   private:
    DirectedRows rows_;
  };

  // The matrix products of the fused loss, as fused_loss.h wants them.
  template <typename T>
  class Products : public cpu::Products<T> {
   public:
    Products(const Device&, const LossRequest& request, const Rows& rows, const LossSizes& sizes)
        : cpu::Products<T>(request, rows.view(), sizes, type_of(T{})) {}
  };

  static std::tuple<Tensor, Tensor> pack_labels(Tensor labels) { return cpu::pack_labels(labels); }
  static Tensor mine_pairs(Tensor present, Tensor seed, int64_t strategy) {
    return cpu::mine_pairs(present, seed, strategy);
  }

  // The fewest classes a class block is cut down to.
  static constexpr int64_t kFewestClasses = 128;

  // The bias gradient is summed per chunk of samples, then over chunks, so that its bits do not depend on threads.
  static int64_t bias_chunks(int64_t batch) { return (batch + kChunk - 1) / kChunk; }

  // The type map_backward and finish write gradients in, given those of sums and of the result.
  static ScalarType gradient_type(ScalarType accumulated, ScalarType) { return accumulated; }

  explicit Device(const Tensor&) {}

  // Refuses a tensor of another device; the dispatcher sends such calls elsewhere already.
  void require_same(const char*, const std::optional<Tensor>&) const {}

  // The tensors in another type, those that are not null.
  template <size_t kCount>
  std::array<std::optional<Tensor>, kCount> convert(const std::array<const Tensor*, kCount>& tensors,
                                                    ScalarType dtype) const {
    std::array<std::optional<Tensor>, kCount> converted;
    for (size_t k = 0; k < kCount; ++k) {
      if (tensors[k] != nullptr) converted[k] = as_type(*tensors[k], dtype);
    }
    return converted;
  }

  // No bit of packed words beyond class C is set; looked at where that needs no waiting.
  void require_no_stray_bits(const Tensor& present, int64_t classes) const {
    const int64_t words = present.size(1), used = classes % kWordBits;
    if (used == 0) return;
    const uint32_t* word = label_words(present);
    for (int64_t i = 0; i < present.size(0); ++i) {
      require((word[i * words + words - 1] >> used) == 0, "labels: packed words have bits set beyond class ",
              classes - 1);
    }
  }

  // Before a result that may be large is written.
  static void prepare(const Tensor& result) {
    prefer_large_pages(result.mutable_data_ptr(), static_cast<size_t>(result.numel() * result.element_size()));
  }

  void clear(RowSums* sums, int64_t rows) const { std::fill(sums, sums + rows, RowSums{}); }

  void copy(Tensor& target, const Tensor& source) const { torch::stable::copy_(target, source); }

  // Identical features [R, n], unless null the disparate ones, and the statistics of the maps.
  template <typename T>
  void form_rows(const T* features, int64_t width, const Rows& rows, bool minmax, double eps, T* identical,
                 T* disparate, MapStatistics<T>* statistics) const {
    const RowView view = rows.view();
    parallel_rows(view.count, width, [&](int64_t begin, int64_t end) {
      row_kernels<T>().form_rows(features, width, view, minmax, eps, begin, end, identical, disparate, statistics);
    });
  }

  // Cross-entropies of the logits of three classifiers; sets the row sums.
  template <typename T>
  void six_way(const SixWayLogits<T>& logits, const BceBlock<T>& block, const Rows& rows, int64_t batch) const {
    const RowView view = rows.view();
    std::fill(block.sums, block.sums + view.count, RowSums{});
    parallel_rows(batch, 3 * logits.classes, [&](int64_t begin, int64_t end) {
      row_kernels<T>().six_way(logits, block, view, begin, end);
    });
  }

  // Sets the dots of the row sums.
  template <typename T>
  void map_dots(const T* features, const T* identical, const T* map_gradient, int64_t width, const Rows& rows,
                RowSums* sums) const {
    const RowView view = rows.view();
    std::fill(sums, sums + view.count, RowSums{});
    parallel_rows(view.count, width, [&](int64_t begin, int64_t end) {
      row_kernels<T>().map_dots(features, identical, map_gradient, width, view, begin, end, sums);
    });
  }

  // In strips of columns, each of all rows.
  template <typename T>
  void map_backward(const MapBackward<T>& task, const Rows& rows, int64_t batch, const Tensor& grad_features) const {
    constexpr int64_t kStrip = 64;
    const RowView view = rows.view();
    T* out = grad_features.mutable_data_ptr<T>();
    parallel_rows((task.width + kStrip - 1) / kStrip, kStrip * (batch + view.count), [&](int64_t begin, int64_t end) {
      for (int64_t first = begin * kStrip; first < std::min(task.width, end * kStrip); first += kStrip) {
        const auto from = [&](const T* matrix) { return matrix != nullptr ? matrix + first : nullptr; };
        MapBackward<T> strip = task;
        strip.width = std::min(kStrip, task.width - first);
        strip.features = from(task.features);
        strip.map_gradient = from(task.map_gradient);
        strip.base = from(task.base);
        strip.direct = from(task.direct);
        row_kernels<T>().map_backward(strip, view, batch, out + first, task.feature_stride);
      }
    });
  }

  // Unless null: the bias gradient of a class block, and the loss with its components.
  template <typename T>
  void finish(const BiasSums<T>& bias, const Tensor* grad_bias, const LossSums& sums, const Rows& rows,
              const Tensor* loss, const Tensor& components) const {
    if (grad_bias != nullptr) {
      T* out = grad_bias->mutable_data_ptr<T>() + bias.first_class;
      std::fill(out, out + bias.classes, T(0));
      for (int64_t chunk = 0; chunk < bias.chunks; ++chunk) {
        for (int64_t c = 0; c < bias.classes; ++c) out[c] += bias.partials[chunk * bias.classes + c];
      }
    }
    if (loss != nullptr) write_loss<T>(sums, rows.count(), loss->mutable_data_ptr<T>(), components.mutable_data_ptr<T>());
  }

 private:
  static ScalarType type_of(float) { return ScalarType::Float; }
  static ScalarType type_of(double) { return ScalarType::Double; }

  template <typename T>
  static void write_loss(const LossSums& task, int64_t rows, T* loss, T* components) {
    const Reduction reduction = static_cast<Reduction>(task.reduction);
    double parts[3] = {0, 0, 0}, total = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const RowSums& s = task.sums[row];
      const double value = row_loss(s, task.lam);
      if (reduction == Reduction::kNone) loss[row] = static_cast<T>(value);
      total += value;
      parts[0] += s.original;
      parts[1] += s.identical;
      parts[2] += s.disparate;
    }
    const double scale = reduction_scale(reduction, rows);
    if (reduction != Reduction::kNone) loss[0] = static_cast<T>(total * scale);
    for (int part = 0; part < 3; ++part) components[part] = static_cast<T>(parts[part] * scale);
  }
};

}  // namespace indeed::cpu
