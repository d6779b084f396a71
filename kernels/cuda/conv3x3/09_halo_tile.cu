// op:        conv3x3 forward, backward            rung: 09_halo_tile
// over 06:   a block's positions are a rectangle; what the nine taps read is copied once, with its border, and not
//            once for each tap; and the three taps of a column share their fragments
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[k,r,s,c] x[c,p+r-1,q+s-1])
//            dx = (F > 0) (the same sum of dy with turned filters + style_scale F S + content_scale (F - P))
// reference: nstcore/ops/conv.py conv_forward, conv_backward; gram.py gram_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py Convolution: one block of TILE_M / 64 x TILE_N / 64 warps for TILE_M
//            positions, in rows of 16, x TILE_N channels
// requires:  sm_80; TF32, float16 or bfloat16; any C, K, H, W (H*W below 2^32)
// napkin:    9*C*K*H*W multiply-adds. For 64 bytes of channels, which are 32 of 16 bits, a block of 256 positions x 128
//            filters copies 18 x 18 positions, 20 KB, and 9 x 128 filters, 72 KB, for 256*128*288 of them: 100 a byte,
//            where 06 has 32. From shared memory a warp reads 6 + 3 x 4 fragments of 16 rows for the three taps of a
//            column, where 06 reads 3 x (4 + 4). A layer whose channels do not fill 64 bytes multiplies zeros
//
//   x --cp.async--> two rectangles with their borders, one of them ahead ----ldmatrix--> fragments --> mma
//   w --cp.async--> two stages of three taps, one of them ahead -------------ldmatrix--> fragments --> mma
//
// Rows of a fragment of A are 16 positions of one row of the picture, and a warp has MI = 4 of them, one below the
// other. A tap reads the same a position further: ldmatrix has an address for every row, so that any shift will do. And
// a row further down is the next fragment: the column's three taps need MI + 2 fragments, not 3 MI.
//
// In the backward pass style_scale F S is summed first, as in tensor_core.cuh: a tap without a shift, which has a step
// of its own for every 64 bytes of channels.
#include "halo_tile.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_forward(const element* __restrict__ x, const element* __restrict__ w, const float* __restrict__ b,
                    element* __restrict__ linear, element* __restrict__ y, int C, int K, int H, int W, int replicate) {
  extern __shared__ __align__(128) unsigned char shared[];
  const Forward epilogue = {b, linear, y};
  const Rectangle place(K, W);
  const CopiedHalo halo = {x, C, H, W, replicate, place};
  sums d;
  sum_steps<false>(d, shared, halo, place, w, nullptr, nullptr, {}, C, K, H, W);
  finish_positions(d, shared, place, K, H, W, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_backward(const element* __restrict__ dy, const element* __restrict__ w, const element* __restrict__ F,
                     const element* __restrict__ S, float style_scale, const element* __restrict__ P,
                     float content_scale, const float* __restrict__ scales, int mask, element* __restrict__ dx, int K,
                     int C, int H, int W) {
  extern __shared__ __align__(128) unsigned char shared[];
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  const Rectangle place(C, W);
  const CopiedHalo halo = {dy, K, H, W, 0, place};
  sums d;
  sum_steps<true>(d, shared, halo, place, w, F, S, {style_scale, scales, SCALE_STYLE}, K, C, H, W);
  finish_positions(d, shared, place, C, H, W, epilogue);
}
