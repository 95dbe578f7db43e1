// The launches, for tests and measurements, through ctypes.
#include <cstring>
#include <string>

#include "cuda/launch.h"
#include "runtime.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace cuda_emulation {
namespace {

std::string record;

}  // namespace

bool idle = false;

void record_launch(const char* name, dim3 grid, dim3 block) {
  record += std::string(name) + '\t' + std::to_string(grid.x) + ' ' + std::to_string(grid.y) + ' ' +
            std::to_string(block.x) + '\n';
}

}  // namespace cuda_emulation

EXPORTED int64_t cuda_emulation_launch_count() { return indeed::cuda::launch_count(); }

// Kernels launched since the last call, a line each: name, grid x, grid y, threads of a block.
EXPORTED void cuda_emulation_take_record(char* text, size_t size) {
  std::strncpy(text, cuda_emulation::record.c_str(), size);
  cuda_emulation::record.clear();
}

EXPORTED void cuda_emulation_set_idle(bool idle) { cuda_emulation::idle = idle; }
