// op:        conv of any kernel, stride and border    rung: 03_split_sum
// over 02:   for the few outputs of a small map, or of a fully connected layer: the warps of a block share out the
//            channels of the same sums, and add up their parts in one order
// math:      y[k,p,q] = act(b[k] + sum_{c,r,s} w[k,c,r,s] xp[c,t*p+r,t*q+s])
//            xp is x with each position repeated `enlarged` times down and across, and with its border; act is none,
//            relu, relu6 or sigmoid
// reference: nstcore/ops/conv.py conv_forward; linear.py linear_forward; resize.py resize_nearest_forward; relu.py
//            relu_forward, relu6_forward; sigmoid.py sigmoid_forward
// launch:    nstcore/engines/cuda/general_conv.py
// requires:  x (H, W, C), y (P, Q, K) float32; any C, K, R, S, stride, border; H W and C R S below 2^31
// napkin:    1280 -> 100 at one position: 4 blocks, and a thread adds 80 products and then 16 parts, not 1280 products.
//            960 -> 160 at 8 x 8: 80 blocks of 16 warps, where 02 has 5. A multiply-add costs 5/4 loads: one of w, side
//            by side, for 4 positions, and one of x, the same for the whole warp; so the first-level cache is the limit
#include "packed.cuh"

#define POSITIONS 4  // of a block
#define WARPS 16     // each with 1/16 of the channels
#define THREADS (32 * WARPS)
static_assert(WARPS >= POSITIONS, "a warp finishes a position");

extern "C" __global__ void __launch_bounds__(THREADS)
    conv_forward(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
                 float* __restrict__ y, int C, int H, int W, int K, int R, int S, int P, int Q, int stride, int top,
                 int left, int padding, int enlarged, int activation) {
  __shared__ float parts[WARPS][POSITIONS][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, k = blockIdx.y * 32 + lane;
  const int64_t first = (int64_t)blockIdx.x * POSITIONS, positions = (int64_t)P * Q;

  float sums[POSITIONS] = {};
  for (int tap = 0; tap < R * S; ++tap) {
    int from[POSITIONS];
#pragma unroll
    for (int j = 0; j < POSITIONS; ++j) {
      const int p = (int)((first + j) / Q), q = (int)((first + j) % Q);
      const int i = p * stride + tap / S - top, at = q * stride + tap % S - left;
      from[j] = first + j < positions ? place(i, at, H, W, enlarged, padding) : -1;
    }
#pragma unroll 4
    for (int c = warp; c < C; c += WARPS) {
      const float weight = k < K ? filters_at(w, c, tap, R * S, K)[k] : 0.f;
#pragma unroll
      for (int j = 0; j < POSITIONS; ++j)
        if (from[j] >= 0) sums[j] = __fmaf_rn(x[(size_t)from[j] * C + c], weight, sums[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < POSITIONS; ++j) parts[warp][j][lane] = sums[j];
  __syncthreads();  // all parts are there

  if (warp >= POSITIONS || first + warp >= positions || k >= K) return;
  float sum = parts[0][warp][lane];
#pragma unroll
  for (int part = 1; part < WARPS; ++part) sum += parts[part][warp][lane];
  y[(first + warp) * K + k] = activate(sum + b[k], activation);
}
