// The directed rows of a partner vector or pair list in device memory.
#pragma once

#include "arguments.h"
#include "common/row_tasks.h"
#include "cuda/reduce.h"

namespace indeed::cuda {

// The twin of a row whose indices lie outside the batch. Such a row is in no list, its features are never read, and
// its loss is NaN: the error shows without a synchronisation.
constexpr int64_t kInvalidRow = -2;

// The rows as the pairs state them.
struct PairView {
  const int64_t* index;
  int64_t count;  // R: B for a partner vector, 2P for a list
  int64_t batch;
  bool list;

  __device__ int64_t source(int64_t row) const {
    if (!list) return row;
    return row < count / 2 ? index[2 * row] : index[2 * (row - count / 2) + 1];
  }
  __device__ int64_t partner(int64_t row) const {
    if (!list) return index[row];
    return row < count / 2 ? index[2 * row + 1] : index[2 * (row - count / 2)];
  }
  __device__ bool contains(int64_t sample) const { return sample >= 0 && sample < batch; }
  __device__ bool valid(int64_t row) const { return contains(source(row)) && contains(partner(row)); }
  __device__ int64_t twin(int64_t row) const {
    if (!valid(row)) return kInvalidRow;
    if (list) return row < count / 2 ? row + count / 2 : row - count / 2;
    const int64_t other = index[row];
    return index[other] == row ? other : -1;
  }
};

// Where the index of the rows goes: the arrays of a RowView.
struct RowIndex {
  int64_t *source, *partner, *twin;
  int64_t *own_begin, *own, *incoming_begin, *incoming;
};

// Source, partner and twin of one row.
__device__ inline void index_row(const PairView& pairs, const RowIndex& index, int64_t row) {
  index.source[row] = pairs.source(row);
  index.partner[row] = pairs.partner(row);
  index.twin[row] = pairs.twin(row);
}

// Own and incoming rows of one sample in ascending order, by one warp; sample B only closes the offsets. Every sample
// reads all pairs: no sort, no atomics, and the result does not depend on scheduling.
__device__ inline void index_sample(const PairView& pairs, const RowIndex& index, int64_t sample) {
  int64_t own = 0, incoming = 0;  // rows of earlier samples
  for (int64_t row = lane_index(); row < pairs.count; row += kWarp) {
    if (!pairs.valid(row)) continue;
    own += pairs.source(row) < sample ? 1 : 0;
    incoming += pairs.partner(row) < sample ? 1 : 0;
  }
  own = warp_reduce(own, Sum{});
  incoming = warp_reduce(incoming, Sum{});
  if (lane_index() == 0) {
    index.own_begin[sample] = own;
    index.incoming_begin[sample] = incoming;
  }
  if (sample == pairs.batch) return;
  for (int64_t first = 0; first < pairs.count; first += kWarp) {
    const int64_t row = first + lane_index();
    const bool valid = row < pairs.count && pairs.valid(row);
    const bool is_own = valid && pairs.source(row) == sample, is_incoming = valid && pairs.partner(row) == sample;
    const unsigned own_lanes = __ballot_sync(kFullMask, is_own);
    const unsigned incoming_lanes = __ballot_sync(kFullMask, is_incoming);
    if (is_own) index.own[own + __popc(own_lanes & lower_lanes())] = row;
    if (is_incoming) index.incoming[incoming + __popc(incoming_lanes & lower_lanes())] = row;
    own += __popc(own_lanes);
    incoming += __popc(incoming_lanes);
  }
}

}  // namespace indeed::cuda
