// Row loops on torch's own thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace indeed {

// Calls body(begin, end) over [0, count); `cost` is the elements an item touches, so that small work stays on
// the calling thread.
template <typename Body>
void parallel_rows(int64_t count, int64_t cost, const Body& body) {
  constexpr int64_t kGrainElements = 16384;
  if (count == 0) return;
  const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, cost));
  if (count <= grain) {
    body(int64_t{0}, count);
  } else {
    torch::stable::parallel_for(0, count, grain, body);
  }
}

}  // namespace indeed
