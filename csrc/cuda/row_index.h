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

// Lists of the rows with each key, in ascending order: those with key k stand in members[begin[k]] up to begin[k + 1].
// Keys lie in [0, keys); a row without one has a negative key. By one block: a histogram, its prefix sums, then tiles of
// rows, each of which finds its rank among the rows of its tile by looking at them. O(rows) work, no sort, and the same
// lists in every run, whatever the atomics do. `next` is scratch memory of as many numbers as there are keys.
template <typename KeyOf>
__device__ void list_by_key(int64_t rows, int64_t keys, KeyOf key_of, int64_t* begin, int64_t* members, int64_t* next,
                            int64_t* shared) {
  const int64_t thread = threadIdx.x, threads = blockDim.x;
  const auto add = [](int64_t* counter, int64_t amount) {
    atomicAdd(reinterpret_cast<unsigned long long*>(counter), static_cast<unsigned long long>(amount));
  };
  for (int64_t key = thread; key < keys; key += threads) next[key] = 0;
  __syncthreads();
  for (int64_t row = thread; row < rows; row += threads) {
    const int64_t key = key_of(row);
    if (key >= 0) add(&next[key], 1);
  }
  __syncthreads();
  int64_t before = 0;  // rows with keys of earlier tiles
  for (int64_t first = 0; first < keys; first += threads) {
    const int64_t key = first + thread, count = key < keys ? next[key] : 0;
    const int64_t sum = inclusive_sum(count, shared);
    if (key < keys) begin[key] = next[key] = before + sum - count;
    before += block_reduce(count, Sum{}, shared);
  }
  for (int64_t first = 0; first < rows; first += threads) {
    const int64_t row = first + thread, key = row < rows ? key_of(row) : -1;
    shared[thread] = key;
    __syncthreads();
    int64_t rank = 0;
    for (int64_t other = 0; other < thread; ++other) rank += shared[other] == key ? 1 : 0;
    if (key >= 0) members[next[key] + rank] = row;
    __syncthreads();
    if (key >= 0) add(&next[key], 1);
  }
}

// The index of all rows, by blocks [0, blocks): the lists by one block each, the rest by all of them.
__device__ inline void index_rows(const PairView& pairs, const RowIndex& index, int64_t block, int64_t blocks,
                                  int64_t* shared) {
  const int64_t threads = blocks * blockDim.x;
  for (int64_t row = block * blockDim.x + threadIdx.x; row < pairs.count; row += threads) {
    index.source[row] = source_of(pairs, row);
    index.partner[row] = partner_of(pairs, row);
    index.reverse_row[row] = reverse_row_of(pairs, row);
    if (!pairs.list) index.own[row] = index.own_begin[row] = row;
  }
  if (block == 0) {
    const auto partner = [&](int64_t row) { return is_valid(pairs, row) ? partner_of(pairs, row) : int64_t{-1}; };
    list_by_key(pairs.count, pairs.batch + 1, partner, index.incoming_begin, index.incoming, index.next[0], shared);
  }
  if (block != blocks - 1) return;
  if (pairs.list) {
    const auto source = [&](int64_t row) { return source_of(pairs, row); };
    list_by_key(pairs.count, pairs.batch + 1, source, index.own_begin, index.own, index.next[1], shared);
  } else if (threadIdx.x == 0) {
    index.own_begin[pairs.batch] = pairs.batch;
  }
}

}  // namespace indeed::cuda
