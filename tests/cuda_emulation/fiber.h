// Stacks to switch between, for the threads of a block.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_emulation {

#if defined(__x86_64__)

// ucontext asks the kernel for the signal mask at every switch, which would take most of the time.
struct Context {
  void* stack_pointer;
};

extern "C" void cuda_emulation_switch(void** from, void* to);
asm(R"(
.text
.local cuda_emulation_switch
.type cuda_emulation_switch, @function
cuda_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulation_switch, .-cuda_emulation_switch
)");

inline void prepare(Context& context, std::byte* stack, size_t size, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + size);
  top[-1] = nullptr;  // where `entry` would return to; it keeps the stack aligned as a call does
  top[-2] = reinterpret_cast<void*>(entry);
  context.stack_pointer = top - 8;  // six saved registers
}

inline void switch_context(Context& from, Context& to) { cuda_emulation_switch(&from.stack_pointer, to.stack_pointer); }

#else

struct Context {
  ucontext_t state;
};

inline void prepare(Context& context, std::byte* stack, size_t size, void (*entry)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = stack;
  context.state.uc_stack.ss_size = size;
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
}

inline void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }

#endif

}  // namespace cuda_emulation
