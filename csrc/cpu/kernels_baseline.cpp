// The kernels for the instruction set every machine of this architecture has, and the choice among variants.
#include <algorithm>
#include <cmath>

#include "common/bce.h"
#include "common/hash.h"
#include "cpu/kernel_variants.h"

#define INDEED_VECTOR_BYTES 16

namespace indeed::cpu {
namespace baseline {
#include "cpu/map_backward_impl.h"
#include "cpu/row_kernels_impl.h"
#include "cpu/tile_product_impl.h"
#include "cpu/transpose_impl.h"
#include "cpu/sparse_product_impl.h"
#include "cpu/fused_logits_impl.h"
#include "cpu/fused_gradients_impl.h"
#include "cpu/mining_kernels_impl.h"
}  // namespace baseline

namespace {

bool runs_avx2() {
#if defined(INDEED_HAS_AVX2_VARIANT)
  static const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                           __builtin_cpu_supports("bmi");
  return runs;
#else
  return false;
#endif
}

}  // namespace

template <typename T>
const RowKernels<T>& row_kernels() {
#if defined(INDEED_HAS_AVX2_VARIANT)
  if (runs_avx2()) return avx2_row_kernels(T{});
#endif
  return baseline::kRowKernels<T>;
}

template <typename T>
const FusedKernels<T>& fused_kernels() {
#if defined(INDEED_HAS_AVX2_VARIANT)
  if (runs_avx2()) return avx2_fused_kernels(T{});
#endif
  return baseline::kFusedKernels<T>;
}

const MiningKernels& mining_kernels() {
#if defined(INDEED_HAS_AVX2_VARIANT)
  if (runs_avx2()) return avx2_mining_kernels();
#endif
  return baseline::kMiningKernels;
}

template const RowKernels<float>& row_kernels<float>();
template const RowKernels<double>& row_kernels<double>();
template const FusedKernels<float>& fused_kernels<float>();
template const FusedKernels<double>& fused_kernels<double>();

}  // namespace indeed::cpu
