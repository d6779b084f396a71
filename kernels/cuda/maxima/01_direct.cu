// op:        maxima of windows, the edge's among them   rung: 01_direct
// math:      y[c,p,q] = max x[c,i,j] over i in {2p, 2p+1}, j in {2q, 2q+1}, as far as there are such positions
// reference: nstcore/engines/operations.py max_pool (nstcore/ops/pool.py max_pool_forward, x with an odd last row or
//            column repeated)
// launch:    nstcore/engines/cuda/resize.py
// requires:  x (H, W, C), y (ceil(H/2), ceil(W/2), C) float32; any C, H, W
// napkin:    5/4 C*H*W floats of memory, each read or written once, four at a time where C is a multiple of 4. (VGG's
//            pooling, kernels/cuda/pool, drops an odd last row or column.)
//
// One thread for 4 channels of an output where C is a multiple of 4, for one where it is not; blockIdx.x is a row of y,
// and (blockIdx.y, threadIdx.x) a place in it.
#include "common.cuh"

// NaN counts as the largest: what nothing wrote must show
__device__ __forceinline__ float larger(float a, float b) { return b > a || b != b ? b : a; }

template <int N>
__device__ __forceinline__ void maxima(const float* __restrict__ x, float* __restrict__ y, int C, int H, int W) {
  const int Q = (W + 1) / 2, at = blockIdx.y * blockDim.x + threadIdx.x;
  const int p = blockIdx.x, q = at / (C / N), c = at % (C / N) * N;
  if (q >= Q) return;
  float v[4][N];
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // beyond the edge the last row or column again: its maximum is the same
    const int row = min(2 * p + i / 2, H - 1), column = min(2 * q + i % 2, W - 1);
    load_elements<N>(v[i], x + ((size_t)row * W + column) * C + c);
  }
#pragma unroll
  for (int e = 0; e < N; ++e) v[0][e] = larger(larger(v[0][e], v[1][e]), larger(v[2][e], v[3][e]));
  store_elements<N>(y + ((size_t)p * Q + q) * C + c, v[0]);
}

extern "C" __global__ void __launch_bounds__(256)
    maxima_forward(const float* __restrict__ x, float* __restrict__ y, int C, int H, int W) {
  if (C % 4 == 0)
    maxima<4>(x, y, C, H, W);
  else
    maxima<1>(x, y, C, H, W);
}
