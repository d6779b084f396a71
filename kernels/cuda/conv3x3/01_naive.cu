// op:        conv3x3 forward, backward            rung: 01_naive
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[r,s,c,k] x[c,p+r-1,q+s-1])
//            dx = (F > 0) (the same sum of dy with turned filters + style_scale F S + content_scale (F - P))
// reference: nstcore/ops/conv.py conv_forward, conv_backward; gram.py gram_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py Convolution
// requires:  any precision; any C, K, H, W; H W C and H W K elements may be more than 2^31
// napkin:    9*C*K*H*W multiply-adds, each with two loads: 4 bytes of x (all of a warp the same) and 4 of w
//
// One thread for each output. The threads of a warp are neighbouring channels, so that what they read of the filters
// and what they write lies together in memory.
#define ALIGNED 0
#include "conv3x3.cuh"

__device__ __forceinline__ float multiply(const element* row, const element* matrix, int channels, int columns,
                                          float sum) {
  for (int c = 0; c < channels; ++c)
    sum = __fmaf_rn(to_float(row[c]), to_float(matrix[(size_t)c * columns]), sum);
  return sum;
}

// The sum over nine taps of x (H, W, in) . w (9, in, out), added to what F . S gave
template <class Epilogue>
__device__ __forceinline__ void conv3x3(const element* x, const element* w, const element* F, const element* S,
                                        const Factor& style_scale, int in, int out, int H, int W, int replicate,
                                        const Epilogue& epilogue) {
  const int k = blockIdx.y * 32 + threadIdx.x % 32;
  const int64_t position = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (k >= out || position >= (int64_t)H * W) return;
  const int p = (int)(position / W), q = (int)(position % W);

  float sum[1] = {0.f};
  if (S) sum[0] = style_scale * multiply(F + position * out, S + k, out, out, 0.f);
  for (int tap = 0; tap < 9; ++tap) {
    const element* row = pixel(x, p + tap / 3 - 1, q + tap % 3 - 1, in, H, W, replicate);
    if (row) sum[0] = multiply(row, w + (size_t)tap * in * out + k, in, out, sum[0]);
  }
  finish<1>(epilogue, position, k, out, sum);
}

extern "C" __global__ void __launch_bounds__(256)
    conv3x3_forward(const element* __restrict__ x, const element* __restrict__ w, const float* __restrict__ b,
                    element* __restrict__ linear, element* __restrict__ y, int C, int K, int H, int W, int replicate) {
  const Forward epilogue = {b, linear, y};
  conv3x3(x, w, nullptr, nullptr, {}, C, K, H, W, replicate, epilogue);
}

extern "C" __global__ void __launch_bounds__(256)
    conv3x3_backward(const element* __restrict__ dy, const element* __restrict__ w, const element* __restrict__ F,
                     const element* __restrict__ S, float style_scale, const element* __restrict__ P,
                     float content_scale, const float* __restrict__ scales, int mask, element* __restrict__ dx, int K,
                     int C, int H, int W) {
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  conv3x3(dy, w, F, S, {style_scale, scales, SCALE_STYLE}, K, C, H, W, 0, epilogue);
}
