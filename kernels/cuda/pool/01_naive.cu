// op:        pool                       rung: 01_naive
// math:      y = max_i x_i,  1/4 sum_i x_i,  or sqrt(sum_i x_i^2)        i = 0 .. 3, the 2x2 window row by row
//            dx_i = dy for the first largest,  dy / 4,  or dy x_i / y (0 where y = 0);  times (x_i > 0) with `mask`
// reference: nstcore/ops/pool.py pool_forward, pool_backward; nstcore/ops/relu.py relu_backward
// requires:  any C, H, W (forward: at least 2 rows and columns)
// launch:    nstcore/engines/cuda/pool.py: one thread per element of y, of dx
// napkin:    5/4 C*H*W elements forward, 9/4 C*H*W backward, each an access of 2 or 4 bytes; in the backward a window's
//            four threads each read the whole window
#include "common.cuh"
#include "window.cuh"

// The window whose first value is x[0]; `row` is how many elements the next row is further on
__device__ __forceinline__ void load_window(float (&v)[4], const element* __restrict__ x, int C, int64_t row) {
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = to_float(x[i / 2 * row + i % 2 * C]);
}

extern "C" __global__ void pool_forward(const element* __restrict__ x, element* __restrict__ y, int C, int H, int W,
                                        int kind) {
  const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t p = at / C / (W / 2), q = at / C % (W / 2);
  if (p >= H / 2) return;
  float v[4];
  load_window(v, x + (2 * p * W + 2 * q) * C + at % C, C, (int64_t)W * C);
  y[at] = to_element(pool_window(v, kind));
}

extern "C" __global__ void pool_backward(const element* __restrict__ dy, const element* __restrict__ x,
                                         element* __restrict__ dx, int C, int H, int W, int kind, int mask) {
  const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t row = at / C / W, column = at / C % W, c = at % C, p = row / 2, q = column / 2;
  if (row >= H) return;
  float value = 0.f;  // of an odd last row or column: it is in no window
  if (p < H / 2 && q < W / 2) {
    float v[4], d[4];
    load_window(v, x + (2 * p * W + 2 * q) * C + c, C, (int64_t)W * C);
    pool_window_backward(to_float(dy[(p * (W / 2) + q) * C + c]), v, kind, mask, d);
    const float left = row % 2 ? d[2] : d[0], right = row % 2 ? d[3] : d[1];
    value = column % 2 ? right : left;
  }
  dx[at] = to_element(value);
}
