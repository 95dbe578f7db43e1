#include "cuda/compatibility.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 512;

// One block per sample, so that its words are read once and by neighbouring lanes.
__global__ void __launch_bounds__(kThreads) list_classes_kernel(const uint32_t* positive_bits, int64_t batch,
                                                                int64_t words, int32_t* classes, uint32_t* count) {
  INDEED_SHARED(int32_t, found, kListed);
  INDEED_SHARED(uint32_t, total, 1);
  for (int64_t i = blockIdx.x; i < batch; i += gridDim.x) {
    if (threadIdx.x == 0) total[0] = 0;
    __syncthreads();
    for (int64_t w = threadIdx.x; w < words; w += blockDim.x) {
      uint32_t bits = positive_bits[i * words + w];
      if (bits == 0) continue;
      uint32_t at = atomicAdd(total, static_cast<uint32_t>(__popc(bits)));
      for (; bits != 0 && at < kListed; bits &= bits - 1) {
        found[at++] = static_cast<int32_t>(w * kWordBits + __ffs(bits) - 1);
      }
    }
    __syncthreads();
    const uint32_t size = total[0];
    if (threadIdx.x == 0) count[i] = size;
    // The block found them in any order.
    for (uint32_t k = threadIdx.x; size <= kListed && k < size; k += blockDim.x) {
      uint32_t rank = 0;
      for (uint32_t other = 0; other < size; ++other) rank += found[other] < found[k] ? 1 : 0;
      classes[i * kListed + rank] = found[k];
    }
    __syncthreads();
  }
}

}  // namespace

void list_classes(const Device& device, const uint32_t* positive_bits, int64_t batch, int64_t words, int32_t* classes,
                  uint32_t* count) {
  INDEED_LAUNCH(list_classes_kernel, grid_size(std::min<int64_t>(batch, 1 << 16)), block_size(words, kThreads), 0,
                device.stream(), positive_bits, batch, words, classes, count);
}

}  // namespace indeed::cuda
