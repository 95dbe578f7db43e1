// The Python module indeed_ext._C. Loading it registers the implementations of the operators, whose
// STABLE_TORCH_LIBRARY_IMPL blocks stand in the other sources; what it binds itself is said below.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "build_info.h"  // written by the build: INDEED_BUILD_INFO
#include "common/hash.h"
#include "cpu/kernel_variants.h"
#include "cpu/workspace.h"
#include "operators/arguments.h"

#if defined(USE_CUDA)
#include "cuda/launch.h"
#endif

namespace {

using namespace indeed;

// What indeed_ext/constants.py and indeed_ext/reference.py state in Python.
std::map<std::string, int64_t> constants() {
  return {{"anchor", static_cast<int64_t>(Strategy::kAnchor)},
          {"matching", static_cast<int64_t>(Strategy::kMatching)},
          {"balanced", static_cast<int64_t>(Strategy::kBalanced)},
          {"l2", static_cast<int64_t>(Norm::kL2)},
          {"minmax", static_cast<int64_t>(Norm::kMinmax)},
          {"none", static_cast<int64_t>(Reduction::kNone)},
          {"mean", static_cast<int64_t>(Reduction::kMean)},
          {"sum", static_cast<int64_t>(Reduction::kSum)},
          {"IDENTICAL_TERM", kIdenticalTerm},
          {"DISPARATE_TERM", kDisparateTerm},
          {"GRAD_FEATURES", kGradFeatures},
          {"GRAD_WEIGHT", kGradWeight},
          {"GRAD_BIAS", kGradBias},
          {"WORD_BITS", kWordBits},
          {"NARROW_WIDTH", kNarrowWidth},
          {"CHUNK_ELEMENTS", kChunkElements},
          {"ANCHOR_PROBES", kAnchorProbes},
          {"BALANCED_FRACTION_BITS", kBalancedFractionBits},
          {"BALANCED_SPREAD", static_cast<int64_t>(kBalancedSpread)}};
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled operators of indeed_ext.";
  module.def(
      "build_info", [] { return INDEED_BUILD_INFO; },
      "JSON text: what this binary was built from, with and for.");
  module.def("constants", &constants, "The numbers that all backends agree on, by their names in Python.");
  module.def("release_workspace", &release_workspace,
             "Give the scratch memory kept between CPU calls (64 MiB at most) back to the system; returns its bytes.");
  module.def("kernel_variants", &cpu::kernel_variants, "Instruction sets of the CPU kernels that run here, best first.");
  module.def("kernel_variant", &cpu::kernel_variant, "The one in use.");
  module.def("set_kernel_variant", &cpu::set_kernel_variant, pybind11::arg("name"),
             "Use another one; ValueError if it does not run here.");
#if defined(USE_CUDA)
  module.def("launch_count", &cuda::launch_count,
             "Kernels and matrix products this process has started on GPUs so far.");
#endif
}
