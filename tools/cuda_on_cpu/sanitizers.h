// What AddressSanitizer and ThreadSanitizer must be told about fibers and shared memory. Without them, nothing at all.
#pragma once

#include <stddef.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace cuda_on_cpu {

#ifdef __SANITIZE_ADDRESS__
constexpr bool ADDRESS_SANITIZER = true;
#else
constexpr bool ADDRESS_SANITIZER = false;
#endif
#ifdef __SANITIZE_THREAD__
constexpr bool THREAD_SANITIZER = true;
#else
constexpr bool THREAD_SANITIZER = false;
#endif

// While one of these lives, ThreadSanitizer looks away: the emulation's own reads and writes are not the kernel's.
struct Unseen {
#ifdef __SANITIZE_THREAD__
  Unseen() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~Unseen() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
#else
  Unseen() {}
#endif
};

// "What I did so far ..." and "... is done before what I do now", for one object: what a barrier means. Nothing else
// orders the threads of a launch, neither shuffles nor the sequence in which they happen to run here.
inline void release([[maybe_unused]] void* object) {
#ifdef __SANITIZE_THREAD__
  __tsan_release(object);
#endif
}
inline void acquire([[maybe_unused]] void* object) {
#ifdef __SANITIZE_THREAD__
  __tsan_acquire(object);
#endif
}

inline void poison([[maybe_unused]] const void* from, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(from, bytes);
#endif
}
inline void unpoison([[maybe_unused]] const void* from, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(from, bytes);
#endif
}

// For ThreadSanitizer, what one block did to a stack has nothing to do with what the next does there: the stack is
// mapped anew, and its contents are lost.
inline void forget([[maybe_unused]] void* stack, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_THREAD__
  mmap(stack, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
#endif
}

// The part of a context that belongs to the sanitizers. `begin` is called before a fiber is entered for the first time,
// `enter` as the first thing on it; `leave` and `arrive` are the two ends of a switch.
#if defined(__SANITIZE_ADDRESS__)
struct SanitizerContext {
  void* fake_stack = nullptr;
  const void* low = nullptr;
  size_t bytes = 0;

  void current() {}
  void begin(void* stack, size_t size) { fake_stack = nullptr, low = stack, bytes = size; }
  void enter(SanitizerContext& from) { __sanitizer_finish_switch_fiber(nullptr, &from.low, &from.bytes); }
  void leave(SanitizerContext& to) { __sanitizer_start_switch_fiber(&fake_stack, to.low, to.bytes); }
  void arrive() { __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr); }
  void end() {}
};
#elif defined(__SANITIZE_THREAD__)
struct SanitizerContext {
  void* fiber = nullptr;  // ThreadSanitizer's idea of the thread

  void current() { fiber = __tsan_get_current_fiber(); }
  void begin(void*, size_t) { fiber = __tsan_create_fiber(0); }
  void enter(SanitizerContext&) {}
  void leave(SanitizerContext& to) { __tsan_switch_to_fiber(to.fiber, __tsan_switch_to_fiber_no_sync); }
  void arrive() {}
  void end() { __tsan_destroy_fiber(fiber); }
};
#else
struct SanitizerContext {
  void current() {}
  void begin(void*, size_t) {}
  void enter(SanitizerContext&) {}
  void leave(SanitizerContext&) {}
  void arrive() {}
  void end() {}
};
#endif

}  // namespace cuda_on_cpu
