// The directed rows of a partner vector or pair list in device memory.
#pragma once

#include "common/row_tasks.h"

namespace indeed::cuda {

// The reverse_row of a row one of whose indices lies outside the batch. Nothing is read for it: its results and the
// gradients of samples it names are NaN, so that the error shows without a host synchronisation.
constexpr int64_t kInvalidRow = -2;

// The rows as the pairs state them.
struct PairView {
  const int64_t* index;
  int64_t count;  // R: B for a partner vector, 2P for a list
  int64_t batch;
  bool list;
};

// Where the index of the rows goes: the arrays of a RowView. Invalid rows are own rows of their source all the same,
// and incoming rows of no sample; those without a source in the batch stand in `own` behind the rows of all samples.
struct RowIndex {
  int64_t *source, *partner, *reverse_row;
  int64_t *own_begin, *own, *incoming_begin, *incoming;
  int64_t* next[2];  // [B + 1], scratch memory of the two lists
};

}  // namespace indeed::cuda
