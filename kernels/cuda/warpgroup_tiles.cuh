// Matrix products by wgmma, tile by tile: D[m][n] = sum_k A[m][k] B[n][k], k running along memory in both. It offers
// what tensor_tiles.cuh does.
//
// A block of two warpgroups computes 128 x TILE_N of D, each warpgroup 64 rows. A chunk is 128 bytes of every row: 64
// elements of 16 bits, which are 4 steps of 32 bytes, the depth of one wgmma.
//
//   global --cp.async--> STAGES of shared memory, STAGES - 2 chunks ahead --wgmma--> sums
//
// There are no fragments: the tensor cores read shared memory by themselves, B once for 64 rows of A, while the warps
// issue the copies of a later chunk. So two stages are in use at any time, that of the products under way and that of
// those which have just been issued, and one that neither of them reads is written.
#pragma once
#include "warpgroup.cuh"

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
#include "tile_copies.cuh"

constexpr int STEPS = ROW_BYTES / 32;                       // of a chunk
constexpr int AHEAD = STAGES - 2;                           // chunks under way
constexpr int NJ = TILE_N / 8;                              // of a warp's 16 rows of D, in tiles of one mma
constexpr int STAGE_BYTES = (TILE_M + TILE_N) * ROW_BYTES;  // A's rows, then B's
constexpr int RESULT_PITCH = TILE_N + 8;                    // floats, see for_each_quad
constexpr int RESIDENT = ALIGNED && TILE_N <= 128 ? 2 : 1;  // blocks on a multiprocessor
static_assert(sizeof(element) == 2, "steps of 16 elements of 16 bits");
static_assert(TILE_M == 128, "64 rows for each of two warpgroups");
static_assert(STAGES >= 3, "two stages are read while one is written");
static_assert(STAGES * STAGE_BYTES >= 8 * 16 * RESULT_PITCH * 4, "the results pass through the stages' memory");

typedef float sums[NJ][4];

// d = the sum over `chunks` chunks; after the first `scaled` of them, what there is of it is multiplied by `scale`.
// copy(stage) begins to copy the next chunk: A's rows to `stage`, B's to `stage` + TILE_M * ROW_BYTES.
template <class Copy>
__device__ __forceinline__ void multiply(sums& d, unsigned char* stages, Copy&& copy, int chunks, int scaled,
                                         const Factor& scale) {
#pragma unroll
  for (int j = 0; j < NJ; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) d[j][e] = 0.f;

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
    const uint64 a = describe_rows(at + warpgroup * 64 * ROW_BYTES), b = describe_rows(at + TILE_M * ROW_BYTES);
    hold(d);
    products_begin();
#pragma unroll
    for (int step = 0; step < STEPS; ++step) products(d, a + step * (32 >> 4), b + step * (32 >> 4));
    products_commit();

    if (chunk + AHEAD < chunks) copy(stages + next);  // the last chunk but one was there
    copy_async_commit();
    products_wait<1>();  // those of the last chunk
    now = now == LAST ? 0 : now + STAGE_BYTES;
    next = next == LAST ? 0 : next + STAGE_BYTES;

    if (chunk + 1 == scaled) {
      products_wait<0>();
      hold(d);
#pragma unroll
      for (int j = 0; j < NJ; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) d[j][e] *= scale;
    }
  }
  products_wait<0>();
  hold(d);
}

// Calls f(m, n, float (&)[4]) for D[m][n] to D[m][n + 3] of the block's tile, neighbouring lanes for neighbouring n.
//
// Each warp passes its 16 rows through shared memory, as in tensor_tiles.cuh, and for the same reasons.
template <class F>
__device__ __forceinline__ void for_each_quad(const sums& d, unsigned char* stages, F&& f) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* slice = reinterpret_cast<float*>(stages) + warp * 16 * RESULT_PITCH;
  __syncthreads();  // the products of all are done
#pragma unroll
  for (int j = 0; j < NJ; ++j)
#pragma unroll
    for (int e = 0; e < 4; e += 2)
      *reinterpret_cast<float2*>(slice + (lane / 4 + 4 * e) * RESULT_PITCH + 8 * j + lane % 4 * 2) =
          make_float2(d[j][e], d[j][e + 1]);
  __syncwarp();
#pragma unroll 4
  for (int at = lane; at < 16 * TILE_N / 4; at += 32) {
    const int row = at / (TILE_N / 4), column = at % (TILE_N / 4) * 4;
    const float4 v = *reinterpret_cast<const float4*>(slice + row * RESULT_PITCH + column);
    float quad[4] = {v.x, v.y, v.z, v.w};
    f(16 * warp + row, column, quad);
  }
}
