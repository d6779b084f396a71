// What becomes of the finished sums of one 2x2 window of positions: convolution, bias, ReLU, and the pooling that
// follows. Of linear, y, pooled and choices, what is null is not written. A window is pooled as it would be read, after
// it was rounded, so that the bits are those of pool/03_choices.cu.
//
// Shared by the rungs of conv3x3 whose tiles hold whole windows.
#pragma once
#include "conv3x3.cuh"
#include "window.cuh"

struct Outputs {
  const float* __restrict__ b;
  element* __restrict__ linear;
  element* __restrict__ y;
  element* __restrict__ pooled;   // (H/2, W/2, K)
  uint8_t* __restrict__ choices;  // (ceil(H/2), ceil(W/2), K)
  int kind, K, H, W;

  // N channels from k on of the four positions of the window that begins at row p, column q
  template <int N>
  __device__ __forceinline__ void whole(int p, int q, int k, float (&sums)[4][N]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool inside = p + i / 2 < H && q + i % 2 < W;
      const size_t at = ((size_t)(p + i / 2) * W + q + i % 2) * K + k;
#pragma unroll
      for (int e = 0; e < N; ++e) sums[i][e] += b[k + e];
      if (linear && inside) store_elements<N>(linear + at, sums[i]);
#pragma unroll
      for (int e = 0; e < N; ++e) sums[i][e] = relu(sums[i][e]);
      if (y && inside) store_elements<N>(y + at, sums[i]);
#pragma unroll
      for (int e = 0; e < N; ++e) sums[i][e] = inside ? to_float(to_element(sums[i][e])) : 0.f;
    }
    float best[N];
    unsigned choice[N];
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const float window[4] = {sums[0][e], sums[1][e], sums[2][e], sums[3][e]};
      best[e] = pool_window(window, kind);
      choice[e] = window_choice(window, true);
    }
    const int row = p / 2, column = q / 2;
    if (pooled && row < H / 2 && column < W / 2)
      store_elements<N>(pooled + ((size_t)row * (W / 2) + column) * K + k, best);
    if (choices) store_choices<N>(choices + ((size_t)row * ((W + 1) / 2) + column) * K + k, choice);
  }

  // The same of four channels, as far as there are such channels, and such a window
  __device__ __forceinline__ void finish(int p, int q, int k, float (&four)[4][4]) const {
    if (p >= H || q >= W) return;
#if ALIGNED
    if (k < K) whole<4>(p, q, k, four);
#else
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float one[4][1] = {{four[0][e]}, {four[1][e]}, {four[2][e]}, {four[3][e]}};
      if (k + e < K) whole<1>(p, q, k + e, one);
    }
#endif
  }
};
