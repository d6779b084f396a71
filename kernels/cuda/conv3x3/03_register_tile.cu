// op:        conv3x3 forward, backward            rung: 03_register_tile
// over 02:   one matrix product, positions x (taps x input channels) x output channels, in which a thread keeps 8x8
//            sums in registers, and both factors pass through shared memory
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[r,s,c,k] x[c,p+r-1,q+s-1])
//            dx = (F > 0) (the same sum of dy with turned filters + style_scale F S + content_scale (F - P))
// reference: nstcore/ops/conv.py conv_forward, conv_backward; gram.py gram_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py Convolution
// requires:  any precision; any C, K, H, W with H W below 2^31; H W C and H W K elements may be more
// napkin:    a step of 8 channels: (128+128)*8 loads for 128*128*8 multiply-adds, 64 each; from shared memory, 8+8
//            for 8*8. 64 sums, 16 factors and 8 loads ahead fit 128 registers, so that two blocks share a processor
//
// The matrix of the input is never made ("implicit GEMM"): its row for a position is, tap by tap, the channels of one
// of that position's neighbours. What the Gram matrix sends back, F S, is a tenth tap, and goes first, so that its
// scale multiplies the sums once.
#include "conv3x3.cuh"

#ifndef BM
#define BM 128  // positions of a block
#endif
#ifndef BN
#define BN 128  // output channels of a block
#endif
#define BK 8                // input channels at a time
#define TN (BN / 16)        // output channels of a thread
#define THREADS 256         // 8 warps: 4 x 2 of them, 32 positions x BN / 2 channels each
#define PAD 4               // keeps the rows of A 16-byte aligned, and the stores of a warp in different banks
#define LOADS_B (BK * BN / THREADS)

static_assert(BM == 128, "each pair of threads loads 8 channels of one of 128 positions");
static_assert(BN == 64 || BN == 128, "a thread's 8 rows are 4 or 8 channels wide");

// Two of each, so that one is filled while the other is multiplied
struct Tiles {
  float A[2][BK][BM + PAD];
  float B[2][BK][BN];
};

// One step's share of this thread, on its way from global to shared memory
struct Ahead {
  float a[4], b[LOADS_B];
};

// sums[i][j] += A B for the BK channels in shared memory. A thread has rows 32 wm + 16 (i / 4) + 4 lm + i % 4 of the
// block's tile and columns BN/2 wn + 32 (j / 4) + 4 ln + j % 4, so that it reads 16 bytes at a time, and a quarter of a
// warp reads no bank twice.
__device__ __forceinline__ void multiply(float (&sums)[8][TN], const float (&A)[BK][BM + PAD], const float (&B)[BK][BN],
                                         int row, int column) {
#pragma unroll 2  // more would have factors loaded so far ahead that sums spill
  for (int k = 0; k < BK; ++k) {
    float a[8], b[TN];
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(&A[k][row + 4 * i]);
      a[i] = v.x, a[i + 1] = v.y, a[i + 2] = v.z, a[i + 3] = v.w;
    }
#pragma unroll
    for (int j = 0; j < TN; j += 4) {
      const float4 v = *reinterpret_cast<const float4*>(&B[k][column + 8 * j]);
      b[j] = v.x, b[j + 1] = v.y, b[j + 2] = v.z, b[j + 3] = v.w;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < TN; ++j) sums[i][j] = __fmaf_rn(a[i], b[j], sums[i][j]);
  }
}

// Walks over the taps and, in each, over the input channels, BK at a time; loads this thread's share of a step
template <int TAPS>
struct Walk {
  const element* row;  // the channels of the position that this thread loads, at the tap; null outside the picture
  int tap, c;

  __device__ __forceinline__ void find_row(const element* x, int in, int H, int W, int replicate) {
    const int position = blockIdx.x * BM + threadIdx.x / 2;
    const int r = TAPS == 9 ? tap / 3 : 1, s = TAPS == 9 ? tap % 3 : 1;
    row = position < H * W ? pixel(x, position / W + r - 1, position % W + s - 1, in, H, W, replicate) : nullptr;
  }

  __device__ __forceinline__ void load(Ahead& ahead, const element* w, int in, int out) const {
    load_channels<4>(ahead.a, row, c + threadIdx.x % 2 * 4, in);
    const int k = threadIdx.x * LOADS_B / BN, n = blockIdx.y * BN + threadIdx.x * LOADS_B % BN;
    load_channels<LOADS_B>(ahead.b, c + k < in ? w + (size_t)(tap * in + c + k) * out : nullptr, n, out);
  }
};

__device__ __forceinline__ void store(const Ahead& ahead, float (&A)[BK][BM + PAD], float (&B)[BK][BN]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) A[threadIdx.x % 2 * 4 + i][threadIdx.x / 2] = ahead.a[i];
  const int k = threadIdx.x * LOADS_B / BN, n = threadIdx.x * LOADS_B % BN;
#pragma unroll
  for (int i = 0; i < LOADS_B; ++i) B[k][n + i] = ahead.b[i];
}

// sums += the product over TAPS taps. While one step is multiplied, the next is on its way: to registers before the
// multiplication, to the other half of shared memory after it.
template <int TAPS>
__device__ __forceinline__ void accumulate(float (&sums)[8][TN], Tiles& tiles, const element* x, const element* w,
                                           int in, int out, int H, int W, int replicate, int row, int column) {
  Walk<TAPS> walk = {nullptr, 0, 0};
  Ahead ahead;
  walk.find_row(x, in, H, W, replicate);
  walk.load(ahead, w, in, out);
  store(ahead, tiles.A[0], tiles.B[0]);
  for (int half = 0;; half ^= 1) {
    __syncthreads();  // this step is there, and the last one has been read
    walk.c += BK;
    if (walk.c >= in) {
      walk.c = 0;
      if (++walk.tap < TAPS) walk.find_row(x, in, H, W, replicate);
    }
    if (walk.tap < TAPS) walk.load(ahead, w, in, out);
    multiply(sums, tiles.A[half], tiles.B[half], row, column);
    if (walk.tap == TAPS) return;
    store(ahead, tiles.A[half ^ 1], tiles.B[half ^ 1]);
  }
}

template <class Epilogue>
__device__ __forceinline__ void conv3x3(const element* x, const element* w, const element* F, const element* S,
                                        const Factor& style_scale, int in, int out, int H, int W, int replicate,
                                        const Epilogue& epilogue) {
  __shared__ __align__(16) Tiles tiles;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / 2 * 32 + lane / 8 * 4, column = warp % 2 * (BN / 2) + lane % 8 * 4;

  float sums[8][TN] = {};
  if (S) {
    accumulate<1>(sums, tiles, F, S, out, out, H, W, 0, row, column);
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < TN; ++j) sums[i][j] *= style_scale;
    __syncthreads();  // the last step has been read
  }
  accumulate<9>(sums, tiles, x, w, in, out, H, W, replicate, row, column);

#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int position = blockIdx.x * BM + row + i / 4 * 16 + i % 4;
    if (position >= H * W) continue;
#pragma unroll
    for (int j = 0; j < TN; j += 4) {
      float some[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
      finish<4>(epilogue, position, (int)blockIdx.y * BN + column + 8 * j, out, some);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    conv3x3_forward(const element* __restrict__ x, const element* __restrict__ w, const float* __restrict__ b,
                    element* __restrict__ linear, element* __restrict__ y, int C, int K, int H, int W, int replicate) {
  const Forward epilogue = {b, linear, y};
  conv3x3(x, w, nullptr, nullptr, {}, C, K, H, W, replicate, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    conv3x3_backward(const element* __restrict__ dy, const element* __restrict__ w, const element* __restrict__ F,
                     const element* __restrict__ S, float style_scale, const element* __restrict__ P,
                     float content_scale, const float* __restrict__ scales, int mask, element* __restrict__ dx, int K,
                     int C, int H, int W) {
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  conv3x3(dy, w, F, S, {style_scale, scales, SCALE_STYLE}, K, C, H, W, 0, epilogue);
}
