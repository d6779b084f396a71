// What the rungs of conv3x3 share: where a tap reads, and what becomes of a finished sum.
//
//   -DALIGNED=1   C and K are multiples of ELEMENTS_PER_16_BYTES, so that every row of channels begins on 16 bytes
//   -DALIGNED=0   any C and K, element by element
//
// A pass of a layer goes from `in` channels to `out` channels: C to K forward, K to C backward. A rung computes the
// sums of both in the same way and hands each of them to the Epilogue of its pass.
#pragma once
#include "common.cuh"

#ifndef ALIGNED
#define ALIGNED 1
#endif

// ---- where a tap reads ----------------------------------------------------------------------------------------------

// N channels from channel c on, zeros beyond the last of `channels`; all zeros where `row` is null
template <int N>
__device__ __forceinline__ void load_channels(float (&v)[N], const element* __restrict__ row, int c, int channels) {
#if ALIGNED
  const bool inside = row && c < channels;
  load_elements<N>(v, inside ? row + c : row, inside);
#else
#pragma unroll
  for (int i = 0; i < N; ++i) v[i] = row && c + i < channels ? to_float(row[c + i]) : 0.f;
#endif
}

// The `channels` elements at row p, column q of x (H, W, channels), either of which may lie outside: there the nearest
// ones where the border is replicated, else null.
__device__ __forceinline__ const element* pixel(const element* x, int p, int q, int channels, int H, int W,
                                                int replicate) {
  const int row = clamp_to(p, H), column = clamp_to(q, W);
  if (!replicate && (row != p || column != q)) return nullptr;
  return x + ((size_t)row * W + column) * channels;
}

// ---- what becomes of a finished sum ---------------------------------------------------------------------------------

// y = relu(sum + b), and sum + b before the ReLU where somebody wants it
struct Forward {
  const float* __restrict__ b;
  element* __restrict__ linear;
  element* __restrict__ y;

  // N channels from k on of one position
  template <int N>
  __device__ __forceinline__ void whole(size_t position, int k, int K, float (&sum)[N]) const {
    const size_t at = position * K + k;
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += b[k + i];
    if (linear) store_elements<N>(linear + at, sum);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = relu(sum[i]);
    store_elements<N>(y + at, sum);
  }
};

// dx = (F > 0) (sum + content_scale (F - P)); without `mask`, 1 in place of F > 0. What the Gram matrix sends back,
// style_scale F S, is part of the sum.
struct Backward {
  const element* __restrict__ F;
  const element* __restrict__ P;
  Factor content_scale;
  int mask;
  element* __restrict__ dx;

  template <int N>
  __device__ __forceinline__ void whole(size_t position, int c, int C, float (&sum)[N]) const {
    const size_t at = position * C + c;
    if (mask || P) {
      float f[N], target[N];
      load_elements<N>(f, F + at);
      if (P) {
        load_elements<N>(target, P + at);
        const float scale = content_scale;
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += scale * (f[i] - target[i]);
      }
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] = !mask || f[i] > 0.f ? sum[i] : 0.f;
    }
    store_elements<N>(dx + at, sum);
  }
};

// Hands over the sums of channels k to k + N - 1 of one position, as far as there are such channels. N is at most
// ELEMENTS_PER_16_BYTES, and k a multiple of it.
template <int N, class Epilogue>
__device__ __forceinline__ void finish(const Epilogue& epilogue, size_t position, int k, int channels,
                                       float (&sum)[N]) {
#if ALIGNED
  if (k < channels) epilogue.template whole<N>(position, k, channels, sum);
#else
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float one[1] = {sum[i]};
    if (k + i < channels) epilogue.template whole<1>(position, k + i, channels, one);
  }
#endif
}
