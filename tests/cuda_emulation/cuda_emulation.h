// The part of the CUDA execution model that csrc/cuda uses, on the host: what csrc/cuda/launch.h lists, and no more.
//
// Every thread of a block is a fiber of its own. A fiber runs until it waits for others, at a barrier or in a warp
// collective; blocks run one after another. What is undefined on a GPU is an error here: a barrier or a collective
// that not everybody reaches, a shuffle from a lane that takes no part, a write past the end of shared memory, a
// misaligned vector access, an impossible launch. Launches are synchronous, so an error is an exception of its launch.
//
// INDEED_EMULATION_SCHEDULE in the environment orders blocks, warps and lanes: "forward" (the default), "reverse" or
// "shuffle:<seed>". Shared memory starts as 0xFF bytes (not-a-number) or, in other orders than forward, as 0xCB.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

using cudaStream_t = struct CUstream_st*;

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_emulation {

using Site = std::source_location;
enum class Kind : uint8_t { kBarrier, kShuffle, kBallot, kSyncWarp };

// Waits for the others that take part. A shuffle returns the value of lane `source`, a ballot the lanes with a value
// other than zero, a barrier the number of threads with one.
uint64_t wait_for_others(Kind kind, uint32_t mask, uint64_t value, unsigned source, const Site& site);
unsigned lane();
void* static_shared(const void* key, const char* name, size_t bytes, size_t alignment);
void* dynamic_shared();
// An atomic access, for the race check; does nothing elsewhere.
void note_atomic(const void* address, size_t size);
[[noreturn]] void trap(const Site& site);
void run(const char* name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Arguments&&... arguments) {
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);  // parameters are copied once
  run(name, grid, block, shared_bytes, [&] { std::apply(kernel, values); });
}

template <typename T>
T shuffle(uint32_t mask, T value, unsigned source, const Site& site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 32 and 64 bits");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = wait_for_others(Kind::kShuffle, mask, bits, source, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// Lanes are exchanged inside segments of `width` lanes; a source beyond them is the lane itself.
inline unsigned segment_end(unsigned width) { return (lane() | (width - 1)) + 1; }

// What the hardware does in one step must not look like a plain read and a plain write to the race check.
template <typename T, typename Operation>
__attribute__((no_sanitize("thread"))) T atomic(T* address, Operation operation) {
  static_assert(std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "only integers: results must repeat");
  note_atomic(address, sizeof(T));
  const T before = *address;
  *address = operation(before);
  return before;
}

}  // namespace cuda_emulation

// One per block and place in the source, as in CUDA: the key is the place.
#define INDEED_SHARED(type, name, count)                                                                       \
  static const char name##_key = 0;                                                                            \
  type* const name = static_cast<type*>(::cuda_emulation::static_shared(&name##_key, #name, sizeof(type) * (count), \
                                                                        alignof(type)))
#define INDEED_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::cuda_emulation::dynamic_shared())

inline void __syncthreads(cuda_emulation::Site site = cuda_emulation::Site::current()) {
  cuda_emulation::wait_for_others(cuda_emulation::Kind::kBarrier, 0, 0, 0, site);
}
inline int __syncthreads_count(int predicate, cuda_emulation::Site site = cuda_emulation::Site::current()) {
  return static_cast<int>(
      cuda_emulation::wait_for_others(cuda_emulation::Kind::kBarrier, 0, predicate != 0, 0, site));
}
inline int __syncthreads_or(int predicate, cuda_emulation::Site site = cuda_emulation::Site::current()) {
  return __syncthreads_count(predicate, site) != 0;
}
inline void __syncwarp(uint32_t mask = ~0u, cuda_emulation::Site site = cuda_emulation::Site::current()) {
  cuda_emulation::wait_for_others(cuda_emulation::Kind::kSyncWarp, mask, 0, 0, site);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate,
                              cuda_emulation::Site site = cuda_emulation::Site::current()) {
  return static_cast<uint32_t>(
      cuda_emulation::wait_for_others(cuda_emulation::Kind::kBallot, mask, predicate != 0, 0, site));
}
inline int __any_sync(uint32_t mask, int predicate, cuda_emulation::Site site = cuda_emulation::Site::current()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, cuda_emulation::Site site = cuda_emulation::Site::current()) {
  return __ballot_sync(mask, !predicate, site) == 0;
}

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32,
              cuda_emulation::Site site = cuda_emulation::Site::current()) {
  const unsigned first = cuda_emulation::segment_end(width) - width;
  return cuda_emulation::shuffle(mask, value, first + (source & (width - 1)), site);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32,
                  cuda_emulation::Site site = cuda_emulation::Site::current()) {
  const unsigned source = cuda_emulation::lane() ^ lane_mask;
  const bool inside = source < cuda_emulation::segment_end(width);
  return cuda_emulation::shuffle(mask, value, inside ? source : cuda_emulation::lane(), site);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32,
                   cuda_emulation::Site site = cuda_emulation::Site::current()) {
  const unsigned source = cuda_emulation::lane() + delta;
  const bool inside = source < cuda_emulation::segment_end(width);
  return cuda_emulation::shuffle(mask, value, inside ? source : cuda_emulation::lane(), site);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32,
                 cuda_emulation::Site site = cuda_emulation::Site::current()) {
  const unsigned own = cuda_emulation::lane(), first = cuda_emulation::segment_end(width) - width;
  return cuda_emulation::shuffle(mask, value, own >= first + delta ? own - delta : own, site);
}

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
inline int __ffs(uint32_t x) { return __builtin_ffs(static_cast<int>(x)); }
inline int __ffsll(uint64_t x) { return __builtin_ffsll(static_cast<long long>(x)); }
inline int __clz(uint32_t x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(uint64_t x) { return x ? __builtin_clzll(x) : 64; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }

template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic(address, [=](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic(address, [=](T old) { return static_cast<T>(old | value); });
}
template <typename T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic(address, [=](T old) { return static_cast<T>(old & value); });
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic(address, [=](T old) { return value < old ? value : old; });
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic(address, [=](T old) { return old < value ? value : old; });
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return cuda_emulation::atomic(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return cuda_emulation::atomic(address, [=](T old) { return old == expected ? value : old; });
}

[[noreturn]] inline void __trap(cuda_emulation::Site site = cuda_emulation::Site::current()) {
  cuda_emulation::trap(site);
}
