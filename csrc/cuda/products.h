// The matrix products of the fused loss on a GPU: cuBLAS through torch, on the stack [f; I] and the gradients by it.
// Half types are multiplied as they are, by tensor cores, with sums and results in float32:
//
//   X = [f; I], W, G    in the operand type
//   [O; Q], [V; T]      in the type of sums
#pragma once

#include <algorithm>

#include "cuda/device.h"
#include "cuda/gemm.h"
#include "cuda/operand.h"
#include "operators/fused_indeed_loss.h"

namespace indeed::cuda {

template <typename T>
class Device::Products {
 public:
  static int64_t elements_per_class(const LossRequest&, int64_t stacked) { return stacked; }

  Products(const Device& device, const LossRequest& request, const Rows& rows, const LossSizes& sizes, ScalarType dtype)
      : device_(device),
        request_(request),
        rows_(rows),
        sizes_(sizes),
        sum_type_(dtype),
        operand_type_(choose_operand_type(request, dtype)),
        features_(as_type(request.features, operand_type_)) {}

  ScalarType operand_type() const { return operand_type_; }

  // Without rows there is only V, which is ∂f: the product writes it.
  bool maps_gradient() const { return sizes_.stacked > sizes_.batch; }

  // Elements between two rows of logits of so many classes.
  int64_t logit_stride(int64_t classes) const { return classes; }

  size_t scratch_bytes() const {
    return stack_bytes() + grad_logit_bytes() +
           (stacks_gradient() ? Scratch::bytes_of<T>(sizes_.stacked * sizes_.width) : 0);
  }

  void begin(Scratch& scratch, MapStatistics<T>* statistics, RowSums* sums, const Tensor& grad_features) {
    statistics_ = statistics;
    sums_ = sums;
    stack_ = scratch.take<std::byte>(stack_bytes());
    grad_logits_ = has_half_operands() ? scratch.take<std::byte>(grad_logit_bytes()) : nullptr;
    grad_features_ = grad_features;
    if (stacks_gradient()) {
      stack_gradient_ = scratch.take<T>(sizes_.stacked * sizes_.width);
    } else if (request_.wants(kGradFeatures)) {
      stack_gradient_ = static_cast<T*>(grad_features.mutable_data_ptr());
    }
    with_operand<T>(operand_type_, [&](auto operand) {
      device_.form_stack(features_, rows_, maps_gradient(), request_.minmax, request_.eps,
                         reinterpret_cast<decltype(operand)*>(stack_), statistics);
    });
  }

  // Logits, cross-entropies and, unless null, bias_partials [bias_groups, classes].
  void logits_and_losses(const ClassChunk<T>& chunk, T* bias_partials) {
    const Matrix logits{chunk.bce.original, sizes_.stacked, chunk.bce.classes, sum_type_};
    gemm_(logits, stack(), weight(chunk).transposed(), 0, 1);
    with_operand<T>(operand_type_, [&](auto operand) {
      using Operand = decltype(operand);
      auto* gradients = static_cast<Operand*>(grad_logits(chunk).data);
      device_.bce_epilogue(chunk.bce, static_cast<const Operand*>(chunk.bias), gradients, rows_, sizes_.batch,
                           bias_partials);
    });
  }

  // After the last chunk the reductions are blocks of the map's backward, beside which they take no time.
  void grad_products_and_reductions(const ClassChunk<T>& chunk, const Reductions<T>& reductions) {
    const bool maps = chunk.last && stacks_gradient();
    if (!maps) device_.reduce(reductions, rows_);
    const Matrix gradients = grad_logits(chunk);
    // Of float16 grad_logits are not yet scaled: averaged they would leave its range.
    const double scale = operand_type_ == ScalarType::Half ? chunk.bce.scale : 1;
    if (chunk.grad_weight.has_value()) {
      const Tensor& out = *chunk.grad_weight;
      const Matrix grad_weight{out.mutable_data_ptr(), out.size(0), out.size(1), out.scalar_type()};
      gemm_(grad_weight, gradients.transposed(), stack(), 0, scale);
    }
    if (!request_.wants(kGradFeatures)) return;
    const Matrix stack_gradient{stack_gradient_, sizes_.stacked, sizes_.width, sum_type_};
    gemm_(stack_gradient, gradients, weight(chunk), chunk.first ? 0 : 1, scale);
    if (maps) map_backward(reductions);
  }

 private:
  // float16 has no range for gradients with weights of their own, such as a loss scale.
  static ScalarType choose_operand_type(const LossRequest& request, ScalarType sums) {
    const ScalarType type = request.features.scalar_type();
    const bool fits = type == ScalarType::BFloat16 || (type == ScalarType::Half && !request.row_weight.has_value());
    return sums == ScalarType::Float && fits ? type : sums;
  }

  bool has_half_operands() const { return operand_type_ != sum_type_; }
  bool stacks_gradient() const { return request_.wants(kGradFeatures) && maps_gradient(); }

  size_t operand_bytes(int64_t count) const {
    size_t bytes = 0;
    with_operand<T>(operand_type_, [&](auto operand) { bytes = Scratch::bytes_of<decltype(operand)>(count); });
    return bytes;
  }
  size_t stack_bytes() const { return operand_bytes(sizes_.stacked * sizes_.width); }
  size_t grad_logit_bytes() const { return has_half_operands() ? operand_bytes(sizes_.stacked * sizes_.chunk) : 0; }

  Matrix stack() const { return {stack_, sizes_.stacked, sizes_.width, operand_type_}; }
  Matrix weight(const ClassChunk<T>& chunk) const {
    return {const_cast<void*>(chunk.weight.const_data_ptr()), chunk.bce.classes, sizes_.width, operand_type_};
  }

  // In place of the logits where they have their type.
  Matrix grad_logits(const ClassChunk<T>& chunk) const {
    void* data = has_half_operands() ? static_cast<void*>(grad_logits_) : chunk.bce.original;
    return {data, sizes_.stacked, chunk.bce.classes, operand_type_};
  }

  void map_backward(const Reductions<T>& reductions) {
    with_operand<T>(operand_type_, [&](auto operand) {
      const MapBackward<T, decltype(operand)> task{sizes_.width,
                                                   request_.minmax,
                                                   reinterpret_cast<decltype(operand)*>(stack_),
                                                   stack_gradient_ + sizes_.batch * sizes_.width,
                                                   stack_gradient_,
                                                   nullptr,
                                                   statistics_,
                                                   sums_,
                                                   sizes_.width,
                                                   sizes_.width};
      device_.map_backward(task, rows_, sizes_.batch, grad_features_, reductions);
    });
  }

  const Device& device_;
  const LossRequest& request_;
  const Rows& rows_;
  const LossSizes sizes_;
  const ScalarType sum_type_, operand_type_;
  const Tensor features_;
  const Gemm gemm_;
  MapStatistics<T>* statistics_ = nullptr;
  RowSums* sums_ = nullptr;
  std::byte* stack_ = nullptr;        // X = [f; I], [B + R, n]
  std::byte* grad_logits_ = nullptr;  // G, [B + R, chunk]
  T* stack_gradient_ = nullptr;       // [V; T], [B + R, n]
  Tensor grad_features_;
};

}  // namespace indeed::cuda
