#include "cpu/workspace.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <mutex>
#include <new>
#include <utility>

namespace indeed {
namespace {

struct Block {
  std::byte* data = nullptr;
  size_t capacity = 0;
};

std::byte* allocate(size_t bytes) {
  return static_cast<std::byte*>(::operator new(bytes, std::align_val_t{Workspace::kAlignment}));
}

void deallocate(std::byte* data) { ::operator delete(data, std::align_val_t{Workspace::kAlignment}); }

std::mutex mutex;
Block kept;  // one block: concurrent calls beyond the first allocate their own

Block exchange_kept(Block block) {
  const std::lock_guard<std::mutex> lock(mutex);
  return std::exchange(kept, block);
}

}  // namespace

Workspace::Workspace(size_t bytes) : asked_(bytes) {
  Block block = exchange_kept({});
  if (block.capacity < bytes) {
    deallocate(block.data);
    block = {allocate(bytes), bytes};
  }
  block_ = block.data;
  capacity_ = block.capacity;
}

Workspace::~Workspace() {
  if (capacity_ > kKeptBytes) {
    deallocate(block_);
  } else {
    deallocate(exchange_kept({block_, capacity_}).data);
  }
}

size_t release_workspace() {
  const Block block = exchange_kept({});
  deallocate(block.data);
  return block.capacity;
}

void prefer_large_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  // The least that glibc's heap never takes, and a multiple of what most systems have as a large page.
  constexpr size_t kLarge = size_t{32} << 20, kPage = size_t{4} << 10;
  if (bytes < kLarge) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish: whether it is granted does not matter
#endif
}

}  // namespace indeed
