// op:        depthwise convolution      rung: 01_direct
// math:      y[c,p,q] = act(b[c] + sum_{r,s} w[c,r,s] xp[c,t*p+r,t*q+s])
//            xp is x with its border; act is none, relu, relu6 or sigmoid
// reference: nstcore/ops/depthwise.py depthwise_forward; relu.py relu_forward, relu6_forward; sigmoid.py
//            sigmoid_forward
// launch:    nstcore/engines/cuda/general_conv.py
// requires:  x (H, W, C), w (R S, C), y (P, Q, C) float32; any C, R, S, stride, border; H W below 2^31
// napkin:    R*S*C*P*Q multiply-adds, two loads of 16 bytes for four of them; 4*C*(H*W + P*Q) bytes of memory, which
//            are the limit, as the R*S/t^2 readers of an x run side by side and find it in the caches
//
// One thread for 4 channels of an output where C is a multiple of 4, for one where it is not; blockIdx.x is a row of y,
// and (blockIdx.y, threadIdx.x) a place in it.
#include "layers.cuh"

template <int N>
__device__ __forceinline__ void depthwise(const float* __restrict__ x, const float* __restrict__ w,
                                          const float* __restrict__ b, float* __restrict__ y, int C, int H, int W,
                                          int R, int S, int Q, int stride, int top, int left, int padding,
                                          int activation) {
  const int at = blockIdx.y * blockDim.x + threadIdx.x, p = blockIdx.x, q = at / (C / N), c = at % (C / N) * N;
  if (q >= Q) return;
  float sums[N] = {};
  for (int r = 0; r < R; ++r)
    for (int s = 0; s < S; ++s) {
      const int from = place(p * stride + r - top, q * stride + s - left, H, W, 1, padding);
      if (from < 0) continue;
      float v[N], weight[N];
      load_elements<N>(v, x + (size_t)from * C + c);
      load_elements<N>(weight, w + (r * S + s) * C + c);
#pragma unroll
      for (int e = 0; e < N; ++e) sums[e] = __fmaf_rn(v[e], weight[e], sums[e]);
    }
#pragma unroll
  for (int e = 0; e < N; ++e) sums[e] = activate(sums[e] + b[c + e], activation);
  store_elements<N>(y + ((size_t)p * Q + q) * C + c, sums);
}

extern "C" __global__ void __launch_bounds__(256)
    depthwise_forward(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
                      float* __restrict__ y, int C, int H, int W, int R, int S, int Q, int stride, int top, int left,
                      int padding, int activation) {
  if (C % 4 == 0)
    depthwise<4>(x, w, b, y, C, H, W, R, S, Q, stride, top, left, padding, activation);
  else
    depthwise<1>(x, w, b, y, C, H, W, R, S, Q, stride, top, left, padding, activation);
}
