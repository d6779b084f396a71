// op:        conv3x3 forward, backward            rung: 02_shared_tile
// over 01:   a block reads its square of the input, with one more position on every side, once into shared memory, and
//            not once for each tap and each of its threads
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[r,s,c,k] x[c,p+r-1,q+s-1])
//            dx = (F > 0) (the same sum of dy with turned filters + style_scale F S + content_scale (F - P))
// reference: nstcore/ops/conv.py conv_forward, conv_backward; gram.py gram_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py Convolution
// requires:  any precision; any C, K, H, W; H W C and H W K elements may be more than 2^31
// napkin:    for 16 positions x 32 channels, (4+2)^2 = 36 values of x a channel instead of 16*9 = 144; each is used 32
//            times for every tap. Filters still come from the caches, one load for each multiply-add
#define ALIGNED 0
#include "conv3x3.cuh"

#ifndef SIDE
#define SIDE 4  // of the square of positions
#endif
#define CHANNELS 32  // of the input, at a time
#define THREADS (32 * SIDE * SIDE)
#define HALO (SIDE + 2)

static_assert(THREADS <= 1024, "one thread for each position and each of 32 channels");

typedef float Tile[HALO * HALO][CHANNELS];

// Adds the sum over TAPS taps: nine, or the middle one alone
template <int TAPS>
__device__ __forceinline__ void accumulate(float& sum, Tile& tile, const element* x, const element* w, int in, int out,
                                           int H, int W, int replicate) {
  const int k = blockIdx.z * 32 + threadIdx.x % 32, place = threadIdx.x / 32;
  const int top = blockIdx.y * SIDE - 1, left = blockIdx.x * SIDE - 1;
  for (int c0 = 0; c0 < in; c0 += CHANNELS) {
    for (int i = threadIdx.x; i < HALO * HALO * CHANNELS; i += THREADS) {
      const int at = i / CHANNELS, c = c0 + i % CHANNELS;
      const element* row = pixel(x, top + at / HALO, left + at % HALO, in, H, W, replicate);
      tile[at][i % CHANNELS] = row && c < in ? to_float(row[c]) : 0.f;
    }
    __syncthreads();  // the tile is there
    const int some = min(CHANNELS, in - c0);
    for (int tap = 0; tap < TAPS; ++tap) {
      const int r = TAPS == 9 ? tap / 3 : 1, s = TAPS == 9 ? tap % 3 : 1;
      const float* values = tile[(place / SIDE + r) * HALO + place % SIDE + s];
      const element* filter = w + ((size_t)tap * in + c0) * out + k;
      if (k < out)
        for (int c = 0; c < some; ++c) sum = __fmaf_rn(values[c], to_float(filter[(size_t)c * out]), sum);
    }
    __syncthreads();  // everybody has read it
  }
}

template <class Epilogue>
__device__ __forceinline__ void conv3x3(const element* x, const element* w, const element* F, const element* S,
                                        const Factor& style_scale, int in, int out, int H, int W, int replicate,
                                        const Epilogue& epilogue) {
  __shared__ Tile tile;
  float sum[1] = {0.f};
  if (S) {
    accumulate<1>(sum[0], tile, F, S, out, out, H, W, 0);
    sum[0] *= style_scale;
  }
  accumulate<9>(sum[0], tile, x, w, in, out, H, W, replicate);

  const int k = blockIdx.z * 32 + threadIdx.x % 32, place = threadIdx.x / 32;
  const int p = blockIdx.y * SIDE + place / SIDE, q = blockIdx.x * SIDE + place % SIDE;
  if (p < H && q < W) finish<1>(epilogue, (size_t)p * W + q, k, out, sum);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    conv3x3_forward(const element* __restrict__ x, const element* __restrict__ w, const float* __restrict__ b,
                    element* __restrict__ linear, element* __restrict__ y, int C, int K, int H, int W, int replicate) {
  const Forward epilogue = {b, linear, y};
  conv3x3(x, w, nullptr, nullptr, {}, C, K, H, W, replicate, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    conv3x3_backward(const element* __restrict__ dy, const element* __restrict__ w, const element* __restrict__ F,
                     const element* __restrict__ S, float style_scale, const element* __restrict__ P,
                     float content_scale, const float* __restrict__ scales, int mask, element* __restrict__ dx, int K,
                     int C, int H, int W) {
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  conv3x3(dy, w, F, S, {style_scale, scales, SCALE_STYLE}, K, C, H, W, 0, epilogue);
}
