// What is worth an instruction set of packing labels and mining pairs: looking at every label, and at every edge.
#pragma once

#include <cstdint>

namespace indeed::cpu {

// Words of one row of `classes` plain labels; gives the index of a value that is no label, or -1.
using PackRow = int64_t (*)(const void* labels, int64_t classes, uint32_t* positive_bits, uint32_t* valid_bits);

struct PackKernels {
  PackRow uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64;
};

// Approximate cost of an edge: (offset + derivative * (hash >> 1)) * degree of the neighbour.
struct CostEstimate {
  float offset, derivative;
};

struct MiningKernels {
  // Bit l: the edge from a sample with hash `own` to neighbour l of 64 is estimated at no more than `bound`.
  uint64_t (*cheap_edges)(uint32_t own, const uint32_t* hashes, const float* degrees, CostEstimate estimate,
                          float bound);
};

const PackKernels& pack_kernels();
const MiningKernels& mining_kernels();

}  // namespace indeed::cpu
