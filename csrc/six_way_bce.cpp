// The six cross-entropies of eqs. (7) to (9) as an operator of their own, for classifiers that are not linear.
#include "common/options.h"
#include "cpu/row_kernels.h"
#include "loss_arguments.h"
#include "operators.h"
#include "parallel.h"

namespace indeed {
namespace {

struct Inputs {
  Tensor logits, identical, disparate;  // in the accumulation type
  Tensor present;
  std::optional<Tensor> known, pos_weight;
  LossWeights lam;
  int64_t blocks;
};

struct Gradients {
  Tensor logits, identical, disparate;
};

template <typename T>
std::vector<cpu::RowSums> run(const Inputs& in, const DirectedRows& rows, const T* row_weight, double scale,
                              const Gradients* gradients) {
  const int64_t batch = in.logits.size(0), classes = in.logits.size(1);
  cpu::SixWayLogits<T> logits{};
  logits.classes = classes;
  logits.original = in.logits.const_data_ptr<T>();
  logits.identical = in.identical.const_data_ptr<T>();
  logits.disparate = in.disparate.const_data_ptr<T>();
  cpu::BceBlock<T> block{};
  block.classes = classes;
  block.pos_weight = in.pos_weight.has_value() ? in.pos_weight->const_data_ptr<T>() : nullptr;
  block.present = reinterpret_cast<const uint32_t*>(in.present.const_data_ptr<int32_t>());
  block.known = in.known.has_value() ? reinterpret_cast<const uint32_t*>(in.known->const_data_ptr<int32_t>()) : nullptr;
  block.words = in.present.size(1);
  block.blocks = in.blocks;
  block.lam_identical = static_cast<T>(in.lam.identical);
  block.lam_disparate = static_cast<T>(in.lam.disparate);
  block.row_weight = row_weight;
  block.scale = static_cast<T>(scale);
  std::vector<cpu::RowSums> sums(rows.count());
  block.sums = sums.data();
  if (gradients != nullptr) {
    block.gradients = true;
    logits.grad_original = gradients->logits.mutable_data_ptr<T>();
    logits.grad_identical = gradients->identical.mutable_data_ptr<T>();
    logits.grad_disparate = gradients->disparate.mutable_data_ptr<T>();
  }
  parallel_rows(batch, 3 * classes, [&](int64_t begin, int64_t end) {
    cpu::row_kernels<T>().six_way(logits, block, rows.view(), begin, end);
  });
  return sums;
}

template <typename T>
Gradients backward(const Inputs& in, const DirectedRows& rows, const Tensor& grad_loss, Reduction reduction) {
  const auto like = [](const Tensor& t) { return empty_like_type(t, {t.size(0), t.size(1)}, t.scalar_type()); };
  const Gradients gradients{like(in.logits), like(in.identical), like(in.disparate)};
  const T* upstream = grad_loss.const_data_ptr<T>();
  if (reduction == Reduction::kNone) {
    run<T>(in, rows, upstream, 1.0, &gradients);
  } else {
    run<T>(in, rows, nullptr, reduction_scale(reduction, rows.count()) * static_cast<double>(*upstream), &gradients);
  }
  return gradients;
}

Inputs check(const Tensor& logits, const Tensor& identical_logits, const Tensor& disparate_logits,
             const Tensor& present, const std::optional<Tensor>& known, const DirectedRows& rows, const Tensor& lam,
             const std::optional<Tensor>& pos_weight, int64_t blocks) {
  const int64_t batch = logits.size(0), classes = logits.size(1);
  const ScalarType dtype = accumulation_type("logits", logits.scalar_type());
  require_shape("identical_logits", identical_logits, {rows.count(), classes});
  require_shape("disparate_logits", disparate_logits, {rows.count(), classes});
  require_label_words(present, known, batch, classes);
  if (pos_weight.has_value()) require_shape("pos_weight", *pos_weight, {classes});
  Inputs in{as_type(logits, dtype), as_type(identical_logits, dtype), as_type(disparate_logits, dtype),
            dense(present),         std::nullopt,                     std::nullopt,
            LossWeights(lam),       blocks};
  if (known.has_value()) in.known = dense(*known);
  if (pos_weight.has_value()) in.pos_weight = as_type(*pos_weight, dtype);
  return in;
}

}  // namespace

std::tuple<Tensor, Tensor> six_way_bce(Tensor logits, Tensor identical_logits, Tensor disparate_logits, Tensor present,
                                       std::optional<Tensor> known, Tensor pairs, Tensor lam,
                                       std::optional<Tensor> pos_weight, int64_t reduction, int64_t blocks) {
  require(logits.dim() == 2, "logits: expected 2 dimensions, got ", logits.dim());
  const DirectedRows rows(pairs, logits.size(0));
  const Inputs in =
      check(logits, identical_logits, disparate_logits, present, known, rows, lam, pos_weight, blocks);
  const ScalarType dtype = in.logits.scalar_type();
  const auto sums = dtype == ScalarType::Double ? run<double>(in, rows, nullptr, 1.0, nullptr)
                                                : run<float>(in, rows, nullptr, 1.0, nullptr);
  return finish_loss(sums, in.lam, static_cast<Reduction>(reduction), logits, dtype);
}

std::tuple<Tensor, Tensor, Tensor> six_way_bce_backward(Tensor grad_loss, Tensor logits, Tensor identical_logits,
                                                        Tensor disparate_logits, Tensor present,
                                                        std::optional<Tensor> known, Tensor pairs, Tensor lam,
                                                        std::optional<Tensor> pos_weight, int64_t reduction,
                                                        int64_t blocks) {
  require(logits.dim() == 2, "logits: expected 2 dimensions, got ", logits.dim());
  const DirectedRows rows(pairs, logits.size(0));
  const Inputs in =
      check(logits, identical_logits, disparate_logits, present, known, rows, lam, pos_weight, blocks);
  const Reduction mode = static_cast<Reduction>(reduction);
  const ScalarType type = logits.scalar_type(), dtype = in.logits.scalar_type();
  require(grad_loss.numel() == (mode == Reduction::kNone ? rows.count() : 1), "grad_loss: unexpected size");
  const Tensor upstream = as_type(grad_loss, dtype);
  const Gradients gradients = dtype == ScalarType::Double ? backward<double>(in, rows, upstream, mode)
                                                          : backward<float>(in, rows, upstream, mode);
  return {as_type(gradients.logits, type), as_type(gradients.identical, type), as_type(gradients.disparate, type)};
}

}  // namespace indeed
