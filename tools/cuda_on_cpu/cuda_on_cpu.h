// The vocabulary of CUDA C++ for an ordinary C++17 compiler: before a .cu file, it makes its kernels run on a CPU.
//
//   calls.h          what a kernel knows of its block, and calls
//   fiber.h          one stack for each CUDA thread that waits
//   shared_memory.h  __shared__, filled with NaN before every block
//   warp.h           __syncthreads, __syncwarp, shuffles
//   number.h         half, bfloat16 and TF32
//   tensor_core.h    mma.sync, ldmatrix
//   warpgroup.h      wgmma, as late as the rules allow
//   launch.h         from Python's call to the kernel's
//
// and behind those calls, compiled once and not with every kernel:
//
//   emulation.h      all that follows
//   scheduler.h      who runs when
//   stacks.h         switching from one thread to another
//   barrier.h        waiting for others, and what goes wrong there
//   shared_layout.h  where in shared memory each declaration has its place
//   async_copy.h     cp.async, as late as the rules allow
//   warpgroup_wait.h the same of wgmma
//   bulk_copy.h      bulk tensor copies and their barriers, as late as the rules allow
//   os_threads.h     OS threads that share the blocks
//   sanitizers.h     what AddressSanitizer and ThreadSanitizer are told
//
// Only what the kernels use is here. What is missing fails to compile, at its line of the .cu file.
#pragma once

#include <cstddef>
#undef _GLIBCXX_USE_STD_SPEC_FUNCS  // Bessel's and others of C++17: half of the time that these headers take
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "launch.h"
#include "number.h"
#include "tensor_core.h"
#include "warp.h"
#include "warpgroup.h"

// ---- qualifiers -----------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

// ---- which thread ---------------------------------------------------------------------------------------------------

#define threadIdx (cuda_on_cpu::here().thread_index)
#define blockIdx (cuda_on_cpu::here().block->block_index)
#define blockDim (cuda_on_cpu::here().block->block_size)
#define gridDim (cuda_on_cpu::here().block->grid_size)
constexpr int warpSize = 32;

// ---- shared memory: declarations become calls of these (nstcore/engines/cuda/on_cpu_build.py) -----------------------

namespace cuda_on_cpu {

// `Declaration` is a type of its own for every declaration, and for every instance of the template that it stands in
template <class T, class Declaration, size_t ALIGNMENT>
struct SharedPlace {
  static const size_t offset;
};
template <class T, class Declaration, size_t ALIGNMENT>
const size_t SharedPlace<T, Declaration, ALIGNMENT>::offset =
    shared_place(sizeof(T), ALIGNMENT > alignof(T) ? ALIGNMENT : alignof(T));

template <class T, size_t ALIGNMENT = 1, class Declaration>
inline T& shared_variable(Declaration) {
  return *reinterpret_cast<T*>(here().block->shared.variable(SharedPlace<T, Declaration, ALIGNMENT>::offset));
}

template <class T>
inline T* shared_dynamic() {
  return reinterpret_cast<T*>(here().block->shared.dynamic());
}

}  // namespace cuda_on_cpu

// ---- short vectors --------------------------------------------------------------------------------------------------

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- functions ------------------------------------------------------------------------------------------------------

template <class T>
inline T __ldg(const T* at) {
  return *at;
}
inline unsigned __float_as_uint(float v) { return cuda_on_cpu::bits_of(v); }
inline float __uint_as_float(unsigned bits) { return cuda_on_cpu::float_of(bits); }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float rsqrtf(float v) { return 1.f / sqrtf(v); }
template <class T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T max(T a, T b) {
  return a < b ? b : a;
}
