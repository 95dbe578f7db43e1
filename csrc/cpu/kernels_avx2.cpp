// The kernels compiled for AVX2, FMA and BMI. Standard and torch headers come first, so that no function they
// define is compiled for a machine that may lack the instructions.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/kernel_variants.h"

#if defined(INDEED_HAS_X86_VARIANTS)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi")
#endif

#include "common/bce.h"
#include "common/hash.h"

#define INDEED_VECTOR_BYTES 32
#define INDEED_VECTOR_REGISTERS 16

namespace indeed::cpu {
namespace avx2 {
#include "cpu/kernels_impl.h"
}  // namespace avx2

const KernelTables& avx2_kernels() { return avx2::kKernels; }

}  // namespace indeed::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
