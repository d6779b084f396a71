// What the layers of feed-forward networks share: where a border reads, and the activation behind a layer.
//
// Maps are (H, W, C), float32 in every precision of the engine. A layer's input may be enlarged by a whole factor and
// get a border before the layer sees it; neither is ever made: `place` says where each of their positions comes from.
#pragma once
#include "common.cuh"

enum padding_kind { PADDING_ZERO, PADDING_REPLICATE, PADDING_REFLECT };
enum activation_kind { ACTIVATION_NONE, ACTIVATION_RELU, ACTIVATION_RELU6, ACTIVATION_SIGMOID };

// Which of n positions an axis repeats at i, inside or outside; -1 for a zero. Reflected again and again, the axis has
// the period 2 (n - 1), and looks the same from 0 in both directions.
__device__ __forceinline__ int border(int i, int n, int padding) {
  if (i >= 0 && i < n) return i;
  if (padding == PADDING_ZERO) return -1;
  if (padding == PADDING_REPLICATE || n == 1) return clamp_to(i, n);
  const int back = (i < 0 ? -i : i) % (2 * (n - 1));
  return back < n ? back : 2 * (n - 1) - back;
}

// Which of the H W positions of x lies at (i, j) of x enlarged by a whole factor, with its border; -1 for a zero
__device__ __forceinline__ int place(int i, int j, int H, int W, int enlarged, int padding) {
  const int row = border(i, H * enlarged, padding), column = border(j, W * enlarged, padding);
  return row < 0 || column < 0 ? -1 : row / enlarged * W + column / enlarged;
}

// NaN stays NaN: no comparison with it is true. Sigmoid: where exp(-v) is infinite, 0 is right to 2^-126.
__device__ __forceinline__ float activate(float v, int activation) {
  if (activation == ACTIVATION_NONE) return v;
  if (activation == ACTIVATION_SIGMOID) return 1.f / (1.f + expf(-v));
  v = relu(v);
  return activation == ACTIVATION_RELU6 && v > 6.f ? 6.f : v;
}
