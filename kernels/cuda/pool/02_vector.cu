// op:        pool                       rung: 02_vector
// over 01:   a thread has 16 bytes of channels, and in the backward the whole window of them: every element is read and
//            written once, in the widest access that there is
// math:      y = max_i x_i,  1/4 sum_i x_i,  or sqrt(sum_i x_i^2)        i = 0 .. 3, the 2x2 window row by row
//            dx_i = dy for the first largest,  dy / 4,  or dy x_i / y (0 where y = 0);  times (x_i > 0) with `mask`
// reference: nstcore/ops/pool.py pool_forward, pool_backward; nstcore/ops/relu.py relu_backward
// requires:  any C, H, W (forward: at least 2 rows and columns); ALIGNED=1 where C is a multiple of 16 bytes
// launch:    nstcore/engines/cuda/pool.py: blockIdx.x is a row of windows, its threads are (blockIdx.y, threadIdx.x)
// napkin:    5/4 C*H*W elements forward, 9/4 C*H*W backward; memory's bandwidth is the limit
#include "common.cuh"
#include "window.cuh"

#ifndef ALIGNED
#define ALIGNED 1
#endif
#define VECTOR (ALIGNED ? ELEMENTS_PER_16_BYTES : 1)

extern "C" __global__ void pool_forward(const element* __restrict__ x, element* __restrict__ y, int C, int H, int W,
                                        int kind) {
  const int p = blockIdx.x, vectors = C / VECTOR, at = blockIdx.y * blockDim.x + threadIdx.x;
  const int q = at / vectors, c = at % vectors * VECTOR;
  if (q >= W / 2) return;
  float v[4][VECTOR], out[VECTOR];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    load_elements<VECTOR>(v[i], x + ((int64_t)(2 * p + i / 2) * W + 2 * q + i % 2) * C + c);
#pragma unroll
  for (int e = 0; e < VECTOR; ++e) {
    const float window[4] = {v[0][e], v[1][e], v[2][e], v[3][e]};
    out[e] = pool_window(window, kind);
  }
  store_elements<VECTOR>(y + ((int64_t)p * (W / 2) + q) * C + c, out);
}

// Windows that an odd last row or column leaves incomplete have a thread, too: it writes zeros
extern "C" __global__ void pool_backward(const element* __restrict__ dy, const element* __restrict__ x,
                                         element* __restrict__ dx, int C, int H, int W, int kind, int mask) {
  const int p = blockIdx.x, vectors = C / VECTOR, at = blockIdx.y * blockDim.x + threadIdx.x;
  const int q = at / vectors, c = at % vectors * VECTOR;
  if (q >= (W + 1) / 2) return;
  const bool whole = p < H / 2 && q < W / 2;
  float v[4][VECTOR], d[4][VECTOR], up[VECTOR];
  load_elements<VECTOR>(up, dy + ((int64_t)p * (W / 2) + q) * C + c, whole);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    load_elements<VECTOR>(v[i], x + ((int64_t)(2 * p + i / 2) * W + 2 * q + i % 2) * C + c, whole);
#pragma unroll
  for (int e = 0; e < VECTOR; ++e) {
    const float window[4] = {v[0][e], v[1][e], v[2][e], v[3][e]};
    float back[4];
    pool_window_backward(up[e], window, kind, mask, back);
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i][e] = back[i];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (2 * p + i / 2 < H && 2 * q + i % 2 < W)
      store_elements<VECTOR>(dx + ((int64_t)(2 * p + i / 2) * W + 2 * q + i % 2) * C + c, d[i]);
}
