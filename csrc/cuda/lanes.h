// Several neighbouring elements moved by one instruction: 16 bytes where alignment allows.
#pragma once

#include "cuda/launch.h"

namespace indeed::cuda {

constexpr int kVectorBytes = 16;

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Lanes {
  T lane[kCount];
};

template <int kCount, typename T>
__device__ Lanes<T, kCount> load_lanes(const T* data) {
  return *reinterpret_cast<const Lanes<T, kCount>*>(data);
}

// In another type.
template <typename T, int kCount, typename Stored>
__device__ Lanes<T, kCount> load_lanes_as(const Stored* data) {
  const Lanes<Stored, kCount> stored = load_lanes<kCount>(data);
  Lanes<T, kCount> lanes;
  INDEED_UNROLL
  for (int l = 0; l < kCount; ++l) lanes.lane[l] = static_cast<T>(stored.lane[l]);
  return lanes;
}

template <int kCount, typename T>
__device__ void store_lanes(T* data, const Lanes<T, kCount>& lanes) {
  *reinterpret_cast<Lanes<T, kCount>*>(data) = lanes;
}

// Whether rows of `width` elements starting at `data` can be moved kCount elements at a time.
template <int kCount, typename T>
bool fits_lanes(const T* data, int64_t width) {
  return reinterpret_cast<uintptr_t>(data) % (sizeof(T) * kCount) == 0 && width % kCount == 0;
}

}  // namespace indeed::cuda
