// Which variants of the kernels are compiled beside the baseline.
#pragma once

#include "cpu/fused_kernels.h"
#include "cpu/mining_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define INDEED_HAS_AVX2_VARIANT 1

namespace indeed::cpu {
const RowKernels<float>& avx2_row_kernels(float);
const RowKernels<double>& avx2_row_kernels(double);
const FusedKernels<float>& avx2_fused_kernels(float);
const FusedKernels<double>& avx2_fused_kernels(double);
const MiningKernels& avx2_mining_kernels();
}  // namespace indeed::cpu

#endif
