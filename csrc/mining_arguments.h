// Checks of the mining operator, the same on every device.
#pragma once

#include "arguments.h"
#include "common/options.h"

namespace indeed {

// present int32 [B, W], seed int64 [].
inline void require_mining_arguments(const Tensor& present, const Tensor& seed, int64_t strategy) {
  require(present.dim() == 2, "labels: expected 2 dimensions, got ", present.dim());
  require_dtype("labels", present, ScalarType::Int);
  require_dtype("seed", seed, ScalarType::Long);
  require(seed.numel() == 1, "seed: expected one value, got ", seed.numel());
  require(strategy >= 0 && strategy <= static_cast<int64_t>(Strategy::kBalanced), "strategy: unknown code ", strategy);
  require(present.size(0) <= INT32_MAX, "labels: expected fewer than 2**31 rows, got ", present.size(0));
}

}  // namespace indeed
