// What AddressSanitizer and ThreadSanitizer must be told about fibers and shared memory. Without them, nothing at all.
#pragma once

#include <stddef.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <pthread.h>
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace cuda_on_cpu {

// A function in which a fiber of ThreadSanitizer ends: unknown to it, or it would take the next for called from there
#define CUDA_ON_CPU_UNSEEN __attribute__((no_sanitize("thread")))

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
// ThreadSanitizer takes half a millisecond and a megabyte to make a fiber. Two threads of one launch must not have the
// same, as the second would come after the first; what follows the launch does, so some are kept for it: those of this
// launch that have ended, and those of earlier ones, which all the libraries in the process share.
struct Fibers {
  size_t count;
  void* fibers[1024];

  void* take() { return count ? fibers[--count] : __tsan_create_fiber(0); }
  void put(void* fiber) {
    if (count < sizeof fibers / sizeof *fibers)
      fibers[count++] = fiber;
    else
      __tsan_destroy_fiber(fiber);
  }
};
static Fibers ended_fibers;
__attribute__((visibility("default"))) inline Fibers kept_fibers;
__attribute__((visibility("default"))) inline pthread_mutex_t kept_fibers_busy = PTHREAD_MUTEX_INITIALIZER;

struct SanitizerContext {
  void* fiber = nullptr;  // ThreadSanitizer's idea of the thread
  bool fresh = false;     // comes after what the launching thread did so far

  void current() { fiber = __tsan_get_current_fiber(); }
  void begin(void*, size_t) {
    pthread_mutex_lock(&kept_fibers_busy);
    fiber = kept_fibers.take(), fresh = true;
    pthread_mutex_unlock(&kept_fibers_busy);
  }
  void enter(SanitizerContext&) {}
  CUDA_ON_CPU_UNSEEN void leave(SanitizerContext& to) {
    const unsigned flags = to.fresh ? 0 : __tsan_switch_to_fiber_no_sync;
    to.fresh = false;
    __tsan_switch_to_fiber(to.fiber, flags);
  }
  void arrive() {}
  void end() { ended_fibers.put(fiber); }
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

// After a launch
inline void keep_fibers() {
#ifdef __SANITIZE_THREAD__
  Unseen unseen;
  pthread_mutex_lock(&kept_fibers_busy);
  while (ended_fibers.count) kept_fibers.put(ended_fibers.take());
  pthread_mutex_unlock(&kept_fibers_busy);
#endif
}

}  // namespace cuda_on_cpu
