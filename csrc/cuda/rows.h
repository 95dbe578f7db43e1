// The directed rows of a partner vector or pair list in device memory.
#pragma once

#include "common/row_tasks.h"

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
};

// Where the index of the rows goes: the arrays of a RowView.
struct RowIndex {
  int64_t *source, *partner, *twin;
  int64_t *own_begin, *own, *incoming_begin, *incoming;
};

}  // namespace indeed::cuda
