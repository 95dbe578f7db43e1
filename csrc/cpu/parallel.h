// Row loops on torch's own thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>

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

// How many threads to spread `work` over, in units a thread is worth waking for.
inline int64_t parallel_slots(int64_t work) {
  return std::clamp<int64_t>(work, 1, torch::stable::get_num_threads());
}

// Cuts [0, count) into one part per slot: body(slot, begin, end), a slot being run by one thread at a time.
template <typename Body>
void parallel(int64_t slots, int64_t count, const Body& body) {
  const auto part = [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      const int64_t from = count * slot / slots, to = count * (slot + 1) / slots;
      if (from < to) body(slot, from, to);
    }
  };
  if (slots == 1) {
    part(0, 1);
  } else {
    torch::stable::parallel_for(0, slots, 1, part);
  }
}

// Items [0, count), each taken by the slot that is free: cores are not always equally fast. body(slot, item, next) is
// told which item its slot works on after this one, `count` or more if none.
template <typename Body>
void parallel_items(int64_t slots, int64_t count, const Body& body) {
  std::atomic<int64_t> taken{0};
  parallel(slots, slots, [&](int64_t slot, int64_t, int64_t) {
    for (int64_t item = taken++; item < count;) {
      const int64_t next = taken++;
      body(slot, item, next);
      item = next;
    }
  });
}

}  // namespace indeed
