// Reductions over a warp and a block. The order is fixed, so that sums have the same bits in every run.
#pragma once

#include "cuda/launch.h"

namespace indeed::cuda {

constexpr int kMaxWarps = 1024 / kWarp;

struct Sum {
  template <typename V>
  __device__ V operator()(V a, V b) const {
    return a + b;
  }
};

struct Least {
  template <typename V>
  __device__ V operator()(V a, V b) const {
    return b < a ? b : a;
  }
};

struct Greatest {
  template <typename V>
  __device__ V operator()(V a, V b) const {
    return b > a ? b : a;
  }
};

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int warp_count() { return static_cast<int>(blockDim.x) / kWarp; }

// The bits of lower lanes than this one.
__device__ inline unsigned lower_lanes() { return (1u << lane_index()) - 1u; }

// Every lane gets the result.
template <typename V, typename Combine>
__device__ V warp_reduce(V value, Combine combine) {
  INDEED_UNROLL
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(kFullMask, value, offset));
  }
  return value;
}

// Every thread gets the result; shared has room for kMaxWarps values. blockDim.x must be a multiple of the warp.
template <typename V, typename Combine>
__device__ V block_reduce(V value, Combine combine, V* shared) {
  value = warp_reduce(value, combine);
  if (lane_index() == 0) shared[warp_index()] = value;
  __syncthreads();
  V result = shared[0];
  for (int warp = 1; warp < warp_count(); ++warp) result = combine(result, shared[warp]);
  __syncthreads();  // shared may be reused at once
  return result;
}

// The sum of the values of all threads up to and including this one; shared has room for kMaxWarps values.
template <typename V>
__device__ V inclusive_sum(V value, V* shared) {
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const V lower = __shfl_sync(kFullMask, value, lane_index() >= offset ? lane_index() - offset : lane_index());
    if (lane_index() >= offset) value += lower;
  }
  if (lane_index() == kWarp - 1) shared[warp_index()] = value;
  __syncthreads();
  for (int warp = 0; warp < warp_index(); ++warp) value += shared[warp];
  __syncthreads();  // shared may be reused at once
  return value;
}

}  // namespace indeed::cuda
