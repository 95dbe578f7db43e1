// The directed rows (source, partner) a partner vector or pair list stands for, and which rows touch a sample.
#pragma once

#include <vector>

#include "arguments.h"

namespace indeed {

// Plain pointers for kernels. A sample's own rows are those it is the source of, its incoming rows those it is
// the partner of; both lists are in ascending row order, so that sums over them have a fixed order.
struct RowView {
  int64_t count;
  const int64_t* source;
  const int64_t* partner;
  const int64_t* twin;            // the row with source and partner exchanged, or -1
  const int64_t* own_begin;       // [B + 1] offsets into own
  const int64_t* own;
  const int64_t* incoming_begin;  // [B + 1] offsets into incoming
  const int64_t* incoming;
};

class DirectedRows {
 public:
  // pairs: int64 [B] or [P, 2] on the host; every index is checked to lie in [0, batch).
  DirectedRows(const Tensor& pairs, int64_t batch);

  int64_t count() const { return static_cast<int64_t>(source_.size()); }
  RowView view() const;

 private:
  std::vector<int64_t> source_, partner_, twin_;
  std::vector<int64_t> own_begin_, own_, incoming_begin_, incoming_;
};

}  // namespace indeed
