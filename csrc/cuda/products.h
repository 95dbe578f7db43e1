// The matrix products of the fused loss on a GPU: cuBLAS through torch, on the stack [f; I] and the gradients by it.
#pragma once

#include "cuda/device.h"
#include "operators/fused_indeed_loss.h"

namespace indeed::cuda {

template <typename T>
class Device::Products {
 public:
  static int64_t elements_per_class(int64_t stacked, int64_t) { return stacked; }

  Products(const Device& device, const LossRequest& request, const Rows& rows, const LossSizes& sizes)
      : device_(device), request_(request), rows_(rows), sizes_(sizes) {}

  // Without rows there is only V, which is ∂f: the product writes it.
  bool maps_gradient() const { return sizes_.stacked > sizes_.batch; }

  // Elements between two rows of logits of so many classes.
  int64_t logit_stride(int64_t classes) const { return classes; }

  size_t scratch_bytes() const {
    const size_t stack = Scratch::bytes_of<T>(sizes_.stacked * sizes_.width);
    return stack + (stacks_gradient() ? stack : 0);
  }

  void begin(Scratch& scratch, MapStatistics<T>* statistics, RowSums* sums, const Tensor& grad_features) {
    statistics_ = statistics;
    sums_ = sums;
    stack_ = scratch.take<T>(sizes_.stacked * sizes_.width);
    grad_features_ = grad_features;
    if (stacks_gradient()) {
      stack_gradient_ = scratch.take<T>(sizes_.stacked * sizes_.width);
    } else if (request_.wants(kGradFeatures)) {
      stack_gradient_ = static_cast<T*>(grad_features.mutable_data_ptr());
    }
    device_.form_stack<T>(request_.features, rows_, maps_gradient(), request_.minmax, request_.eps, stack_, statistics);
  }

  // Logits, cross-entropies and, unless null, bias_partials [bias_groups, classes].
  void logits_and_losses(const ClassChunk<T>& chunk, T* bias_partials) {
    logits(chunk);
    device_.bce_epilogue(chunk.bce, rows_, sizes_.batch, bias_partials);
  }

  void grad_products(const ClassChunk<T>& chunk) {
    if (chunk.grad_weight != nullptr) {
      device_.gemm(matrix(chunk.grad_weight, chunk.bce.classes, sizes_.width), logit_matrix(chunk).transposed(),
                   stack().view(), false);
    }
    if (!request_.wants(kGradFeatures)) return;
    device_.gemm(matrix(stack_gradient_, sizes_.stacked, sizes_.width), logit_matrix(chunk).view(),
                 weight(chunk).view(), !chunk.first);
    if (chunk.last && stacks_gradient()) map_backward();
  }

 private:
  bool stacks_gradient() const { return request_.wants(kGradFeatures) && maps_gradient(); }

  Matrix matrix(T* data, int64_t rows, int64_t columns) const {
    return {data, rows, columns, type_of(T{}), device_.torch_device()};
  }
  Matrix stack() const { return matrix(stack_, sizes_.stacked, sizes_.width); }
  Matrix logit_matrix(const ClassChunk<T>& chunk) const {
    return matrix(chunk.bce.original, sizes_.stacked, chunk.bce.classes);
  }
  Matrix weight(const ClassChunk<T>& chunk) const {
    return matrix(const_cast<T*>(chunk.weight), chunk.bce.classes, sizes_.width);
  }

  void logits(const ClassChunk<T>& chunk) {
    device_.gemm(logit_matrix(chunk), stack().view(), weight(chunk).transposed(), false);
  }

  void map_backward() {
    const MapBackward<T> task{sizes_.width,
                              request_.minmax,
                              stack_,
                              stack_gradient_ + sizes_.batch * sizes_.width,
                              stack_gradient_,
                              nullptr,
                              statistics_,
                              sums_,
                              sizes_.width,
                              sizes_.width};
    device_.map_backward(task, rows_, sizes_.batch, grad_features_);
  }

  const Device& device_;
  const LossRequest& request_;
  const Rows& rows_;
  const LossSizes sizes_;
  MapStatistics<T>* statistics_ = nullptr;
  RowSums* sums_ = nullptr;
  T* stack_ = nullptr;           // X = [f; I], [B + R, n]
  T* stack_gradient_ = nullptr;  // [V; T], [B + R, n]
  Tensor grad_features_;
};

}  // namespace indeed::cuda
