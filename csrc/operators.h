// The operators, as registered in operators.cpp. Their Python-side descriptions (result shapes, autograd) stand in
// indeed_ext/operators.py. All work on CPU tensors.
#pragma once

#include <optional>
#include <tuple>

#include "arguments.h"

namespace indeed {

// labels [B, C] in {-1, 0, 1} -> present and known bits, int32 [B, ceil(C / 32)].
std::tuple<Tensor, Tensor> pack_labels(Tensor labels);

// present int32 [B, W], seed int64 [] -> partner int64 [B].
Tensor mine_pairs(Tensor present, Tensor seed, int64_t strategy);

// features [B, n], pairs [B] or [P, 2] -> identical and disparate features [R, n].
std::tuple<Tensor, Tensor> identical_disparate(Tensor features, Tensor pairs, int64_t norm, double eps);
Tensor identical_disparate_backward(Tensor grad_identical, Tensor grad_disparate, Tensor features, Tensor pairs,
                                    int64_t norm, double eps);

// logits [B, C], [R, C], [R, C] -> loss [] or [R], components [3].
std::tuple<Tensor, Tensor> six_way_bce(Tensor logits, Tensor identical_logits, Tensor disparate_logits, Tensor present,
                                       std::optional<Tensor> known, Tensor pairs, Tensor lam,
                                       std::optional<Tensor> pos_weight, int64_t reduction, int64_t blocks);
std::tuple<Tensor, Tensor, Tensor> six_way_bce_backward(Tensor grad_loss, Tensor logits, Tensor identical_logits,
                                                        Tensor disparate_logits, Tensor present,
                                                        std::optional<Tensor> known, Tensor pairs, Tensor lam,
                                                        std::optional<Tensor> pos_weight, int64_t reduction,
                                                        int64_t blocks);

// loss, components and the gradients asked for (empty otherwise) of features, weight and bias.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fused_indeed_loss(
    Tensor features, Tensor weight, std::optional<Tensor> bias, Tensor present, std::optional<Tensor> known,
    Tensor pairs, Tensor lam, std::optional<Tensor> pos_weight, std::optional<Tensor> row_weight, int64_t norm,
    double eps, int64_t reduction, int64_t blocks, int64_t gradients);

// The same from labels [B, C], or their words where `packed`; pairs are mined where none are given.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> indeed_loss(
    Tensor features, Tensor weight, std::optional<Tensor> bias, Tensor labels, std::optional<Tensor> known, bool packed,
    std::optional<Tensor> pairs, std::optional<Tensor> seed, Tensor lam, std::optional<Tensor> pos_weight,
    int64_t strategy, int64_t norm, double eps, int64_t reduction, int64_t blocks, int64_t gradients);

}  // namespace indeed
