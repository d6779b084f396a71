// A launch's blocks, shared by threads of the operating system, in the order that the launch asks for.
#pragma once

#include <pthread.h>

#include "barrier.h"

namespace cuda_on_cpu {

// Every number below n once: 0, 1, ...; or backwards; or jumping by a step that has no divisor in common with n
class BlockOrder {
 public:
  BlockOrder(const Launch& launch) : count(launch.blocks()) {
    if (launch.order == DESCENDING) first = count - 1, step = count - 1;
    if (launch.order == RANDOM) {
      Random random = {launch.seed};
      first = random.next() % count;
      do step = random.next() % count;
      while (divisor(step, count) != 1);
    }
  }
  uint64_t operator[](uint64_t i) const { return uint64_t((first + (unsigned __int128)step * i) % count); }

 private:
  static uint64_t divisor(uint64_t a, uint64_t b) { return b ? divisor(b, a % b) : a; }

  uint64_t count, first = 0, step = 1;
};

// A launch, shared by the OS threads that run it
struct Shared {
  const Launch& launch;
  void (*kernel)(void*);
  void* arguments;
  BlockOrder order;
  char* message;
  size_t message_bytes;
  uint64_t next = 0;  // this and what follows only by atomic operations
  int failed = 0;

  void work(Processor& processor) {
    const uint64_t count = launch.blocks();
    while (!__atomic_load_n(&failed, __ATOMIC_SEQ_CST)) {
      const uint64_t i = __atomic_fetch_add(&next, 1, __ATOMIC_SEQ_CST);
      if (i >= count) return;
      if (!processor.run(launch, kernel, arguments, order[i]) && !__atomic_exchange_n(&failed, 1, __ATOMIC_SEQ_CST))
        snprintf(message, message_bytes, "%s", processor.message);
    }
  }
};

struct Worker {
  Shared* shared;
  Processor* processor;
  pthread_t thread;

  static void* main(void* worker) {
    auto self = static_cast<Worker*>(worker);
    self->shared->work(*self->processor);
    return nullptr;
  }
};

int run(const Launch& launch, void (*kernel)(void*), void* arguments, char* message, size_t message_bytes) {
  // Processors, and with them their stacks, are kept from one launch to the next, which must wait for its turn
  static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER;
  static std::vector<Processor*>& processors = *new std::vector<Processor*>;
  pthread_mutex_lock(&busy);
  while (processors.size() < launch.os_threads) processors.push_back(new Processor);

  Shared shared = {launch, kernel, arguments, BlockOrder(launch), message, message_bytes};
  std::vector<Worker> others;
  for (unsigned i = 1; i < launch.os_threads && i < launch.blocks(); ++i)
    others.push_back({&shared, processors[i], {}});
  size_t begun = 0;  // where the system gives no more threads, fewer do all the work
  while (begun < others.size() &&
         !pthread_create(&others[begun].thread, nullptr, Worker::main, &others[begun]))
    ++begun;
  shared.work(*processors[0]);
  for (size_t i = 0; i < begun; ++i) pthread_join(others[i].thread, nullptr);
  acquire(&processors[0]->over);
  keep_fibers();
  pthread_mutex_unlock(&busy);
  return shared.failed;
}

}  // namespace cuda_on_cpu
