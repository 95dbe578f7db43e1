// The kernels for the instruction set every machine of this architecture has.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "common/bce.h"
#include "common/hash.h"
#include "cpu/kernel_variants.h"

#define INDEED_VECTOR_BYTES 16
#if defined(__aarch64__)
#define INDEED_VECTOR_REGISTERS 32
#else
#define INDEED_VECTOR_REGISTERS 16
#endif

namespace indeed::cpu {
namespace baseline {
#include "cpu/kernels_impl.h"
}  // namespace baseline

const KernelTables& baseline_kernels() { return baseline::kKernels; }

}  // namespace indeed::cpu
