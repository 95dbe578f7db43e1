// What -fsanitize=alignment compiles into kernels: a GPU stops at a misaligned vector access; so does its launch here.
#include "runtime.h"

extern "C" void __ubsan_handle_type_mismatch_v1(const void* data, uintptr_t address) {
  struct Location {  // the head of what the compiler passes
    const char* file;
    uint32_t line, column;
  };
  if (cuda_emulation::current() == nullptr) return;
  const auto* location = static_cast<const Location*>(data);
  const std::string file = location->file;
  cuda_emulation::stop("misaligned access to " + cuda_emulation::describe_address(address) + " at " +
                       file.substr(file.rfind('/') + 1) + ":" + std::to_string(location->line));
}
