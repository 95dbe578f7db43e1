// The six cross-entropies of eqs. (7) to (9) as an operator of their own, for classifiers that are not linear.
#pragma once

#include <tuple>

#include "loss_arguments.h"

namespace indeed {

struct SixWayInputs {
  Tensor logits, identical, disparate;  // in the accumulation type
  Tensor present;
  std::optional<Tensor> known, pos_weight;
  Tensor lam;
  int64_t blocks;
};

struct SixWayGradients {
  Tensor logits, identical, disparate;
};

// Logits and settings of the kernel, without the row sums.
template <typename T>
std::pair<SixWayLogits<T>, BceBlock<T>> six_way_task(const SixWayInputs& in) {
  SixWayLogits<T> logits{};
  logits.classes = in.logits.size(1);
  logits.original = in.logits.const_data_ptr<T>();
  logits.identical = in.identical.const_data_ptr<T>();
  logits.disparate = in.disparate.const_data_ptr<T>();
  BceBlock<T> block{};
  block.classes = block.stride = logits.classes;
  block.pos_weight = optional_data<T>(in.pos_weight);
  block.present = label_words(in.present);
  block.known = label_words(in.known);
  block.words = in.present.size(1);
  block.blocks = in.blocks;
  block.lam = in.lam.const_data_ptr<double>();
  block.scale = T(1);
  return {logits, block};
}

template <typename T, typename Device>
std::tuple<Tensor, Tensor> six_way_forward(const Device& device, const SixWayInputs& in,
                                           const typename Device::Rows& rows, Reduction reduction) {
  const ScalarType dtype = in.logits.scalar_type();
  auto [logits, block] = six_way_task<T>(in);
  typename Device::Scratch scratch(in.logits, Device::Scratch::template bytes_of<RowSums>(rows.count()));
  block.sums = scratch.template take<RowSums>(rows.count());
  device.six_way(logits, block, rows, in.logits.size(0));
  const auto [loss, components] = empty_loss(reduction, rows.count(), in.logits, dtype);
  device.finish(BiasSums<T>{}, nullptr, LossSums{block.sums, block.lam, static_cast<int64_t>(reduction)}, rows, &loss,
                components);
  return {loss, components};
}

template <typename T, typename Device>
SixWayGradients six_way_gradients(const Device& device, const SixWayInputs& in, const typename Device::Rows& rows,
                                  const Tensor& grad_loss, Reduction reduction) {
  const auto like = [](const Tensor& t) { return empty_like_type(t, {t.size(0), t.size(1)}, t.scalar_type()); };
  const SixWayGradients gradients{like(in.logits), like(in.identical), like(in.disparate)};
  auto [logits, block] = six_way_task<T>(in);
  logits.grad_original = gradients.logits.mutable_data_ptr<T>();
  logits.grad_identical = gradients.identical.mutable_data_ptr<T>();
  logits.grad_disparate = gradients.disparate.mutable_data_ptr<T>();
  typename Device::Scratch scratch(in.logits, Device::Scratch::template bytes_of<RowSums>(rows.count()));
  block.sums = scratch.template take<RowSums>(rows.count());
  block.gradients = true;
  if (reduction == Reduction::kNone) {
    block.row_weight = grad_loss.const_data_ptr<T>();
  } else {
    block.scale = static_cast<T>(reduction_scale(reduction, rows.count()));
    block.upstream = grad_loss.const_data_ptr<T>();
  }
  device.six_way(logits, block, rows, in.logits.size(0));
  return gradients;
}

template <typename Device>
SixWayInputs check_six_way(const Device& device, const Tensor& logits, const Tensor& identical_logits,
                           const Tensor& disparate_logits, const Tensor& present, const std::optional<Tensor>& known,
                           const typename Device::Rows& rows, const Tensor& lam,
                           const std::optional<Tensor>& pos_weight, int64_t blocks) {
  const int64_t batch = logits.size(0), classes = logits.size(1);
  const ScalarType dtype = accumulation_type("logits", logits.scalar_type());
  require_shape("identical_logits", identical_logits, {rows.count(), classes});
  require_shape("disparate_logits", disparate_logits, {rows.count(), classes});
  require_label_words(present, known, batch, classes);
  if (pos_weight.has_value()) require_shape("pos_weight", *pos_weight, {classes});
  device.require_same("identical_logits", identical_logits);
  device.require_same("disparate_logits", disparate_logits);
  device.require_same("labels", present);
  device.require_same("labels", known);
  device.require_same("lam", lam);
  device.require_same("pos_weight", pos_weight);
  SixWayInputs in{as_type(logits, dtype), as_type(identical_logits, dtype), as_type(disparate_logits, dtype),
                  dense(present),         std::nullopt,                     std::nullopt,
                  require_loss_weights(lam), blocks};
  if (known.has_value()) in.known = dense(*known);
  if (pos_weight.has_value()) in.pos_weight = as_type(*pos_weight, dtype);
  return in;
}

// logits [B, C], [R, C], [R, C] -> loss [] or [R], components [3].
template <typename Device>
std::tuple<Tensor, Tensor> six_way_bce(Tensor logits, Tensor identical_logits, Tensor disparate_logits, Tensor present,
                                       std::optional<Tensor> known, Tensor pairs, Tensor lam,
                                       std::optional<Tensor> pos_weight, int64_t reduction, int64_t blocks) {
  require(logits.dim() == 2, "logits: expected 2 dimensions, got ", logits.dim());
  const Device device(logits);
  const typename Device::Rows rows(device, pairs, logits.size(0));
  rows.index(device);
  const SixWayInputs in = check_six_way(device, logits, identical_logits, disparate_logits, present, known, rows, lam,
                                        pos_weight, blocks);
  const Reduction mode = static_cast<Reduction>(reduction);
  return in.logits.scalar_type() == ScalarType::Double ? six_way_forward<double>(device, in, rows, mode)
                                                       : six_way_forward<float>(device, in, rows, mode);
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> six_way_bce_backward(Tensor grad_loss, Tensor logits, Tensor identical_logits,
                                                        Tensor disparate_logits, Tensor present,
                                                        std::optional<Tensor> known, Tensor pairs, Tensor lam,
                                                        std::optional<Tensor> pos_weight, int64_t reduction,
                                                        int64_t blocks) {
  require(logits.dim() == 2, "logits: expected 2 dimensions, got ", logits.dim());
  const Device device(logits);
  const typename Device::Rows rows(device, pairs, logits.size(0));
  rows.index(device);
  const SixWayInputs in = check_six_way(device, logits, identical_logits, disparate_logits, present, known, rows, lam,
                                        pos_weight, blocks);
  const Reduction mode = static_cast<Reduction>(reduction);
  const ScalarType type = logits.scalar_type(), dtype = in.logits.scalar_type();
  require(grad_loss.numel() == (mode == Reduction::kNone ? rows.count() : 1), "grad_loss: unexpected size");
  device.require_same("grad_loss", grad_loss);
  const Tensor upstream = as_type(grad_loss, dtype);
  const SixWayGradients gradients = dtype == ScalarType::Double
                                        ? six_way_gradients<double>(device, in, rows, upstream, mode)
                                        : six_way_gradients<float>(device, in, rows, upstream, mode);
  return {as_type(gradients.logits, type), as_type(gradients.identical, type), as_type(gradients.disparate, type)};
}

}  // namespace indeed
