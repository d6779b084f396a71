// Barriers: where threads of a block, or lanes of a warp, wait until all have come. The last to arrive does what is to
// be done for all, and makes all ready to go on. And the mistakes: what a kernel does that CUDA leaves undefined ends
// the launch, with a message that names the line, the block and the thread.
#pragma once

#include <stdarg.h>
#include <stdio.h>

#include "scheduler.h"

namespace cuda_on_cpu {

inline void Processor::meet(Barrier& barrier, unsigned expected, const Site& site, bool orders_memory,
                            void (*last)(Fiber*)) {
  Unseen unseen;
  Fiber& me = here();
  if (!barrier.arrived) {
    barrier.site = site, barrier.first = barrier.last = nullptr;
  } else if (!(barrier.site == site)) {
    const Site& other = barrier.site;
    fail(site, "others wait at %s, %s:%d: all must come to the same", other.call, other.file, other.line);
  }
  void* memory = &barrier.order[barrier.round & 1];
  if (orders_memory) release(memory);
  me.next = nullptr;
  barrier.last = (barrier.last ? barrier.last->next : barrier.first) = &me;
  threads[me.thread].waits = &barrier;
  if (++barrier.arrived == expected) {
    if (last) last(barrier.first);
    for (Fiber* fiber = barrier.first; fiber; fiber = fiber->next) {
      threads[fiber->thread].waits = nullptr;
      ready[(ready_first + ready_count++) % LARGEST_BLOCK] = fiber;
    }
    barrier.arrived = 0, ++barrier.round;
  }
  leave(me);
  if (orders_memory) acquire(memory);
}

// Where `lanes` of this thread's warp meet. Other lanes may meet elsewhere meanwhile, and their mask may even overlap
// with this one: who is done with half a warp may already wait for the whole.
inline Barrier& Processor::warp_barrier(unsigned lanes, const Site& site) {
  const Fiber& me = here();
  const unsigned lane = me.thread % WARP;
  if (!(lanes >> lane & 1)) fail(site, "the mask 0x%08x does not name the calling lane, %u", lanes, lane);
  Barrier* of_warp = barriers->warp[me.thread / WARP];
  Barrier* unused = nullptr;
  for (unsigned i = 0; i < WARP; ++i) {
    Barrier& barrier = of_warp[i];
    if (barrier.arrived && barrier.lanes == lanes) return barrier;
    if (!barrier.arrived && !unused) unused = &barrier;
    if (!barrier.arrived && !barrier.round) break;  // never used, nor those after it
  }
  unused->lanes = lanes;  // there is one: each of the other lanes waits at one at most
  return *unused;
}

void meet_block(const Site& site) {
  const dim3& size = processor().block_size;
  processor().meet(processor().barriers->block, size.x * size.y * size.z, site, true);
}

void meet_warp(unsigned lanes, const Site& site, void* operands, void (*last)(Fiber*), bool orders_memory) {
  Unseen unseen;
  here().operands = operands;
  processor().meet(processor().warp_barrier(lanes, site), __builtin_popcount(lanes), site, orders_memory, last);
}

inline void Processor::describe(char* to, size_t size, unsigned thread) const {
  const uint3 t = index_of(thread), b = block_index;
  snprintf(to, size, "block (%u, %u, %u), thread (%u, %u, %u)", b.x, b.y, b.z, t.x, t.y, t.z);
}

inline void Processor::say(const Site& site, unsigned thread, const char* format, va_list arguments) {
  char who[120], what[400];
  describe(who, sizeof who, thread);
  vsnprintf(what, sizeof what, format, arguments);
  snprintf(message, sizeof message, "%s:%d: %s, %s: %s", site.file, site.line, who, site.call, what);
  failed = true;
}

// A mistake of a thread that may not be the one that runs: nothing runs after it
inline void Processor::report(const Site& site, unsigned thread, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  say(site, thread, format, arguments);
  va_end(arguments);
}

void fail(const Site& site, const char* format, ...) {
  Unseen unseen;
  va_list arguments;
  va_start(arguments, format);
  processor().say(site, here().thread, format, arguments);
  va_end(arguments);
  processor().leave(here());
  __builtin_unreachable();  // nobody goes on after a mistake
}

// All who are left wait: names one that waits, and one that it waits for
inline void Processor::deadlock() {
  if (endless_phase()) return;
  unsigned waiting = 0, missing = 0;
  while (!threads[waiting].waits) ++waiting;
  const Barrier& barrier = *threads[waiting].waits;
  const bool warp = &barrier != &barriers->block;
  auto expected = [&](unsigned t) {
    return !warp || (t / WARP == waiting / WARP && barrier.lanes >> t % WARP & 1);
  };
  while (missing < count && (!expected(missing) || threads[missing].waits == &barrier)) ++missing;
  char who[120], whom[120], why[300] = "which the block does not have";
  describe(who, sizeof who, waiting);
  if (missing < count) {
    const uint3 t = index_of(missing);
    snprintf(whom, sizeof whom, "thread (%u, %u, %u)", t.x, t.y, t.z);
    const Barrier* other = threads[missing].waits;
    if (!other)
      snprintf(why, sizeof why, "which has ended");
    else
      snprintf(why, sizeof why, "which waits at %s, %s:%d", other->site.call, other->site.file, other->site.line);
  } else {
    snprintf(whom, sizeof whom, "lanes of the mask 0x%08x", barrier.lanes);
  }
  snprintf(message, sizeof message, "%s:%d: %s, %s: never reached by %s, %s", barrier.site.file, barrier.site.line, who,
           barrier.site.call, whom, why);
  failed = true;
}

}  // namespace cuda_on_cpu
