// The fused loss as a node of autograd in C++, for calls that are not being compiled: the seed, the operator, the saved
// gradients and their scaling without a way back through Python, which costs as much as a small loss itself.
//
// FusedINDeeDLoss in indeed_ext/operators.py is the same node for everybody else. Autograd is outside LibTorch's stable
// ABI, so this library is apart from the operators and is loaded only beside the very torch it was built with.
#include "autograd/indeed_loss.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/randint.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/library.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <tuple>

#include "common/options.h"

namespace indeed {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

// The operator's arguments beyond those that are differentiated.
struct Rest {
  const Tensor& labels;
  const OptionalTensor& known;
  bool packed;
  const OptionalTensor &pairs, &seed;
  const Tensor& lam;
  const OptionalTensor& pos_weight;
  int64_t strategy, norm;
  double eps;
  int64_t reduction, blocks;
};

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using Signature = Results(const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&, const OptionalTensor&,
                          bool, const OptionalTensor&, const OptionalTensor&, const Tensor&, const OptionalTensor&,
                          int64_t, int64_t, double, int64_t, int64_t, int64_t);

Results call_operator(const Tensor& features, const Tensor& weight, const OptionalTensor& bias, const Rest& rest,
                      int64_t gradients) {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("indeed_ext::indeed_loss", "").typed<Signature>();
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return handle.call(features, weight, bias, rest.labels, rest.known, rest.packed, rest.pairs, rest.seed, rest.lam,
                     rest.pos_weight, rest.strategy, rest.norm, rest.eps, rest.reduction, rest.blocks, gradients);
}

// With create_graph=True gradients pass on, but differentiating them is an error, not a silent zero.
void refuse_second_derivatives(variable_list& gradients) {
  if (!at::GradMode::is_enabled()) return;
  for (Tensor& gradient : gradients) {
    if (!gradient.defined()) continue;
    const auto refusal = std::make_shared<torch::autograd::DelayedError>(
        "indeed_ext: second derivatives are not supported by the fused kernels; use backend='reference'", 1);
    gradient = (*refusal)({gradient.detach().requires_grad_()})[0];
  }
}

// Whether a number is 1, where telling needs no waiting.
bool is_one(const Tensor& number) {
  if (!number.is_cpu() || number.key_set().has(c10::DispatchKey::Python)) return false;
  if (number.scalar_type() == at::kFloat) return *number.const_data_ptr<float>() == 1;
  return number.item<double>() == 1;
}

struct FusedINDeeDLoss : torch::autograd::Function<FusedINDeeDLoss> {
  static constexpr size_t kInputs = 3;

  static variable_list forward(AutogradContext* context, const Tensor& features, const Tensor& weight,
                               const OptionalTensor& bias, const Rest& rest, int64_t wanted) {
    auto [loss, components, of_features, of_weight, of_bias] = call_operator(features, weight, bias, rest, wanted);
    context->save_for_backward({(wanted & kGradFeatures) != 0 ? of_features : Tensor(),
                                (wanted & kGradWeight) != 0 ? of_weight : Tensor(),
                                (wanted & kGradBias) != 0 ? of_bias : Tensor()});
    const at::ScalarType dtype = features.scalar_type();
    if (dtype == at::kHalf) context->saved_data["dtype"] = dtype;  // gradients of other types wait in their own
    context->mark_non_differentiable({components});
    context->set_materialize_grads(false);
    return {loss, components};
  }

  // Saved gradients times the upstream one: in place where this is their only use, untouched where it is 1.
  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    variable_list gradients(kInputs + 2);  // rest and wanted have none
    const Tensor& scale = upstream[0];
    if (!scale.defined()) return gradients;
    const bool is_half = !context->saved_data.empty();
    const variable_list saved = context->get_saved_variables();
    const bool kept = torch::autograd::get_current_graph_task_keep_graph();
    const bool scaled = kept || !is_one(scale);
    for (size_t k = 0; k < kInputs; ++k) {
      Tensor gradient = saved[k];
      if (!gradient.defined()) continue;
      const at::NoGradGuard no_grad;
      if (scaled) gradient = kept ? gradient.mul(scale) : gradient.mul_(scale);
      gradients[k] = is_half ? gradient.to(context->saved_data["dtype"].toScalarType()) : gradient;
    }
    refuse_second_derivatives(gradients);
    return gradients;
  }
};

int64_t wanted_gradients(const Tensor& features, const Tensor& weight, const OptionalTensor& bias) {
  if (!at::GradMode::is_enabled()) return 0;
  return kGradFeatures * features.requires_grad() + kGradWeight * weight.requires_grad() +
         kGradBias * (bias.has_value() && bias->requires_grad());
}

}  // namespace

std::tuple<Tensor, Tensor> differentiable_indeed_loss(
    const Tensor& features, const Tensor& weight, const OptionalTensor& bias, const Tensor& labels,
    const OptionalTensor& known, bool packed, const OptionalTensor& pairs, OptionalTensor seed,
    const std::optional<at::Generator>& generator, const Tensor& lam, const OptionalTensor& pos_weight,
    int64_t strategy, int64_t norm, double eps, int64_t reduction, int64_t blocks) {
  if (!pairs.has_value() && !seed.has_value()) {
    seed = at::randint(std::numeric_limits<int64_t>::max(), {}, generator, at::kLong)
               .to(features.device(), /*non_blocking=*/true);
  }
  const Rest rest{labels, known, packed, pairs, seed, lam, pos_weight, strategy, norm, eps, reduction, blocks};
  if (const int64_t wanted = wanted_gradients(features, weight, bias)) {
    const variable_list results = FusedINDeeDLoss::apply(features, weight, bias, rest, wanted);
    return {results[0], results[1]};
  }
  const Results results = call_operator(features, weight, bias, rest, 0);
  return {std::get<0>(results), std::get<1>(results)};
}

TORCH_LIBRARY(indeed_ext_autograd, m) {
  m.def(
      "indeed_loss(Tensor features, Tensor weight, Tensor? bias, Tensor labels, Tensor? known, "
      "bool packed, Tensor? pairs, Tensor? seed, Generator? generator, Tensor lam, Tensor? pos_weight, int strategy, "
      "int norm, float eps, int reduction, int blocks) -> (Tensor, Tensor)",
      &differentiable_indeed_loss);
}

}  // namespace indeed
