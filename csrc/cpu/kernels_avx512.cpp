// The kernels compiled for AVX-512 F, BW, DQ and VL. Standard and torch headers come first, so that no function they
// define is compiled for a machine that may lack the instructions.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/kernel_variants.h"

#if defined(INDEED_HAS_X86_VARIANTS)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,bmi"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,bmi,prefer-vector-width=512")
#endif

#include "common/bce.h"
#include "common/hash.h"

#define INDEED_VECTOR_BYTES 64
#define INDEED_VECTOR_REGISTERS 32

namespace indeed::cpu {
namespace avx512 {
#include "cpu/kernels_impl.h"
}  // namespace avx512

const KernelTables& avx512_kernels() { return avx512::kKernels; }

}  // namespace indeed::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
