// The operators without arithmetic on features, for CPU tensors.
#pragma once

#include <tuple>

#include "operators/arguments.h"

namespace indeed::cpu {

// labels [B, C] in {-1, 0, 1} -> positive_bits and valid_bits bits, int32 [B, ceil(C / 32)].
std::tuple<Tensor, Tensor> pack_labels(Tensor labels);

// positive_bits int32 [B, W], seed int64 [] -> partner int64 [B].
Tensor mine_pairs(Tensor positive_bits, Tensor seed, int64_t strategy);

}  // namespace indeed::cpu
