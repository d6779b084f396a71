// op:        pixels                     rung: 01_direct
// math:      x[c] = (range * pixels[order[c]] - mean[c]) / std[c]
//            gradient[order[c]] = scale * range / std[c] * (conv_backward(dy))[c],  c = 0, 1, 2
// reference: nstcore/ops/preprocess.py preprocess_forward, preprocess_backward; nstcore/ops/conv.py conv_backward
// requires:  any H, W, K; ALIGNED=1 where K is a multiple of 4
// launch:    nstcore/engines/cuda/pixels.py: prepare one thread per pixel; pixels_backward one block per ACROSS x DOWN
//            pixels, a thread has PER of them, one under another
// napkin:    prepare 12 bytes read and 8 elements written per pixel; pixels_backward 27*K*H*W multiply-adds for K*H*W
//            elements read: 3 channels are too few for conv3x3's tiles, but 4 pixels x 3 taps share what a thread reads
#include "common.cuh"

#ifndef ALIGNED
#define ALIGNED 1
#endif
#ifndef ACROSS
#define ACROSS 32
#define DOWN 16
#define PER 4
#endif
#define PREPARED 8                      // channels of the prepared picture: 3, then zeros, for whole 16-byte words
#define THREADS (ACROSS * (DOWN / PER))
#define QUADS 2                         // channels of dy that are in shared memory at a time, four by four
#define VECTOR (ALIGNED ? 4 : 1)        // elements of one load
static_assert(DOWN % PER == 0, "a block's rows are shared out evenly");

extern "C" __global__ void prepare(const float* __restrict__ pixels, element* __restrict__ x, float range, float mean0,
                                   float mean1, float mean2, float std0, float std1, float std2, int order0, int order1,
                                   int order2, int H, int W) {
  const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, plane = (int64_t)H * W;
  if (at >= plane) return;
  // Rounded after each operation, as in the book: where a picture is prepared must not show
  const float v[3] = {(rounded_product(pixels[order0 * plane + at], range) - mean0) / std0,
                      (rounded_product(pixels[order1 * plane + at], range) - mean1) / std1,
                      (rounded_product(pixels[order2 * plane + at], range) - mean2) / std2};
#pragma unroll
  for (int c = 0; c < PREPARED; c += ELEMENTS_PER_16_BYTES) {
    float out[ELEMENTS_PER_16_BYTES];
#pragma unroll
    for (int e = 0; e < ELEMENTS_PER_16_BYTES; ++e) out[e] = c + e < 3 ? v[c + e] : 0.f;
    store_elements<ELEMENTS_PER_16_BYTES>(x + at * PREPARED + c, out);
  }
}

// sum += v . filter over four channels, for the three colours
__device__ __forceinline__ void add_products(float (&sum)[3], const float4& v, const float (&filter)[3][4]) {
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const float4 f = *(const float4*)filter[c];
    sum[c] = __fmaf_rn(v.x, f.x, __fmaf_rn(v.y, f.y, __fmaf_rn(v.z, f.z, __fmaf_rn(v.w, f.w, sum[c]))));
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 5)
    pixels_backward(const element* __restrict__ dy, const float* __restrict__ w, float* __restrict__ gradient,
                    float range, float std0, float std1, float std2, int order0, int order1, int order2, float scale,
                    const float* __restrict__ scales, int K, int H, int W, int replicate) {
  __shared__ __align__(16) float tile[QUADS][DOWN + 2][ACROSS + 2][4];  // of dy, with one more position around
  __shared__ __align__(16) float filters[9][QUADS][3][4];
  const int p0 = blockIdx.y * DOWN, q0 = blockIdx.x * ACROSS;
  const int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS * PER;

  float sums[PER][3] = {};
  for (int k0 = 0; k0 < K; k0 += 4 * QUADS) {
    __syncthreads();  // the last channels have been used
    for (int at = threadIdx.x; at < (DOWN + 2) * (ACROSS + 2) * (4 * QUADS / VECTOR); at += THREADS) {
      const int channel = at % (4 * QUADS / VECTOR) * VECTOR, position = at / (4 * QUADS / VECTOR);
      const int i = position / (ACROSS + 2), j = position % (ACROSS + 2);
      const int p = p0 + i - 1, q = q0 + j - 1, k = k0 + channel;
      float v[VECTOR];
      load_elements<VECTOR>(v, dy + ((int64_t)p * W + q) * K + k, p >= 0 && p < H && q >= 0 && q < W && k < K);
#pragma unroll
      for (int e = 0; e < VECTOR; ++e) tile[channel / 4][i][j][channel % 4 + e] = v[e];
    }
    for (int at = threadIdx.x; at < 9 * 4 * QUADS * 3; at += THREADS) {
      const int c = at % 3, channel = at / 3 % (4 * QUADS), tap = at / (3 * 4 * QUADS), k = k0 + channel;
      filters[tap][channel / 4][c][channel % 4] = k < K ? w[((int64_t)tap * K + k) * 3 + c] : 0.f;
    }
    __syncthreads();

#pragma unroll 1
    for (int quad = 0; quad < QUADS; ++quad) {
#pragma unroll
      for (int s = 0; s < 3; ++s) {
        float4 v[PER + 2];  // a column of the tile: each tap's row serves the pixel above, beside and below it
#pragma unroll
        for (int i = 0; i < PER + 2; ++i) v[i] = *(const float4*)tile[quad][down + i][across + s];
#pragma unroll
        for (int r = 0; r < 3; ++r)
#pragma unroll
          for (int i = 0; i < PER; ++i) add_products(sums[i], v[i + r], filters[3 * r + s][quad]);
      }
    }
    if (!replicate) continue;
    // ops.conv.unpad: what the positions around the picture send back to the pixel that they repeat
#pragma unroll
    for (int i = 0; i < PER; ++i) {
      const int p = p0 + down + i, q = q0 + across;
      if (p >= H || q >= W || (p > 0 && p < H - 1 && q > 0 && q < W - 1)) continue;
      for (int a = p - 1; a <= p + 1; ++a)
        for (int b = q - 1; b <= q + 1; ++b) {
          const bool outside = a < 0 || a >= H || b < 0 || b >= W;
          if (!outside || clamp_to(a, H) != p || clamp_to(b, W) != q) continue;
#pragma unroll 1
          for (int tap = 0; tap < 9; ++tap) {
            const int row = a + tap / 3 - 1, column = b + tap % 3 - 1;
            if (row < 0 || row >= H || column < 0 || column >= W) continue;
            for (int quad = 0; quad < QUADS; ++quad)
              add_products(sums[i], *(const float4*)tile[quad][row - p0 + 1][column - q0 + 1], filters[tap][quad]);
          }
        }
    }
  }

  const int64_t plane = (int64_t)H * W;
  const float back = Factor{scale, scales, SCALE_BACK};
  const int q = q0 + across;
#pragma unroll
  for (int i = 0; i < PER; ++i) {
    const int p = p0 + down + i;
    if (p >= H || q >= W) break;
    const int64_t at = (int64_t)p * W + q;
    gradient[order0 * plane + at] = back * (sums[i][0] * range / std0);
    gradient[order1 * plane + at] = back * (sums[i][1] * range / std1);
    gradient[order2 * plane + at] = back * (sums[i][2] * range / std2);
  }
}
