// The fused loss as a node of autograd, for callers in C++.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace indeed {

// (loss, components); the seed is drawn here where pairs are to be mined and none is given.
std::tuple<at::Tensor, at::Tensor> differentiable_indeed_loss(
    const at::Tensor& features, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
    const at::Tensor& labels, const std::optional<at::Tensor>& known, bool packed,
    const std::optional<at::Tensor>& pairs, std::optional<at::Tensor> seed,
    const std::optional<at::Generator>& generator, const at::Tensor& lam, const std::optional<at::Tensor>& pos_weight,
    int64_t strategy, int64_t norm, double eps, int64_t reduction, int64_t blocks);

}  // namespace indeed
