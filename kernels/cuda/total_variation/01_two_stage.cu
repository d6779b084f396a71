// op:        total variation            rung: 01_two_stage
// math:      TV = sum (x[c,p+1,q] - x[c,p,q])^2 + sum (x[c,p,q+1] - x[c,p,q])^2
//                 + diagonal ( sum (x[c,p+1,q+1] - x[c,p,q])^2 + sum (x[c,p+1,q] - x[c,p,q+1])^2 )
//            dx[c,p,q] += factor (sum over the straight neighbours n of x[c,p,q] - x[c,n]
//                                 + diagonal times the same sum over the diagonal ones)
// reference: nstcore/ops/total_variation.py total_variation_forward, total_variation_backward
// requires:  x, dx (C, H, W) float32, not overlapping; any C, H, W
// launch:    nstcore/engines/cuda/losses.py: total_variation with one block of THREADS per piece; their sum by
//            sum_pieces of content/01_two_stage
// napkin:    each pixel gathers from its four or eight neighbours, which the cache holds: 12 bytes of memory a pixel,
//            and nobody adds to another's gradient
#include "reduce.cuh"

#define TILE_WIDTH 32
#define TILE_HEIGHT WARPS  // a warp is a row of a tile; a tile's pixels are one per thread

extern "C" __global__ void __launch_bounds__(THREADS)
    total_variation(const float* __restrict__ x, float factor, float diagonal, float* __restrict__ dx,
                    double* __restrict__ pieces, int C, int H, int W) {
  const int across = (W + TILE_WIDTH - 1) / TILE_WIDTH, down = (H + TILE_HEIGHT - 1) / TILE_HEIGHT;
  double sum = 0;
  for (int64_t tile = blockIdx.x; tile < (int64_t)C * down * across; tile += gridDim.x) {
    const int64_t strip = tile / across;  // TILE_HEIGHT rows of one channel
    const int p = (int)(strip % down) * TILE_HEIGHT + threadIdx.x / 32;
    const int q = (int)(tile % across) * TILE_WIDTH + threadIdx.x % 32;
    if (p < H && q < W) {
      const int64_t i = (strip / down * H + p) * W + q;
      const float at = x[i];
      const float right = q + 1 < W ? x[i + 1] - at : 0.f, left = q > 0 ? at - x[i - 1] : 0.f;
      const float below = p + 1 < H ? x[i + W] - at : 0.f, above = p > 0 ? at - x[i - W] : 0.f;
      float push = left - right + above - below, squares = __fmaf_rn(right, right, below * below);
      if (diagonal != 0.f) {
        const float below_right = p + 1 < H && q + 1 < W ? x[i + W + 1] - at : 0.f;
        const float below_left = p + 1 < H && q > 0 ? x[i + W - 1] - at : 0.f;
        const float above_right = p > 0 && q + 1 < W ? at - x[i - W + 1] : 0.f;
        const float above_left = p > 0 && q > 0 ? at - x[i - W - 1] : 0.f;
        push += diagonal * (above_left - below_right + above_right - below_left);
        squares += diagonal * __fmaf_rn(below_right, below_right, below_left * below_left);
      }
      dx[i] += factor * push;
      sum += squares;
    }
  }
  leave_piece(pieces, block_sum(sum));
}
