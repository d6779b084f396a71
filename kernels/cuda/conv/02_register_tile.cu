// op:        conv of any kernel, stride and border    rung: 02_register_tile
// over 01:   a block reads its rectangle of the input, border included, once into shared memory, and a thread keeps
//            POSITIONS x FILTERS sums in registers
// math:      y[k,p,q] = act(b[k] + sum_{c,r,s} w[k,c,r,s] xp[c,t*p+r,t*q+s])
//            xp is x with each position repeated `enlarged` times down and across, and with its border; act is none,
//            relu, relu6 or sigmoid
// reference: nstcore/ops/conv.py conv_forward; resize.py resize_nearest_forward; relu.py relu_forward, relu6_forward;
//            sigmoid.py sigmoid_forward
// launch:    nstcore/engines/cuda/general_conv.py
// requires:  x (H, W, C), y (P, Q, K) float32; any C, K, border; R, S and stride for which 4 channels of a rectangle
//            and of the filters fit into 48 KB; H W below 2^31
// napkin:    4 channels of a tap, for a warp of 4 positions x 8 filters a thread: 128 multiply-adds, 32 cycles of a
//            processor that issues 4 a cycle; 4 reads of 16 bytes a thread, 16 cycles of its shared memory, and 8 that
//            all threads share, 8 more. So arithmetic is the limit. Of 3 channels the fourth is a zero, a quarter of
//            the work. 4 x 32 positions under a 3x3 kernel read 6 x 34 of x, 1.6 times as many; 16 x 32 under 9x9, 1.9.
//            Up to 96 registers leave room for 5 blocks of a processor, 20 warps; of their shared memory 3x3 32 -> 32
//            takes 14 KB a block, 9x9 3 -> 8 takes 29
//
// How a block shares out its work depends on the layer: `groups` of its four warps take other filters of the same
// positions, the rest other positions; these are `columns` wide; `deep` times 4 channels are in shared memory at a
// time. All three are powers of two, and passed as such: a shift takes one instruction, a division twenty. A 1x1 kernel
// without stride has no rectangle: its host calls the picture one row. Nothing is loaded ahead: while one block waits
// for memory, others on its processor multiply. With stride 2, reads of the rectangle take twice as long.
#include "packed.cuh"

#ifndef POSITIONS
#define POSITIONS 4  // of a thread
#endif
#ifndef FILTERS
#define FILTERS 8  // of a thread
#endif
#define WARPS 4
#define THREADS (32 * WARPS)
static_assert(FILTERS % 4 == 0, "filters are read 4 at a time");

// Channels c to c + 3 of a position of x; zeros beyond the last channel, and all zeros for position -1
__device__ __forceinline__ float4 four_channels(const float* x, int position, int c, int C) {
  float v[4] = {};
  const float* from = x + (size_t)max(position, 0) * C + c;
  if (C % 4 == 0) {
    load_elements<4>(v, from, position >= 0);
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (position >= 0 && c + e < C) v[e] = from[e];
  }
  return make_float4(v[0], v[1], v[2], v[3]);
}

// sums += the products of one tap and 4 channels; `filters`: [4][all of the block's]
__device__ __forceinline__ void multiply(float (&sums)[POSITIONS][FILTERS], const float4* values,
                                         const int (&at)[POSITIONS], const float* filters, int all) {
  float v[POSITIONS][4];
#pragma unroll
  for (int j = 0; j < POSITIONS; ++j) load_elements<4>(v[j], (const float*)(values + at[j]));
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    float w[FILTERS];
#pragma unroll
    for (int n = 0; n < FILTERS; n += 4) {
      const float4 some = *(const float4*)(filters + c * all + n);
      w[n] = some.x, w[n + 1] = some.y, w[n + 2] = some.z, w[n + 3] = some.w;
    }
#pragma unroll
    for (int j = 0; j < POSITIONS; ++j)
#pragma unroll
      for (int n = 0; n < FILTERS; ++n) sums[j][n] = __fmaf_rn(v[j][c], w[n], sums[j][n]);
  }
}

// y = act(sum + b) for one position and as many of the FILTERS as there are
__device__ __forceinline__ void finish(float* y, const float* b, int k, int K, const float (&sums)[FILTERS],
                                       int activation) {
#pragma unroll
  for (int n = 0; n < FILTERS; n += 4) {
    if (k + n >= K) return;
    float v[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = activate(sums[n + e] + b[k + n + e], activation);  // b is as long as a row of w
    if (K % 4 == 0) {
      store_elements<4>(y + k + n, v);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (k + n + e < K) y[k + n + e] = v[e];
    }
  }
}

// 5 blocks of a processor leave up to 96 registers; left to itself, the compiler saves some of them, and spills
extern "C" __global__ void __launch_bounds__(THREADS, 5)
    conv_forward(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
                 float* __restrict__ y, int C, int H, int W, int K, int R, int S, int P, int Q, int stride, int top,
                 int left, int padding, int enlarged, int activation, int log_columns, int log_groups, int log_deep) {
  extern __shared__ __align__(16) float memory[];
  const int columns = 1 << log_columns, deep = 1 << log_deep;
  const int taps = R * S, all = FILTERS << log_groups, rows = (32 * POSITIONS * WARPS >> log_groups) >> log_columns;
  const int height = (rows - 1) * stride + R, width = (columns - 1) * stride + S, area = height * width;
  float4* tile = (float4*)memory;                         // [deep][area]: 4 channels of a position
  float* filters = memory + 4 * deep * area;              // [deep][taps][4][all]
  int* places = (int*)(filters + 4 * deep * taps * all);  // [area]: where a position comes from

  const int p0 = blockIdx.y * rows, q0 = blockIdx.x * columns, k0 = blockIdx.z * all;
  for (int i = threadIdx.x; i < area; i += THREADS)
    places[i] = place(p0 * stride + i / width - top, q0 * stride + i % width - left, H, W, enlarged, padding);

  const int warp = threadIdx.x / 32, first = (warp >> log_groups) * 32 * POSITIONS + threadIdx.x % 32;
  const int filter = (warp & ((1 << log_groups) - 1)) * FILTERS;
  int at[POSITIONS];  // of this thread's positions, 32 apart, in the rectangle
#pragma unroll
  for (int j = 0; j < POSITIONS; ++j)
    at[j] = (((first + 32 * j) >> log_columns) * width + ((first + 32 * j) & (columns - 1))) * stride;

  float sums[POSITIONS][FILTERS] = {};
  const int quads = (C + 3) / 4, row = row_of_filters(K);
  for (int begin = 0; begin < quads; begin += deep) {
    const int some = min(deep, quads - begin);
    __syncthreads();  // the places are there, and the last channels have been read
    for (int i = threadIdx.x; i < area << log_deep; i += THREADS) {
      const int position = i >> log_deep, quad = i & (deep - 1);
      if (quad < some) tile[quad * area + position] = four_channels(x, places[position], 4 * (begin + quad), C);
    }
    for (int i = threadIdx.x; i < some * taps * all; i += THREADS) {
      const int line = (i / (FILTERS / 4)) >> log_groups, k = k0 + 4 * i - line * all;
      const float* from = w + ((size_t)begin * taps * 4 + line) * row + k;
      ((float4*)filters)[i] = k < row ? *(const float4*)from : make_float4(0.f, 0.f, 0.f, 0.f);
    }
    __syncthreads();  // these channels are there
    for (int quad = 0; quad < some; ++quad) {
      const float4* values = tile + quad * area;
      const float* weights = filters + 4 * quad * taps * all + filter;
      for (int r = 0; r < R; ++r, values += width)
        for (int s = 0; s < S; ++s, weights += 4 * all) multiply(sums, values + s, at, weights, all);
    }
  }

#pragma unroll
  for (int j = 0; j < POSITIONS; ++j) {
    const int p = p0 + ((first + 32 * j) >> log_columns), q = q0 + ((first + 32 * j) & (columns - 1));
    if (p < P && q < Q) finish(y + ((size_t)p * Q + q) * K, b, k0 + filter, K, sums[j], activation);
  }
}
