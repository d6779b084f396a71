// The stacks of fibers: memory for them, and switching from one to another.
//
// Switching costs a few nanoseconds, because nothing is asked of the operating system: the registers that a called
// function must preserve are pushed on the old stack and popped from the new one. Elsewhere than on x86-64 under Linux,
// or with -DCUDA_ON_CPU_UCONTEXT, <ucontext.h> does the same, slower.
#pragma once

#include <sys/mman.h>

#include "fiber.h"

namespace cuda_on_cpu {

#ifndef CUDA_ON_CPU_UCONTEXT
extern "C" __attribute__((visibility("hidden"))) void cuda_on_cpu_switch(void** from, void* to);
asm(R"(
  .pushsection .text
  .type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
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
  popq %rcx
  jmp *%rcx
  .size cuda_on_cpu_switch, .-cuda_on_cpu_switch
  .popsection
)");
#endif

// Goes on where `to` left off; returns when somebody switches back to `from`
CUDA_ON_CPU_UNSEEN __attribute__((noinline)) inline void switch_context(Context& from, Context& to) {
  from.sanitizer.leave(to.sanitizer);
#ifdef CUDA_ON_CPU_UCONTEXT
  swapcontext(&from.registers, &to.registers);
#else
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#endif
  from.sanitizer.arrive();
}

// Makes a fiber begin with `main`, which never returns, at the next switch to it
inline void prepare(Fiber& fiber, Block* block, void (*main)()) {
  char* low = reinterpret_cast<char*>(&fiber);
  forget(low, STACK_BYTES);
  fiber.block = block;
#ifdef CUDA_ON_CPU_UCONTEXT
  getcontext(&fiber.context.registers);
  fiber.context.registers.uc_stack = {};
  fiber.context.registers.uc_stack.ss_sp = low + sizeof(Fiber);
  fiber.context.registers.uc_stack.ss_size = STACK_BYTES - sizeof(Fiber);
  fiber.context.registers.uc_link = nullptr;
  makecontext(&fiber.context.registers, main, 0);
#else
  // Stacks that all began at the same offset would compete for the same few lines of the cache
  const size_t colour = reinterpret_cast<uintptr_t>(low) / STACK_BYTES * (13 * 64) % (STACK_BYTES / 4);
  void** top = reinterpret_cast<void**>(low + STACK_BYTES - 64 - (colour & ~size_t(63)));
  *--top = nullptr;  // as if called from nowhere: a function begins with rsp % 16 == 8
  *--top = reinterpret_cast<void*>(main);
  top -= 6;
  memset(top, 0, 6 * sizeof *top);
  fiber.context.stack_pointer = top;
#endif
  fiber.context.sanitizer.begin(low, STACK_BYTES);
}

// `count` stacks, aligned to their size; memory is taken only for what of them is used
inline Fiber* map_stacks(unsigned count) {
  const size_t bytes = (count + 1) * STACK_BYTES;
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  return reinterpret_cast<Fiber*>((reinterpret_cast<uintptr_t>(mapped) + STACK_BYTES - 1) & ~(STACK_BYTES - 1));
}

inline Fiber* stack_after(Fiber* fiber) {
  return reinterpret_cast<Fiber*>(reinterpret_cast<char*>(fiber) + STACK_BYTES);
}

}  // namespace cuda_on_cpu
