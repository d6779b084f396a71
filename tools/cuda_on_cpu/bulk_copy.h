// Bulk tensor copies and the barriers that count them (mbarrier). The rules leave it open when, between the request and
// the end of the wait, a copy happens. So here its destination is NaN from the request on, and it gets its data only
// when all threads wait, among them one for that copy: who reads too early, or has a box copied over what others still
// read, shows.
//
// Written from the PTX ISA 9.0: the sections on mbarrier, on cp.async.bulk.tensor, and on tensors, their boxes, what is
// outside of them, and the modes of swizzling.
#pragma once

#include "barrier.h"

namespace cuda_on_cpu {

inline Mbarrier& mbarrier_at(void* at, const Site& site) {
  const auto found = processor().mbarriers.find(at);
  if (found == processor().mbarriers.end()) fail(site, "no barrier_init of %p before it", at);
  return found->second;
}

void barrier_init(void* at, int arrivals, const char* file, int line) {
  Unseen unseen;
  const Site site = {"barrier_init", file, line};
  if (!processor().shared.holds(at)) fail(site, "%p is not in shared memory", at);
  if (reinterpret_cast<uintptr_t>(at) % 8) fail(site, "%p is not a multiple of its 8 bytes", at);
  if (processor().mbarriers.count(at)) fail(site, "%p is a barrier already", at);
  if (arrivals < 1) fail(site, "expected at least 1 arrival, got %d", arrivals);
  Mbarrier& made = processor().mbarriers[at];
  made.arrivals = made.missing = unsigned(arrivals);
  made.maker = here().thread;
  release(&made.order);
}

// The fence between making a barrier and the first copy that it counts
void show_barriers() {
  Unseen unseen;
  for (auto& [at, barrier] : processor().mbarriers)
    if (barrier.maker == here().thread) barrier.shown = true;
}

// One arrival, which expects so many bytes
void barrier_arrive(void* at, int bytes, const char* file, int line) {
  Unseen unseen;
  const Site site = {"barrier_arrive", file, line};
  Mbarrier& barrier = mbarrier_at(at, site);
  if (!barrier.missing)
    fail(site, "all of %u arrivals were there, %lld bytes were still to come", barrier.arrivals,
         (long long)barrier.bytes);
  release(&barrier.order);
  barrier.bytes += bytes;
  --barrier.missing;
  if (!barrier.missing && !barrier.bytes) processor().end_phase(barrier);
}

void barrier_wait(void* at, int parity, const char* file, int line) {
  Unseen unseen;
  const Site site = {"barrier_wait", file, line};
  Mbarrier& barrier = mbarrier_at(at, site);
  if (parity != int(barrier.phase % 2)) {
    acquire(&barrier.order);
    return;
  }
  processor().wait(barrier, site);
  acquire(&barrier.order);
}

void copy_box(void* to, const TensorMap& map, int i2, int i1, int i0, void* at, const char* file, int line) {
  Unseen unseen;
  const Site site = {"copy_box", file, line};
  Mbarrier& barrier = mbarrier_at(at, site);
  char* const end = static_cast<char*>(to) + map.bytes() - 1;
  if (shared_address(to) % 1024) fail(site, "destination %p does not begin on 1024 bytes", to);
  if (!processor().shared.holds(to) || !processor().shared.holds(end))
    fail(site, "destination %p and its %zu bytes are not in shared memory", to, map.bytes());
  const unsigned row = map.box[0] * map.item;
  if (row != 128) fail(site, "rows of %u bytes: only 128 are emulated", row);
  if (!barrier.shown) fail(site, "no fence between barrier_init of %p and this", at);
  memset(to, 0xff, map.bytes());
  barrier.copies.push_back({static_cast<char*>(to), map, {i0, i1, i2}, here().thread, site});
}

// The box, row by row; of what lies outside of the array, zeros. Pieces of 16 bytes are permuted by the address that
// results, as in described_row.
inline void BulkCopy::carry_out(const SharedMemory& shared) const {
  const uint32_t piece = 16 / map.item;
  uint32_t address = uint32_t(to - shared.variable(0));
  for (uint32_t b2 = 0; b2 < map.box[2]; ++b2)
    for (uint32_t b1 = 0; b1 < map.box[1]; ++b1)
      for (uint32_t b0 = 0; b0 < map.box[0]; b0 += piece, address += 16) {
        char* const into = shared.variable(address ^ (address >> 7 & 7) << 4);
        const int64_t i0 = first[0] + int64_t(b0), i1 = first[1] + int64_t(b1), i2 = first[2] + int64_t(b2);
        const bool inside = i1 >= 0 && i1 < map.sizes[1] && i2 >= 0 && i2 < map.sizes[2];
        const char* row = static_cast<const char*>(map.address) + i2 * map.strides[1] + i1 * map.strides[0];
        for (uint32_t e = 0; e < piece; ++e) {
          if (inside && i0 + e >= 0 && i0 + e < map.sizes[0])
            memcpy(into + e * map.item, row + (i0 + e) * map.item, map.item);
          else
            memset(into + e * map.item, 0, map.item);
        }
      }
}

inline void Processor::wait(Mbarrier& barrier, const Site& site) {
  Fiber& me = here();
  me.next = barrier.waiting;
  barrier.waiting = &me;
  threads[me.thread].awaits = &barrier;
  threads[me.thread].site = site;
  leave(me);
}

// All who wait go on, and the next phase begins
inline void Processor::end_phase(Mbarrier& barrier) {
  barrier.missing = barrier.arrivals;
  ++barrier.phase;
  for (Fiber* fiber = barrier.waiting; fiber; fiber = fiber->next) {
    threads[fiber->thread].awaits = nullptr;
    ready[(ready_first + ready_count++) % LARGEST_BLOCK] = fiber;
  }
  barrier.waiting = nullptr;
  if (barrier.copies.empty()) return;
  const BulkCopy& left = barrier.copies.front();
  report(left.site, left.thread, "all bytes that its barrier expects are there without it");
}

// Nobody can go on: one barrier's copies are carried out, for which somebody waits; false if there is none
inline bool Processor::deliver() {
  std::vector<Mbarrier*> due;
  for (auto& [at, barrier] : mbarriers)
    if (barrier.waiting && !barrier.missing && !barrier.copies.empty()) due.push_back(&barrier);
  if (due.empty()) return false;
  const unsigned last = unsigned(due.size()) - 1;
  Mbarrier& barrier = *due[order == RANDOM ? random.below(last + 1) : order == DESCENDING ? last : 0];
  while (barrier.bytes && !barrier.copies.empty()) {
    const BulkCopy copy = barrier.copies.front();
    barrier.copies.erase(barrier.copies.begin());
    copy.carry_out(shared);
    barrier.bytes -= int64_t(copy.map.bytes());
    if (barrier.bytes < 0) {
      report(copy.site, copy.thread, "%lld bytes more than its barrier expects", (long long)-barrier.bytes);
      return true;
    }
  }
  if (!barrier.bytes) end_phase(barrier);
  return true;
}

// Where all wait, and one of them for a phase that never ends: says so
inline bool Processor::endless_phase() {
  for (unsigned t = 0; t < count; ++t)
    if (const Mbarrier* barrier = threads[t].awaits) {
      report(threads[t].site, t, "its phase never ends: %u of %u arrivals and %lld bytes are missing", barrier->missing,
             barrier->arrivals, (long long)barrier->bytes);
      return true;
    }
  return false;
}

// What the block leaves behind must be at rest
inline void Processor::finish_copies() {
  for (auto& [at, barrier] : mbarriers)
    if (!failed && !barrier.copies.empty()) {
      const BulkCopy& left = barrier.copies.front();
      report(left.site, left.thread, "still under way where the block ends: no barrier_wait for it");
    }
}

}  // namespace cuda_on_cpu
