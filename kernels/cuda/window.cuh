// One 2x2 window of pooling, forward and backward, as all who pool compute it. Its four values x_i are numbered row by
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

// What the backward of a maximum or a mean has to know of a window, in 6 bits: which value is the first of the largest,
// and from bit 2 on of each value whether the gradient passes it, which with `mask` it does where x_i > 0.
__device__ __forceinline__ unsigned window_choice(const float (&x)[4], int mask) {
  unsigned choice = first_largest(x);
#pragma unroll
  for (int i = 0; i < 4; ++i) choice |= (unsigned)!(mask && x[i] <= 0.f) << (2 + i);
  return choice;
}

// pool_window_backward, but for POOL_L2, of a window that has left its choice alone
__device__ __forceinline__ float choice_backward(float dy, unsigned choice, int i, int kind) {
  const bool passes = choice >> (2 + i) & 1 && (kind == POOL_AVERAGE || (choice & 3) == i);
  return !passes ? 0.f : kind == POOL_AVERAGE ? dy * 0.25f : dy;
}

// N choices side by side, in one access of N bytes
template <int N>
__device__ __forceinline__ void store_choices(uint8_t* to, const unsigned (&from)[N]) {
  static_assert(N == 1 || N == 4 || N == 8, "a byte, a word or two");
  if constexpr (N == 1) {
    *to = (uint8_t)from[0];
  } else {
    unsigned words[N / 4] = {};
#pragma unroll
    for (int e = 0; e < N; ++e) words[e / 4] |= from[e] << (8 * (e % 4));
    if constexpr (N == 4)
      *(unsigned*)to = words[0];
    else
      *(uint2*)to = make_uint2(words[0], words[1]);
  }
}

template <int N>
__device__ __forceinline__ void load_choices(unsigned (&to)[N], const uint8_t* from) {
  static_assert(N == 1 || N == 4 || N == 8, "a byte, a word or two");
  if constexpr (N == 1) {
    to[0] = *from;
  } else {
    unsigned words[N / 4];
    if constexpr (N == 4) {
      words[0] = *(const unsigned*)from;
    } else {
      const uint2 two = *(const uint2*)from;
      words[0] = two.x, words[1] = two.y;
    }
#pragma unroll
    for (int e = 0; e < N; ++e) to[e] = words[e / 4] >> (8 * (e % 4)) & 255;
  }
}
