// A fiber: a stack of its own, on which one CUDA thread runs until it has to wait for others.
//
// Switching stacks costs a few nanoseconds, because nothing is asked of the operating system: the registers that a
// called function must preserve are pushed on the old stack and popped from the new one. Elsewhere than on x86-64 under
// Linux, or with -DCUDA_ON_CPU_UCONTEXT, <ucontext.h> does the same, slower.
//
// Every stack begins, at its low end, with the record of who runs on it. Stacks are aligned to their size, so that any
// function finds the record of its thread by clearing the low bits of its frame's address: `here()`. That is how
// threadIdx can differ from thread to thread without thread-local storage.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#if !(defined(__x86_64__) && defined(__linux__)) && !defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_UCONTEXT
#endif
#ifdef CUDA_ON_CPU_UCONTEXT
#include <ucontext.h>
#endif

#include "sanitizers.h"

struct uint3 {
  unsigned x, y, z;
};

namespace cuda_on_cpu {

constexpr size_t STACK_BYTES = 64 << 10;  // the compiler refuses a function whose variables take most of them

class Processor;

// Where in the .cu file a thread is: at which call that waits for others
struct Site {
  const char* call = nullptr;
  const char* file = nullptr;
  int line = 0;

  bool operator==(const Site& other) const {
    return line == other.line && same(call, other.call) && same(file, other.file);
  }
  static bool same(const char* a, const char* b) { return a == b || !strcmp(a, b); }
};

// The registers of whoever does not run now
struct Context {
#ifdef CUDA_ON_CPU_UCONTEXT
  ucontext_t registers;
#else
  void* stack_pointer = nullptr;
#endif
  SanitizerContext sanitizer;
};

struct Fiber {
  Context context;
  Processor* processor;  // the block that its thread belongs to
  uint3 thread_index;    // threadIdx
  unsigned thread;       // the same, counted: x + blockDim.x * (y + blockDim.y * z)
  void* operands;        // what the thread brings to the call of its warp at which it waits
  Fiber* next;           // after it in the list of those who wait for the same, or among the idle
};

inline __attribute__((always_inline)) Fiber& here() {
  return *reinterpret_cast<Fiber*>(reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) & ~(STACK_BYTES - 1));
}

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
__attribute__((noinline)) inline void switch_context(Context& from, Context& to) {
  from.sanitizer.leave(to.sanitizer);
#ifdef CUDA_ON_CPU_UCONTEXT
  swapcontext(&from.registers, &to.registers);
#else
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#endif
  from.sanitizer.arrive();
}

// Makes a fiber begin with `main`, which never returns, at the next switch to it
inline void prepare(Fiber& fiber, Processor* processor, void (*main)()) {
  char* low = reinterpret_cast<char*>(&fiber);
  forget(low, STACK_BYTES);
  fiber.processor = processor;
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
