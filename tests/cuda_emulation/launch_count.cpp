// For tests, through ctypes.
#include "cuda/launch.h"

extern "C" __attribute__((visibility("default"))) int64_t cuda_emulation_launch_count() {
  return indeed::cuda::launch_count();
}
