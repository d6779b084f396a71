// What the 32 lanes of a warp do together. Each brings its operands; the last to arrive computes for all of them.
#pragma once

#include "calls.h"

namespace cuda_on_cpu {

constexpr unsigned ALL_LANES = 0xffffffff;

inline unsigned lane(const Fiber& fiber) { return fiber.thread % WARP; }

// One lane's part of a shuffle
template <class T>
struct Shuffle {
  T value, result;
  unsigned source;  // lane

  static void all(Fiber* fibers) {
    Shuffle* brought[WARP] = {};
    for (Fiber* f = fibers; f; f = f->next) brought[lane(*f)] = static_cast<Shuffle*>(f->operands);
    for (Fiber* f = fibers; f; f = f->next) {
      Shuffle& mine = *brought[lane(*f)];
      const Shuffle* from = brought[mine.source];
      if (from)
        mine.result = from->value;
      else
        memset(&mine.result, 0xff, sizeof(T));  // a lane that takes no part: undefined
    }
  }
};

template <class T>
T shuffle(const char* call, unsigned lanes, T value, unsigned source, int width, const char* file, int line) {
  static_assert(sizeof(T) <= 8, "shuffles exchange 4 or 8 bytes");
  const Site site = {call, file, line};
  if (width != WARP) fail(site, "width %d: only 32 is emulated", width);
  Shuffle<T> mine = {value, value, source};
  meet_warp(lanes, site, &mine, Shuffle<T>::all);
  return mine.result;
}

}  // namespace cuda_on_cpu

#define CALLED int width = 32, const char *file = __builtin_FILE(), int line = __builtin_LINE()

// The value of `source`
template <class T>
T __shfl_sync(unsigned lanes, T value, int source, CALLED) {
  return cuda_on_cpu::shuffle("__shfl_sync", lanes, value, source & 31, width, file, line);
}

// The value of the lane `delta` further up or down; the lane's own where there is none
template <class T>
T __shfl_down_sync(unsigned lanes, T value, unsigned delta, CALLED) {
  const unsigned lane = cuda_on_cpu::lane(cuda_on_cpu::here()), source = lane + delta;
  return cuda_on_cpu::shuffle("__shfl_down_sync", lanes, value, source < 32 ? source : lane, width, file, line);
}

template <class T>
T __shfl_up_sync(unsigned lanes, T value, unsigned delta, CALLED) {
  const unsigned lane = cuda_on_cpu::lane(cuda_on_cpu::here());
  return cuda_on_cpu::shuffle("__shfl_up_sync", lanes, value, delta <= lane ? lane - delta : lane, width, file, line);
}

template <class T>
T __shfl_xor_sync(unsigned lanes, T value, int mask, CALLED) {
  const unsigned source = cuda_on_cpu::lane(cuda_on_cpu::here()) ^ (mask & 31);
  return cuda_on_cpu::shuffle("__shfl_xor_sync", lanes, value, source, width, file, line);
}
#undef CALLED

// Waits for the lanes, and makes visible to each what the others wrote; a shuffle does not
inline void __syncwarp(unsigned lanes = cuda_on_cpu::ALL_LANES, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  cuda_on_cpu::meet_warp(lanes, {"__syncwarp", file, line}, nullptr, nullptr, true);
}

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_on_cpu::meet_block({"__syncthreads", file, line});
}
