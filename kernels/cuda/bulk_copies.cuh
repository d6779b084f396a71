// Bulk tensor copies (TMA), and the barriers by which they are waited for. sm_90.
//
// Beside each instruction stands what it is on the CPU (tools/cuda_on_cpu/bulk_copy.h), written from the same sections
// of the PTX ISA (9.0): on mbarrier, on cp.async.bulk.tensor, and on tensors, their boxes and swizzling modes.
//
//   barrier_init      makes a barrier; a phase of it is over once `arrivals` threads have arrived and all bytes that
//                     they expect are there; then the next one begins
//   barrier_arrive    one arrival
//   barrier_expect    one arrival, and so many bytes of copies to wait for
//   barrier_wait      until the phase of that parity (0 for the first, 1, 0, ...) is over. The one before the first
//                     counts as over.
//   copy_box          one thread has a whole box of an array copied, which a barrier counts
#pragma once
#include "warpgroup.cuh"

typedef uint64 mbarrier;

// An array of three dimensions and the size of a box in it, as the host has described it (engines/cuda/tensor_map.py):
// for the driver to encode, or for the CPU to read
#ifdef CUDA_ON_CPU
typedef cuda_on_cpu::TensorMap tensor_map;
#else
struct __align__(64) tensor_map {
  uint64 encoded[16];
};
#endif

// Visible to the copies after show_to_tensor_cores, to other threads after the next __syncthreads
__device__ __forceinline__ void barrier_init(mbarrier* barrier, int arrivals CALL_SITE) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::barrier_init(barrier, arrivals, site_file, site_line);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(mbarrier* barrier CALL_SITE) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::barrier_arrive(barrier, 0, site_file, site_line);
#else
  asm volatile("{.reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0];}" ::"r"(shared_address(barrier))
               : "memory");
#endif
}

__device__ __forceinline__ void barrier_expect(mbarrier* barrier, int bytes CALL_SITE) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::barrier_arrive(barrier, bytes, site_file, site_line);
#else
  asm volatile("{.reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;}" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
#endif
}

__device__ __forceinline__ void barrier_wait(mbarrier* barrier, int parity CALL_SITE) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::barrier_wait(barrier, parity, site_file, site_line);
#else
  uint32_t over;
  do  // each try lets the thread rest for a while
    asm volatile("{.reg .pred over; mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2; selp.b32 %0, 1, 0, over;}"
                 : "=r"(over)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
  while (!over);
#endif
}

// The box of `map` that begins at the indices (i2, i1, i0), the last one running along memory; what of it lies outside
// is zeros, and counts. Its rows of 128 bytes, permuted as tile_copies.cuh does it, follow each other from `to` on, a
// multiple of 1024. `map` is a __grid_constant__ parameter of the kernel.
__device__ __forceinline__ void copy_box(void* to, const tensor_map& map, int i2, int i1, int i0,
                                         mbarrier* barrier CALL_SITE) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::copy_box(to, map, i2, i1, i0, barrier, site_file, site_line);
#else
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
      ::"r"(shared_address(to)), "l"(&map), "r"(i0), "r"(i1), "r"(i2), "r"(shared_address(barrier)) : "memory");
#endif
}
