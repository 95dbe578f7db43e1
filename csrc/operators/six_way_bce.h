// The six cross-entropies of eqs. (7) to (9) as an operator of their own, for classifiers that are not linear.
#pragma once

#include <tuple>

#include "operators/arguments.h"

namespace indeed {

struct SixWayInputs {
  Tensor logits, identical, disparate;  // in the accumulation type
  Tensor positive_bits;
  OptionalTensor valid_bits, pos_weight;
  LossWeights lam;
  int64_t term_mask;
};

struct SixWayGradients {
  Tensor logits, identical, disparate;
};

// Logits and settings of the kernel, without the row sums.
template <typename T>
std::pair<SixWayLogits<T>, BceChunk<T>> six_way_task(const SixWayInputs& in) {
  SixWayLogits<T> logits{};
  logits.classes = in.logits.size(1);
  logits.original = in.logits.const_data_ptr<T>();
  logits.identical = in.identical.const_data_ptr<T>();
  logits.disparate = in.disparate.const_data_ptr<T>();
  BceChunk<T> chunk{};
  chunk.classes = chunk.stride = logits.classes;
  chunk.pos_weight = optional_data<T>(in.pos_weight);
  chunk.positive_bits = label_words(in.positive_bits);
  chunk.valid_bits = label_words(in.valid_bits);
  chunk.words = in.positive_bits.size(1);
  chunk.term_mask = in.term_mask;
  chunk.lam = in.lam;
  chunk.scale = T(1);
  return {logits, chunk};
}

template <typename T, typename Device>
std::tuple<Tensor, Tensor> six_way_forward(const Device& device, const SixWayInputs& in,
                                           const typename Device::Rows& rows, Reduction reduction) {
  const ScalarType dtype = in.logits.scalar_type();
  auto [logits, chunk] = six_way_task<T>(in);
  typename Device::Scratch scratch(in.logits, Device::Scratch::template bytes_of<RowSums>(rows.count()));
  chunk.sums = scratch.template take<RowSums>(rows.count());
  device.six_way(logits, chunk, rows, in.logits.size(0));
  const auto [loss, components] = empty_loss(reduction, rows.count(), in.logits, dtype);
  const LossSums sums{chunk.sums, chunk.lam, static_cast<int64_t>(reduction)};
  device.reduce(Reductions<T>{{}, nullptr, sums, &loss, &components}, rows);
  return {loss, components};
}

template <typename T, typename Device>
SixWayGradients six_way_gradients(const Device& device, const SixWayInputs& in, const typename Device::Rows& rows,
                                  const Tensor& grad_loss, Reduction reduction) {
  const auto like = [](const Tensor& t) { return empty_like_type(t, {t.size(0), t.size(1)}, t.scalar_type()); };
  const SixWayGradients gradients{like(in.logits), like(in.identical), like(in.disparate)};
  auto [logits, chunk] = six_way_task<T>(in);
  logits.grad_original = gradients.logits.mutable_data_ptr<T>();
  logits.grad_identical = gradients.identical.mutable_data_ptr<T>();
  logits.grad_disparate = gradients.disparate.mutable_data_ptr<T>();
  typename Device::Scratch scratch(in.logits, Device::Scratch::template bytes_of<RowSums>(rows.count()));
  chunk.sums = scratch.template take<RowSums>(rows.count());
  chunk.gradients = true;
  if (reduction == Reduction::kNone) {
    chunk.row_weight = grad_loss.const_data_ptr<T>();
  } else {
    chunk.scale = static_cast<T>(reduction_scale(reduction, rows.count()));
    chunk.upstream = grad_loss.const_data_ptr<T>();
  }
  device.six_way(logits, chunk, rows, in.logits.size(0));
  return gradients;
}

// The arguments of both operators below, in the order of their schemas.
struct SixWayArguments {
  const Tensor &logits, &identical_logits, &disparate_logits, &positive_bits;
  const OptionalTensor& valid_bits;
  double lam_identical, lam_disparate;
  const OptionalTensor &lam, &pos_weight;
  int64_t term_mask;
};

template <typename Device>
SixWayInputs check_six_way(const Device& device, const SixWayArguments& a, const typename Device::Rows& rows) {
  const int64_t batch = a.logits.size(0), classes = a.logits.size(1);
  const ScalarType dtype = accumulation_type("logits", a.logits.scalar_type());
  require_shape("identical_logits", a.identical_logits, {rows.count(), classes});
  require_shape("disparate_logits", a.disparate_logits, {rows.count(), classes});
  require_label_words(a.positive_bits, a.valid_bits, batch, classes);
  if (a.pos_weight.has_value()) require_shape("pos_weight", *a.pos_weight, {classes});
  device.require_same("identical_logits", a.identical_logits);
  device.require_same("disparate_logits", a.disparate_logits);
  device.require_same("labels", a.positive_bits);
  device.require_same("labels", a.valid_bits);
  device.require_same("lam", a.lam);
  device.require_same("pos_weight", a.pos_weight);
  return {as_type(a.logits, dtype),
          as_type(a.identical_logits, dtype),
          as_type(a.disparate_logits, dtype),
          to_contiguous(a.positive_bits),
          to_contiguous(a.valid_bits),
          as_type(a.pos_weight, dtype),
          loss_weights(a.lam_identical, a.lam_disparate, a.lam),
          a.term_mask};
}

// logits [B, C], [R, C], [R, C] -> loss [] or [R], components [3].
template <typename Device>
std::tuple<Tensor, Tensor> six_way_bce(Tensor logits, Tensor identical_logits, Tensor disparate_logits,
                                       Tensor positive_bits, OptionalTensor valid_bits, Tensor pairs,
                                       double lam_identical, double lam_disparate, OptionalTensor lam,
                                       OptionalTensor pos_weight, int64_t reduction, int64_t term_mask) {
  require_matrix("logits", logits);
  const Device device(logits);
  const typename Device::Rows rows(device, pairs, logits.size(0));
  rows.index(device);
  const SixWayInputs in = check_six_way(device,
                                        {logits, identical_logits, disparate_logits, positive_bits, valid_bits,
                                         lam_identical, lam_disparate, lam, pos_weight, term_mask},
                                        rows);
  const Reduction mode = static_cast<Reduction>(reduction);
  return in.logits.scalar_type() == ScalarType::Double ? six_way_forward<double>(device, in, rows, mode)
                                                       : six_way_forward<float>(device, in, rows, mode);
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> six_way_bce_backward(Tensor grad_loss, Tensor logits, Tensor identical_logits,
                                                        Tensor disparate_logits, Tensor positive_bits,
                                                        OptionalTensor valid_bits, Tensor pairs, double lam_identical,
                                                        double lam_disparate, OptionalTensor lam,
                                                        OptionalTensor pos_weight, int64_t reduction,
                                                        int64_t term_mask) {
  require_matrix("logits", logits);
  const Device device(logits);
  const typename Device::Rows rows(device, pairs, logits.size(0));
  rows.index(device);
  const SixWayInputs in = check_six_way(device,
                                        {logits, identical_logits, disparate_logits, positive_bits, valid_bits,
                                         lam_identical, lam_disparate, lam, pos_weight, term_mask},
                                        rows);
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
