// The kernels of every instruction set they are compiled for, and the choice among them.
#pragma once

#include <string>
#include <vector>

#include "cpu/fused_kernels.h"
#include "cpu/label_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define INDEED_HAS_X86_VARIANTS 1
#endif

namespace indeed::cpu {

struct KernelTables {
  RowKernels<float> row_float;
  RowKernels<double> row_double;
  FusedKernels<float> fused_float;
  FusedKernels<double> fused_double;
  PackKernels pack;
  MiningKernels mining;
};

const KernelTables& baseline_kernels();  // for what every machine of this architecture has
#if defined(INDEED_HAS_X86_VARIANTS)
const KernelTables& avx2_kernels();
const KernelTables& avx512_kernels();
#endif

// Names of the variants this machine runs, the best first.
std::vector<std::string> kernel_variants();

// The variant in use: the best, unless another was set.
std::string kernel_variant();
void set_kernel_variant(const std::string& name);

}  // namespace indeed::cpu
