// The only door between host code and the CUDA execution model: how kernels are declared, given shared memory and
// launched. Everything a .cu file of this folder uses of CUDA is listed here, because the same files are also
// compiled by a host compiler against an emulation of it (INDEED_CUDA_EMULATION), so that every kernel runs in
// tests on machines without a GPU.
//
// A kernel may use
//   __global__, __device__, __launch_bounds__, threadIdx, blockIdx, blockDim, gridDim (x and y), dim3
//   INDEED_SHARED, INDEED_DYNAMIC_SHARED, __syncthreads, __syncwarp
//   __shfl_xor_sync, __shfl_down_sync, __shfl_sync (32- and 64-bit integers, float, double), __ballot_sync,
//   __popc, __popcll, __ffs, __ffsll, __clz with the full mask and whole warps
//   atomicAdd, atomicOr, atomicMin, atomicMax, atomicExch on uint32_t and unsigned long long
//   the 16-byte vector types float4, uint4 (16-byte aligned)
// and nothing else: no cooperative groups, no atomics on floating point, no textures, no grid-wide barrier.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(INDEED_CUDA_EMULATION)

// Supplies the names above, cudaStream_t, INDEED_SHARED, INDEED_DYNAMIC_SHARED, and
//   template <typename... Parameters, typename... Arguments>
//   void cuda_emulation::launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
//                               size_t shared_bytes, Arguments&&... arguments);
#include "cuda_emulation.h"

#define INDEED_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                       \
  do {                                                                                      \
    (void)(stream);                                                                         \
    ::indeed::cuda::count_launch();                                                         \
    ::cuda_emulation::launch(#kernel, kernel, (grid), (block), (shared_bytes), __VA_ARGS__); \
  } while (false)

#else

#include <cuda_runtime.h>

// Static shared memory: `type name[count]`, uninitialised, one per block.
#define INDEED_SHARED(type, name, count) __shared__ type name[count]

// Dynamic shared memory: `type* name`, of the size the launch gives, 16-byte aligned.
#define INDEED_DYNAMIC_SHARED(type, name)                                     \
  extern __shared__ __align__(16) unsigned char indeed_dynamic_shared_bytes[]; \
  type* const name = reinterpret_cast<type*>(indeed_dynamic_shared_bytes)

// Launches and checks that the launch was accepted; faults of the kernel itself surface asynchronously, as with torch.
#define INDEED_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)      \
  do {                                                                     \
    ::indeed::cuda::count_launch();                                        \
    (kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__);  \
    ::indeed::cuda::check_launch(#kernel, cudaGetLastError());             \
  } while (false)

#endif

// Unrolls the next loop, so that small arrays stay in registers; host compilers decide for themselves.
#if defined(__CUDACC__)
#define INDEED_UNROLL _Pragma("unroll")
#else
#define INDEED_UNROLL
#endif

namespace indeed::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xFFFFFFFFu;

constexpr int64_t cdiv(int64_t size, int64_t block) { return (size + block - 1) / block; }

inline dim3 grid_size(int64_t x, int64_t y = 1) { return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)); }

// Whole warps for so many items, at most `most` threads.
inline dim3 block_size(int64_t items, int64_t most) {
  return grid_size(std::clamp<int64_t>(cdiv(items, kWarp) * kWarp, kWarp, most));
}

// Kernels and matrix products started so far by this process.
void count_launch();
int64_t launch_count();

#if !defined(INDEED_CUDA_EMULATION)
// Throws std::runtime_error naming the kernel.
void check_launch(const char* kernel, cudaError_t status);
#endif

}  // namespace indeed::cuda
