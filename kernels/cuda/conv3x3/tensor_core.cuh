// The 3x3 convolution as one matrix product on tensor cores, forward and backward, in any element type: implicit GEMM.
//
//   rows of A      the positions of the picture; k runs over 9 taps x `in` channels, so that a row is the 3x3 window
//                  around its position. It exists nowhere in memory: every copy looks up where its tap reads.
//   rows of B      the `out` filters, (out, 9 in): as the host packs them, (out, 3, 3, in)
//
// In the backward pass the Gram matrix's gradient style_scale F S is a product with as many rows and columns. So it is
// summed first, as a tenth tap without a shift: A is F, B is S (symmetric: its rows are its columns). That sum is
// scaled, and the nine taps of dy go on top. The rest is done to the finished sums: see Forward and Backward.
//
// Included after the tiles in which a block multiplies: tensor_tiles.cuh, or warpgroup_tiles.cuh.
#pragma once
#include "conv3x3.cuh"

#define CENTER 4  // the tap that reads the position itself

// Copies a block's tiles of A and B, chunk by chunk. Row and column of each position are found once, by a division; the
// thread's tap and channel then only count on.
struct Windows {
  static constexpr int ROWS = TILE_M / ROWS_AT_ONCE;
  int p[ROWS], q[ROWS];  // of this thread's rows of A
  int H, W, replicate;
  int first_filter, out;

  const element *x, *w;  // (H, W, channels) and (out, depth)
  int channels, depth;
  int tap, c, k;         // of this thread's unit in the next chunk: k counts through all taps

  // place(m, p, q) says which row and column the m-th of the block's positions has
  template <class Place>
  __device__ __forceinline__ Windows(Place&& place, int first_filter, int out, int H, int W, int replicate)
      : H(H), W(W), replicate(replicate), first_filter(first_filter), out(out) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      place(unit_row() + i * ROWS_AT_ONCE, p[i], q[i]);
      if (p[i] >= H || q[i] >= W) p[i] = -2;  // beyond the last: outside for every tap
    }
  }

  // From that chunk of the matrices on
  __device__ __forceinline__ void begin(const element* from, const element* filters, int of_channels, int of_depth,
                                        int first_tap, int chunk) {
    x = from, w = filters, channels = of_channels, depth = of_depth;
    k = chunk * CHUNK + unit_column();
    tap = first_tap + k / channels, c = k % channels;
  }

  // A chunk may end in the middle of a tap, and a layer of few channels has many taps in one
  __device__ __forceinline__ void carry() {
    while (c >= channels) c -= channels, ++tap;
  }

  __device__ __forceinline__ void copy(unsigned char* stage) {
    const int down = tap / 3 - 1, right = tap % 3 - 1;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      int row = p[i] + down, column = q[i] + right;
      if (replicate) row = clamp_to(row, H), column = clamp_to(column, W);
      const bool inside = (unsigned)row < (unsigned)H && (unsigned)column < (unsigned)W && k < depth;
      const size_t at = (size_t)((unsigned)row * (unsigned)W + (unsigned)column) * channels + c;
      copy_unit(stage, unit_row() + i * ROWS_AT_ONCE, inside ? x + at : x, inside);
    }
    copy_rows<TILE_N>(stage + TILE_M * ROW_BYTES, w, first_filter, out, k, depth);
    k += CHUNK, c += CHUNK;
    carry();
  }
};

// Positions row by row, from `first` on
struct Rows {
  unsigned first;
  int W;

  __device__ __forceinline__ void operator()(int m, int& p, int& q) const {
    const unsigned position = first + m;
    p = (int)(position / W), q = (int)(position % W);
  }
};

// Chunks of the sum of one tile: those of the tenth tap come first.
template <bool STYLE>
__device__ __forceinline__ int style_chunks(const element* S, int out) {
  return STYLE && S ? (out + CHUNK - 1) / CHUNK : 0;
}

template <bool STYLE>
__device__ __forceinline__ int all_chunks(const element* S, int in, int out) {
  return style_chunks<STYLE>(S, out) + (9 * in + CHUNK - 1) / CHUNK;
}

// d = the chunks from `first` to before `last`
template <bool STYLE>
__device__ __forceinline__ void sum_chunks(sums& d, unsigned char* stages, Windows& windows, const element* x,
                                           const element* w, const element* F, const element* S,
                                           const Factor& style_scale, int in, int out, int first, int last) {
  const int of_style = style_chunks<STYLE>(S, out);
  int style_left = first < of_style ? of_style - first : 0;
  if (style_left)
    windows.begin(F, S, out, out, CENTER, first);
  else
    windows.begin(x, w, in, 9 * in, 0, first - of_style);
  const int count = last - first, scaled = style_left < count ? style_left : count;
  const auto copy = [&](unsigned char* stage) {
    windows.copy(stage);
    if (STYLE && --style_left == 0) windows.begin(x, w, in, 9 * in, 0, 0);
  };
  multiply(d, stages, copy, count, scaled, style_scale);
}

// One block: TILE_M positions x TILE_N channels. Blocks that follow each other share their positions: those that run at
// one time read a narrow strip of the picture, from memory once, and all the filters, which every strip reads and which
// stay in the second-level cache (VGG's are 9 MB of floats at most).
template <bool STYLE, class Epilogue>
__device__ __forceinline__ void conv3x3(unsigned char* stages, const element* x, const element* w, const element* F,
                                        const element* S, const Factor& style_scale, int in, int out, int H, int W,
                                        int replicate, const Epilogue& epilogue) {
  const int across = (out + TILE_N - 1) / TILE_N;
  const unsigned first_position = blockIdx.x / across * TILE_M;
  const int first_filter = blockIdx.x % across * TILE_N;

  Windows windows(Rows{first_position, W}, first_filter, out, H, W, replicate);
  sums d;
  sum_chunks<STYLE>(d, stages, windows, x, w, F, S, style_scale, in, out, 0, all_chunks<STYLE>(S, in, out));

  for_each_quad(d, stages, [&](int m, int n, float(&quad)[4]) {
    const unsigned position = first_position + m;
    if (position < (unsigned)H * (unsigned)W) finish<4>(epilogue, position, first_filter + n, out, quad);
  });
}
