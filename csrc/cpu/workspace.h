// Scratch memory of a call, kept for the next one. Blocks of a few MiB that are returned to the system after every
// call come back as page faults, which can cost more than the matrix products.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace indeed {

class Workspace {
 public:
  // Largest block kept between calls; a larger one is given back at once.
  static constexpr size_t kKeptBytes = size_t{64} << 20;
  static constexpr size_t kAlignment = 64;

  explicit Workspace(size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // The next `count` elements, aligned to a cache line. A block is often larger than was asked for, so that nothing else
  // would tell of one that is too small.
  template <typename T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(block_ + used_);
    used_ += bytes_of<T>(count);
    if (used_ > asked_) throw std::logic_error("scratch memory: more is taken than was asked for");
    return taken;
  }

  // What take<T>(count) uses up, for sizing the workspace.
  template <typename T>
  static size_t bytes_of(int64_t count) {
    return (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

 private:
  std::byte* block_;
  size_t capacity_, asked_, used_ = 0;
};

// Asks for the memory of a large result in large pages: what is too large for the heap comes fresh from the system in
// every call, and is otherwise handed out 4 KiB at a time, when it is first written to.
void prefer_large_pages(void* data, size_t bytes);

// Gives the kept block back to the system; returns its size in bytes.
size_t release_workspace();

}  // namespace indeed
