// The Python module indeed_ext._C. Loading it registers the operators, whose STABLE_TORCH_LIBRARY
// blocks stand in the other sources; what it binds itself is the build information and the scratch memory.

#include <pybind11/pybind11.h>

#include "build_info.h"  // written by the build: INDEED_BUILD_INFO
#include "cpu/workspace.h"

#if defined(USE_CUDA)
#include "cuda/launch.h"
#endif

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled operators of indeed_ext.";
  module.def(
      "build_info", [] { return INDEED_BUILD_INFO; },
      "JSON text: what this binary was built from, with and for.");
  module.def("release_workspace", &indeed::release_workspace,
             "Give the scratch memory kept between CPU calls (64 MiB at most) back to the system; returns its bytes.");
#if defined(USE_CUDA)
  module.def("launch_count", &indeed::cuda::launch_count,
             "Kernels and matrix products this process has started on GPUs so far.");
#endif
}
