// The matrix products of the fused loss on a GPU: cuBLAS through torch, on the stack [f; I] and the gradients by it.
#pragma once

#include "cuda/device.h"
#include "fused_loss.h"
#include "matrix.h"

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
    device_.form_stack<T>(request_.features, rows_, sizes_.stacked > sizes_.batch, request_.minmax, request_.eps, stack_,
                          statistics);
  }

  void losses(const ClassBlock<T>& block, T* bias_partials) {
    device_.gemm(logits(block), stack().view(), weight(block).transposed(), false);
    device_.bce_block(block.bce, rows_, sizes_.batch, bias_partials);
  }

  void gradients(const ClassBlock<T>& block) {
    if (block.grad_weight != nullptr) {
      device_.gemm(matrix(block.grad_weight, block.bce.classes, sizes_.width), logits(block).transposed(),
                   stack().view(), false);
    }
    if (!request_.wants(kGradFeatures)) return;
    device_.gemm(matrix(stack_gradient_, sizes_.stacked, sizes_.width), logits(block).view(), weight(block).view(),
                 !block.first);
    if (block.last && stacks_gradient()) map_backward();
  }

 private:
  bool stacks_gradient() const { return request_.wants(kGradFeatures) && maps_gradient(); }

  Matrix matrix(T* data, int64_t rows, int64_t columns) const {
    return {data, rows, columns, columns, type_of(T{}), device_.torch_device()};
  }
  Matrix stack() const { return matrix(stack_, sizes_.stacked, sizes_.width); }
  Matrix logits(const ClassBlock<T>& block) const {
    return matrix(block.bce.original, sizes_.stacked, block.bce.classes);
  }
  Matrix weight(const ClassBlock<T>& block) const {
    return matrix(const_cast<T*>(block.weight), block.bce.classes, sizes_.width);
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
