// The directed rows of a partner vector or pair list on the host. Incoming rows are not listed: nothing here gathers.
#pragma once

#include <vector>

#include "operators/arguments.h"
#include "common/row_tasks.h"

namespace indeed::cpu {

class RowIndex {
 public:
  // pairs: int64 [B] or [P, 2] on the host; every index is checked to lie in [0, batch).
  RowIndex(const Tensor& pairs, int64_t batch);

  int64_t count() const { return static_cast<int64_t>(source_.size()); }
  RowView view() const;

 private:
  std::vector<int64_t> source_, partner_, reverse_row_;
  std::vector<int64_t> own_begin_, own_;
};

}  // namespace indeed::cpu
