// The kernels compiled for AVX2, FMA and BMI. Standard and torch headers come first, so that no function they
// define is compiled for a machine that may lack the instructions.
#include <algorithm>
#include <cmath>

#include "cpu/kernel_variants.h"

#if defined(INDEED_HAS_AVX2_VARIANT)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi")
#endif

#include "common/bce.h"
#include "common/hash.h"

#define INDEED_VECTOR_BYTES 32

namespace indeed::cpu {
namespace avx2 {
#include "cpu/map_backward_impl.h"
#include "cpu/row_kernels_impl.h"
#include "cpu/tile_product_impl.h"
#include "cpu/transpose_impl.h"
#include "cpu/sparse_product_impl.h"
#include "cpu/fused_logits_impl.h"
#include "cpu/fused_gradients_impl.h"
#include "cpu/mining_kernels_impl.h"
}  // namespace avx2

const RowKernels<float>& avx2_row_kernels(float) { return avx2::kRowKernels<float>; }
const RowKernels<double>& avx2_row_kernels(double) { return avx2::kRowKernels<double>; }
const FusedKernels<float>& avx2_fused_kernels(float) { return avx2::kFusedKernels<float>; }
const FusedKernels<double>& avx2_fused_kernels(double) { return avx2::kFusedKernels<double>; }
const MiningKernels& avx2_mining_kernels() { return avx2::kMiningKernels; }

}  // namespace indeed::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
