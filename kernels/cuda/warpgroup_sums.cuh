// The sums of a block of two warpgroups, TILE_M x TILE_N of D[m][n] = sum_k A[m][k] B[n][k]: a chunk of their products,
// and their way out of the registers. A warpgroup has GROUPS of 64 rows one below the other, a warp 16 of each.
//
// Included by files that have said how large a tile is, and that fill shared memory with rows of 128 bytes:
// warpgroup_tiles.cuh, and 11_tma_wgmma.cu of conv3x3.
#pragma once
#include "warpgroup.cuh"

constexpr int CONSUMERS = 256;            // threads that have sums
constexpr int GROUPS = TILE_M / 128;
constexpr int NJ = TILE_N / 8;            // of 8 columns
constexpr int QUADS = TILE_N / 4;         // of a row
constexpr int RESULT_PITCH = TILE_N + 8;  // floats, see for_each_slice_of_warp
constexpr int RESULT_BYTES = CONSUMERS / 32 * 16 * GROUPS * RESULT_PITCH * 4;
static_assert(PRECISION != FLOAT32, "there is no tensor core for float32");
static_assert(TILE_M % 128 == 0, "64 rows for each of two warpgroups");

typedef float sums[GROUPS][NJ][4];

__device__ __forceinline__ void clear(sums& d) {
#pragma unroll
  for (int group = 0; group < GROUPS; ++group)
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) d[group][j][e] = 0.f;
}

__device__ __forceinline__ void multiply_by(sums& d, float scale) {
#pragma unroll
  for (int group = 0; group < GROUPS; ++group)
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) d[group][j][e] *= scale;
}

__device__ __forceinline__ void hold_all(sums& d) {
#pragma unroll
  for (int group = 0; group < GROUPS; ++group) hold(d[group]);
}

// Begins the products of a chunk: 128 bytes of the warpgroup's rows of A by as many of all rows of B, which begin at
// these shared addresses, multiples of 1024. One product reads 32 bytes of a row.
__device__ __forceinline__ void begin_chunk(sums& d, uint32_t a_at, uint32_t b_at) {
  constexpr int STEPS = 128 / 32;
  const uint64 b = describe_rows(b_at);
  hold_all(d);
  products_begin();
#pragma unroll
  for (int group = 0; group < GROUPS; ++group) {
    const uint64 a = describe_rows(a_at + group * 64 * 128);
#pragma unroll
    for (int step = 0; step < STEPS; ++step) products(d[group], a + step * (32 >> 4), b + step * (32 >> 4));
  }
  products_commit();
}

// Calls f(m, slice) for every 16 rows of the warp's: the first of them, and where they lie in shared memory. The sums
// pass through RESULT_BYTES of it for the reasons in warp_tiles.cuh, all at once, so that f has their registers; nobody
// else may use it any more.
template <class F>
__device__ __forceinline__ void for_each_slice_of_warp(const sums& d, unsigned char* shared, F&& f) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* slices = reinterpret_cast<float*>(shared) + warp * GROUPS * 16 * RESULT_PITCH;
#pragma unroll
  for (int group = 0; group < GROUPS; ++group)
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        *reinterpret_cast<float2*>(slices + (16 * group + lane / 4 + 4 * e) * RESULT_PITCH + 8 * j + lane % 4 * 2) =
            make_float2(d[group][j][e], d[group][j][e + 1]);
  __syncwarp();
#pragma unroll 1
  for (int group = 0; group < GROUPS; ++group)
    f((warp / 4 * GROUPS + group) * 64 + warp % 4 * 16, static_cast<const float*>(slices + 16 * group * RESULT_PITCH));
}

__device__ __forceinline__ void read_quad(float (&quad)[4], const float* slice, int row, int column) {
  const float4 v = *reinterpret_cast<const float4*>(slice + row * RESULT_PITCH + column);
  quad[0] = v.x, quad[1] = v.y, quad[2] = v.z, quad[3] = v.w;
}

// Calls f(m, n, float (&)[4]) for D[m][n] to D[m][n + 3] of the warp's rows, neighbouring lanes for neighbouring n
template <class F>
__device__ __forceinline__ void for_each_quad_of_warp(const sums& d, unsigned char* shared, F&& f) {
  for_each_slice_of_warp(d, shared, [&](int first, const float* slice) {
#pragma unroll 4
    for (int at = threadIdx.x % 32; at < 16 * QUADS; at += 32) {
      float quad[4];
      read_quad(quad, slice, at / QUADS, at % QUADS * 4);
      f(first + at / QUADS, at % QUADS * 4, quad);
    }
  });
}
