// The 3x3 convolution on tensor cores by rectangles of positions with their border, which is in shared memory once for
// nine taps: see 09_halo_tile.cu. Included by the rungs that say where that rectangle comes from (class Halo) and what
// becomes of the sums: 09_halo_tile.cu, 12_halo_pooled.cu.
#pragma once
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
static_assert(2 * (HALO_BYTES + STAGE_BYTES) >= 2 * RESULT_BYTES, "the results pass through the same memory");

// What a block computes. Blocks that follow each other share their positions, as in tensor_core.cuh.
struct Rectangle {
  int top, left, first_filter;

  __device__ __forceinline__ Rectangle(int out, int W) {
    const int across = (out + TILE_N - 1) / TILE_N, wide = (W + COLUMNS - 1) / COLUMNS;
    const unsigned tile = blockIdx.x / across;
    top = (int)(tile / wide) * ROWS, left = (int)(tile % wide) * COLUMNS;
    first_filter = blockIdx.x % across * TILE_N;
  }
};

// A block's positions of x with their border as they are, 64 bytes of channels from channel c on; zeros beyond the
// picture, if its border is not replicated, and beyond the channels. How a position's channels are permuted follows
// from its column alone: 8 neighbours meet in no bank, wherever they begin, and a line further down is a fixed number
// of bytes further.
struct CopiedHalo {
  const element* x;
  int channels, H, W, replicate;
  Rectangle place;

  // All of it, by the next barrier after what is copied was waited for
  __device__ __forceinline__ void copy(unsigned char* halo, int c) const {
    constexpr int UNROLL = 4;
    c += unit_column();
#pragma unroll UNROLL
    for (int i = 0; i < HALO; i += ROWS_AT_ONCE) {
      const int at = i + unit_row(), down = at / HALO_COLUMNS, right = at % HALO_COLUMNS;
      if (at >= HALO) break;
      int row = place.top + down - 1, column = place.left + right - 1;
      if (replicate) row = clamp_to(row, H), column = clamp_to(column, W);
      const bool inside = (unsigned)row < (unsigned)H && (unsigned)column < (unsigned)W && c < channels;
      const size_t from = ((size_t)row * W + column) * channels + c;
      copy_unit(halo + down * LINE_BYTES, right, inside ? x + from : x, inside);
    }
  }

  // The same in three steps at most, each begun while the tensor cores are busy and ended when they are not
  __device__ __forceinline__ void begin(unsigned char* halo, int c, int step) const {
    if (step == 2) copy(halo, c);
  }
  __device__ __forceinline__ void end(unsigned char*, int) const {}
};

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

// The sums of one block, over steps: of F S one for every chunk of channels, then three for every chunk of `in`
// channels, one for each column of taps.
template <bool STYLE, class Halo>
__device__ __forceinline__ void sum_steps(sums& d, unsigned char* shared, Halo& halo, const Rectangle& place,
                                          const element* w, const element* F, const element* S,
                                          const Factor& style_scale, int in, int out, int H, int W) {
  const int of_style = STYLE && S ? (out + CHUNK - 1) / CHUNK : 0;
  const int steps = of_style + 3 * ((in + CHUNK - 1) / CHUNK);
  const auto halo_of = [&](int step) {
    const int chunk = step < of_style ? step : of_style + (step - of_style) / 3;
    return shared + chunk % 2 * HALO_BYTES;
  };
  const auto stage_of = [&](int step) { return shared + 2 * HALO_BYTES + step % 2 * STAGE_BYTES; };
  // What a step reads; of the chunks of x but the first, `halo` has had the rectangle on its way for three steps
  const auto copy = [&](int step) {
    unsigned char* stage = stage_of(step);
    if (STYLE && step < of_style) {
      const int c = step * CHUNK;
      CopiedHalo{F, out, H, W, 0, place}.copy(halo_of(step), c);
      copy_rows<TILE_N>(stage, S, place.first_filter, out, c + unit_column(), out);  // symmetric: rows are columns
    } else {
      const int column = (step - of_style) % 3, c = (step - of_style) / 3 * CHUNK;
      if (step == of_style) halo.copy(halo_of(step), 0);
#pragma unroll
      for (int r = 0; r < 3; ++r)  // beyond the channels of a tap are those of the next: x has zeros for them
        copy_rows<TILE_N>(stage + r * TAP_BYTES, w, place.first_filter, out, (3 * r + column) * in + c + unit_column(),
                          9 * in);
    }
  };

  clear(d);
  copy(0);
  copy_async_commit();
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<0>();
    __syncthreads();  // what this step reads is there for all threads, and all are done with the step before
    if (STYLE && step < of_style) {
      multiply_column<1>(d, halo_of(step) + LINE_BYTES, 1, stage_of(step), [&] {
        copy(step + 1);
        copy_async_commit();
      });
      if (step + 1 == of_style) multiply_by(d, style_scale);
    } else {
      const int column = (step - of_style) % 3, next = (step - of_style) / 3 * CHUNK + CHUNK;  // chunk
      unsigned char* to = halo_of(step + 3);
      multiply_column<3>(d, halo_of(step), column, stage_of(step), [&] {
        if (step + 1 < steps) copy(step + 1);
        if (next < in) halo.begin(to, next, column);
        copy_async_commit();
      });
      if (next < in) halo.end(to, column);
    }
  }
}

// Hands all sums over, position by position
template <class Epilogue>
__device__ __forceinline__ void finish_positions(const sums& d, unsigned char* shared, const Rectangle& place, int out,
                                                 int H, int W, const Epilogue& epilogue) {
  for_each_quad(d, shared, [&](int m, int n, float(&quad)[4]) {
    const int p = place.top + m / COLUMNS, q = place.left + m % COLUMNS;
    if (p < H && q < W) finish<4>(epilogue, (size_t)p * W + q, place.first_filter + n, out, quad);
  });
}
