// One spelling of "inline on both sides" for arithmetic that CPU and CUDA kernels share.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define INDEED_HD static __forceinline__ __host__ __device__
#else
// Always inlined, so that each instruction-set variant of the CPU kernels compiles its own copy.
#define INDEED_HD static inline __attribute__((always_inline))
#endif
