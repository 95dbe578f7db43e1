// What the scheduler and the race check know of each other.
#pragma once

#include <array>
#include <string>

#include "cuda_emulation.h"
#include "fiber.h"

namespace cuda_emulation {

constexpr unsigned kWarpSize = 32, kMaxThreads = 1024;

enum class State : uint8_t { kReady, kWaiting, kFinished };

struct Thread {
  Context context;
  uint3 index;
  unsigned rank;
  State state;
  Kind kind;        // of what it waits in
  uint32_t mask;    // lanes it waits for
  uint64_t value;   // given to the others, then received from them
  unsigned source;  // lane it wants the value of
  Site site;
  // Generation of the warp in which this thread last met each lane in a __syncwarp.
  std::array<uint32_t, kWarpSize> met;

  unsigned warp() const { return rank / kWarpSize; }
  unsigned lane() const { return rank % kWarpSize; }
};

// Of the launch that runs on this host thread.
struct Block {
  uint64_t number;    // in the launch
  uint64_t interval;  // between two barriers, counted over all blocks
  std::array<uint32_t, kMaxThreads / kWarpSize> generation;  // __syncwarps of each warp
};

extern Block block;

// The running thread of the launch on this host thread; null outside kernels.
Thread* current();
bool is_on_fiber_stack(uintptr_t address);
bool is_shared(uintptr_t address);
// "shared memory `name`[byte 8]" or "global memory 0x..."
std::string describe_address(uintptr_t address);
// Ends the launch from inside a thread.
[[noreturn]] void stop(const std::string& message);

// Whether launches and matrix products do nothing: what is measured then is the host that asks for them.
extern bool idle;

// Called under the lock of the device, of which there is one.
void record_launch(const char* name, dim3 grid, dim3 block);

// The race check, where it is compiled in.
void forget_global_accesses();
void forget_shared_accesses();

}  // namespace cuda_emulation
