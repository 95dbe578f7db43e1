// The GPU as a device of the compositions in operators/; what the members do is said in cpu/device.h. Everything is
// queued on torch's current stream without a host synchronisation, so calls can be captured into CUDA graphs.
#pragma once

#include <algorithm>
#include <array>
#include <tuple>

#include "cuda/launch.h"
#include "cuda/operand.h"
#include "cuda/rows.h"
#include "operators/arguments.h"

#if !defined(INDEED_CUDA_EMULATION)
#include <torch/csrc/stable/accelerator.h>
#endif

namespace indeed::cuda {

class Device {
 public:
  class Scratch {
   public:
    Scratch(const Tensor& like, size_t bytes)
        : block_(empty_like_type(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte)),
          next_(static_cast<std::byte*>(block_.mutable_data_ptr())) {}

    template <typename T>
    T* take(int64_t count) {
      T* taken = reinterpret_cast<T*>(next_);
      next_ += bytes_of<T>(count);
      return taken;
    }

    template <typename T>
    static size_t bytes_of(int64_t count) {
      return (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    }

   private:
    static constexpr size_t kAlignment = 256;
    Tensor block_;  // from torch's allocator, which hands it on in stream order
    std::byte* next_;
  };

  class Rows {
   public:
    Rows(const Device& device, const Tensor& pairs, int64_t batch);
    int64_t count() const { return pairs_.count; }
    const PairView& pairs() const { return pairs_; }
    const RowIndex& arrays() const { return index_; }
    RowView view() const {
      const RowIndex& i = index_;
      return {pairs_.count, i.source, i.partner, i.reverse_row, i.own_begin, i.own, i.incoming_begin, i.incoming};
    }
    void index(const Device& device) const;

   private:
    Tensor held_;
    Scratch scratch_;
    PairView pairs_;
    RowIndex index_;
  };

  // The matrix products of the fused loss, in cuda/products.h.
  template <typename T>
  class Products;

  static std::tuple<Tensor, Tensor> pack_labels(Tensor labels);
  static Tensor mine_pairs(Tensor positive_bits, Tensor seed, int64_t strategy);

  // Up to this many classes are one chunk, so that the number of launches does not depend on the batch.
  static constexpr int64_t kMinClasses = 4096;

  // Samples whose bias gradients one block adds up: enough blocks to fill a GPU, few partial sums. The last group is
  // that of the rows without a source.
  static int64_t group_samples(int64_t batch) { return std::max<int64_t>(1, cdiv(batch, kMaxGroups)); }
  static int64_t bias_groups(int64_t batch) { return cdiv(batch, group_samples(batch)) + 1; }

  explicit Device(const Tensor& like);

  cudaStream_t stream() const { return stream_; }
  void require_same(const char* name, const OptionalTensor& tensor) const;

  static void prepare(const Tensor&) {}

  void clear(RowSums* sums, int64_t rows) const;

  template <typename Operand>
  void form_stack(const Tensor& features, const Rows& rows, bool with_rows, bool minmax, double eps, Operand* stack,
                  MapStatistics<SumOf<Operand>>* statistics) const;
  template <typename T>
  void form_rows(const T* features, int64_t width, const Rows& rows, bool minmax, double eps, T* identical,
                 T* disparate, MapStatistics<T>* statistics) const;
  // grad_logits go to `gradients`, which may be the logits themselves.
  template <typename Operand>
  void bce_epilogue(const BceChunk<SumOf<Operand>>& chunk, const Operand* bias, Operand* gradients, const Rows& rows,
                    int64_t batch, SumOf<Operand>* bias_partials) const;
  template <typename T>
  void six_way(const SixWayLogits<T>& logits, const BceChunk<T>& chunk, const Rows& rows, int64_t batch) const;
  template <typename T>
  void map_dots(const T* features, const T* identical, const T* map_gradient, int64_t width, const Rows& rows,
                RowSums* sums) const;
  template <typename T, typename Feature>
  void map_backward(const MapBackward<T, Feature>& task, const Rows& rows, int64_t batch, const Tensor& grad_features,
                    const Reductions<T>& reductions = {}) const;
  template <typename T>
  void reduce(const Reductions<T>& task, const Rows& rows) const;
  template <typename T, typename Scale>
  void scale_gradients(const std::array<Tensor, 3>& gradients, const Tensor& scale) const;

 private:
  static constexpr int64_t kMaxGroups = 512;

  torch::stable::Device device_;
#if !defined(INDEED_CUDA_EMULATION)
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cudaStream_t stream_ = nullptr;
};

}  // namespace indeed::cuda
