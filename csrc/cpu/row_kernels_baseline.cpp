// The row kernels for the instruction set every machine of this architecture has, and the choice among variants.
#include <algorithm>
#include <cmath>

#include "common/bce.h"
#include "cpu/row_kernels.h"
#include "cpu/row_kernels_variants.h"

namespace indeed::cpu {
namespace baseline {
#include "cpu/row_kernels_impl.h"
}  // namespace baseline

template <typename T>
const RowKernels<T>& row_kernels() {
#if defined(INDEED_HAS_AVX2_VARIANT)
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) return avx2_row_kernels(T{});
#endif
  return baseline::kRowKernels<T>;
}

template const RowKernels<float>& row_kernels<float>();
template const RowKernels<double>& row_kernels<double>();

}  // namespace indeed::cpu
