// op:        conv3x3 forward                      rung: 10_pooled
// over 06:   a block's positions are 2x2 windows, one after the other, so that the pooling that follows is done where
//            sums are finished; nothing is read for it, and the features are written only if somebody needs them
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[k,r,s,c] x[c,p+r-1,q+s-1])
//            pooled[k,p,q] = max, mean or L2 norm of y[k,2p,2q], y[k,2p,2q+1], y[k,2p+1,2q], y[k,2p+1,2q+1]
// reference: nstcore/ops/conv.py conv_forward; relu.py relu_forward; pool.py pool_forward
// launch:    nstcore/engines/cuda/conv.py Convolution: a block of 128 threads for TILE_M / 4 windows x TILE_N channels
// requires:  sm_80; TF32, float16 or bfloat16; any C, K, H, W (H*W below 2^32)
// napkin:    9*C*K*H*W multiply-adds as in 06. Of y's H*W*K elements 06 writes all, and a pooling reads all and writes
//            a quarter; here that quarter is written, and H*W*K/4 bytes, the choices for the way back
//
// A sum is that of 05 and 06 bit by bit. What becomes of a window is in pooled_outputs.cuh; with y alone this is the
// convolution, for a layer with no pooling above it.
#ifndef PRECISION
#define PRECISION TF32
#endif
#include "tensor_tiles.cuh"
#include "tensor_core.cuh"
#include "pooled_outputs.cuh"
static_assert(PRECISION != FLOAT32, "there is no tensor core for float32");

// Windows row by row, from `first` on, each row by row; an odd last row or column is in incomplete ones
struct WindowByWindow {
  unsigned first;
  int wide;  // windows in a row of them

  __device__ __forceinline__ void operator()(int m, int& p, int& q) const {
    const unsigned window = first + m / 4;
    p = (int)(window / wide) * 2 + m % 4 / 2, q = (int)(window % wide) * 2 + m % 2;
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_forward(const element* __restrict__ x, const element* __restrict__ w, const float* __restrict__ b,
                    element* __restrict__ linear, element* __restrict__ y, element* __restrict__ pooled,
                    uint8_t* __restrict__ choices, int kind, int C, int K, int H, int W, int replicate) {
  extern __shared__ __align__(128) unsigned char stages[];
  const int across = (K + TILE_N - 1) / TILE_N, first_filter = blockIdx.x % across * TILE_N;
  const WindowByWindow place = {blockIdx.x / across * (TILE_M / 4), (W + 1) / 2};
  Windows windows(place, first_filter, K, H, W, replicate);
  sums d;
  sum_chunks<false>(d, stages, windows, x, w, nullptr, nullptr, {}, C, K, 0, all_chunks<false>(nullptr, C, K));

  const Outputs outputs = {b, linear, y, pooled, choices, kind, K, H, W};
  for_each_four(d, stages, [&](int m, int n, float(&four)[4][4]) {
    int p, q;
    place(m, p, q);
    outputs.finish(p, q, first_filter + n, four);
  });
}
