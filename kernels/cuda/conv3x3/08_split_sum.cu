// op:        conv3x3 forward, backward            rung: 08_split_sum
// over 06:   for layers of few positions: several blocks share out the sum of one tile, so that no multiprocessor is
//            idle; a second kernel adds their parts in one order, and does with the sum what 05 and 06 do
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[k,r,s,c] x[c,p+r-1,q+s-1])
//            dx = (F > 0) (the same sum of dy with turned filters + style_scale F S + content_scale (F - P))
// reference: nstcore/ops/conv.py conv_forward, conv_backward; gram.py gram_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py SplitSum: a grid of tiles x parts, one block of 128 threads each; then four
//            channels of a position for each thread
// requires:  sm_80; TF32, float16 or bfloat16; parts (count, H W, K rounded up to 4) float32; any C, K, H, W (H*W below
//            2^32)
// napkin:    9*C*K*H*W multiply-adds; 8*count*H*W*K bytes written and read again, which the second-level cache holds.
//            VGG's conv5_1 of 512 x 512 has 32 tiles of 128 x 128 for 132 multiprocessors: 4 parts are 128 blocks, and
//            17 MB for 9.7 MB of filters and features
//
// The tenth tap comes first in the sum: it may fill some parts and end within one. Each part scales what it has of it.
#ifndef PRECISION
#define PRECISION TF32
#endif
#include "tensor_tiles.cuh"
#include "tensor_core.cuh"
static_assert(PRECISION != FLOAT32, "there is no tensor core for float32");

// Floats from one position of a part to the next: whole quads
__device__ __forceinline__ int pitch_of(int channels) { return (channels + 3) / 4 * 4; }

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_parts(const element* __restrict__ x, const element* __restrict__ w, const element* __restrict__ F,
                  const element* __restrict__ S, float style_scale, const float* __restrict__ scales,
                  float* __restrict__ parts, int in, int out, int H, int W, int replicate) {
  extern __shared__ __align__(128) unsigned char stages[];
  const int across = (out + TILE_N - 1) / TILE_N;
  const unsigned first_position = blockIdx.x / across * TILE_M, positions = (unsigned)H * (unsigned)W;
  const int first_filter = blockIdx.x % across * TILE_N;
  const int part = blockIdx.y, count = gridDim.y, chunks = all_chunks<true>(S, in, out);
  const int first = chunks * part / count, last = chunks * (part + 1) / count;

  Windows windows(Rows{first_position, W}, first_filter, out, H, W, replicate);
  sums d;
  sum_chunks<true>(d, stages, windows, x, w, F, S, {style_scale, scales, SCALE_STYLE}, in, out, first, last);

  const int pitch = pitch_of(out);
  float* to = parts + (size_t)part * positions * pitch;
  for_each_quad(d, stages, [&](int m, int n, float(&quad)[4]) {
    const unsigned position = first_position + m;
    const int channel = first_filter + n;
    if (position < positions && channel < pitch)
      *reinterpret_cast<float4*>(to + (size_t)position * pitch + channel) =
          make_float4(quad[0], quad[1], quad[2], quad[3]);
  });
}

// The sums of four channels of one position, as the epilogue wants them
template <class Epilogue>
__device__ __forceinline__ void add_parts(const float* parts, int count, int channels, unsigned positions,
                                          const Epilogue& epilogue) {
  const int quads = pitch_of(channels) / 4;
  const size_t each = (size_t)positions * quads, i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= each) return;
  const float4* from = reinterpret_cast<const float4*>(parts) + i;
  float sum[4] = {};
#pragma unroll 4
  for (int part = 0; part < count; ++part) {
    const float4 v = from[part * each];
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
  }
  finish<4>(epilogue, i / quads, (int)(i % quads) * 4, channels, sum);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    finish_forward(const float* __restrict__ parts, int count, const float* __restrict__ b,
                   element* __restrict__ linear, element* __restrict__ y, int K, unsigned positions) {
  const Forward epilogue = {b, linear, y};
  add_parts(parts, count, K, positions, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    finish_backward(const float* __restrict__ parts, int count, const element* __restrict__ F,
                    const element* __restrict__ P, float content_scale, const float* __restrict__ scales, int mask,
                    element* __restrict__ dx, int C, unsigned positions) {
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  add_parts(parts, count, C, positions, epilogue);
}
