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
#ifndef PRECISION
#define PRECISION TF32
#endif
#ifndef TILE_M
#define TILE_M 256
#endif
#ifndef TILE_N
#define TILE_N 128
#endif
constexpr int WARPS_M = TILE_M / 64, WARPS_N = TILE_N / 64;
constexpr int ROW_BYTES = 64;
#include "warp_tiles.cuh"
#include "conv3x3.cuh"
static_assert(PRECISION != FLOAT32, "there is no tensor core for float32");

constexpr int COLUMNS = 16, ROWS = TILE_M / COLUMNS;  // of the block's positions
constexpr int HALO_COLUMNS = COLUMNS + 2;             // with their border
constexpr int HALO = (ROWS + 2) * HALO_COLUMNS;
constexpr int LINE_BYTES = HALO_COLUMNS * ROW_BYTES;  // of one row of the picture
constexpr int HALO_BYTES = HALO * ROW_BYTES;
constexpr int TAP_BYTES = TILE_N * ROW_BYTES;  // filters
constexpr int STAGE_BYTES = 3 * TAP_BYTES;
constexpr int RESIDENT = THREADS <= 128 ? 2 : 1;  // blocks on a multiprocessor
static_assert(TILE_M % 64 == 0 && TILE_N % 64 == 0, "64 x 64 sums for each warp");
static_assert(HALO_BYTES % 128 == 0, "all begin with the first bank");
static_assert(2 * (HALO_BYTES + STAGE_BYTES) >= RESULT_BYTES, "the results pass through the same memory");

// The positions of a block with their border, 64 bytes of channels from channel c on; zeros beyond the picture, if its
// border is not replicated, and beyond the channels. How a position's channels are permuted follows from its column
// alone: 8 neighbours meet in no bank, wherever they begin, and a line further down is a fixed number of bytes further.
__device__ __forceinline__ void copy_halo(unsigned char* halo, const element* x, int c, int channels, int top,
                                          int left, int H, int W, int replicate) {
  constexpr int UNROLL = 4;
  c += unit_column();
#pragma unroll UNROLL
  for (int i = 0; i < HALO; i += ROWS_AT_ONCE) {
    const int at = i + unit_row(), down = at / HALO_COLUMNS, right = at % HALO_COLUMNS;
    if (at >= HALO) break;
    int row = top + down - 1, column = left + right - 1;
    if (replicate) row = clamp_to(row, H), column = clamp_to(column, W);
    const bool inside = (unsigned)row < (unsigned)H && (unsigned)column < (unsigned)W && c < channels;
    const size_t from = ((size_t)row * W + column) * channels + c;
    copy_unit(halo + down * LINE_BYTES, right, inside ? x + from : x, inside);
  }
}

// d += what TAPS taps of one column of the filters add, the first of which reads from the first line of `halo`;
// `meanwhile` is done while the tensor cores are busy
template <int TAPS, class Meanwhile>
__device__ __forceinline__ void multiply_column(sums& d, const unsigned char* halo, int column,
                                                const unsigned char* filters, Meanwhile&& meanwhile) {
  const unsigned char* lines = halo + warp_row() / COLUMNS * LINE_BYTES;
  uint32_t a[2][MI + TAPS - 1][4], b[2][NJ][2];  // of both steps; of this tap and the next
#pragma unroll
  for (int i = 0; i < MI; ++i) load_a(a[0][i], lines + i * LINE_BYTES, column, 0);
  load_b(b[0], filters, 0);
#pragma unroll
  for (int n = 0; n < 2 * TAPS; ++n) {
    const int next = (n + 1) % TAPS, step = (n + 1) / TAPS;
    if (n + 1 < 2 * TAPS) {
#pragma unroll
      for (int i = next ? MI + next - 1 : 0; i < MI + next; ++i)
        load_a(a[step][i], lines + i * LINE_BYTES, column, step);
      load_b(b[(n + 1) % 2], filters + next * TAP_BYTES, step);
    }
    multiply_add(d, reinterpret_cast<const uint32_t(&)[MI][4]>(a[n / TAPS][n % TAPS]), b[n % 2]);
    if (n == 0) meanwhile();
  }
}

// One block. The sum runs over steps: of F S one for every chunk of channels, then three for every chunk of x, one for
// each column of taps. Blocks that follow each other share their positions, as in tensor_core.cuh.
template <bool STYLE, class Epilogue>
__device__ __forceinline__ void conv3x3(unsigned char* shared, const element* x, const element* w, const element* F,
                                        const element* S, const Factor& style_scale, int in, int out, int H, int W,
                                        int replicate, const Epilogue& epilogue) {
  const int across = (out + TILE_N - 1) / TILE_N, wide = (W + COLUMNS - 1) / COLUMNS;
  const int first_filter = blockIdx.x % across * TILE_N;
  const unsigned tile = blockIdx.x / across;
  const int top = (int)(tile / wide) * ROWS, left = (int)(tile % wide) * COLUMNS;

  const int of_style = STYLE && S ? (out + CHUNK - 1) / CHUNK : 0;
  const int steps = of_style + 3 * ((in + CHUNK - 1) / CHUNK);
  const auto halo_of = [&](int step) {
    const int chunk = step < of_style ? step : of_style + (step - of_style) / 3;
    return shared + chunk % 2 * HALO_BYTES;
  };
  const auto stage_of = [&](int step) { return shared + 2 * HALO_BYTES + step % 2 * STAGE_BYTES; };
  const auto copy = [&](int step) {
    unsigned char* stage = stage_of(step);
    if (STYLE && step < of_style) {
      const int c = step * CHUNK;
      copy_halo(halo_of(step), F, c, out, top, left, H, W, 0);
      copy_rows<TILE_N>(stage, S, first_filter, out, c + unit_column(), out);  // symmetric: its rows are its columns
    } else {
      const int column = (step - of_style) % 3, c = (step - of_style) / 3 * CHUNK;
      if (column == 0) copy_halo(halo_of(step), x, c, in, top, left, H, W, replicate);
#pragma unroll
      for (int r = 0; r < 3; ++r)  // beyond the channels of a tap are those of the next: x has zeros for them
        copy_rows<TILE_N>(stage + r * TAP_BYTES, w, first_filter, out, (3 * r + column) * in + c + unit_column(),
                          9 * in);
    }
    copy_async_commit();
  };

  sums d;
  clear(d);
  copy(0);
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<0>();
    __syncthreads();  // what this step reads is there for all threads, and all are done with the step before
    const auto ahead = [&] {
      if (step + 1 < steps) copy(step + 1);
    };
    if (STYLE && step < of_style) {
      multiply_column<1>(d, halo_of(step) + LINE_BYTES, 1, stage_of(step), ahead);
      if (step + 1 == of_style) multiply_by(d, style_scale);
    } else {
      multiply_column<3>(d, halo_of(step), (step - of_style) % 3, stage_of(step), ahead);
    }
  }

  for_each_quad(d, shared, [&](int m, int n, float(&quad)[4]) {
    const int p = top + m / COLUMNS, q = left + m % COLUMNS;
    if (p < H && q < W) finish<4>(epilogue, (size_t)p * W + q, first_filter + n, out, quad);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_forward(const element* __restrict__ x, const element* __restrict__ w, const float* __restrict__ b,
                    element* __restrict__ linear, element* __restrict__ y, int C, int K, int H, int W, int replicate) {
  extern __shared__ __align__(128) unsigned char shared[];
  const Forward epilogue = {b, linear, y};
  conv3x3<false>(shared, x, w, nullptr, nullptr, {}, C, K, H, W, replicate, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_backward(const element* __restrict__ dy, const element* __restrict__ w, const element* __restrict__ F,
                     const element* __restrict__ S, float style_scale, const element* __restrict__ P,
                     float content_scale, const float* __restrict__ scales, int mask, element* __restrict__ dx, int K,
                     int C, int H, int W) {
  extern __shared__ __align__(128) unsigned char shared[];
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  conv3x3<true>(shared, dy, w, F, S, {style_scale, scales, SCALE_STYLE}, K, C, H, W, 0, epilogue);
}
