// The loss from labels as users have them: packing, mining and the fused loss in one call, which spares the caller the
// way through torch's dispatcher and back for each.
#include "common/options.h"
#include "operators.h"

namespace indeed {
namespace {

// Bool and byte labels have no value that means unknown.
bool may_be_unknown(const Tensor& labels) {
  return labels.scalar_type() != ScalarType::Bool && labels.scalar_type() != ScalarType::Byte;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> indeed_loss(
    Tensor features, Tensor weight, std::optional<Tensor> bias, Tensor labels, std::optional<Tensor> known, bool packed,
    std::optional<Tensor> pairs, std::optional<Tensor> seed, Tensor lam, std::optional<Tensor> pos_weight,
    int64_t strategy, int64_t norm, double eps, int64_t reduction, int64_t blocks, int64_t gradients) {
  require(pairs.has_value() || seed.has_value(), "seed: needed to mine pairs");
  if (!packed) {
    require_shape("labels", labels, {features.size(0), weight.size(0)});
    const auto [present, known_bits] = pack_labels(labels);
    if (may_be_unknown(labels)) known = known_bits;
    labels = present;
  }
  if (!pairs.has_value()) pairs = mine_pairs(labels, *seed, strategy);
  return fused_indeed_loss(features, weight, bias, labels, known, *pairs, lam, pos_weight, std::nullopt, norm, eps,
                           reduction, blocks, gradients);
}

}  // namespace indeed
