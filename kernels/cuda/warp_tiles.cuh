// What a warp does with tiles that tile_copies.cuh has filled: fragments, mma.sync, and the way of its sums out of the
// registers. Included by files that have said what a block computes, TILE_M x TILE_N of D[m][n] = sum_k A[m][k] B[n][k]
// from chunks of ROW_BYTES, and how many warps share that, WARPS_M x WARPS_N: tensor_tiles.cuh and halo_tile.cuh of
// conv3x3.
#pragma once
#include "common.cuh"

constexpr int THREADS = 32 * WARPS_M * WARPS_N;
#include "tile_copies.cuh"

constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;  // of D, in one warp
constexpr int MI = WARP_M / 16, NJ = WARP_N / 8;                     // of D, in tiles of one mma
constexpr int RESULT_PITCH = WARP_N + 8;                             // floats, see for_each_slice
constexpr int RESULT_BYTES = WARPS_M * WARPS_N * 16 * RESULT_PITCH * 4;
static_assert(WARP_M % 32 == 0 && WARP_N % 32 == 0, "whole pairs of mma tiles, and whole lines of results");

typedef float sums[MI][NJ][4];

// Where the warp's part of D begins
__device__ __forceinline__ int warp_row() { return threadIdx.x / 32 % WARPS_M * WARP_M; }
__device__ __forceinline__ int warp_column() { return threadIdx.x / 32 / WARPS_M * WARP_N; }

__device__ __forceinline__ void clear(sums& d) {
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) d[i][j][e] = 0.f;
}

__device__ __forceinline__ void multiply_by(sums& d, float scale) {
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) d[i][j][e] *= scale;
}

// ---- shared memory to registers to tensor cores --------------------------------------------------------------------

// A step is 32 bytes of every row, the depth of one mma.sync in any type. One ldmatrix reads a whole 16-row fragment of
// A, or the 8-row fragments of B for two mma: either way four times one piece of 8 rows. It moves floats of 4 bytes as
// well as pairs of 2-byte numbers.

// Of A the 16 rows from `row` of a tile on
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const unsigned char* tile, int row, int step) {
  const int lane = threadIdx.x % 32;
  load_matrix_x4<false>(a, tile + swizzled(row + lane % 16, 2 * step + lane / 16));
}

// Of B all rows of the warp
__device__ __forceinline__ void load_b(uint32_t (&b)[NJ][2], const unsigned char* tile, int step) {
  const int lane = threadIdx.x % 32;
  const int row = warp_column() + lane % 8 + lane / 16 * 8, piece = 2 * step + lane / 8 % 2;
#pragma unroll
  for (int j = 0; j < NJ; j += 2) {
    uint32_t two[4];
    load_matrix_x4<false>(two, tile + swizzled(row + 8 * j, piece));
    b[j][0] = two[0], b[j][1] = two[1], b[j + 1][0] = two[2], b[j + 1][1] = two[3];
  }
}

__device__ __forceinline__ void multiply_add(sums& d, const uint32_t (&a)[MI][4], const uint32_t (&b)[NJ][2]) {
#if PRECISION == TF32
  mma_tf32(d, a, b);
#else
  mma_16bit(d, a, b);
#endif
}

// ---- results -------------------------------------------------------------------------------------------------------

// Calls f(m, slice) for every 16 rows of the warp's part, or AT_ONCE times as many: the first of them, and where they
// lie in shared memory.
//
// An mma leaves two neighbours of a row in a thread. Each warp passes 16 rows at a time through shared memory, so that
// what reads and writes global memory does it in rows of 16 bytes a lane. Rows are 8 modulo 32 floats apart: the 4 rows
// that half a warp writes at once, 8 floats of each, meet in no bank, nor do the 16-byte reads along a row.
template <int AT_ONCE = 1, class F>
__device__ __forceinline__ void for_each_slice(const sums& d, unsigned char* shared, F&& f) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* slice = reinterpret_cast<float*>(shared) + warp * AT_ONCE * 16 * RESULT_PITCH;
  __syncthreads();  // nobody reads fragments any more
#pragma unroll
  for (int i = 0; i < MI; ++i) {
    float* rows = slice + i % AT_ONCE * 16 * RESULT_PITCH;
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        *reinterpret_cast<float2*>(rows + (lane / 4 + 4 * e) * RESULT_PITCH + 8 * j + lane % 4 * 2) =
            make_float2(d[i][j][e], d[i][j][e + 1]);
    if ((i + 1) % AT_ONCE) continue;
    __syncwarp();
    f(16 * (i + 1 - AT_ONCE), static_cast<const float*>(slice));
    __syncwarp();
  }
}

constexpr int QUADS = WARP_N / 4;  // of a row

__device__ __forceinline__ void read_quad(float (&quad)[4], const float* slice, int row, int column) {
  const float4 v = *reinterpret_cast<const float4*>(slice + row * RESULT_PITCH + column);
  quad[0] = v.x, quad[1] = v.y, quad[2] = v.z, quad[3] = v.w;
}

// Calls f(m, n, float (&)[4]) for D[m][n] to D[m][n + 3] of the block's tile, neighbouring lanes for neighbouring n.
template <class F>
__device__ __forceinline__ void for_each_quad(const sums& d, unsigned char* shared, F&& f) {
  for_each_slice(d, shared, [&](int m, const float* slice) {
#pragma unroll
    for (int at = threadIdx.x % 32; at < 16 * QUADS; at += 32) {
      const int row = at / QUADS, column = at % QUADS * 4;
      float quad[4];
      read_quad(quad, slice, row, column);
      f(warp_row() + m + row, warp_column() + column, quad);
    }
  });
}

// Calls f(m, n, float (&)[4][4]) for D[m + i][n] to D[m + i][n + 3], i = 0 .. 3, of every four rows.
template <class F>
__device__ __forceinline__ void for_each_four(const sums& d, unsigned char* shared, F&& f) {
  for_each_slice(d, shared, [&](int m, const float* slice) {
#pragma unroll
    for (int at = threadIdx.x % 32; at < 4 * QUADS; at += 32) {
      const int row = at / QUADS * 4, column = at % QUADS * 4;
      float quads[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) read_quad(quads[i], slice, row + i, column);
      f(warp_row() + m + row, warp_column() + column, quads);
    }
  });
}
