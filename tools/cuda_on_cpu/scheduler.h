// Who runs when. One Processor carries out one block after the other, as a multiprocessor of a GPU does with its share.
//
// Its threads take turns: a thread runs until it ends or waits for others at a barrier, then the processor picks the
// next one. In what order threads begin and go on is the launch's choice: a correct kernel gives the same bits in any
// order, a kernel with a race hardly in three.
//
// A kernel without barriers never switches: one fiber takes one thread after the other, a plain loop.
#pragma once

#include <stdarg.h>
#include <stdlib.h>

#include <map>
#include <utility>
#include <vector>

#include "shared_layout.h"
#include "stacks.h"
#include "warpgroup.h"

namespace cuda_on_cpu {

constexpr unsigned LARGEST_BLOCK = 1024;

enum Order { ASCENDING, DESCENDING, RANDOM };

struct Random {  // splitmix64
  uint64_t state;

  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  unsigned below(unsigned n) { return unsigned(next() % n); }
};

// Where threads wait until all have come
struct Barrier {
  Site site;
  unsigned arrived = 0;
  unsigned lanes = 0;                       // a warp's: which of its lanes meet here
  unsigned round = 0;                       // how often all have come
  Fiber *first = nullptr, *last = nullptr;  // who waits
  char order[2];  // for ThreadSanitizer, by round: who is quick comes to the next before all have left this one
};

// One for the block, and for each warp as many as its lanes could wait at
struct Barriers {
  Barrier block, warp[LARGEST_BLOCK / WARP][WARP];
};

// A request of cp.async
struct AsyncCopy {
  void* shared;
  const void* source;
  int bytes, from_bytes;
  unsigned group;
  const char* file;
  int line;
};

// A box under way (bulk_copy.h)
struct BulkCopy {
  char* to;
  TensorMap map;
  int first[3];
  unsigned thread;  // that asked for it
  Site site;

  void carry_out(const SharedMemory& shared) const;
};

// A barrier in shared memory (bulk_copy.h)
struct Mbarrier {
  unsigned arrivals = 0, missing = 0;  // of a phase; still to come in this one
  int64_t bytes = 0;                   // likewise
  unsigned phase = 0;
  unsigned maker = 0;   // the thread that made it
  bool shown = false;   // to the copies, by a fence of that thread
  std::vector<BulkCopy> copies;  // under way, in the order they were asked for
  Fiber* waiting = nullptr;
  char order;  // for ThreadSanitizer
};

// What is known of a CUDA thread, whether it runs, waits or has ended
struct Thread {
  Barrier* waits;                 // where, or null
  Mbarrier* awaits;               // the same of a barrier in shared memory,
  Site site;                      // and at which call
  unsigned copy_groups;           // ended by copy_async_commit so far
  std::vector<AsyncCopy> copies;  // still under way, in the order they were asked for
  unsigned product_groups;        // ended by products_commit so far
  std::vector<WarpgroupProduct> products;
};

class Processor : public Block {
 public:
  // Carries out block number `block` of a launch; false if the kernel made a mistake, which is then in `message`
  bool run(const Launch& launch, void (*kernel)(void*), void* arguments, uint64_t block);

  // For the calls of a kernel (calls.h)
  void meet(Barrier& barrier, unsigned expected, const Site& site, bool orders_memory, void (*last)(Fiber*) = nullptr);
  Barrier& warp_barrier(unsigned lanes, const Site& site);
  void say(const Site& site, unsigned thread, const char* format, va_list arguments);
  void leave(Fiber& fiber);
  Thread& thread() { return threads[here().thread]; }  // the one that calls
  void wait(Mbarrier& barrier, const Site& site);      // until its phase is over
  void end_phase(Mbarrier& barrier);

  Barriers* barriers = nullptr;
  std::map<void*, Mbarrier> mbarriers;  // by where they lie
  char over;  // for ThreadSanitizer; blocks of one launch are not ordered, but what comes after the launch is
  char message[1000];

 private:
  void begin(const Launch& launch, uint64_t block);
  static void fiber_main();
  bool run_thread(Fiber& fiber);
  Fiber* pick();
  Fiber* idle_fiber();
  void deadlock();
  bool deliver();
  bool endless_phase();
  void finish_copies();
  void report(const Site& site, unsigned thread, const char* format, ...) __attribute__((format(printf, 4, 5)));
  uint3 index_of(unsigned thread) const;
  void describe(char* to, size_t size, unsigned thread) const;

  Context context;  // of the OS thread
  void (*kernel)(void*);
  void* arguments;
  int order;
  Random random;
  unsigned count, begun, live;       // threads of this block
  unsigned sequence[LARGEST_BLOCK];  // in which they begin
  Thread threads[LARGEST_BLOCK];
  Fiber* ready[LARGEST_BLOCK];  // a ring of those who can go on
  unsigned ready_first, ready_count;
  std::vector<Fiber*> stacks;  // kept from block to block
  unsigned stacks_used;
  Fiber* idle;  // list of fibers whose threads have ended
  bool failed = false;
};

// That of the thread that calls
inline Processor& processor() { return static_cast<Processor&>(*here().block); }

inline uint3 Processor::index_of(unsigned thread) const {
  return {thread % block_size.x, thread / block_size.x % block_size.y, thread / (block_size.x * block_size.y)};
}

inline void Processor::begin(const Launch& launch, uint64_t block) {
  grid_size = dim3(launch.grid[0], launch.grid[1], launch.grid[2]);
  block_size = dim3(launch.block[0], launch.block[1], launch.block[2]);
  block_index = {unsigned(block % grid_size.x), unsigned(block / grid_size.x % grid_size.y),
                 unsigned(block / grid_size.x / grid_size.y)};
  order = launch.order;
  random.state = launch.seed + block * 0x632be59bd9b4e019;  // whichever OS thread it runs on
  count = live = launch.threads(), begun = 0;
  for (unsigned i = 0; i < count; ++i) sequence[i] = order == DESCENDING ? count - 1 - i : i;
  if (order == RANDOM)
    for (unsigned i = count; i > 1; --i) std::swap(sequence[i - 1], sequence[random.below(i)]);
  if (!barriers || THREAD_SANITIZER || failed) {
    delete barriers;
    barriers = new Barriers;
  }
  for (unsigned i = 0; i < count; ++i) {
    threads[i].waits = nullptr, threads[i].awaits = nullptr, threads[i].copy_groups = threads[i].product_groups = 0;
    threads[i].copies.clear(), threads[i].products.clear();
  }
  mbarriers.clear();
  ready_first = ready_count = 0;
  stacks_used = 0, idle = nullptr, failed = false;
  shared.renew(launch.shared_bytes);
}

inline bool Processor::run(const Launch& launch, void (*kernel)(void*), void* arguments, uint64_t block) {
  Unseen unseen;
  begin(launch, block);
  this->kernel = kernel, this->arguments = arguments;
  context.sanitizer.current();
  while (live && !failed) {
    Fiber* next = pick();
    if (next)
      switch_context(context, next->context);
    else if (!deliver())
      deadlock();
  }
  finish_copies();
  for (unsigned i = 0; i < stacks_used; ++i) {
    if (failed)
      unpoison(stacks[i], STACK_BYTES);  // what was left in the middle of a function
    else
      stacks[i]->context.sanitizer.end();
  }
  return !failed;
}

// The next fiber to run: of those who can go on, else a new one for the next thread that has not begun
inline Fiber* Processor::pick() {
  const bool fresh = begun < count;
  if (ready_count && !(order == RANDOM && fresh && random.below(2))) {
    if (order == RANDOM)
      std::swap(ready[ready_first], ready[(ready_first + random.below(ready_count)) % LARGEST_BLOCK]);
    Fiber* next = ready[ready_first];
    ready_first = (ready_first + 1) % LARGEST_BLOCK, --ready_count;
    return next;
  }
  return fresh ? idle_fiber() : nullptr;
}

inline Fiber* Processor::idle_fiber() {
  Fiber* fiber = idle;
  if (fiber) {
    idle = fiber->next;
    return fiber;
  }
  if (stacks_used == stacks.size()) {
    Fiber* mapped = map_stacks(WARP);
    if (!mapped) abort();
    for (unsigned i = 0; i < WARP; ++i, mapped = stack_after(mapped)) stacks.push_back(mapped);
  }
  fiber = stacks[stacks_used++];
  prepare(*fiber, this, fiber_main);
  return fiber;
}

// Lets another one run
CUDA_ON_CPU_UNSEEN inline void Processor::leave(Fiber& fiber) {
  release(&over);
  switch_context(fiber.context, context);
}

CUDA_ON_CPU_UNSEEN inline void Processor::fiber_main() {
  Fiber& me = here();
  Processor& processor = static_cast<Processor&>(*me.block);
  me.context.sanitizer.enter(processor.context.sanitizer);
  for (;;) {
    while (processor.run_thread(me)) continue;
    processor.leave(me);
  }
}

// True if the fiber can take the next one
inline bool Processor::run_thread(Fiber& me) {
  {
    Unseen unseen;
    me.thread = sequence[begun++];
    me.thread_index = index_of(me.thread);
  }
  kernel(arguments);
  Unseen unseen;
  Thread& thread = threads[me.thread];
  if (!thread.copies.empty()) {
    const AsyncCopy& left = thread.copies.front();
    fail({"copy_async", left.file, left.line}, "still under way where the thread ends: no copy_async_wait after it");
  }
  if (!thread.products.empty()) {
    const WarpgroupProduct& left = thread.products.front();
    fail({"products", left.file, left.line}, "still under way where the thread ends: no products_wait after it");
  }
  --live;
  if (THREAD_SANITIZER) return false;                 // every thread is a fiber of its own
  if (order != RANDOM && begun < count) return true;  // one after the other, as long as none waits
  me.next = idle, idle = &me;
  return false;
}

}  // namespace cuda_on_cpu
