// Disjoint pairs: the strategies matching and balanced.
#pragma once

#include "cuda/compatibility.h"
#include "cuda/device.h"

namespace indeed::cuda {

// Queues the kernels that write partner [batch]; how many they are depends on the batch and the strategy alone.
void launch_matching(const Device& device, const Labels& labels, int64_t batch, const Tensor& like,
                     const int64_t* seed, bool balanced, int64_t* partner);

}  // namespace indeed::cuda
