#include "cuda/launch.h"

#include <atomic>
#include <stdexcept>
#include <string>

namespace indeed::cuda {
namespace {

std::atomic<int64_t> launches{0};

}  // namespace

void count_launch() { launches.fetch_add(1, std::memory_order_relaxed); }

int64_t launch_count() { return launches.load(std::memory_order_relaxed); }

#if !defined(INDEED_CUDA_EMULATION)
void check_launch(const char* kernel, cudaError_t status) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("indeed_ext: launching ") + kernel + " failed: " + cudaGetErrorString(status));
}
#endif

}  // namespace indeed::cuda
