// The Python module indeed_ext._autograd: FusedINDeeDLoss of indeed_ext/autograd.py once more, as a node in C++, for
// eager calls. It calls the same operators, saves the same tensors and refuses the same; what it saves is the time that
// torch takes for a node written in Python, which is longer than a small loss takes.
//
// Autograd is no part of LibTorch's stable ABI: this library stands apart from the operators and is loaded beside the
// very torch it was built with, by indeed_ext/_extension.py. Elsewhere the node in Python serves.

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "common/options.h"

namespace indeed {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

// The operators of a dispatcher namespace, with the signatures of indeed_ext/schemas.py.
struct Operators {
  using Loss = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&, const OptionalTensor&, const Tensor&, double,
      double, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, int64_t, double, int64_t, int64_t,
      int64_t);
  using Scale = void(const Tensor&, const Tensor&, const Tensor&, const Tensor&);

  explicit Operators(const std::string& name)
      : name(name),
        fused_indeed_loss(find(name + "::fused_indeed_loss").typed<Loss>()),
        scale_gradients(find(name + "::scale_gradients").typed<Scale>()) {}

  static c10::OperatorHandle find(const std::string& name) {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
  }

  std::string name;
  c10::TypedOperatorHandle<Loss> fused_indeed_loss;
  c10::TypedOperatorHandle<Scale> scale_gradients;
};

struct Options {
  double lam_identical, lam_disparate;
  int64_t norm;
  double eps;
  int64_t reduction, term_mask, output_mask;

  bool is_per_row() const { return static_cast<Reduction>(reduction) == Reduction::kNone; }
};

// features, weight, bias, positive_bits, valid_bits, pairs, lam, pos_weight; absent ones are undefined.
using Tensors = std::array<Tensor, 8>;

// What a backward needs beside the tensors saved, held by the context in values that compiled autograd can compare.
struct Call {
  std::string name;  // of the dispatcher namespace
  Options options;
  at::ScalarType dtype;
  int64_t given;  // a bit for each of the tensors that is there

  Call(const std::string& name, const Options& options, const Tensors& tensors)
      : name(name), options(options), dtype(tensors[0].scalar_type()), given(0) {
    for (size_t k = 0; k < tensors.size(); ++k) given |= int64_t{tensors[k].defined()} << k;
  }

  explicit Call(AutogradContext& context) : name(context.saved_data["name"].toStringRef()) {
    const auto reals = context.saved_data["reals"].toDoubleVector();
    const auto codes = context.saved_data["codes"].toIntVector();
    options = {reals[0], reals[1], codes[0], reals[2], codes[1], codes[2], codes[3]};
    dtype = static_cast<at::ScalarType>(codes[4]);
    given = codes[5];
  }

  void save(AutogradContext& context) const {
    const Options& o = options;
    context.saved_data["name"] = name;
    context.saved_data["reals"] = std::vector<double>{o.lam_identical, o.lam_disparate, o.eps};
    context.saved_data["codes"] =
        std::vector<int64_t>{o.norm, o.reduction, o.term_mask, o.output_mask, static_cast<int64_t>(dtype), given};
  }
};

auto evaluate(const Operators& operators, const Tensors& tensors, const OptionalTensor& row_weight,
              const Options& options, int64_t reduction, int64_t output_mask) {
  const auto& [features, weight, bias, positive_bits, valid_bits, pairs, lam, pos_weight] = tensors;
  const auto optional = [](const Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; };
  return operators.fused_indeed_loss.call(features, weight, optional(bias), positive_bits, optional(valid_bits), pairs,
                                          options.lam_identical, options.lam_disparate, optional(lam),
                                          optional(pos_weight), row_weight, options.norm, options.eps, reduction,
                                          options.term_mask, output_mask);
}

// Stands for several, as with is_grads_batched=True.
bool is_batched(const Tensor& tensor) {
  return tensor.key_set().has_any(c10::DispatchKeySet({c10::DispatchKey::Batched, c10::DispatchKey::FuncTorchBatched}));
}

// As _scaled in indeed_ext/autograd.py.
variable_list scaled(const Operators& operators, variable_list saved, const Tensor& scale) {
  const bool batched = is_batched(scale);
  if (!batched && scale.is_cpu() && scale.item<double>() == 1) return saved;
  if (batched || torch::autograd::get_current_graph_task_keep_graph()) {
    for (Tensor& gradient : saved) gradient = gradient.mul(scale);
  } else {
    operators.scale_gradients.call(saved[0], saved[1], saved[2], scale);
  }
  return saved;
}

// As _first_order in indeed_ext/autograd.py.
void refuse_second_derivatives(variable_list& gradients) {
  for (Tensor& gradient : gradients) {
    if (!gradient.defined()) continue;
    const auto refusal = std::make_shared<torch::autograd::DelayedError>(
        "indeed_ext: second derivatives are not supported by the fused kernels; use backend='reference'", 1);
    gradient = (*refusal)({gradient.detach().requires_grad_()})[0];
  }
}

struct FusedINDeeDLoss : torch::autograd::Function<FusedINDeeDLoss> {
  static constexpr size_t kArguments = 7;

  // `components` have no gradient; they are no output of the node, as compiled autograd knows none without.
  static Tensor forward(AutogradContext* context, const Tensor&, const Tensor&, const OptionalTensor&,
                        const Operators& operators, const Tensors& tensors, const Options& options,
                        Tensor* components) {
    const bool per_row = options.is_per_row();
    // Per row the backward evaluates once more, with the upstream gradient as the weights of the rows.
    const auto results =
        evaluate(operators, tensors, std::nullopt, options, options.reduction, per_row ? 0 : options.output_mask);
    variable_list saved{std::get<2>(results), std::get<3>(results), std::get<4>(results)};
    if (per_row) {
      saved.clear();  // absent tensors would be shown to hooks as well
      std::copy_if(tensors.begin(), tensors.end(), std::back_inserter(saved), [](const Tensor& t) { return t.defined(); });
    }
    context->save_for_backward(std::move(saved));
    Call(operators.name, options, tensors).save(*context);
    context->set_materialize_grads(false);
    *components = std::get<1>(results);
    return std::get<0>(results);
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    variable_list gradients(kArguments);
    const Tensor& grad_loss = upstream[0];
    if (!grad_loss.defined()) return gradients;
    const Call call(*context);
    const Options& options = call.options;
    const Operators operators(call.name);
    variable_list found = context->get_saved_variables();
    const bool differentiated_again = at::GradMode::is_enabled();
    const at::NoGradGuard no_grad;
    if (options.is_per_row()) {
      Tensors tensors;
      auto next = found.begin();
      for (size_t k = 0; k < tensors.size(); ++k) {
        if ((call.given >> k & 1) != 0) tensors[k] = *next++;
      }
      auto results = evaluate(operators, tensors, grad_loss.contiguous(), options,
                              static_cast<int64_t>(Reduction::kSum), options.output_mask);
      found = {std::get<2>(results), std::get<3>(results), std::get<4>(results)};
    } else {
      found = scaled(operators, std::move(found), grad_loss);
    }
    size_t k = 0;
    for (const int64_t bit : {kGradFeatures, kGradWeight, kGradBias}) {
      if ((options.output_mask & bit) != 0) gradients[k] = found[k].to(call.dtype);
      ++k;
    }
    if (differentiated_again) refuse_second_derivatives(gradients);
    return gradients;
  }
};

// (loss, components) of the operator's arguments.
std::tuple<Tensor, Tensor> fused_indeed_loss(const Operators& operators, const Tensor& features, const Tensor& weight,
                                             const OptionalTensor& bias, const Tensor& positive_bits,
                                             const OptionalTensor& valid_bits, const Tensor& pairs,
                                             double lam_identical, double lam_disparate, const OptionalTensor& lam,
                                             const OptionalTensor& pos_weight, int64_t norm, double eps,
                                             int64_t reduction, int64_t term_mask) {
  const auto given = [](const OptionalTensor& tensor) { return tensor.value_or(Tensor()); };
  const Tensors tensors{features,          weight, given(bias), positive_bits,
                        given(valid_bits), pairs,  given(lam),  given(pos_weight)};
  for (const Tensor& tensor : tensors) {
    TORCH_CHECK_NOT_IMPLEMENTED(!tensor.defined() || !tensor._fw_grad(0).defined(),
                                "indeed_ext: forward mode AD is not supported by the fused kernels");
  }
  int64_t output_mask = 0;
  if (at::GradMode::is_enabled()) {
    output_mask = kGradFeatures * features.requires_grad() + kGradWeight * weight.requires_grad() +
                  kGradBias * (bias.has_value() && bias->requires_grad());
  }
  const Options options{lam_identical, lam_disparate, norm, eps, reduction, term_mask, output_mask};
  Tensor components;
  Tensor loss = FusedINDeeDLoss::apply(features, weight, bias, operators, tensors, options, &components);
  return {loss, components};
}

}  // namespace
}  // namespace indeed

PYBIND11_MODULE(_autograd, module) {
  module.doc() = "FusedINDeeDLoss of indeed_ext/autograd.py as a node in C++.";
  pybind11::class_<indeed::Operators>(module, "FusedINDeeDLoss", "For the operators of a dispatcher namespace.")
      .def(pybind11::init<const std::string&>())
      .def("apply", &indeed::fused_indeed_loss, pybind11::call_guard<pybind11::gil_scoped_release>(),
           "(loss, components) of the operator's arguments.");
}
