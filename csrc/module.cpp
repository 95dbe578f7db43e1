// The Python module indeed_ext._C. Loading it registers the operators, whose STABLE_TORCH_LIBRARY
// blocks stand in the other sources; what it binds itself is the build information and the scratch memory.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "build_info.h"  // written by the build: INDEED_BUILD_INFO
#include "cpu/workspace.h"

#if defined(USE_CUDA)
#include "cuda/launch.h"
#endif

namespace {

std::optional<std::string> environment_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value != nullptr ? std::optional<std::string>(value) : std::nullopt;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled operators of indeed_ext.";
  module.def(
      "build_info", [] { return INDEED_BUILD_INFO; },
      "JSON text: what this binary was built from, with and for.");
  module.def("release_workspace", &indeed::release_workspace,
             "Give the scratch memory kept between CPU calls (64 MiB at most) back to the system; returns its bytes.");
  module.def("environment_variable", &environment_variable, "Its value as the C library has it, None if it is not set.");
#if defined(USE_CUDA)
  module.def("launch_count", &indeed::cuda::launch_count,
             "Kernels and matrix products this process has started on GPUs so far.");
#endif
}
