// Finds unordered accesses: the kernels are compiled with -fsanitize=thread, whose calls at every load and store
// come here instead of to ThreadSanitizer, which knows nothing of barriers and warps.
//
// Two accesses to one byte, of different threads, at least one a write and not both atomic, are a race unless
//   - a __syncthreads stands between them (both threads in one block), or
//   - the two have met in a __syncwarp since the first one (both threads in one warp).
// Blocks of a launch are never ordered. Only __syncwarp orders memory within a warp; shuffles and votes do not.
#include "runtime.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <unordered_map>

namespace cuda_emulation {

#if !defined(INDEED_EMULATION_RACE_CHECK)

void note_atomic(const void*, size_t) {}
void forget_global_accesses() {}
void forget_shared_accesses() {}

#else

namespace {

// Accesses of one kind to one byte: as much of their history as may still be unordered with a later access.
struct Accesses {
  static constexpr uint64_t kNone = ~uint64_t{0}, kSeveral = kNone - 1;
  uint64_t blocks = kNone;
  uint64_t interval = 0;
  const void* place = nullptr;
  uint32_t lanes = 0, generation = 0;  // of one warp; the generation of the last of them
  uint16_t warp = 0;
  bool several_warps = false;

  bool unordered_with(const Thread& thread) const {
    if (blocks == kNone) return false;
    if (blocks != block.number) return true;
    if (interval != block.interval) return false;
    if (several_warps || warp != thread.warp()) return true;
    for (uint32_t rest = lanes & ~(1u << thread.lane()); rest != 0; rest &= rest - 1) {
      if (thread.met[__builtin_ctz(rest)] <= generation) return true;
    }
    return false;
  }

  void add(const Thread& thread, const void* from) {
    const bool same_block = blocks == block.number;
    const uint32_t bit = 1u << thread.lane();
    if (same_block && interval == block.interval) {
      several_warps |= warp != thread.warp();
      lanes |= bit;
    } else {
      blocks = blocks == kNone || same_block ? block.number : kSeveral;
      interval = block.interval;
      warp = static_cast<uint16_t>(thread.warp());
      several_warps = false;
      lanes = bit;
    }
    generation = block.generation[thread.warp()];
    place = from;
  }

  std::string who() const {
    if (blocks == kSeveral) return "several blocks";
    if (blocks != block.number) return "block " + std::to_string(blocks);
    if (several_warps) return "several warps";
    return "warp " + std::to_string(warp) + " (first lane " + std::to_string(__builtin_ctz(lanes)) + ")";
  }
};

enum class Access { kRead, kWrite, kAtomic };
constexpr const char* kVerbs[] = {"reads", "writes", "atomically updates"};

// Of a byte, or of a word of which no part was ever accessed alone, so that its bytes have one history.
struct Histories {
  Accesses of[3];  // by Access
};

constexpr uintptr_t kLine = 64, kWord = 4;
struct Line {
  Histories words[kLine / kWord];
  std::unique_ptr<Histories[]> bytes[kLine / kWord];  // in place of a word whose bytes differ
};
using Shadow = std::unordered_map<uintptr_t, std::unique_ptr<Line>>;
Shadow global_shadow, shared_shadow;

// "kernels.cu:12", where binutils can tell; this is only asked once a race is found.
std::string code_place(const void* address) {
  Dl_info info{};
  dladdr(address, &info);
  // A return address is the instruction after the call.
  const size_t offset = static_cast<const char*>(address) - static_cast<const char*>(info.dli_fbase) - 1;
  char text[512];
  std::snprintf(text, sizeof(text), "addr2line -s -e '%s' %#zx", info.dli_fname, offset);
  if (FILE* pipe = popen(text, "r")) {
    const bool found = std::fgets(text, sizeof(text), pipe) != nullptr;
    if (pclose(pipe) == 0 && found) return std::string(text, std::strcspn(text, " \n"));
  }
  return text;
}

void note(const void* pointer, size_t size, Access access, const void* from) {
  const Thread* thread = current();
  if (thread == nullptr) return;
  const uintptr_t first = reinterpret_cast<uintptr_t>(pointer), end = first + size;
  if (is_on_fiber_stack(first)) return;
  Shadow& shadow = is_shared(first) ? shared_shadow : global_shadow;
  Line* line = nullptr;
  for (uintptr_t address = first; address < end;) {
    if (line == nullptr || address % kLine == 0) {
      std::unique_ptr<Line>& entry = shadow[address / kLine];
      if (entry == nullptr) entry = std::make_unique<Line>();
      line = entry.get();
    }
    const size_t word = address % kLine / kWord;
    std::unique_ptr<Histories[]>& bytes = line->bytes[word];
    if (bytes == nullptr && (address % kWord != 0 || end - address < kWord)) {
      bytes = std::make_unique<Histories[]>(kWord);
      std::fill_n(bytes.get(), kWord, line->words[word]);
    }
    Histories& histories = bytes == nullptr ? line->words[word] : bytes[address % kWord];
    for (const Access earlier : {Access::kRead, Access::kWrite, Access::kAtomic}) {
      if (earlier == access && access != Access::kWrite) continue;
      const Accesses& history = histories.of[static_cast<int>(earlier)];
      if (!history.unordered_with(*thread)) continue;
      stop("race on " + describe_address(address) + ": thread " + std::to_string(thread->rank) + " of block " +
           std::to_string(block.number) + " " + kVerbs[static_cast<int>(access)] + " at " + code_place(from) +
           " what " + history.who() + " " + kVerbs[static_cast<int>(earlier)] + " at " + code_place(history.place));
    }
    histories.of[static_cast<int>(access)].add(*thread, from);
    address += bytes == nullptr ? kWord : 1;
  }
}

}  // namespace

void note_atomic(const void* address, size_t size) {
  note(address, size, Access::kAtomic, __builtin_return_address(0));
}
void forget_global_accesses() { global_shadow.clear(); }
void forget_shared_accesses() { shared_shadow.clear(); }

// ------------------------------------------------ what -fsanitize=thread compiles into code

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

void __tsan_read_range(void* address, size_t size) {
  note(address, size, Access::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* address, size_t size) {
  note(address, size, Access::kWrite, __builtin_return_address(0));
}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

#define ACCESS(prefix, size)                                                                                   \
  void __tsan_##prefix##read##size(void* p) { note(p, size, Access::kRead, __builtin_return_address(0)); }     \
  void __tsan_##prefix##write##size(void* p) { note(p, size, Access::kWrite, __builtin_return_address(0)); }
ACCESS(, 1)
ACCESS(, 2)
ACCESS(, 4)
ACCESS(, 8)
ACCESS(, 16)
ACCESS(unaligned_, 2)
ACCESS(unaligned_, 4)
ACCESS(unaligned_, 8)
ACCESS(unaligned_, 16)

// C++ atomics: of host code, such as the launch counter and the guards of local statics.
#define ATOMIC(bits, type)                                                                                     \
  type __tsan_atomic##bits##_load(const volatile type* p, int) { return __atomic_load_n(p, 5); }               \
  void __tsan_atomic##bits##_store(volatile type* p, type v, int) { __atomic_store_n(p, v, 5); }               \
  type __tsan_atomic##bits##_exchange(volatile type* p, type v, int) { return __atomic_exchange_n(p, v, 5); }  \
  type __tsan_atomic##bits##_fetch_add(volatile type* p, type v, int) { return __atomic_fetch_add(p, v, 5); }  \
  type __tsan_atomic##bits##_fetch_sub(volatile type* p, type v, int) { return __atomic_fetch_sub(p, v, 5); }  \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile type* p, type* expected, type v, int, int) {      \
    return __atomic_compare_exchange_n(p, expected, v, false, 5, 5);                                           \
  }                                                                                                            \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile type* p, type* expected, type v, int, int) {        \
    return __atomic_compare_exchange_n(p, expected, v, false, 5, 5);                                           \
  }
ATOMIC(8, uint8_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

}  // extern "C"

#endif

}  // namespace cuda_emulation
