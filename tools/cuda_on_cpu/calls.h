// What a kernel knows of its block, and calls: all else of the emulation is behind it (emulation.h), compiled once.
#pragma once

#include "fiber.h"
#include "shared_memory.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace cuda_on_cpu {

constexpr unsigned WARP = 32;

struct Block {
  uint3 block_index;  // blockIdx
  dim3 block_size, grid_size;
  SharedMemory shared;
};

// What Python asks for
struct Launch {
  unsigned grid[3], block[3];
  uint64_t shared_bytes;  // dynamic
  int order;
  unsigned os_threads;
  uint64_t seed;

  unsigned threads() const { return block[0] * block[1] * block[2]; }
  uint64_t blocks() const { return uint64_t(grid[0]) * grid[1] * grid[2]; }
};

// An array of three dimensions and a box in it, the fastest one first: what a GPU has encoded in 128 bytes
// (nstcore/engines/cuda/boxes.py)
struct TensorMap {
  const void* address;
  int64_t sizes[3], strides[2];  // elements; bytes, of all but the first
  uint32_t box[3], item;         // elements; bytes of one

  size_t bytes() const { return size_t(box[0]) * box[1] * box[2] * item; }
};

// A mistake of the thread that calls: ends the launch
[[noreturn]] void fail(const Site& site, const char* format, ...) __attribute__((format(printf, 2, 3)));

// barrier.h: `last` is done by the last to arrive, on behalf of all: the fibers are its list
void meet_block(const Site& site);
void meet_warp(unsigned lanes, const Site& site, void* operands, void (*last)(Fiber*), bool orders_memory = false);

// async_copy.h
void copy_async(void* shared, const void* source, int bytes, int from_bytes, const char* file, int line);
void copy_async_commit();
void copy_async_wait(int keep);

// warpgroup_wait.h
void request_product(float* d, uint64_t a, uint64_t b, void (*of_warp)(Fiber*), const Site& site);
void products_commit();
void products_wait(int keep);

// bulk_copy.h
void barrier_init(void* at, int arrivals, const char* file, int line);
void show_barriers();
void barrier_arrive(void* at, int bytes, const char* file, int line);
void barrier_wait(void* at, int parity, const char* file, int line);
void copy_box(void* to, const TensorMap& map, int i2, int i1, int i0, void* at, const char* file, int line);

// os_threads.h: 0, or 1 with what the kernel did wrong in `message`
int run(const Launch& launch, void (*kernel)(void*), void* arguments, char* message, size_t message_bytes);

}  // namespace cuda_on_cpu
