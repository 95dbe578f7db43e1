#include "cpu/kernel_variants.h"

#include <atomic>
#include <stdexcept>

namespace indeed::cpu {
namespace {

struct Variant {
  const char* name;
  bool runs;
  const KernelTables& (*tables)();
};

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all{
#if defined(INDEED_HAS_X86_VARIANTS)
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi"),
       avx512_kernels},
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi"),
       avx2_kernels},
#endif
      {"baseline", true, baseline_kernels}};
  return all;
}

std::atomic<const Variant*> chosen{nullptr};

const Variant& current() {
  if (const Variant* set = chosen.load(std::memory_order_relaxed)) return *set;
  for (const Variant& variant : variants()) {
    if (variant.runs) {
      chosen.store(&variant, std::memory_order_relaxed);
      return variant;
    }
  }
  throw std::logic_error("the baseline runs everywhere");
}

}  // namespace

std::vector<std::string> kernel_variants() {
  std::vector<std::string> names;
  for (const Variant& variant : variants()) {
    if (variant.runs) names.emplace_back(variant.name);
  }
  return names;
}

std::string kernel_variant() { return current().name; }

void set_kernel_variant(const std::string& name) {
  for (const Variant& variant : variants()) {
    if (variant.runs && name == variant.name) {
      chosen = &variant;
      return;
    }
  }
  throw std::invalid_argument("kernel variant: this machine runs none of the name " + name);
}

template <>
const RowKernels<float>& row_kernels<float>() { return current().tables().row_float; }
template <>
const RowKernels<double>& row_kernels<double>() { return current().tables().row_double; }
template <>
const FusedKernels<float>& fused_kernels<float>() { return current().tables().fused_float; }
template <>
const FusedKernels<double>& fused_kernels<double>() { return current().tables().fused_double; }
const PackKernels& pack_kernels() { return current().tables().pack; }
const MiningKernels& mining_kernels() { return current().tables().mining; }

}  // namespace indeed::cpu
