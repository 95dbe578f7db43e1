// Kernels that try the emulation: right ones, whose results are known, and wrong ones, which it must catch.
#include <cstdio>
#include <exception>
#include <map>
#include <string>

#include "cuda/launch.h"

namespace {

using indeed::cuda::kFullMask;

using Kernel = void (*)(int32_t* out, const int32_t* in, int n);

__device__ unsigned thread_of_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }

// ------------------------------------------------------------------ right

__global__ void indices(int32_t* out, const int32_t*, int) {
  const unsigned number = (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;
  out[number] = static_cast<int32_t>(number + 1000 * gridDim.y);
}

// Sums by halving; without the barriers, warps read what others have not written yet.
template <bool kBarriers>
__global__ void block_sum(int32_t* out, const int32_t* in, int) {
  INDEED_DYNAMIC_SHARED(int32_t, partial);
  partial[threadIdx.x] = in[thread_of_grid()];
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    if (kBarriers) __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = partial[0];
}

__global__ void shuffles(int32_t* out, const int32_t* in, int) {
  const int32_t value = in[threadIdx.x];
  int32_t* mine = out + 8 * threadIdx.x;
  mine[0] = __shfl_xor_sync(kFullMask, value, 5);
  mine[1] = __shfl_down_sync(kFullMask, value, 3);
  mine[2] = __shfl_up_sync(kFullMask, value, 3);
  mine[3] = __shfl_sync(kFullMask, value, 7);
  mine[4] = __shfl_down_sync(kFullMask, value, 3, 8);
  mine[5] = __shfl_sync(kFullMask, value, 9, 8);
  mine[6] = static_cast<int32_t>(__shfl_xor_sync(kFullMask, 0.5 * value, 1) * 2);
  mine[7] = static_cast<int32_t>(__shfl_xor_sync(kFullMask, static_cast<int64_t>(value) << 32, 1) >> 32);
}

__global__ void votes(int32_t* out, const int32_t* in, int) {
  int32_t* mine = out + 6 * threadIdx.x;
  mine[0] = static_cast<int32_t>(__ballot_sync(kFullMask, in[threadIdx.x]));
  mine[1] = __any_sync(kFullMask, in[threadIdx.x]);
  mine[2] = __all_sync(kFullMask, in[threadIdx.x]);
  mine[3] = __syncthreads_count(in[threadIdx.x]);
  mine[4] = __popc(in[threadIdx.x]) + 100 * __ffs(in[threadIdx.x]) + 10000 * __clz(in[threadIdx.x]);
  // Half a warp on its own, while the other half goes past.
  mine[5] = threadIdx.x % 32 < 16 ? static_cast<int32_t>(__ballot_sync(0xFFFFu, 1)) : 0;
}

__global__ void atomics(int32_t* out, const int32_t* in, int n) {
  INDEED_SHARED(uint32_t, histogram, 4);
  if (threadIdx.x < 4) histogram[threadIdx.x] = 0;
  __syncthreads();
  const int32_t value = in[thread_of_grid()];
  atomicAdd(&histogram[value % 4], 1u);
  atomicMin(&out[4], value);
  atomicMax(&out[5], value);
  atomicOr(&out[6], value);
  atomicAdd(reinterpret_cast<unsigned long long*>(out + 8), static_cast<unsigned long long>(value) << 32);
  __syncthreads();
  if (threadIdx.x < 4) atomicAdd(&out[threadIdx.x], static_cast<int32_t>(histogram[threadIdx.x]));
  if (n == -1) atomicExch(&out[7], value);
}

// Lanes pass values through shared memory; only __syncwarp makes that safe.
template <bool kSync>
__global__ void through_shared(int32_t* out, const int32_t* in, int) {
  INDEED_SHARED(int32_t, row, 1024);
  const unsigned thread = threadIdx.x;
  row[thread] = in[thread];
  if (kSync) __syncwarp();
  const int32_t other = row[thread ^ 1];
  if (kSync) __syncwarp();
  row[thread] = other;
  out[thread] = row[thread];
}

// --------------------------------------------------------- wrong: nobody comes

__global__ void divergent_barrier(int32_t*, const int32_t*, int) {
  if (threadIdx.x != 3) __syncthreads();
}

__global__ void two_barriers(int32_t*, const int32_t*, int) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void missing_lane(int32_t* out, const int32_t* in, int) {
  int32_t value = in[threadIdx.x];
  if (threadIdx.x != 9) value = __shfl_xor_sync(kFullMask, value, 1);
  __syncthreads();
  out[threadIdx.x] = value;
}

__global__ void outside_mask(int32_t*, const int32_t*, int) { __ballot_sync(0xFFFFu, 1); }

__global__ void absent_source(int32_t* out, const int32_t* in, int) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = __shfl_xor_sync(0xFFFFu, in[threadIdx.x], 16);
}

// ------------------------------------------------------ wrong: out of bounds

__global__ void shared_overrun(int32_t* out, const int32_t*, int n) {
  INDEED_SHARED(int32_t, small, 32);
  INDEED_SHARED(int32_t, neighbour, 32);
  small[threadIdx.x] = neighbour[threadIdx.x] = 1;
  if (threadIdx.x == 0) small[n] = 7;
  out[threadIdx.x] = neighbour[threadIdx.x];
}

__global__ void dynamic_overrun(int32_t*, const int32_t*, int n) {
  INDEED_DYNAMIC_SHARED(int32_t, values);
  if (threadIdx.x == 0) values[n] = 7;
}

__global__ void global_overrun(int32_t* out, const int32_t*, int n) {
  if (threadIdx.x == 0) out[n] = 7;
}

__global__ void global_overread(int32_t* out, const int32_t* in, int n) {
  if (threadIdx.x == 0) out[0] = in[n];
}

__global__ void misaligned(int32_t* out, const int32_t* in, int n) {
  const uint4 values = *reinterpret_cast<const uint4*>(in + n);
  out[0] = static_cast<int32_t>(values.x + values.w);
}

__global__ void trapped(int32_t*, const int32_t*, int) {
  if (threadIdx.x == 5) __trap();
}

// ----------------------------------------------------------- wrong: unordered

__global__ void uninitialised(int32_t* out, const int32_t*, int) {
  INDEED_SHARED(int32_t, values, 32);
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void last_writer(int32_t* out, const int32_t*, int) { out[0] = static_cast<int32_t>(thread_of_grid()); }

__global__ void across_blocks(int32_t* out, const int32_t*, int) {
  if (threadIdx.x == 0) out[blockIdx.x] = out[0] + 1;
}

__global__ void plain_read_of_atomic(int32_t* out, const int32_t*, int) {
  INDEED_SHARED(uint32_t, count, 1);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  atomicAdd(&count[0], 1u);
  out[threadIdx.x] = static_cast<int32_t>(count[0]);
}

// Halves of one word, by different threads and blocks: not a race.
__global__ void bytes_apart(int32_t* out, const int32_t*, int) {
  reinterpret_cast<unsigned char*>(out)[thread_of_grid()] = static_cast<unsigned char>(threadIdx.x);
}

const std::map<std::string, Kernel> kernels{
    {"indices", indices},
    {"block_sum", block_sum<true>},
    {"block_sum without barriers", block_sum<false>},
    {"shuffles", shuffles},
    {"votes", votes},
    {"atomics", atomics},
    {"through_shared", through_shared<true>},
    {"through_shared without barriers", through_shared<false>},
    {"divergent_barrier", divergent_barrier},
    {"two_barriers", two_barriers},
    {"missing_lane", missing_lane},
    {"outside_mask", outside_mask},
    {"absent_source", absent_source},
    {"shared_overrun", shared_overrun},
    {"dynamic_overrun", dynamic_overrun},
    {"global_overrun", global_overrun},
    {"global_overread", global_overread},
    {"misaligned", misaligned},
    {"trapped", trapped},
    {"uninitialised", uninitialised},
    {"last_writer", last_writer},
    {"across_blocks", across_blocks},
    {"plain_read_of_atomic", plain_read_of_atomic},
    {"bytes_apart", bytes_apart},
};

}  // namespace

// Launches the kernel of that name; an error is written into `message`.
extern "C" __attribute__((visibility("default"))) void cuda_emulation_self_test(
    const char* name, unsigned grid_x, unsigned grid_y, unsigned block, size_t shared_bytes, int32_t* out,
    const int32_t* in, int n, char* message, size_t message_size) {
  try {
    const Kernel kernel = kernels.at(name);
    INDEED_LAUNCH(kernel, dim3(grid_x, grid_y), dim3(block), shared_bytes, cudaStream_t{}, out, in, n);
  } catch (const std::exception& error) {
    std::snprintf(message, message_size, "%s", error.what());
  }
}
