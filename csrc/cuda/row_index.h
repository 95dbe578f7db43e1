// Reading the rows off the pairs, and their index: which rows touch a sample.
#pragma once

#include "cuda/reduce.h"
#include "cuda/rows.h"

namespace indeed::cuda {

// The sample that entry k of the pairs names, B for all that lie outside the batch.
__device__ inline int64_t sample_of(const PairView& pairs, int64_t k) {
  const int64_t sample = pairs.index[k];
  return sample >= 0 && sample < pairs.batch ? sample : pairs.batch;
}

__device__ inline int64_t source_of(const PairView& pairs, int64_t row) {
  if (!pairs.list) return row;
  const int64_t half = pairs.count / 2;
  return sample_of(pairs, row < half ? 2 * row : 2 * (row - half) + 1);
}

__device__ inline int64_t partner_of(const PairView& pairs, int64_t row) {
  if (!pairs.list) return sample_of(pairs, row);
  const int64_t half = pairs.count / 2;
  return sample_of(pairs, row < half ? 2 * row + 1 : 2 * (row - half));
}

__device__ inline bool is_valid(const PairView& pairs, int64_t row) {
  return source_of(pairs, row) < pairs.batch && partner_of(pairs, row) < pairs.batch;
}

__device__ inline int64_t reverse_row_of(const PairView& pairs, int64_t row) {
  if (!is_valid(pairs, row)) return kInvalidRow;
  if (pairs.list) return row < pairs.count / 2 ? row + pairs.count / 2 : row - pairs.count / 2;
  const int64_t other = pairs.index[row];
  return pairs.index[other] == row ? other : -1;
}

// Source, partner and reverse row of one row.
__device__ inline void index_row(const PairView& pairs, const RowIndex& index, int64_t row) {
  index.source[row] = source_of(pairs, row);
  index.partner[row] = partner_of(pairs, row);
  index.reverse_row[row] = reverse_row_of(pairs, row);
}

// Own and incoming rows of one sample in ascending order, by one warp; sample B takes the rows without a source. Every
// sample reads all pairs: no sort, no atomics, and the result does not depend on scheduling.
__device__ inline void index_sample(const PairView& pairs, const RowIndex& index, int64_t sample) {
  int64_t own = 0, incoming = 0;  // rows of earlier samples
  for (int64_t row = lane_index(); row < pairs.count; row += kWarp) {
    own += source_of(pairs, row) < sample ? 1 : 0;
    incoming += is_valid(pairs, row) && partner_of(pairs, row) < sample ? 1 : 0;
  }
  own = warp_reduce(own, Sum{});
  incoming = warp_reduce(incoming, Sum{});
  if (lane_index() == 0) {
    index.own_begin[sample] = own;
    index.incoming_begin[sample] = incoming;
  }
  for (int64_t first = 0; first < pairs.count; first += kWarp) {
    const int64_t row = first + lane_index();
    const bool exists = row < pairs.count;
    const bool is_own = exists && source_of(pairs, row) == sample;
    const bool is_incoming = exists && partner_of(pairs, row) == sample && is_valid(pairs, row);
    const unsigned own_lanes = __ballot_sync(kFullMask, is_own);
    const unsigned incoming_lanes = __ballot_sync(kFullMask, is_incoming);
    if (is_own) index.own[own + __popc(own_lanes & lower_lanes())] = row;
    if (is_incoming) index.incoming[incoming + __popc(incoming_lanes & lower_lanes())] = row;
    own += __popc(own_lanes);
    incoming += __popc(incoming_lanes);
  }
}

}  // namespace indeed::cuda
