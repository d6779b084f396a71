// op:        pool                       rung: 03_choices
// over 02:   the forward leaves a byte for each window, from which the backward knows where dy goes: it does not read
//            x, which need not be kept until then
// math:      y = max_i x_i or 1/4 sum_i x_i                              i = 0 .. 3, the 2x2 window row by row
//            dx_i = dy for the first largest, or dy / 4;  times (x_i > 0) with `mask`
// reference: nstcore/ops/pool.py pool_forward, pool_backward; nstcore/ops/relu.py relu_backward
// requires:  any C, H, W (forward: at least 2 rows and columns); no L2 pooling, whose gradient needs the values;
//            ALIGNED=1 where C is a multiple of 16 bytes
// launch:    nstcore/engines/cuda/pool.py: blockIdx.x is a row of windows, its threads are (blockIdx.y, threadIdx.x)
// napkin:    of C*H*W elements 5/4 forward, 5/4 backward instead of 9/4, and C*H*W / 4 bytes in both
//
// choices (ceil(H/2), ceil(W/2), C): a window that an odd last row or column leaves incomplete has a byte, too. Nothing
// comes of it, but what each ReLU decided can be told from the bytes alone.
#include "common.cuh"
#include "window.cuh"

#ifndef ALIGNED
#define ALIGNED 1
#endif
#define VECTOR (ALIGNED ? ELEMENTS_PER_16_BYTES : 1)

extern "C" __global__ void pool_forward(const element* __restrict__ x, element* __restrict__ y,
                                        uint8_t* __restrict__ choices, int C, int H, int W, int kind, int mask) {
  const int p = blockIdx.x, vectors = C / VECTOR, at = blockIdx.y * blockDim.x + threadIdx.x;
  const int q = at / vectors, c = at % vectors * VECTOR;
  if (q >= (W + 1) / 2) return;
  float v[4][VECTOR], out[VECTOR];
  unsigned choice[VECTOR];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    load_elements<VECTOR>(v[i], x + ((int64_t)(2 * p + i / 2) * W + 2 * q + i % 2) * C + c,
                          2 * p + i / 2 < H && 2 * q + i % 2 < W);
#pragma unroll
  for (int e = 0; e < VECTOR; ++e) {
    const float window[4] = {v[0][e], v[1][e], v[2][e], v[3][e]};
    out[e] = pool_window(window, kind);
    choice[e] = window_choice(window, mask);
  }
  if (p < H / 2 && q < W / 2) store_elements<VECTOR>(y + ((int64_t)p * (W / 2) + q) * C + c, out);
  store_choices<VECTOR>(choices + ((int64_t)p * ((W + 1) / 2) + q) * C + c, choice);
}

extern "C" __global__ void pool_backward(const element* __restrict__ dy, const uint8_t* __restrict__ choices,
                                         element* __restrict__ dx, int C, int H, int W, int kind) {
  const int p = blockIdx.x, vectors = C / VECTOR, at = blockIdx.y * blockDim.x + threadIdx.x;
  const int q = at / vectors, c = at % vectors * VECTOR;
  if (q >= (W + 1) / 2) return;
  float up[VECTOR];
  unsigned choice[VECTOR];
  load_elements<VECTOR>(up, dy + ((int64_t)p * (W / 2) + q) * C + c, p < H / 2 && q < W / 2);
  load_choices<VECTOR>(choice, choices + ((int64_t)p * ((W + 1) / 2) + q) * C + c);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float d[VECTOR];
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) d[e] = choice_backward(up[e], choice[e], i, kind);
    if (2 * p + i / 2 < H && 2 * q + i % 2 < W)
      store_elements<VECTOR>(dx + ((int64_t)(2 * p + i / 2) * W + 2 * q + i % 2) * C + c, d);
  }
}
