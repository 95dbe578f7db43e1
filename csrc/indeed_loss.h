// The loss from labels as users have them: packing, mining and the fused loss in one call, which spares the caller the
// way through torch's dispatcher and back for each.
#pragma once

#include "fused_loss.h"

namespace indeed {

// Bool and byte labels have no value that means unknown.
inline bool may_be_unknown(const Tensor& labels) {
  return labels.scalar_type() != ScalarType::Bool && labels.scalar_type() != ScalarType::Byte;
}

// The fused loss from labels [B, C], or their words where `packed`; pairs are mined where none are given.
template <typename Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> indeed_loss(
    Tensor features, Tensor weight, std::optional<Tensor> bias, Tensor labels, std::optional<Tensor> known, bool packed,
    std::optional<Tensor> pairs, std::optional<Tensor> seed, Tensor lam, std::optional<Tensor> pos_weight,
    int64_t strategy, int64_t norm, double eps, int64_t reduction, int64_t blocks, int64_t gradients) {
  require(pairs.has_value() || seed.has_value(), "seed: needed to mine pairs");
  if (!packed) {
    require(features.dim() == 2, "features: expected 2 dimensions, got ", features.dim());
    require(weight.dim() == 2, "weight: expected 2 dimensions, got ", weight.dim());
    require_shape("labels", labels, {features.size(0), weight.size(0)});
    const auto [present, known_bits] = Device::pack_labels(labels);
    if (may_be_unknown(labels)) known = known_bits;
    labels = present;
  }
  if (!pairs.has_value()) pairs = Device::mine_pairs(labels, *seed, strategy);
  return fused_indeed_loss<Device>(features, weight, bias, labels, known, *pairs, lam, pos_weight, std::nullopt, norm,
                                   eps, reduction, blocks, gradients);
}

}  // namespace indeed
