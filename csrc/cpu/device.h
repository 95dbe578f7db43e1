// The CPU as a device of the composition in fused_loss.h, identical_disparate.h and six_way_bce.h. Every device
// offers the names this one has; kernels of a GPU are queued by them, here they have run when the call returns.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "cpu/labels.h"
#include "cpu/parallel.h"
#include "cpu/products.h"
#include "cpu/reduce.h"
#include "cpu/row_index.h"
#include "cpu/row_kernels.h"
#include "cpu/workspace.h"
#include "operators/arguments.h"

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
    RowIndex rows_;
  };

  // The matrix products of the fused loss, as fused_loss.h wants them.
  template <typename T>
  class Products : public cpu::Products<T> {
   public:
    Products(const Device&, const LossRequest& request, const Rows& rows, const LossSizes& sizes, ScalarType dtype)
        : cpu::Products<T>(request, rows.view(), sizes, dtype) {}
  };

  static std::tuple<Tensor, Tensor> pack_labels(Tensor labels) { return cpu::pack_labels(labels); }
  static Tensor mine_pairs(Tensor positive_bits, Tensor seed, int64_t strategy) {
    return cpu::mine_pairs(positive_bits, seed, strategy);
  }

  // The fewest classes of a class chunk.
  static constexpr int64_t kMinClasses = 128;

  // The bias gradient is summed per chunk of samples, then over groups, so that its bits do not depend on threads.
  static int64_t bias_groups(int64_t batch) { return sample_groups(batch); }

  explicit Device(const Tensor&) {}

  // Refuses a tensor of another device; the dispatcher sends such calls elsewhere already.
  void require_same(const char*, const OptionalTensor&) const {}

  // Before a result that may be large is written.
  static void prepare(const Tensor& result) {
    prefer_large_pages(result.mutable_data_ptr(), static_cast<size_t>(result.numel() * result.element_size()));
  }

  void clear(RowSums* sums, int64_t rows) const { std::fill(sums, sums + rows, RowSums{}); }

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
  void six_way(const SixWayLogits<T>& logits, const BceChunk<T>& chunk, const Rows& rows, int64_t batch) const {
    const RowView view = rows.view();
    std::fill(chunk.sums, chunk.sums + view.count, RowSums{});
    parallel_rows(batch, 3 * logits.classes, [&](int64_t begin, int64_t end) {
      row_kernels<T>().six_way(logits, chunk, view, begin, end);
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

  // In column tiles of columns, each of all rows.
  template <typename T>
  void map_backward(const MapBackward<T>& task, const Rows& rows, int64_t batch, const Tensor& grad_features) const {
    constexpr int64_t kColumnTile = 64;
    const RowView view = rows.view();
    T* out = grad_features.mutable_data_ptr<T>();
    parallel_rows((task.width + kColumnTile - 1) / kColumnTile, kColumnTile * (batch + view.count), [&](int64_t begin, int64_t end) {
      for (int64_t first = begin * kColumnTile; first < std::min(task.width, end * kColumnTile); first += kColumnTile) {
        const auto from = [&](const T* matrix) { return matrix != nullptr ? matrix + first : nullptr; };
        MapBackward<T> tile = task;
        tile.width = std::min(kColumnTile, task.width - first);
        tile.features = from(task.features);
        tile.map_gradient = from(task.map_gradient);
        tile.base = from(task.base);
        tile.grad_source = from(task.grad_source);
        row_kernels<T>().map_backward(tile, view, batch, out + first, task.feature_stride);
      }
    });
  }

  // Times a number of the type of their sums.
  template <typename T, typename Scale>
  void scale_gradients(const std::array<Tensor, 3>& gradients, const Tensor& scale) const {
    const Scale factor = *scale.const_data_ptr<Scale>();
    if (factor == Scale(1)) return;
    for (const Tensor& gradient : gradients) {
      T* data = gradient.mutable_data_ptr<T>();
      parallel_rows(gradient.numel(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) data[k] = static_cast<T>(static_cast<Scale>(data[k]) * factor);
      });
    }
  }

  template <typename T>
  void reduce(const Reductions<T>& task, const Rows& rows) const {
    cpu::reduce(task, rows.count());
  }
};

}  // namespace indeed::cpu
