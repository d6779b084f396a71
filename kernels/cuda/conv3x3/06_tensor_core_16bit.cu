// op:        conv3x3 forward, backward            rung: 06_tensor_core_16bit
// over 05:   elements of 2 bytes: the same 64-byte rows are twice as deep, one instruction multiplies 16x8x16, and
//            memory moves half as much; sums stay float32, so precision is lost only where a feature is stored
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[k,r,s,c] x[c,p+r-1,q+s-1])
//            dx = (F > 0) (the same sum of dy with turned filters + style_scale F S + content_scale (F - P))
// reference: nstcore/ops/conv.py conv_forward, conv_backward; gram.py gram_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py Convolution: one block of 128 threads for TILE_M positions x TILE_N channels
// requires:  sm_80; float16 or bfloat16; any C, K, H, W (H*W below 2^32)
// napkin:    9*C*K*H*W multiply-adds; per chunk of 32 a block copies 16 KB for 128*128*32 of them, 32 a byte. Operands
//            have 11 or 8 bits, so products are exact in float32 and only the sums round
//
// Tiles, permutation and fragments are those of 05 byte by byte; only what an mma makes of the bytes differs. Where C,
// or K, is no multiple of 8, rows begin at any 2 bytes: too few for cp.async, so elements pass through registers.
#ifndef PRECISION
#define PRECISION FLOAT16
#endif
#include "tensor_tiles.cuh"
#include "tensor_core.cuh"
static_assert(PRECISION == FLOAT16 || PRECISION == BFLOAT16, "05_tensor_core_tf32 is for TF32");

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
