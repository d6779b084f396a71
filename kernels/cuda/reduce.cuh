// Sums and extremes of whole arrays in two stages, the same bits on every run: no atomics, no order left open.
//
// First stage: an array is dealt out to a number of blocks that depends on its size alone, 16 bytes to a thread in
// turn. A thread adds a handful of terms in float (those of one 16-byte load) and everything else in double; the
// threads of a block are added by a fixed tree. Each block leaves one partial result, its piece. Second stage: one
// block adds the pieces in double, a block for each sum that the launches before it have left. So n terms are added
// with the error of a handful, and with few double operations, in which most GPUs are slow. A block has THREADS threads
// in one row.
//
// Extremes are compared as the bits of floats that are not negative: unsigned numbers in the same order, with NaN above
// infinity, so that a maximum keeps it.
#pragma once
#include "common.cuh"

#ifndef THREADS
#define THREADS 256
#endif
#define WARPS (THREADS / 32)
static_assert(THREADS % 32 == 0 && WARPS >= 1 && WARPS <= 32, "a block is whole warps");

// ---- the threads of a block -----------------------------------------------------------------------------------------

// Sum over the block; every thread gets it
__device__ __forceinline__ double block_sum(double v) {
  __shared__ double warps[WARPS];
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) v += __shfl_xor_sync(0xffffffffu, v, lanes);
  __syncthreads();  // all have read what an earlier call left there
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  __syncthreads();
  double sum = warps[0];
#pragma unroll
  for (int w = 1; w < WARPS; ++w) sum += warps[w];
  return sum;
}

// Maximum over the block; every thread gets it
__device__ __forceinline__ unsigned block_max(unsigned v) {
  __shared__ unsigned warps[WARPS];
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) v = max(v, __shfl_xor_sync(0xffffffffu, v, lanes));
  __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  __syncthreads();
  unsigned most = warps[0];
#pragma unroll
  for (int w = 1; w < WARPS; ++w) most = max(most, warps[w]);
  return most;
}

// The bits of |v|
__device__ __forceinline__ unsigned magnitude(float v) { return __float_as_uint(v) & 0x7fffffffu; }

// ---- the pieces of an array -----------------------------------------------------------------------------------------

// for (EACH_VECTOR_OF(i, n, N, piece, pieces)): the first index of every N elements that this thread deals with, in all
// pieces' turn
#define EACH_VECTOR_OF(i, n, N, piece, pieces)                             \
  int64_t i = ((int64_t)(piece) * THREADS + threadIdx.x) * (N); i < (n); \
  i += (int64_t)(pieces) * THREADS * (N)
// The same where every block is a piece
#define EACH_VECTOR(i, n, N) EACH_VECTOR_OF(i, n, N, blockIdx.x, gridDim.x)

// The N elements from `from` on as floats, of which only the first `left` exist; the others are 0
template <int N>
__device__ __forceinline__ void load_part(float (&to)[N], const element* from, int64_t left) {
  if (left >= N) {
    load_elements<N>(to, from);
  } else {
#pragma unroll
    for (int e = 0; e < N; ++e) to[e] = e < left ? to_float(from[e]) : 0.f;
  }
}

template <int N>
__device__ __forceinline__ void store_part(element* to, const float (&from)[N], int64_t left) {
  if (left >= N) {
    store_elements<N>(to, from);
  } else {
#pragma unroll
    for (int e = 0; e < N; ++e)
      if (e < left) to[e] = to_element(from[e]);
  }
}

// What each of the N elements from i on weighs: rows of `channels` share a w; 1 without any, 0 beyond the n elements
template <int N>
__device__ __forceinline__ void load_weights(float (&to)[N], const float* w, int64_t i, int64_t n, int channels) {
  int64_t m = w ? i / channels : 0;
  int c = w ? (int)(i % channels) : 0;
#pragma unroll
  for (int e = 0; e < N; ++e) {
    to[e] = i + e >= n ? 0.f : w ? w[m] : 1.f;
    if (++c == channels) c = 0, ++m;
  }
}

// What this thread adds of sum w (F - P)^2, P = 0 and w = 1 where they are null
template <int N>
__device__ __forceinline__ double squares(const element* F, const element* P, const float* w, int64_t n, int channels,
                                          int64_t piece, int64_t pieces) {
  double sum = 0;
  for (EACH_VECTOR_OF(i, n, N, piece, pieces)) {
    float f[N], p[N] = {}, weight[N], part = 0.f;
    load_part(f, F + i, n - i);
    if (P) load_part(p, P + i, n - i);
    load_weights(weight, w, i, n, channels);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const float d = f[e] - p[e];
      part = __fmaf_rn(weight[e] * d, d, part);
    }
    sum += part;
  }
  return sum;
}

// A sum's row: how many pieces it has, and they. Every block leaves its own there, the first one their number, too: so
// that one launch can add up the rows of many.
__device__ __forceinline__ void leave_piece(double* pieces, double sum) {
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0) pieces[0] = gridDim.x;
    pieces[1 + blockIdx.x] = sum;
  }
}

// The second stage, in one block; every thread gets the result
__device__ __forceinline__ double sum_of_pieces(const double* pieces, int count) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += THREADS) sum += pieces[i];
  return block_sum(sum);
}

__device__ __forceinline__ unsigned max_of_pieces(const unsigned* pieces, int count) {
  unsigned most = 0;
  for (int i = threadIdx.x; i < count; i += THREADS) most = max(most, pieces[i]);
  return block_max(most);
}
