// The scheduler: fibers, warps, barriers, shared memory.
#include "runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulation {

Block block;

namespace {

constexpr size_t kStackBytes = size_t{128} << 10;
constexpr size_t kSharedBytes = size_t{48} << 10;  // what a block may have without asking for more
constexpr size_t kRedzone = 64;
constexpr unsigned char kRedzoneByte = 0xA5;

std::mutex device;  // one launch at a time
// initial-exec: the race check asks at every memory access.
__attribute__((tls_model("initial-exec"))) thread_local Thread* running;

const std::function<void()>* body;
std::vector<Thread> threads;
Context scheduler;
std::string failure;

// ------------------------------------------------------------------------- memory

struct Allocation {
  const char* name;
  std::byte* data;
  size_t bytes;
};

std::byte* stacks;
alignas(128) std::byte arena[2 * kSharedBytes];  // with room for redzones
size_t arena_used, shared_used;
std::vector<Allocation> allocations;             // of this block
std::map<const void*, size_t> allocation_of;     // place in the source to index

std::byte* stack_of(unsigned rank) {
  if (stacks == nullptr) {
    void* mapped = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::runtime_error("cuda emulation: no memory for the stacks of a block");
    stacks = static_cast<std::byte*>(mapped);
    // The lowest page of each stack is left out of reach: an overflow must not run into the next one.
    for (unsigned i = 0; i < kMaxThreads; ++i) mprotect(stacks + i * kStackBytes, 4096, PROT_NONE);
  }
  return stacks + rank * kStackBytes;
}

void release_shared() {
  for (const Allocation& each : allocations) ASAN_UNPOISON_MEMORY_REGION(each.data + each.bytes, kRedzone);
  allocations.clear();
  allocation_of.clear();
  arena_used = shared_used = 0;
}

unsigned char fresh_byte;  // what shared memory starts as

void* allocate_shared(const char* name, size_t bytes) {
  shared_used += bytes;
  if (shared_used > kSharedBytes) stop("needs more than 48 KiB of shared memory");
  const size_t padded = (bytes + 15) / 16 * 16 + kRedzone;
  if (arena_used + padded > sizeof(arena)) stop("has too many arrays in shared memory for the emulation");
  std::byte* data = arena + arena_used;
  arena_used += padded;
  std::memset(data, fresh_byte, bytes);
  std::memset(data + bytes, kRedzoneByte, kRedzone);
  ASAN_POISON_MEMORY_REGION(data + bytes, kRedzone);
  allocations.push_back({name, data, bytes});
  return data;
}

// Sees writes past the end where no sanitizer does.
void check_redzones() {
  for (const Allocation& each : allocations) {
    ASAN_UNPOISON_MEMORY_REGION(each.data + each.bytes, kRedzone);
    for (size_t i = 0; i < kRedzone; ++i) {
      if (each.data[each.bytes + i] != std::byte{kRedzoneByte}) {
        failure = "writes past the end of shared memory " + std::string(each.name) + " (byte " +
                  std::to_string(each.bytes + i) + " of " + std::to_string(each.bytes) + ")";
        return;
      }
    }
  }
}

// ----------------------------------------------------------------------- schedule

class Schedule {
 public:
  Schedule() {
    const char* text = std::getenv("INDEED_EMULATION_SCHEDULE");
    const std::string name = text == nullptr ? "" : text;
    if (name.empty() || name == "forward") return;
    if (name == "reverse") {
      mode_ = Mode::kReverse;
    } else if (name.starts_with("shuffle:")) {
      mode_ = Mode::kShuffle;
      random_.seed(std::strtoul(name.c_str() + 8, nullptr, 10));
    } else {
      throw std::runtime_error("INDEED_EMULATION_SCHEDULE: expected forward, reverse or shuffle:<seed>, got " + name);
    }
  }
  bool forward() const { return mode_ == Mode::kForward; }

  std::vector<uint64_t> order(uint64_t count) {
    std::vector<uint64_t> result(count);
    std::iota(result.begin(), result.end(), 0);
    if (mode_ == Mode::kReverse) std::reverse(result.begin(), result.end());
    if (mode_ == Mode::kShuffle) std::shuffle(result.begin(), result.end(), random_);
    return result;
  }

 private:
  enum class Mode { kForward, kReverse, kShuffle } mode_ = Mode::kForward;
  std::mt19937 random_;
};

// ------------------------------------------------------------------------- waiting

std::string place(const Site& site) {
  const std::string file = site.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line());
}

std::string describe(const Thread& thread) {
  if (thread.state == State::kFinished) return "finished";
  constexpr const char* names[] = {"__syncthreads", "a shuffle", "a vote", "__syncwarp"};
  return std::string("in ") + names[static_cast<int>(thread.kind)] + " at " + place(thread.site);
}

// "31 threads (first 1) in __syncthreads at x.cu:12; 1 thread (first 0) finished"
std::string describe_all() {
  std::map<std::string, std::pair<unsigned, unsigned>> groups;  // count, first
  for (const Thread& thread : threads) ++groups.try_emplace(describe(thread), 0, thread.rank).first->second.first;
  std::string text;
  for (const auto& [what, group] : groups) {
    text += (text.empty() ? "" : "; ") + std::to_string(group.first) + (group.first == 1 ? " thread" : " threads") +
            " (first " + std::to_string(group.second) + ") " + what;
  }
  return text;
}

void thread_main() {
  (*body)();
  running->state = State::kFinished;
  switch_context(running->context, scheduler);
}

void resume(Thread& thread) {
  threadIdx = thread.index;
  running = &thread;
  switch_context(scheduler, thread.context);
  running = nullptr;
}

// Hands out values where every lane that is waited for has come; false where nobody could go on.
bool release_lanes(unsigned warp) {
  Thread* const lanes = threads.data() + warp * kWarpSize;
  const unsigned count = std::min<unsigned>(kWarpSize, threads.size() - warp * kWarpSize);
  bool released = false;
  for (unsigned first = 0; first < count; ++first) {
    const Thread& leader = lanes[first];
    if (leader.state != State::kWaiting || leader.kind == Kind::kBarrier) continue;
    uint32_t present = 0;
    bool complete = true;
    for (unsigned i = 0; i < count; ++i) {
      // Lanes that have finished are not waited for.
      if (!(leader.mask >> i & 1) || lanes[i].state == State::kFinished) continue;
      complete &= lanes[i].state == State::kWaiting && lanes[i].kind == leader.kind && lanes[i].mask == leader.mask &&
                  lanes[i].site.line() == leader.site.line();
      present |= 1u << i;
    }
    if (!complete) continue;
    uint64_t values[kWarpSize];
    uint32_t votes = 0;
    std::array<uint32_t, kWarpSize> met{};
    const Kind kind = leader.kind;
    const uint32_t generation = kind == Kind::kSyncWarp ? ++block.generation[warp] : 0;
    for (unsigned i = 0; i < count; ++i) {
      if (!(present >> i & 1)) continue;
      values[i] = lanes[i].value;
      votes |= static_cast<uint32_t>(lanes[i].value != 0) << i;
      if (kind != Kind::kSyncWarp) continue;
      for (unsigned k = 0; k < kWarpSize; ++k) met[k] = std::max(met[k], lanes[i].met[k]);
    }
    for (unsigned i = 0; i < count; ++i) {
      if (!(present >> i & 1)) continue;
      if (kind == Kind::kShuffle && (lanes[i].source >= kWarpSize || !(present >> lanes[i].source & 1))) {
        failure = "thread " + std::to_string(lanes[i].rank) + " shuffles from lane " +
                  std::to_string(lanes[i].source) + ", which takes no part, at " + place(lanes[i].site);
        return false;
      }
      if (kind == Kind::kShuffle) lanes[i].value = values[lanes[i].source];
      if (kind == Kind::kBallot) lanes[i].value = votes;
      if (kind == Kind::kSyncWarp) {
        for (unsigned k = 0; k < kWarpSize; ++k) lanes[i].met[k] = present >> k & 1 ? generation : met[k];
      }
      lanes[i].state = State::kReady;
    }
    released = true;
  }
  return released;
}

// Everybody who could run has: either all threads stand at one barrier, or the kernel is wrong.
bool release_barrier() {
  uint64_t votes = 0;
  for (const Thread& thread : threads) {
    if (thread.state != State::kWaiting || thread.kind != Kind::kBarrier ||
        thread.site.line() != threads[0].site.line()) {
      failure = "not all threads meet: " + describe_all();
      return false;
    }
    votes += thread.value;
  }
  for (Thread& thread : threads) {
    thread.value = votes;
    thread.state = State::kReady;
  }
  ++block.interval;
  return true;
}

void run_block(Schedule& schedule) {
  const unsigned warps = (threads.size() + kWarpSize - 1) / kWarpSize;
  const auto warp_order = schedule.order(warps), lane_order = schedule.order(kWarpSize);
  ++block.interval;
  block.generation.fill(0);
  forget_shared_accesses();
  for (unsigned rank = 0; rank < threads.size(); ++rank) {
    Thread& thread = threads[rank];
    const unsigned plane = blockDim.x * blockDim.y;
    thread.index = {rank % blockDim.x, rank / blockDim.x % blockDim.y, rank / plane};
    thread.rank = rank;
    thread.state = State::kReady;
    thread.met.fill(0);
    std::byte* stack = stack_of(rank);
    ASAN_UNPOISON_MEMORY_REGION(stack + 4096, kStackBytes - 4096);  // an abandoned thread leaves its marks
    prepare(thread.context, stack, kStackBytes, thread_main);
  }
  const auto finished = [](const Thread& thread) { return thread.state == State::kFinished; };
  do {
    for (const uint64_t warp : warp_order) {
      do {
        for (const uint64_t lane : lane_order) {
          const size_t rank = warp * kWarpSize + lane;
          if (rank >= threads.size() || threads[rank].state != State::kReady) continue;
          resume(threads[rank]);
          if (!failure.empty()) return;
        }
      } while (release_lanes(warp));
      if (!failure.empty()) return;
    }
  } while (!std::all_of(threads.begin(), threads.end(), finished) && release_barrier());
  if (failure.empty()) check_redzones();
}

size_t dynamic_bytes;

}  // namespace

// ------------------------------------------------------------------ seen by kernels

Thread* current() { return running; }
unsigned lane() { return running->lane(); }

void stop(const std::string& message) {
  failure = message;
  switch_context(running->context, scheduler);
  __builtin_unreachable();  // never resumed
}

void trap(const Site& site) { stop("thread " + std::to_string(running->rank) + " traps at " + place(site)); }

uint64_t wait_for_others(Kind kind, uint32_t mask, uint64_t value, unsigned source, const Site& site) {
  Thread& thread = *running;
  if (kind != Kind::kBarrier && !(mask >> thread.lane() & 1)) {
    stop("thread " + std::to_string(thread.rank) + " is not in its own mask at " + place(site));
  }
  thread.kind = kind;
  thread.mask = mask;
  thread.value = value;
  thread.source = source;
  thread.site = site;
  thread.state = State::kWaiting;
  switch_context(thread.context, scheduler);
  return thread.value;
}

void* static_shared(const void* key, const char* name, size_t bytes, size_t alignment) {
  if (alignment > 16) stop("asks for more than 16 bytes of alignment in shared memory");
  const auto [entry, is_new] = allocation_of.try_emplace(key, allocations.size());
  return is_new ? allocate_shared(name, bytes) : allocations[entry->second].data;
}

void* dynamic_shared() { return static_shared(&dynamic_bytes, "(dynamic)", dynamic_bytes, 16); }

bool is_on_fiber_stack(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(stacks) < kMaxThreads * kStackBytes;
}

bool is_shared(uintptr_t address) { return address - reinterpret_cast<uintptr_t>(arena) < sizeof(arena); }

std::string describe_address(uintptr_t address) {
  for (const Allocation& each : allocations) {
    const uintptr_t offset = address - reinterpret_cast<uintptr_t>(each.data);
    if (offset < each.bytes) return std::string("shared memory ") + each.name + ", byte " + std::to_string(offset);
  }
  char text[40];
  std::snprintf(text, sizeof(text), "global memory %#zx", static_cast<size_t>(address));
  return text;
}

// ----------------------------------------------------------------------- launching

void run(const char* name, dim3 grid, dim3 block_size, size_t shared_bytes, const std::function<void()>& thread) {
  if (idle) return;
  const std::lock_guard<std::mutex> lock(device);
  const auto fail = [&](const std::string& message) { throw std::runtime_error(std::string(name) + ": " + message); };
  const uint64_t size = uint64_t{block_size.x} * block_size.y * block_size.z;
  if (size == 0 || size > kMaxThreads || block_size.z > 64) fail("impossible block size " + std::to_string(size));
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535) {
    fail("impossible grid (" + std::to_string(grid.x) + ", " + std::to_string(grid.y) + ", " +
         std::to_string(grid.z) + ")");
  }
  record_launch(name, grid, block_size);
  Schedule schedule;
  fresh_byte = schedule.forward() ? 0xFF : 0xCB;
  body = &thread;
  gridDim = grid;
  blockDim = block_size;
  dynamic_bytes = shared_bytes;
  threads.resize(size);
  failure.clear();
  forget_global_accesses();
  for (const uint64_t number : schedule.order(uint64_t{grid.x} * grid.y * grid.z)) {
    blockIdx = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                static_cast<unsigned>(number / (uint64_t{grid.x} * grid.y))};
    block.number = number;
    run_block(schedule);
    release_shared();
    if (!failure.empty()) {
      fail("block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
           std::to_string(blockIdx.z) + "): " + failure);
    }
  }
}

}  // namespace cuda_emulation
