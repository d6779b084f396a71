// op:        conv3x3 forward, backward            rung: 12_halo_pooled
// over 09:   the pooling that follows is done where sums are finished, as in 10; and on the way back the gradient that
//            a pooling sends is made where it is read, from that of its windows and their choices
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[k,r,s,c] x[c,p+r-1,q+s-1])
//            pooled[k,p,q] = max, mean or L2 norm of y[k,2p,2q], y[k,2p,2q+1], y[k,2p+1,2q], y[k,2p+1,2q+1]
//            dy_i = dpooled where y_i is the first largest of its window, or dpooled / 4; times (y_i > 0)
//            dx = (F > 0) (the same sum of dy with turned filters + style_scale F S + content_scale (F - P))
// reference: nstcore/ops/conv.py conv_forward, conv_backward; relu.py relu_forward, relu_backward; pool.py
//            pool_forward, pool_backward; gram.py gram_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py Convolution: as 09
// requires:  sm_80; TF32, float16 or bfloat16; any C, K, H, W (H*W below 2^32); back no L2 pooling, whose gradient
//            needs the values, and no loss at y
// napkin:    9*C*K*H*W multiply-adds as in 09. Of H*W*K elements 09 writes all forward, a pooling reads all and writes
//            a quarter; back a pooling writes all, and 09 reads all. Here a quarter is written and a quarter read, and
//            H*W*K/4 bytes, the choices, both ways. For 18 x 18 positions of 64 bytes a block reads 10 x 10 windows, in
//            16 bits 9.6 KB instead of 20.7, and computes 12800 elements, some 5 instructions each, in the time of
//            256*128*288 products
//
// Forward: a warp has 4 rows of 16 positions, which are 2 x 8 whole windows. A sum is that of 09 bit by bit.
//
// Back: a rectangle with its border goes through registers to shared memory, in the first two of the three steps of the
// chunk before. What is loaded while a step's first products are on their way is stored after its last ones; the
// barrier that the next step begins with is the one that 09 has. Everything else is 09's, bit by bit.
#include "halo_tile.cuh"
#include "pooled_outputs.cuh"

// Calls f(p, q, n, float (&)[4][4]) for the sums of channels n to n + 3 of each window
template <class F>
__device__ __forceinline__ void for_each_window(const sums& d, unsigned char* shared, const Rectangle& place, F&& f) {
  for_each_slice<2>(d, shared, [&](int m, const float* lines) {  // two rows of the picture
#pragma unroll
    for (int at = threadIdx.x % 32; at < COLUMNS / 2 * QUADS; at += 32) {
      const int column = at / QUADS * 2, n = at % QUADS * 4;
      float quads[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) read_quad(quads[i], lines, i / 2 * COLUMNS + column + i % 2, n);
      f(place.top + (warp_row() + m) / COLUMNS, place.left + column, place.first_filter + warp_column() + n, quads);
    }
  });
}

// A block's positions of dy with their border, as CopiedHalo has them, from the windows that they are in: a thread has
// 16 bytes of channels of a window at a time, and neighbouring threads have neighbouring ones.
struct UnpooledHalo {
  static constexpr int WIDE = COLUMNS / 2 + 2, ALL = (ROWS / 2 + 2) * WIDE * PIECES;
  static constexpr int STEPS = 2, HELD = (ALL + STEPS * THREADS - 1) / (STEPS * THREADS);  // by a thread at a time

  const element* __restrict__ dpooled;  // (H/2, W/2, channels)
  const uint8_t* __restrict__ choices;  // (ceil(H/2), ceil(W/2), channels)
  int kind, channels, H, W;
  Rectangle place;
  uint4 up[HELD];  // elements
  unsigned choice[HELD][PIECE / 4];

  __device__ __forceinline__ void copy(unsigned char* halo, int c) {
    for (int step = 0; step < STEPS; ++step) begin(halo, c, step), end(halo, step);
  }

  __device__ __forceinline__ void begin(unsigned char*, int c, int step) {
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
      const int unit = (step * HELD + i) * THREADS + (int)threadIdx.x, window = unit / PIECES;
      const int p = place.top / 2 - 1 + window / WIDE, q = place.left / 2 - 1 + window % WIDE;
      const int k = c + unit % PIECES * PIECE;
      const bool whole = unit < ALL && (unsigned)p < (unsigned)(H / 2) && (unsigned)q < (unsigned)(W / 2);
      load(i, whole, ((size_t)p * (W / 2) + q) * channels, ((size_t)p * ((W + 1) / 2) + q) * channels, k);
    }
  }

  // Zeros, if the window is not `whole`, and beyond the channels
  __device__ __forceinline__ void load(int i, bool whole, size_t from, size_t bytes, int k) {
    up[i] = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int e = 0; e < PIECE / 4; ++e) choice[i][e] = 0;
#if ALIGNED
    if (!whole || k >= channels) return;
    up[i] = *reinterpret_cast<const uint4*>(dpooled + from + k);
    if constexpr (PIECE == 4) {
      choice[i][0] = *reinterpret_cast<const unsigned*>(choices + bytes + k);
    } else {
      const uint2 two = *reinterpret_cast<const uint2*>(choices + bytes + k);
      choice[i][0] = two.x, choice[i][PIECE / 4 - 1] = two.y;
    }
#else
    element one[PIECE] = {};
#pragma unroll
    for (int e = 0; e < PIECE; ++e)
      if (whole && k + e < channels) {
        one[e] = dpooled[from + k + e];
        choice[i][e / 4] |= (unsigned)choices[bytes + k + e] << (8 * (e % 4));
      }
    up[i] = *reinterpret_cast<const uint4*>(one);
#endif
  }

  // Of neighbouring windows the one stores its left column while the other stores its right one: else they would meet
  // in the same half of the banks
  __device__ __forceinline__ void end(unsigned char* halo, int step) const {
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
      const int unit = (step * HELD + i) * THREADS + (int)threadIdx.x, window = unit / PIECES;
      if (unit >= ALL) return;
      float dy[PIECE];
      load_elements<PIECE>(dy, reinterpret_cast<const element*>(&up[i]));
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int at = n ^ (window & 1), down = window / WIDE * 2 - 1 + at / 2, right = window % WIDE * 2 - 1 + at % 2;
        float d[PIECE];
#pragma unroll
        for (int e = 0; e < PIECE; ++e)
          d[e] = choice_backward(dy[e], choice[i][e / 4] >> (8 * (e % 4)) & 255, at, kind);
        if ((unsigned)down < ROWS + 2 && (unsigned)right < HALO_COLUMNS)
          store_elements<PIECE>(
              reinterpret_cast<element*>(halo + down * LINE_BYTES + swizzled(right, unit % PIECES)), d);
      }
    }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_forward(const element* __restrict__ x, const element* __restrict__ w, const float* __restrict__ b,
                    element* __restrict__ linear, element* __restrict__ y, element* __restrict__ pooled,
                    uint8_t* __restrict__ choices, int kind, int C, int K, int H, int W, int replicate) {
  extern __shared__ __align__(128) unsigned char shared[];
  const Rectangle place(K, W);
  const CopiedHalo halo = {x, C, H, W, replicate, place};
  sums d;
  sum_steps<false>(d, shared, halo, place, w, nullptr, nullptr, {}, C, K, H, W);
  const Outputs outputs = {b, linear, y, pooled, choices, kind, K, H, W};
  for_each_window(d, shared, place, [&](int p, int q, int k, float(&four)[4][4]) { outputs.finish(p, q, k, four); });
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_backward(const element* __restrict__ dpooled, const uint8_t* __restrict__ choices, int kind,
                     const element* __restrict__ w, const element* __restrict__ F, const element* __restrict__ S,
                     float style_scale, const element* __restrict__ P, float content_scale,
                     const float* __restrict__ scales, int mask, element* __restrict__ dx, int K, int C, int H,
                     int W) {
  extern __shared__ __align__(128) unsigned char shared[];
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  const Rectangle place(C, W);
  UnpooledHalo halo = {dpooled, choices, kind, K, H, W, place};
  sums d;
  sum_steps<true>(d, shared, halo, place, w, F, S, {style_scale, scales, SCALE_STYLE}, K, C, H, W);
  finish_positions(d, shared, place, C, H, W, epilogue);
}
