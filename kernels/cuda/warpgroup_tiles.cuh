// Matrix products by wgmma, tile by tile: D[m][n] = sum_k A[m][k] B[n][k], k running along memory in both. It offers
// what tensor_tiles.cuh does.
//
// A block of two warpgroups computes 128 x TILE_N of D, each warpgroup 64 rows. A chunk is 128 bytes of every row: 64
// elements of 16 bits, or 32 of TF32, which are 4 steps of 32 bytes, the depth of one wgmma.
//
//   global --cp.async--> STAGES of shared memory, STAGES - 2 chunks ahead --wgmma--> sums
//
// There are no fragments: the tensor cores read shared memory by themselves, B once for 64 rows of A, while the warps
// issue the copies of a later chunk. So two stages are in use at any time, that of the products under way and that of
// those which have just been issued, and one that neither of them reads is written.
#pragma once

#ifndef TILE_M
#define TILE_M 128
#endif
#ifndef TILE_N
#define TILE_N 128
#endif
#ifndef STAGES
#define STAGES 4
#endif

constexpr int THREADS = 256;
constexpr int ROW_BYTES = 128;
#include "warpgroup_sums.cuh"
#include "tile_copies.cuh"

constexpr int AHEAD = STAGES - 2;                           // chunks under way
constexpr int STAGE_BYTES = (TILE_M + TILE_N) * ROW_BYTES;  // A's rows, then B's
constexpr int RESIDENT = ALIGNED && TILE_N <= 128 ? 2 : 1;  // blocks on a multiprocessor
static_assert(TILE_M == 128, "64 rows for each of two warpgroups");
static_assert(STAGES >= 3, "two stages are read while one is written");
static_assert(STAGES * STAGE_BYTES >= RESULT_BYTES, "the results pass through the stages' memory");

// d = the sum over `chunks` chunks; after the first `scaled` of them, what there is of it is multiplied by `scale`.
// copy(stage) begins to copy the next chunk: A's rows to `stage`, B's to `stage` + TILE_M * ROW_BYTES.
template <class Copy>
__device__ __forceinline__ void multiply(sums& d, unsigned char* stages, Copy&& copy, int chunks, int scaled,
                                         const Factor& scale) {
  clear(d);

#pragma unroll
  for (int s = 0; s < AHEAD; ++s) {
    if (s < chunks) copy(stages + s * STAGE_BYTES);
    copy_async_commit();  // a group for each chunk, empty beyond the last, so that waiting needs no cases
  }

  // The same in all lanes, and the compiler shall know
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  constexpr int LAST = (STAGES - 1) * STAGE_BYTES;
  int now = 0, next = AHEAD * STAGE_BYTES;  // where this chunk's stage begins, and that of the one AHEAD of it
  for (int chunk = 0; chunk < chunks; ++chunk) {
    copy_async_wait<AHEAD - 1>();  // of AHEAD groups under way the eldest, this chunk's, is there
    show_to_tensor_cores();
    __syncthreads();  // for all threads; and all are done with the products of the last chunk but one

    const uint32_t at = shared_address(stages + now);
    begin_chunk(d, at + warpgroup * 64 * ROW_BYTES, at + TILE_M * ROW_BYTES);

    if (chunk + AHEAD < chunks) copy(stages + next);  // the last chunk but one was there
    copy_async_commit();
    products_wait<1>();  // those of the last chunk
    now = now == LAST ? 0 : now + STAGE_BYTES;
    next = next == LAST ? 0 : next + STAGE_BYTES;

    if (chunk + 1 == scaled) {
      products_wait<0>();
      hold_all(d);
      multiply_by(d, scale);
    }
  }
  products_wait<0>();
  hold_all(d);
}

// Calls f(m, n, float (&)[4]) for D[m][n] to D[m][n + 3] of the block's tile, neighbouring lanes for neighbouring n
template <class F>
__device__ __forceinline__ void for_each_quad(const sums& d, unsigned char* stages, F&& f) {
  __syncthreads();  // the products of all are done
  for_each_quad_of_warp(d, stages, f);
}
