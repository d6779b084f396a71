// op:        conv of any kernel, stride and border    rung: 01_naive
// math:      y[k,p,q] = act(b[k] + sum_{c,r,s} w[k,c,r,s] xp[c,t*p+r,t*q+s])
//            xp is x with each position repeated `enlarged` times down and across, and with its border; act is none,
//            relu, relu6 or sigmoid
// reference: nstcore/ops/conv.py conv_forward; resize.py resize_nearest_forward; relu.py relu_forward, relu6_forward;
//            sigmoid.py sigmoid_forward
// launch:    nstcore/engines/cuda/general_conv.py
// requires:  x (H, W, C), y (P, Q, K) float32; any C, K, R, S, stride, border; H W and C R S below 2^31
// napkin:    C*K*R*S*P*Q multiply-adds, each with two loads: one of x, the same for the threads of all filters of a
//            position, and one of w, side by side
//
// One thread for each output; neighbours are neighbours in y.
#include "packed.cuh"

extern "C" __global__ void __launch_bounds__(256)
    conv_forward(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
                 float* __restrict__ y, int C, int H, int W, int K, int R, int S, int P, int Q, int stride, int top,
                 int left, int padding, int enlarged, int activation) {
  const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (int64_t)P * Q * K) return;
  const int k = (int)(at % K), p = (int)(at / K / Q), q = (int)(at / K % Q);

  float sum = 0.f;
  for (int tap = 0; tap < R * S; ++tap) {
    const int from = place(p * stride + tap / S - top, q * stride + tap % S - left, H, W, enlarged, padding);
    if (from < 0) continue;
    for (int c = 0; c < C; ++c)
      sum = __fmaf_rn(x[(size_t)from * C + c], filters_at(w, c, tap, R * S, K)[k], sum);
  }
  y[at] = activate(sum + b[k], activation);
}
