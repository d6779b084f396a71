// op:        block means                rung: 01_direct
// math:      y[c,i,j] = mean of x[c,p,q] over k i <= p < min(k (i+1), H), k j <= q < min(k (j+1), W)
//            dx[c,p,q] += dy[c, p/k, q/k] / (pixels in that block)
// reference: nstcore/ops/block_mean.py block_mean_forward, block_mean_backward
// requires:  x, dx (C, H, W), y, dy (C, ceil(H/k), ceil(W/k)), float32, not overlapping; any sizes, k at most the
//            larger of H and W; C H W elements may be more than 2^31
// launch:    nstcore/engines/cuda/block_mean.py: one thread per element of y, of dx; blockIdx.x counts their rows,
//            blockIdx.y the pieces of a row
// napkin:    forward 4 bytes a pixel: the blocks of a warp lie side by side, so a row of them is 32 k floats that come
//            from memory once and then from the first-level cache; backward 8 bytes a pixel, dx read and written: each
//            pixel gathers its share, so nobody adds to another's sum
#include "common.cuh"

extern "C" __global__ void block_mean_forward(const float* __restrict__ x, float* __restrict__ y, int k, int H,
                                              int W) {
  const int h = (H - 1) / k + 1, w = (W - 1) / k + 1;
  const int channel = blockIdx.x / h, i = blockIdx.x % h, j = blockIdx.y * blockDim.x + threadIdx.x;
  if (j >= w) return;
  const int p = i * k, q = j * k, rows = min(k, H - p), columns = min(k, W - q);
  const float* row = x + ((int64_t)channel * H + p) * W + q;
  float sum = 0.f;
  for (int r = 0; r < rows; ++r, row += W) {
    float part = 0.f;  // a row by itself: rounding then grows with the block's side, not with its area
    for (int s = 0; s < columns; ++s) part += row[s];
    sum += part;
  }
  y[(int64_t)blockIdx.x * w + j] = sum / (float)((int64_t)rows * columns);
}

extern "C" __global__ void block_mean_backward(const float* __restrict__ dy, float* __restrict__ dx, int k, int H,
                                               int W) {
  const int h = (H - 1) / k + 1, w = (W - 1) / k + 1;
  const int channel = blockIdx.x / H, p = blockIdx.x % H, q = blockIdx.y * blockDim.x + threadIdx.x;
  if (q >= W) return;
  const int i = p / k, j = q / k, rows = min(k, H - i * k), columns = min(k, W - j * k);
  dx[(int64_t)blockIdx.x * W + q] += dy[((int64_t)channel * h + i) * w + j] / (float)((int64_t)rows * columns);
}
