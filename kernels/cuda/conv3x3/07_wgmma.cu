// op:        conv3x3 forward, backward            rung: 07_wgmma
// over 06:   wgmma: four warps multiply 64 x TILE_N x 16 (8 of TF32) with one instruction, which reads both factors from
//            shared memory and goes on by itself; no fragments, no ldmatrix, and the warps issue the next copies meanwhile
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[k,r,s,c] x[c,p+r-1,q+s-1])
//            dx = (F > 0) (the same sum of dy with turned filters + style_scale F S + content_scale (F - P))
// reference: nstcore/ops/conv.py conv_forward, conv_backward; gram.py gram_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py Convolution: one block of 256 threads for 128 positions x TILE_N channels
// requires:  sm_90a, which is sm_90 and nothing later; TF32, float16 or bfloat16; any C, K, H, W (H*W below 2^32)
// napkin:    9*C*K*H*W multiply-adds, at most 2048 in a cycle of a multiprocessor, 1024 of TF32. A chunk, 128 bytes of a
//            row, is half as many channels of TF32, so its cycles are the same. Of a tile of 128 x 256 it takes 1024 of
//            the tensor cores; of shared memory, which moves 128 bytes a cycle, 640 for what they read (80 KB) and 384
//            for what the copies write (48 KB), so all that it can do. One of 128 x 128 takes 512 of the tensor cores,
//            and 384 + 256 of shared memory, 1.25 times as many
//
// Why cp.async and not the bulk tensor copies (TMA): a tile's 128 positions follow each other through the rows of any
// picture, which is no box; a replicated border is nothing that TMA fills in; and its tensor maps are made by the
// driver, one for each address. cp.async takes more instructions, 12 a thread and chunk, which the warps have time for
// while the tensor cores work. What is gained besides: all of this file but the instruction itself, and that by its
// description in the PTX ISA, runs on the CPU. What TMA takes, and what it gains, is 11.
#ifndef PRECISION
#define PRECISION FLOAT16
#endif
#include "warpgroup_tiles.cuh"
#include "tensor_core.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_forward(const element* __restrict__ x, const element* __restrict__ w, const float* __restrict__ b,
                    element* __restrict__ linear, element* __restrict__ y, int C, int K, int H, int W, int replicate) {
  extern __shared__ __align__(1024) unsigned char stages[];
  const Forward epilogue = {b, linear, y};
  conv3x3<false>(stages, x, w, nullptr, nullptr, {}, C, K, H, W, replicate, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_backward(const element* __restrict__ dy, const element* __restrict__ w, const element* __restrict__ F,
                     const element* __restrict__ S, float style_scale, const element* __restrict__ P,
                     float content_scale, const float* __restrict__ scales, int mask, element* __restrict__ dx, int K,
                     int C, int H, int W) {
  extern __shared__ __align__(1024) unsigned char stages[];
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  conv3x3<true>(stages, dy, w, F, S, {style_scale, scales, SCALE_STYLE}, K, C, H, W, 0, epilogue);
}
