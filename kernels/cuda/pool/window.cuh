// One 2x2 window of pooling, forward and backward, as all rungs compute it. Its four values x_i are numbered row by
// row.
#pragma once
#include "common.cuh"

enum pool_kind { POOL_MAX, POOL_AVERAGE, POOL_L2 };

// The first of the largest; a NaN counts as the largest: what nothing wrote must show
__device__ __forceinline__ int first_largest(const float (&x)[4]) {
  int first = 0;
  float largest = x[0];
#pragma unroll
  for (int i = 1; i < 4; ++i)
    if (x[i] > largest || (x[i] != x[i] && largest == largest)) largest = x[i], first = i;
  return first;
}

__device__ __forceinline__ float pool_window(const float (&x)[4], int kind) {
  if (kind == POOL_AVERAGE) return (x[0] + x[1] + x[2] + x[3]) * 0.25f;
  if (kind == POOL_L2)
    return sqrtf(__fmaf_rn(x[3], x[3], __fmaf_rn(x[2], x[2], __fmaf_rn(x[1], x[1], x[0] * x[0]))));
  const int i = first_largest(x);
  return i == 0 ? x[0] : i == 1 ? x[1] : i == 2 ? x[2] : x[3];  // an index would send x to local memory
}

// dx from dy; with `mask` only where x > 0
__device__ __forceinline__ void pool_window_backward(float dy, const float (&x)[4], int kind, int mask,
                                                     float (&dx)[4]) {
  const float y = kind == POOL_L2 ? pool_window(x, kind) : 0.f;
  const float ratio = y == 0.f ? 0.f : dy / y;
  const int first = first_largest(x);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    dx[i] = kind == POOL_AVERAGE ? dy * 0.25f : kind == POOL_L2 ? ratio * x[i] : i == first ? dy : 0.f;
    if (mask && x[i] <= 0.f) dx[i] = 0.f;
  }
}
