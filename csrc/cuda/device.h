// The GPU as a device of the composition in fused_loss.h, identical_disparate.h and six_way_bce.h; what the members
// do is said in cpu/device.h. Everything is queued on torch's current stream and nothing is ever waited for, so calls
// can be captured into CUDA graphs.
#pragma once

#include <algorithm>
#include <array>
#include <tuple>

#include "cuda/launch.h"
#include "cuda/rows.h"
#include "loss_arguments.h"
#include "matrix.h"

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
      return {pairs_.count, index_.source,         index_.partner, index_.twin, index_.own_begin,
              index_.own,   index_.incoming_begin, index_.incoming};
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

  // labels [B, C] in {-1, 0, 1} -> present and known bits, int32 [B, ceil(C / 32)]; other values count as present 0.
  static std::tuple<Tensor, Tensor> pack_labels(Tensor labels);
  // present int32 [B, W], seed int64 [] -> partner int64 [B].
  static Tensor mine_pairs(Tensor present, Tensor seed, int64_t strategy);

  // Up to this many classes are one block, so that the number of launches does not depend on the batch.
  static constexpr int64_t kFewestClasses = 4096;

  static int64_t bias_chunks(int64_t batch) {
    const int64_t samples = chunk_samples(batch);
    return (batch + samples - 1) / samples;
  }
  static ScalarType gradient_type(ScalarType, ScalarType waiting) { return waiting; }

  explicit Device(const Tensor& like);

  torch::stable::Device torch_device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  void require_same(const char* name, const std::optional<Tensor>& tensor) const;

  template <size_t kCount>
  std::array<std::optional<Tensor>, kCount> convert(const std::array<const Tensor*, kCount>& tensors,
                                                    ScalarType dtype) const {
    std::array<std::optional<Tensor>, kCount> converted;
    convert(tensors.data(), converted.data(), kCount, dtype);
    return converted;
  }

  // Nothing is looked at: that would wait for the device.
  void require_no_stray_bits(const Tensor&, int64_t) const {}

  static void prepare(const Tensor&) {}

  void clear(RowSums* sums, int64_t rows) const;
  void copy(Tensor& target, const Tensor& source) const;
  void gemm(const Matrix& out, const Tensor& a, const Tensor& b, bool accumulate) const;

  template <typename T>
  void form_stack(const Tensor& features, const Rows& rows, bool with_rows, bool minmax, double eps, T* stack,
                  MapStatistics<T>* statistics) const;
  template <typename T>
  void form_rows(const T* features, int64_t width, const Rows& rows, bool minmax, double eps, T* identical,
                 T* disparate, MapStatistics<T>* statistics) const;
  template <typename T>
  void bce_block(const BceBlock<T>& block, const Rows& rows, int64_t batch, T* bias_partials) const;
  template <typename T>
  void six_way(const SixWayLogits<T>& logits, const BceBlock<T>& block, const Rows& rows, int64_t batch) const;
  template <typename T>
  void map_dots(const T* features, const T* identical, const T* map_gradient, int64_t width, const Rows& rows,
                RowSums* sums) const;
  template <typename T>
  void map_backward(const MapBackward<T>& task, const Rows& rows, int64_t batch, const Tensor& grad_features) const;
  template <typename T>
  void finish(const BiasSums<T>& bias, const Tensor* grad_bias, const LossSums& sums, const Rows& rows,
              const Tensor* loss, const Tensor& components) const;

  // Samples whose bias gradients one block adds up: enough blocks to fill a GPU, few partial sums.
  static int64_t chunk_samples(int64_t batch) { return std::max<int64_t>(1, (batch + kMaxChunks - 1) / kMaxChunks); }

 private:
  static constexpr int64_t kMaxChunks = 512;

  static ScalarType type_of(float) { return ScalarType::Float; }
  static ScalarType type_of(double) { return ScalarType::Double; }

  void convert(const Tensor* const* tensors, std::optional<Tensor>* converted, size_t count, ScalarType dtype) const;

  torch::stable::Device device_;
#if !defined(INDEED_CUDA_EMULATION)
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cudaStream_t stream_ = nullptr;
};

}  // namespace indeed::cuda
