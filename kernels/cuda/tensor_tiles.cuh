// Matrix products on tensor cores, tile by tile: D[m][n] = sum_k A[m][k] B[n][k], k running along memory in both.
//
// A block of 4 warps computes TILE_M x TILE_N of D, each warp a quarter. The sum runs over chunks of 64 bytes of every
// row: 16 floats or 32 elements of 16 bits, which are 2 steps of 32 bytes, the depth of one mma.sync in any type.
//
//   global --cp.async--> STAGES of shared memory, STAGES - 1 chunks ahead --ldmatrix--> fragments, a step ahead --> mma
//
// Why these sizes: a warp's 64 x 64 sums are fed with 64 + 64 rows of fragments per step. Tiles of 64 x 32 would read
// half as much again for each multiplication, and shared memory, not the tensor cores, would set the pace on sm_90. The
// 128 sums of a thread leave room for two blocks on a multiprocessor: while one waits at a barrier the other computes.
// Three stages of 128 + 128 rows are 48 KB, so that two blocks fit in the 100 KB of sm_86 as well.
#pragma once
#include "common.cuh"

#ifndef TILE_M
#define TILE_M 128
#endif
#ifndef TILE_N
#define TILE_N 128
#endif
#ifndef STAGES
#define STAGES 3
#endif

constexpr int WARPS_M = 2, WARPS_N = 2;
constexpr int ROW_BYTES = 64;
#include "warp_tiles.cuh"

constexpr int STAGE_BYTES = (TILE_M + TILE_N) * ROW_BYTES;    // A's rows, then B's
constexpr int RESIDENT = !ALIGNED ? 2 : MI * NJ >= 32 ? 2 : MI * NJ >= 16 ? 3 : 4;  // blocks on a multiprocessor
static_assert(STAGES >= 3, "the stage that is written is neither read now nor by the next step");
static_assert(STAGES * STAGE_BYTES >= RESULT_BYTES, "the results pass through the stages' memory");

struct Fragments {
  uint32_t a[MI][4], b[NJ][2];
};

// Those of step 0 or 1 of a stage
__device__ __forceinline__ void load_fragments(Fragments& f, const unsigned char* stage, int step) {
#pragma unroll
  for (int i = 0; i < MI; ++i) load_a(f.a[i], stage, warp_row() + 16 * i, step);
  load_b(f.b, stage + TILE_M * ROW_BYTES, step);
}

// d = the sum over `chunks` chunks; after the first `scaled` of them, what there is of it is multiplied by `scale`.
// copy(stage) begins to copy the next chunk: A's rows to `stage`, B's to `stage` + TILE_M * ROW_BYTES.
template <class Copy>
__device__ __forceinline__ void multiply(sums& d, unsigned char* stages, Copy&& copy, int chunks, int scaled,
                                         const Factor& scale) {
  clear(d);

#pragma unroll
  for (int s = 0; s < STAGES - 1; ++s) {
    if (s < chunks) copy(stages + s * STAGE_BYTES);
    copy_async_commit();  // a group for each chunk, empty beyond the last, so that waiting needs no cases
  }
  copy_async_wait<STAGES - 2>();
  __syncthreads();

  constexpr int LAST = (STAGES - 1) * STAGE_BYTES;
  int now = 0;  // where the chunk's stage begins
  Fragments first, second;
  load_fragments(first, stages, 0);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    load_fragments(second, stages + now, 1);
    // Into the stage of the last chunk, which all have left at the last barrier
    if (chunk + STAGES - 1 < chunks) copy(stages + (now ? now - STAGE_BYTES : LAST));
    copy_async_commit();
    multiply_add(d, first.a, first.b);

    copy_async_wait<STAGES - 2>();  // of STAGES - 1 groups under way the eldest, the next chunk's, is there
    __syncthreads();                // for all threads
    now = now == LAST ? 0 : now + STAGE_BYTES;
    load_fragments(first, stages + now, 0);  // after the last chunk, of a stage that nobody multiplies
    multiply_add(d, second.a, second.b);

    if (chunk + 1 == scaled) multiply_by(d, scale);
  }
}
