// op:        style loss                 rung: 01_two_stage
// math:      d[i,j] = G[i,j]/M - A[i,j]/M_style;  loss = scale sum d^2;
//            dG = factor d in G's place, factor = 2 scale/M;
//            S = to_element(factor (dG + dG^T)), by which the features are multiplied for their gradient
// reference: nstcore/ops/style_loss.py style_forward, style_backward; nstcore/ops/gram.py gram_backward
// requires:  G, A, dG float32, S elements, all N x N, any N; G and A begin at multiples of 16 bytes
// launch:    nstcore/engines/cuda/losses.py: style with one block of THREADS per piece, then sum_pieces with one block;
//            pack_style with one block of 32 x ROWS per 32 x 32 tile
// napkin:    12*N*N bytes in style, 8*N*N or less in pack_style: 3 MB and 2 MB for N = 512, which the L2 cache holds
#include "reduce.cuh"

#define TILE 32
#ifndef ROWS
#define ROWS 8  // of a tile that a block of pack_style reads at a time
#endif
static_assert(TILE % ROWS == 0, "whole turns");

// Divided as the book does, not multiplied by 1/M: two equal matrices are at distance 0, to the last bit
extern "C" __global__ void __launch_bounds__(THREADS)
    style(float* __restrict__ G, const float* __restrict__ A, double* __restrict__ pieces, float M, float M_style,
          float factor, int64_t n) {
  double sum = 0;
  for (EACH_VECTOR(i, n, 1)) {
    const float d = G[i] / M - A[i] / M_style;
    G[i] = factor * d;
    sum += d * d;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) pieces[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sum_pieces(const double* __restrict__ pieces, double* __restrict__ total, int count) {
  const double sum = sum_of_pieces(pieces, count);
  if (threadIdx.x == 0) *total = sum;
}

// The mirrored tile goes through shared memory, so that both are read and written by rows: a column of it would be 32
// lines of memory. One float of padding puts the 32 rows of a column into 32 banks.
extern "C" __global__ void __launch_bounds__(TILE * ROWS)
    pack_style(const float* __restrict__ dG, float factor, element* __restrict__ S, int N) {
  __shared__ float mirrored[TILE][TILE + 1];
  const int row = blockIdx.y * TILE, column = blockIdx.x * TILE, lane = threadIdx.x;
#pragma unroll
  for (int r = threadIdx.y; r < TILE; r += ROWS)
    if (column + r < N && row + lane < N) mirrored[r][lane] = dG[(int64_t)(column + r) * N + row + lane];
  __syncthreads();
#pragma unroll
  for (int r = threadIdx.y; r < TILE; r += ROWS)
    if (row + r < N && column + lane < N) {
      const int64_t at = (int64_t)(row + r) * N + column + lane;
      S[at] = to_element(factor * (dG[at] + mirrored[lane][r]));
    }
}
