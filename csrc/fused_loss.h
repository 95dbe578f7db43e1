// The whole loss, with gradients made in the forward, class block by class block:
//
//   X = [f; I]                                       [B + R, n], each original once, each identical feature once
//   per block:  [O; Q] <- X Wᵀ                       [B + R, block], no [rows, C] matrix for large C
//               loss, [G_O; G_I] <- cross-entropies, in place    (disparate logits are O - Q)
//               ∂W <- [G_O; G_I]ᵀ X,   [V; T] += [G_O; G_I] W
//   ∂f <- V + what T sends through the maps
//
// Half types are computed in float32, a class block of the weight at a time. The composition is the same on every
// device; what a Device must offer is listed in cpu/device.h.
#pragma once

#include <algorithm>
#include <array>
#include <tuple>

#include "loss_arguments.h"
#include "matrix.h"

namespace indeed {

// Elements of the [B + R, block] logits buffer; a Device says to how many classes a block may be cut down.
constexpr int64_t kBlockElements = int64_t{1} << 22;

inline int64_t class_block(int64_t rows, int64_t classes, int64_t fewest) {
  const int64_t fitting = kBlockElements / std::max<int64_t>(rows, 1) / kWordBits * kWordBits;
  return std::min(classes, std::max(fitting, fewest));
}

struct LossRequest {
  const Tensor &features, &weight;
  const std::optional<Tensor>& bias;
  const Tensor& present;
  const std::optional<Tensor>& known;
  const std::optional<Tensor>& pos_weight;
  const std::optional<Tensor>& row_weight;
  const Tensor& lam;
  bool minmax;
  double eps;
  Reduction reduction;
  int64_t blocks, gradients;
};

// One evaluation in accumulation type T.
template <typename Device, typename T>
class FusedLoss {
 public:
  using Rows = typename Device::Rows;

  FusedLoss(const Device& device, const LossRequest& request, const Rows& rows, ScalarType dtype)
      : device_(device),
        request_(request),
        rows_(rows),
        dtype_(dtype),
        waiting_dtype_(waiting_dtype(request.features.scalar_type())),
        batch_(request.features.size(0)),
        width_(request.features.size(1)),
        classes_(request.weight.size(0)),
        stacked_rows_(batch_ + (request.blocks != 0 ? rows.count() : 0)),
        block_(class_block(stacked_rows_, classes_, Device::kFewestClasses)),
        bias_chunks_(Device::bias_chunks(batch_)),
        scratch_(request.features, scratch_bytes()) {
    convert_parameters();
  }

  std::tuple<Tensor, Tensor> run() {
    stack_ = scratch_.template take<T>(stacked_rows_ * width_);
    logits_ = scratch_.template take<T>(stacked_rows_ * block_);
    sums_ = scratch_.template take<RowSums>(rows_.count());
    statistics_ = scratch_.template take<MapStatistics<T>>(rows_.count());
    if (wants(kGradBias)) bias_partials_ = scratch_.template take<T>(bias_chunks_ * block_);
    const auto [loss, components] = empty_loss(request_.reduction, rows_.count(), request_.features, dtype_);
    device_.template form_stack<T>(request_.features, rows_, has_rows(), request_.minmax, request_.eps, stack_,
                                   statistics_);
    allocate_gradients();
    if (batch_ == 0 || classes_ == 0) {
      if (rows_.count() > 0) clear(sums_, rows_.count() * (sizeof(RowSums) / sizeof(double)), ScalarType::Double);
      finish(0, 0, loss, components);
    } else {
      for (int64_t first = 0; first < classes_; first += block_) {
        class_block_step(first, std::min(block_, classes_ - first), loss, components);
      }
    }
    if (stacks_gradient()) map_backward();
    return {loss, components};
  }

  // The gradients in the type they wait in; empty where not asked for.
  std::tuple<Tensor, Tensor, Tensor> gradients() const {
    const auto result = [&](const Tensor& gradient, int64_t bit) {
      return wants(bit) ? as_type(gradient, waiting_dtype_) : empty_like_type(request_.features, {0}, waiting_dtype_);
    };
    return {result(grad_features_, kGradFeatures), result(grad_weight_, kGradWeight), result(grad_bias_, kGradBias)};
  }

 private:
  // float16 gradients wait in float32: the loss scale that keeps them in range comes with the upstream gradient.
  static ScalarType waiting_dtype(ScalarType type) { return type == ScalarType::Half ? ScalarType::Float : type; }

  bool wants(int64_t bit) const { return (request_.gradients & bit) != 0; }
  bool has_rows() const { return stacked_rows_ > batch_; }

  // Whether [V; T] needs room beside ∂f: without rows there is only V, which is ∂f.
  bool stacks_gradient() const { return wants(kGradFeatures) && has_rows(); }

  size_t scratch_bytes() const {
    using Scratch = typename Device::Scratch;
    const size_t stack = Scratch::template bytes_of<T>(stacked_rows_ * width_);
    const size_t bias = wants(kGradBias) ? Scratch::template bytes_of<T>(bias_chunks_ * block_) : 0;
    return stack + Scratch::template bytes_of<T>(stacked_rows_ * block_) + (stacks_gradient() ? stack : 0) + bias +
           Scratch::template bytes_of<RowSums>(rows_.count()) +
           Scratch::template bytes_of<MapStatistics<T>>(rows_.count());
  }

  static T* data(const Tensor& tensor) { return static_cast<T*>(tensor.mutable_data_ptr()); }
  Matrix matrix(T* data, int64_t rows, int64_t columns) const {
    return {data, rows, columns, columns, dtype_, device_.torch_device()};
  }
  Matrix whole(const Tensor& tensor) const { return matrix(data(tensor), tensor.size(0), tensor.size(1)); }
  Matrix stack() const { return matrix(stack_, stacked_rows_, width_); }

  void clear(void* data, int64_t count, ScalarType dtype) const {
    Tensor all = Matrix{data, 1, count, count, dtype, device_.torch_device()}.view();
    torch::stable::zero_(all);
  }

  bool single_block() const { return block_ == classes_; }

  // To the accumulation type, the weight only where one class block takes all of it.
  void convert_parameters() {
    const auto optional = [](const std::optional<Tensor>& tensor) { return tensor.has_value() ? &*tensor : nullptr; };
    std::array<std::optional<Tensor>, 4> converted = device_.convert(
        std::array<const Tensor*, 4>{single_block() ? &request_.weight : nullptr, optional(request_.bias),
                                     optional(request_.pos_weight), optional(request_.row_weight)},
        dtype_);
    weight_ = std::move(converted[0]);
    bias_ = std::move(converted[1]);
    pos_weight_ = std::move(converted[2]);
    row_weight_ = std::move(converted[3]);
  }

  void allocate_gradients() {
    if (wants(kGradFeatures)) {
      const ScalarType dtype = stacks_gradient() ? Device::gradient_type(dtype_, waiting_dtype_) : dtype_;
      grad_features_ = empty_like_type(request_.features, {batch_, width_}, dtype);
      stack_gradient_ = stacks_gradient() ? scratch_.template take<T>(stacked_rows_ * width_) : data(grad_features_);
      if (classes_ == 0 && stacked_rows_ * width_ > 0) clear(stack_gradient_, stacked_rows_ * width_, dtype_);
    }
    if (wants(kGradWeight)) {
      grad_weight_ = empty_like_type(request_.features, {classes_, width_}, waiting_dtype_);
      if (batch_ == 0) torch::stable::zero_(grad_weight_);
    }
    if (wants(kGradBias)) {
      grad_bias_ = empty_like_type(request_.features, {classes_}, Device::gradient_type(dtype_, waiting_dtype_));
      if (batch_ == 0) torch::stable::zero_(grad_bias_);
    }
  }

  void class_block_step(int64_t first, int64_t count, const Tensor& loss, const Tensor& components) {
    const Tensor weight = weight_block(first, count);
    const Matrix logits = matrix(logits_, stacked_rows_, count);
    device_.gemm(logits, stack().view(), whole(weight).transposed(), false);
    cross_entropies(first, count);
    finish(first, count, loss, components);
    if (wants(kGradWeight)) weight_gradient(first, count, logits);
    if (wants(kGradFeatures)) {
      device_.gemm(matrix(stack_gradient_, stacked_rows_, width_), logits.view(), whole(weight).view(), first > 0);
    }
  }

  // Classes [first, first + count) of the weight in the accumulation type.
  Tensor weight_block(int64_t first, int64_t count) const {
    if (weight_.has_value()) return *weight_;
    return as_type(torch::stable::narrow(const_cast<Tensor&>(request_.weight), 0, first, count), dtype_);
  }

  void cross_entropies(int64_t first, int64_t count) {
    BceBlock<T> block{};
    block.first_class = first;
    block.classes = block.stride = count;
    block.original = logits_;
    block.identical = logits_ + batch_ * count;
    block.bias = optional_data<T>(bias_);
    block.pos_weight = optional_data<T>(pos_weight_);
    block.present = label_words(request_.present);
    block.known = label_words(request_.known);
    block.words = request_.present.size(1);
    block.blocks = request_.blocks;
    block.lam = request_.lam.template const_data_ptr<double>();
    block.row_weight = optional_data<T>(row_weight_);
    block.scale = static_cast<T>(reduction_scale(request_.reduction, rows_.count()));
    block.gradients = request_.gradients != 0;
    block.sums = sums_;
    device_.bce_block(block, rows_, batch_, bias_partials_);
  }

  // After the cross-entropies of classes [first, first + count): their bias gradient, after the last also the loss.
  void finish(int64_t first, int64_t count, const Tensor& loss, const Tensor& components) {
    const BiasSums<T> bias{bias_partials_, bias_chunks_, first, count};
    const LossSums sums{sums_, request_.lam.template const_data_ptr<double>(),
                        static_cast<int64_t>(request_.reduction)};
    const bool has_bias = wants(kGradBias) && count > 0;
    const bool last = first + count == classes_ || count == 0;
    if (has_bias || last) {
      device_.finish(bias, has_bias ? &grad_bias_ : nullptr, sums, rows_, last ? &loss : nullptr, components);
    }
  }

  void weight_gradient(int64_t first, int64_t count, const Matrix& effective) {
    if (waiting_dtype_ == dtype_) {
      device_.gemm(matrix(data(grad_weight_) + first * width_, count, width_), effective.transposed(), stack().view(),
                   false);
      return;
    }
    const Tensor block = empty_like_type(request_.features, {count, width_}, dtype_);
    device_.gemm(whole(block), effective.transposed(), stack().view(), false);
    Tensor target = torch::stable::narrow(grad_weight_, 0, first, count);
    device_.copy(target, block);
  }

  void map_backward() {
    const MapBackward<T> task{
        width_, request_.minmax, stack_, stack_gradient_ + batch_ * width_, stack_gradient_, nullptr, statistics_,
        sums_};
    device_.map_backward(task, rows_, batch_, grad_features_);
  }

  const Device& device_;
  const LossRequest& request_;
  const Rows& rows_;
  const ScalarType dtype_, waiting_dtype_;
  const int64_t batch_, width_, classes_, stacked_rows_, block_, bias_chunks_;
  typename Device::Scratch scratch_;
  std::optional<Tensor> weight_, bias_, pos_weight_, row_weight_;
  T* stack_ = nullptr;           // X = [f; I], [B + R, n]
  T* logits_ = nullptr;          // [O; Q], then [G_O; G_I], [B + R, block]
  T* stack_gradient_ = nullptr;  // [V; T], [B + R, n]
  T* bias_partials_ = nullptr;   // [chunks, block]
  RowSums* sums_ = nullptr;      // [R]
  MapStatistics<T>* statistics_ = nullptr;
  Tensor grad_features_, grad_weight_, grad_bias_;
};

template <typename Device, typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> evaluate(const Device& device, const LossRequest& request,
                                                            const typename Device::Rows& rows, ScalarType dtype) {
  FusedLoss<Device, T> evaluation(device, request, rows, dtype);
  auto [loss, components] = evaluation.run();
  auto [grad_features, grad_weight, grad_bias] = evaluation.gradients();
  return {loss, components, grad_features, grad_weight, grad_bias};
}

// loss, components and the gradients asked for (empty otherwise) of features, weight and bias.
template <typename Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fused_indeed_loss(
    Tensor features, Tensor weight, std::optional<Tensor> bias, Tensor present, std::optional<Tensor> known,
    Tensor pairs, Tensor lam, std::optional<Tensor> pos_weight, std::optional<Tensor> row_weight, int64_t norm,
    double eps, int64_t reduction, int64_t blocks, int64_t gradients) {
  require(features.dim() == 2, "features: expected 2 dimensions, got ", features.dim());
  const int64_t batch = features.size(0), width = features.size(1);
  require(weight.dim() == 2, "weight: expected 2 dimensions, got ", weight.dim());
  const int64_t classes = weight.size(0);
  require_shape("weight", weight, {classes, width});
  const ScalarType dtype = accumulation_type("features", features.scalar_type());
  require_dtype("weight", weight, features.scalar_type());
  if (bias.has_value()) require_shape("bias", *bias, {classes});
  if (pos_weight.has_value()) require_shape("pos_weight", *pos_weight, {classes});
  require_label_words(present, known, batch, classes);
  const Device device(features);
  device.require_same("weight", weight);
  device.require_same("bias", bias);
  device.require_same("labels", present);
  device.require_same("labels", known);
  device.require_same("pos_weight", pos_weight);
  device.require_same("row_weight", row_weight);
  device.require_same("lam", lam);
  const typename Device::Rows rows(device, pairs, batch);
  if (row_weight.has_value()) require_shape("row_weight", *row_weight, {rows.count()});
  lam = require_loss_weights(lam);
  require(bias.has_value() || (gradients & kGradBias) == 0, "gradients: there is no bias to differentiate");

  present = dense(present);
  if (known.has_value()) known = dense(*known);
  const LossRequest request{features,   weight, bias,       present,
                            known,      pos_weight,         row_weight, lam,
                            static_cast<Norm>(norm) == Norm::kMinmax, eps, static_cast<Reduction>(reduction),
                            blocks,     gradients};
  return dtype == ScalarType::Double ? evaluate<Device, double>(device, request, rows, dtype)
                                     : evaluate<Device, float>(device, request, rows, dtype);
}

}  // namespace indeed
