// cp.async. The rules leave it open when, between the request and the wait, a copy happens; a kernel must be right
// whenever it does. So here the destination is NaN from the request on, and gets its data only at the wait: who reads
// too early, or writes over what others still read, shows.
#pragma once

#include "barrier.h"

namespace cuda_on_cpu {

void copy_async(void* shared, const void* source, int bytes, int from_bytes, const char* file, int line) {
  const Site site = {"copy_async", file, line};
  const SharedMemory& memory = here().block->shared;
  const uintptr_t to = reinterpret_cast<uintptr_t>(shared), from = reinterpret_cast<uintptr_t>(source);
  if (to & (bytes - 1)) fail(site, "destination %p is not a multiple of the %d bytes it copies", shared, bytes);
  if (from & (bytes - 1)) fail(site, "source %p is not a multiple of the %d bytes it copies", source, bytes);
  if (!memory.holds(shared)) fail(site, "destination %p is not in shared memory", shared);
  if (memory.holds(source)) fail(site, "source %p is in shared memory", source);
  memset(shared, 0xff, bytes);
  if (ADDRESS_SANITIZER && from_bytes) {  // so that it complains here, not at the wait
    char seen[16];
    memcpy(seen, source, from_bytes);
  }
  Unseen unseen;
  Thread& thread = processor().thread();
  thread.copies.push_back({shared, source, bytes, from_bytes, thread.copy_groups, file, line});
}

void copy_async_commit() {
  Unseen unseen;
  ++processor().thread().copy_groups;
}

// Carries out all copies but those of the last `keep` groups, and those in no group yet
void copy_async_wait(int keep) {
  auto due = [keep](AsyncCopy& copy, size_t i) {
    Unseen unseen;
    const Thread& thread = processor().thread();
    if (i == thread.copies.size() || thread.copies[i].group + keep >= thread.copy_groups) return false;
    copy = thread.copies[i];
    return true;
  };
  size_t done = 0;
  for (AsyncCopy copy; due(copy, done); ++done) {  // this the sanitizers see
    memcpy(copy.shared, copy.source, copy.from_bytes);
    memset(static_cast<char*>(copy.shared) + copy.from_bytes, 0, copy.bytes - copy.from_bytes);
  }
  Unseen unseen;
  std::vector<AsyncCopy>& copies = processor().thread().copies;
  copies.erase(copies.begin(), copies.begin() + done);
}

}  // namespace cuda_on_cpu
