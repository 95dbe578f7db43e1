// What the two kernels of cross-entropies share: the term of a class that may be unknown, and the sums of a row.
#pragma once

#include <algorithm>

#include "common/bce.h"
#include "common/row_tasks.h"
#include "cuda/reduce.h"

namespace indeed::cuda {

constexpr int kRowSums = sizeof(RowSums) / sizeof(double);
static_assert(kRowSums == 5);

constexpr int kClassThreads = 256;

// One block takes a sample, one thread a class at a time.
inline dim3 class_threads(int64_t classes) {
  const int64_t warps = (classes + kWarp - 1) / kWarp;
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(warps * kWarp, kWarp, kClassThreads)));
}

template <typename T>
__device__ BceTerm<T> known_term(T logit, bool positive, bool known, T pos_weight) {
  const BceTerm<T> term = bce_term(logit, positive, pos_weight);
  return {known ? term.value : T(0), known ? term.slope : T(0)};
}

// The label of one class of one sample.
struct ClassBit {
  int64_t word;
  uint32_t mask;

  __device__ explicit ClassBit(int64_t c) : word(c / kWordBits), mask(1u << (c % kWordBits)) {}
  __device__ bool of(const uint32_t* words, int64_t sample, int64_t words_per_row) const {
    return (words[sample * words_per_row + word] & mask) != 0;
  }
};

// What a thread has summed of a row, in the order of RowSums.
template <typename T>
struct ThreadSums {
  T value[kRowSums] = {};
};

// Sets or increases the sums of a row by those of the block's threads, and clears the latter.
template <typename T>
__device__ void flush_sums(ThreadSums<T>& sums, double* shared, RowSums* row, bool set) {
  INDEED_UNROLL
  for (int k = 0; k < kRowSums; ++k) {
    const double sum = warp_reduce(static_cast<double>(sums.value[k]), Sum{});
    if (lane_index() == 0) shared[warp_index() * kRowSums + k] = sum;
    sums.value[k] = T(0);
  }
  __syncthreads();
  if (threadIdx.x < kRowSums) {
    double sum = 0;
    for (int warp = 0; warp < warp_count(); ++warp) sum += shared[warp * kRowSums + threadIdx.x];
    double* field = &row->original + threadIdx.x;
    *field = set ? sum : *field + sum;
  }
  __syncthreads();
}

}  // namespace indeed::cuda
