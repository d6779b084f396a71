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

constexpr int THREADS = 128;
constexpr int ROW_BYTES = 64;
#include "tile_copies.cuh"

constexpr int WARP_M = TILE_M / 2, WARP_N = TILE_N / 2;       // of D, in one warp
constexpr int MI = WARP_M / 16, NJ = WARP_N / 8;              // of D, in tiles of one mma
constexpr int STAGE_BYTES = (TILE_M + TILE_N) * ROW_BYTES;    // A's rows, then B's
constexpr int RESULT_PITCH = WARP_N + 8;                      // floats, see for_each_quad
constexpr int RESIDENT = !ALIGNED ? 2 : MI * NJ >= 32 ? 2 : MI * NJ >= 16 ? 3 : 4;  // blocks on a multiprocessor
static_assert(TILE_M % 64 == 0 && TILE_N % 64 == 0, "two warps each way, each of whole pairs of mma tiles");
static_assert(STAGES >= 3, "the stage that is written is neither read now nor by the next step");
static_assert(STAGES * STAGE_BYTES >= 4 * 16 * RESULT_PITCH * 4, "the results pass through the stages' memory");

typedef float sums[MI][NJ][4];

// ---- shared memory to registers to tensor cores --------------------------------------------------------------------

struct Fragments {
  uint32_t a[MI][4], b[NJ][2];
};

// Those of step 0 or 1 of a stage. One ldmatrix reads a whole 16-row fragment of A, or the 8-row fragments of B for two
// mma: either way four times one piece of 8 rows. It moves floats of 4 bytes as well as pairs of 2-byte numbers.
__device__ __forceinline__ void load_fragments(Fragments& f, const unsigned char* stage, int step) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int a_row = warp % 2 * WARP_M + lane % 16, a_piece = 2 * step + lane / 16;
#pragma unroll
  for (int i = 0; i < MI; ++i) load_matrix_x4<false>(f.a[i], stage + swizzled(a_row + 16 * i, a_piece));
  const int b_row = TILE_M + warp / 2 * WARP_N + lane % 8 + lane / 16 * 8, b_piece = 2 * step + lane / 8 % 2;
#pragma unroll
  for (int j = 0; j < NJ; j += 2) {
    uint32_t two[4];
    load_matrix_x4<false>(two, stage + swizzled(b_row + 8 * j, b_piece));
    f.b[j][0] = two[0], f.b[j][1] = two[1], f.b[j + 1][0] = two[2], f.b[j + 1][1] = two[3];
  }
}

__device__ __forceinline__ void multiply_add(sums& d, const Fragments& f) {
#if PRECISION == TF32
  mma_tf32(d, f.a, f.b);
#else
  mma_16bit(d, f.a, f.b);
#endif
}

// d = the sum over `chunks` chunks; after the first `scaled` of them, what there is of it is multiplied by `scale`.
// copy(stage) begins to copy the next chunk: A's rows to `stage`, B's to `stage` + TILE_M * ROW_BYTES.
template <class Copy>
__device__ __forceinline__ void multiply(sums& d, unsigned char* stages, Copy&& copy, int chunks, int scaled,
                                         float scale) {
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) d[i][j][e] = 0.f;

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
    multiply_add(d, first);

    copy_async_wait<STAGES - 2>();  // of STAGES - 1 groups under way the eldest, the next chunk's, is there
    __syncthreads();                // for all threads
    now = now == LAST ? 0 : now + STAGE_BYTES;
    load_fragments(first, stages + now, 0);  // after the last chunk, of a stage that nobody multiplies
    multiply_add(d, second);

    if (chunk + 1 == scaled)
#pragma unroll
      for (int i = 0; i < MI; ++i)
#pragma unroll
        for (int j = 0; j < NJ; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) d[i][j][e] *= scale;
  }
}

// ---- results -------------------------------------------------------------------------------------------------------

// Calls f(m, n, float (&)[4]) for D[m][n] to D[m][n + 3] of the block's tile, neighbouring lanes for neighbouring n.
//
// An mma leaves two neighbours of a row in a thread. Each warp passes 16 rows at a time through shared memory, so that
// what reads and writes global memory does it in rows of 16 bytes a lane. Rows are 8 modulo 32 floats apart: the 4 rows
// that half a warp writes at once, 8 floats of each, meet in no bank, nor do the 16-byte reads along a row.
template <class F>
__device__ __forceinline__ void for_each_quad(const sums& d, unsigned char* stages, F&& f) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* slice = reinterpret_cast<float*>(stages) + warp * 16 * RESULT_PITCH;
  __syncthreads();  // nobody reads fragments any more
#pragma unroll
  for (int i = 0; i < MI; ++i) {
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        *reinterpret_cast<float2*>(slice + (lane / 4 + 4 * e) * RESULT_PITCH + 8 * j + lane % 4 * 2) =
            make_float2(d[i][j][e], d[i][j][e + 1]);
    __syncwarp();
#pragma unroll
    for (int at = lane; at < 16 * WARP_N / 4; at += 32) {
      const int row = at / (WARP_N / 4), column = at % (WARP_N / 4) * 4;
      const float4 v = *reinterpret_cast<const float4*>(slice + row * RESULT_PITCH + column);
      float quad[4] = {v.x, v.y, v.z, v.w};
      f(warp % 2 * WARP_M + 16 * i + row, warp / 2 * WARP_N + column, quad);
    }
    __syncwarp();
  }
}
