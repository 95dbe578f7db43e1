// The whole loss, with gradients made in the forward, class chunk by class chunk:
//
//   X = [f; I]                     the features of the samples and the identical features of the rows, [B + R, n]
//   per chunk:  [O; Q] <- X Wᵀ     [B + R, chunk], no [rows, C] matrix for large C
//               loss, [G_O; G_I] <- cross-entropies, in place    (disparate logits are O - Q)
//               ∂W <- [G_O; G_I]ᵀ X,   [V; T] += [G_O; G_I] W
//   ∂f <- V + what T sends through the maps
//
// Half types are summed in float32, very narrow rows computed in double, a class chunk of the weight at a time. This
// composition is the same on every device; the matrix products, and the row-local work that a device does along with
// them, are Device::Products. What else a Device must offer is listed in cpu/device.h.
#pragma once

#include <algorithm>
#include <array>
#include <tuple>

#include "operators/arguments.h"

namespace indeed {

// Classes of a chunk; a Device says how many elements its buffers hold per class, and the fewest classes it takes.
inline int64_t class_chunk(int64_t elements_per_class, int64_t classes, int64_t fewest) {
  const int64_t fitting = kChunkElements / std::max<int64_t>(elements_per_class, 1) / kWordBits * kWordBits;
  return std::min(classes, std::max(fitting, fewest));
}

struct LossRequest {
  const Tensor &features, &weight;
  const OptionalTensor& bias;
  const Tensor& positive_bits;
  const OptionalTensor &valid_bits, &pos_weight, &row_weight;
  LossWeights lam;
  bool minmax;
  double eps;
  Reduction reduction;
  int64_t term_mask, output_mask;

  bool wants(int64_t bit) const { return (output_mask & bit) != 0; }
};

// What Device::Products is told of an evaluation.
struct LossSizes {
  int64_t batch, width, classes;
  int64_t stacked;  // B + R, or B where both terms of eq. (5) are left out
  int64_t chunk;    // most classes of a class chunk
};

// One class chunk: its logits, its rows of the weight and of the weight's gradient.
template <typename T>
struct ClassChunk {
  BceChunk<T> bce;     // logits [B, classes], then [R, classes] right behind; without the bias
  const void* bias;    // [C] in the type of operands, or null
  Tensor weight;       // [classes, n] in the type of operands
  OptionalTensor grad_weight;  // [classes, n]
  bool first, last;
};

// One evaluation in accumulation type T.
template <typename Device, typename T>
class FusedLoss {
 public:
  using Rows = typename Device::Rows;
  using Products = typename Device::template Products<T>;
  using Scratch = typename Device::Scratch;

  FusedLoss(const Device& device, const LossRequest& request, const Rows& rows, ScalarType dtype,
            ScalarType loss_dtype)
      : device_(device),
        request_(request),
        rows_(rows),
        dtype_(dtype),
        loss_dtype_(loss_dtype),
        saved_grad_dtype_(saved_grad_type(request.features.scalar_type())),
        kernel_grad_dtype_(dtype == loss_dtype ? saved_grad_dtype_ : dtype),
        sizes_(sizes(request, rows)),
        bias_groups_(Device::bias_groups(sizes_.batch)),
        products_(device, request, rows, sizes_, dtype),
        bias_(as_type(request.bias, products_.operand_type())),
        pos_weight_(as_type(request.pos_weight, dtype)),
        row_weight_(as_type(request.row_weight, dtype)),
        scratch_(request.features, scratch_bytes()) {}

  std::tuple<Tensor, Tensor> run() {
    logits_ = scratch_.template take<T>(logit_elements());
    sums_ = scratch_.template take<RowSums>(rows_.count());
    auto* statistics = scratch_.template take<MapStatistics<T>>(rows_.count());
    if (request_.wants(kGradBias)) bias_partials_ = scratch_.template take<T>(bias_groups_ * sizes_.chunk);
    const auto [loss, components] = empty_loss(request_.reduction, rows_.count(), request_.features, dtype_);
    allocate_gradients();
    products_.begin(scratch_, statistics, sums_, grad_features_);
    if (nothing_to_multiply()) {
      if (rows_.count() > 0) device_.clear(sums_, rows_.count());
      device_.reduce(reductions(0, 0, loss, components), rows_);
    } else {
      for (int64_t first = 0; first < sizes_.classes; first += sizes_.chunk) {
        class_chunk_step(first, std::min(sizes_.chunk, sizes_.classes - first), loss, components);
      }
    }
    return {as_type(loss, loss_dtype_), as_type(components, loss_dtype_)};
  }

  // The gradients in the type they are saved in; empty where not asked for.
  std::tuple<Tensor, Tensor, Tensor> gradients() const {
    const auto result = [&](const Tensor& gradient, int64_t bit) {
      return request_.wants(bit) ? as_type(gradient, saved_grad_dtype_)
                                 : empty_like_type(request_.features, {0}, saved_grad_dtype_);
    };
    return {result(grad_features_, kGradFeatures), result(grad_weight_, kGradWeight), result(grad_bias_, kGradBias)};
  }

 private:
  static T* data(const Tensor& tensor) { return static_cast<T*>(tensor.mutable_data_ptr()); }

  static LossSizes sizes(const LossRequest& request, const Rows& rows) {
    const int64_t batch = request.features.size(0), width = request.features.size(1), classes = request.weight.size(0);
    const int64_t stacked = batch + (request.term_mask != 0 ? rows.count() : 0);
    const int64_t chunk = class_chunk(Products::elements_per_class(request, stacked), classes, Device::kMinClasses);
    return {batch, width, classes, stacked, chunk};
  }

  int64_t logit_elements() const { return sizes_.stacked * products_.logit_stride(sizes_.chunk); }

  bool nothing_to_multiply() const { return sizes_.batch == 0 || sizes_.classes == 0; }

  size_t scratch_bytes() const {
    const int64_t bias = request_.wants(kGradBias) ? bias_groups_ * sizes_.chunk : 0;
    return Scratch::template bytes_of<T>(logit_elements()) + Scratch::template bytes_of<T>(bias) +
           Scratch::template bytes_of<RowSums>(rows_.count()) +
           Scratch::template bytes_of<MapStatistics<T>>(rows_.count()) + products_.scratch_bytes();
  }

  void allocate_gradients() {
    const auto allocate = [&](std::initializer_list<int64_t> shape, ScalarType dtype) {
      Tensor gradient = empty_like_type(request_.features, shape, dtype);
      Device::prepare(gradient);
      if (nothing_to_multiply()) torch::stable::zero_(gradient);
      return gradient;
    };
    if (request_.wants(kGradFeatures)) {
      grad_features_ = allocate({sizes_.batch, sizes_.width}, products_.maps_gradient() ? kernel_grad_dtype_ : dtype_);
    }
    if (request_.wants(kGradWeight)) grad_weight_ = allocate({sizes_.classes, sizes_.width}, kernel_grad_dtype_);
    if (request_.wants(kGradBias)) grad_bias_ = allocate({sizes_.classes}, kernel_grad_dtype_);
  }

  void class_chunk_step(int64_t first, int64_t count, const Tensor& loss, const Tensor& components) {
    const auto rows_of = [&](const Tensor& matrix) {
      return count == sizes_.classes ? matrix : torch::stable::narrow(const_cast<Tensor&>(matrix), 0, first, count);
    };
    ClassChunk<T> chunk{};
    chunk.bce = cross_entropies(first, count);
    chunk.bias = bias_.has_value() ? bias_->const_data_ptr() : nullptr;
    chunk.weight = as_type(rows_of(request_.weight), products_.operand_type());
    if (request_.wants(kGradWeight)) chunk.grad_weight = rows_of(grad_weight_);
    chunk.first = first == 0;
    chunk.last = first + count == sizes_.classes;
    products_.logits_and_losses(chunk, bias_partials_);
    products_.grad_products_and_reductions(chunk, reductions(first, count, loss, components));
  }

  BceChunk<T> cross_entropies(int64_t first, int64_t count) const {
    BceChunk<T> chunk{};
    chunk.first_class = first;
    chunk.classes = count;
    chunk.stride = products_.logit_stride(count);
    chunk.original = logits_;
    chunk.identical = logits_ + sizes_.batch * chunk.stride;
    chunk.pos_weight = optional_data<T>(pos_weight_);
    chunk.positive_bits = label_words(request_.positive_bits);
    chunk.valid_bits = label_words(request_.valid_bits);
    chunk.words = request_.positive_bits.size(1);
    chunk.term_mask = request_.term_mask;
    chunk.lam = request_.lam;
    chunk.row_weight = optional_data<T>(row_weight_);
    chunk.scale = static_cast<T>(reduction_scale(request_.reduction, rows_.count()));
    chunk.gradients = request_.output_mask != 0;
    chunk.sums = sums_;
    return chunk;
  }

  // After the cross-entropies of classes [first, first + count).
  Reductions<T> reductions(int64_t first, int64_t count, const Tensor& loss, const Tensor& components) const {
    const bool has_bias = request_.wants(kGradBias) && count > 0;
    const bool last = first + count == sizes_.classes || count == 0;
    return {{bias_partials_, bias_groups_, first, count},
            has_bias ? &grad_bias_ : nullptr,
            {sums_, request_.lam, static_cast<int64_t>(request_.reduction)},
            last ? &loss : nullptr,
            &components};
  }

  const Device& device_;
  const LossRequest& request_;
  const Rows& rows_;
  // Of sums, of the loss, of the gradients when they are handed out and when kernels write them.
  const ScalarType dtype_, loss_dtype_, saved_grad_dtype_, kernel_grad_dtype_;
  const LossSizes sizes_;
  const int64_t bias_groups_;
  Products products_;
  const OptionalTensor bias_, pos_weight_, row_weight_;
  Scratch scratch_;
  T* logits_ = nullptr;         // [O; Q], then [G_O; G_I], [B + R, chunk]
  T* bias_partials_ = nullptr;  // [groups, chunk]
  RowSums* sums_ = nullptr;     // [R]
  Tensor grad_features_, grad_weight_, grad_bias_;
};

template <typename Device, typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> evaluate(const Device& device, const LossRequest& request,
                                                            const typename Device::Rows& rows, ScalarType dtype,
                                                            ScalarType loss_dtype) {
  FusedLoss<Device, T> evaluation(device, request, rows, dtype, loss_dtype);
  auto [loss, components] = evaluation.run();
  auto [grad_features, grad_weight, grad_bias] = evaluation.gradients();
  return {loss, components, grad_features, grad_weight, grad_bias};
}

// loss, components and the gradients asked for (empty otherwise) of features, weight and bias.
template <typename Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fused_indeed_loss(
    Tensor features, Tensor weight, OptionalTensor bias, Tensor positive_bits, OptionalTensor valid_bits, Tensor pairs,
    double lam_identical, double lam_disparate, OptionalTensor lam, OptionalTensor pos_weight,
    OptionalTensor row_weight, int64_t norm, double eps, int64_t reduction, int64_t term_mask, int64_t output_mask) {
  require_matrix("features", features);
  require_matrix("weight", weight);
  const int64_t batch = features.size(0), width = features.size(1), classes = weight.size(0);
  require_shape("weight", weight, {classes, width});
  const ScalarType loss_dtype = accumulation_type("features", features.scalar_type());
  const ScalarType dtype = computation_type(loss_dtype, width);
  require_dtype("weight", weight, features.scalar_type());
  if (bias.has_value()) {
    require_shape("bias", *bias, {classes});
    require_dtype("bias", *bias, features.scalar_type());
  }
  if (pos_weight.has_value()) require_shape("pos_weight", *pos_weight, {classes});
  require_label_words(positive_bits, valid_bits, batch, classes);
  const Device device(features);
  device.require_same("weight", weight);
  device.require_same("bias", bias);
  device.require_same("labels", positive_bits);
  device.require_same("labels", valid_bits);
  device.require_same("pos_weight", pos_weight);
  device.require_same("row_weight", row_weight);
  device.require_same("lam", lam);
  const typename Device::Rows rows(device, pairs, batch);
  if (row_weight.has_value()) require_shape("row_weight", *row_weight, {rows.count()});
  require(bias.has_value() || (output_mask & kGradBias) == 0, "output_mask: there is no bias to differentiate");

  positive_bits = to_contiguous(positive_bits);
  valid_bits = to_contiguous(valid_bits);
  const LossRequest request{features,
                            weight,
                            bias,
                            positive_bits,
                            valid_bits,
                            pos_weight,
                            row_weight,
                            loss_weights(lam_identical, lam_disparate, lam),
                            is_minmax(norm),
                            eps,
                            static_cast<Reduction>(reduction),
                            term_mask,
                            output_mask};
  return dtype == ScalarType::Double ? evaluate<Device, double>(device, request, rows, dtype, loss_dtype)
                                     : evaluate<Device, float>(device, request, rows, dtype, loss_dtype);
}

}  // namespace indeed
