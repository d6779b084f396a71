// op:        conv3x3 forward, backward            rung: 05_tensor_core_tf32
// over 03:   the products are the tensor cores': 16x8x8 in one instruction of a warp instead of one in a thread's; what
//            they read is on its way two chunks ahead (cp.async), past the registers
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[k,r,s,c] x[c,p+r-1,q+s-1])
//            dx = (F > 0) (the same sum of dy with turned filters + style_scale F S + content_scale (F - P))
// reference: nstcore/ops/conv.py conv_forward, conv_backward; gram.py gram_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py Convolution: one block of 128 threads for TILE_M positions x TILE_N channels
// requires:  sm_80; TF32, elements already rounded; any C, K, H, W (H*W below 2^32)
// napkin:    9*C*K*H*W multiply-adds; per chunk of 16 a block copies 16 KB for 128*128*16 of them, 16 a byte. Operands
//            have 11 bits, so products are exact in float32 and only the sums round
//
// The tensor cores read the upper 19 bits of a float. Memory holds floats that have no others, so nothing is converted
// on the way: 4-byte elements pass through cp.async and ldmatrix as they are.
#ifndef PRECISION
#define PRECISION TF32
#endif
#include "tensor_tiles.cuh"
#include "tensor_core.cuh"
static_assert(PRECISION == TF32, "06_tensor_core_16bit is for 16 bits; there is no tensor core for float32");

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_forward(const element* __restrict__ x, const element* __restrict__ w, const float* __restrict__ b,
                    element* __restrict__ linear, element* __restrict__ y, int C, int K, int H, int W, int replicate) {
  extern __shared__ __align__(128) unsigned char stages[];
  const Forward epilogue = {b, linear, y};
  conv3x3<false>(stages, x, w, nullptr, nullptr, {}, C, K, H, W, replicate, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_backward(const element* __restrict__ dy, const element* __restrict__ w, const element* __restrict__ F,
                     const element* __restrict__ S, float style_scale, const element* __restrict__ P,
                     float content_scale, const float* __restrict__ scales, int mask, element* __restrict__ dx, int K,
                     int C, int H, int W) {
  extern __shared__ __align__(128) unsigned char stages[];
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  conv3x3<true>(stages, dy, w, F, S, {style_scale, scales, SCALE_STYLE}, K, C, H, W, 0, epilogue);
}
