// The part of pair mining worth an instruction set: looking at every edge of a sample.
#pragma once

#include <cstdint>

namespace indeed::cpu {

// Approximate cost of an edge: (offset + derivative * (hash >> 1)) * degree of the neighbour.
struct CostEstimate {
  float offset, derivative;
};

struct MiningKernels {
  // Bit l: the edge from a sample with hash `own` to neighbour l of 64 is estimated at no more than `bound`.
  uint64_t (*cheap_edges)(uint32_t own, const uint32_t* hashes, const float* degrees, CostEstimate estimate,
                          float bound);
};

const MiningKernels& mining_kernels();

}  // namespace indeed::cpu
