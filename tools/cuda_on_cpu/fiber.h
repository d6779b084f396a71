// A fiber: a stack of its own, on which one CUDA thread runs until it has to wait for others (stacks.h).
//
// Every stack begins, at its low end, with the record of who runs on it. Stacks are aligned to their size, so that any
// function finds the record of its thread by clearing the low bits of its frame's address: `here()`. That is how
// threadIdx can differ from thread to thread without thread-local storage.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

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

struct Block;

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
  Block* block;          // that its thread belongs to
  uint3 thread_index;    // threadIdx
  unsigned thread;       // the same, counted: x + blockDim.x * (y + blockDim.y * z)
  void* operands;        // what the thread brings to the call of its warp at which it waits
  Fiber* next;           // after it in the list of those who wait for the same, or among the idle
};

inline __attribute__((always_inline)) Fiber& here() {
  return *reinterpret_cast<Fiber*>(reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) & ~(STACK_BYTES - 1));
}

}  // namespace cuda_on_cpu
