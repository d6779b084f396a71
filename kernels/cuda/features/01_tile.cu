// op:        features between layouts   rung: 01_tile
// math:      enter x[p,q,c] = to_element(factor y[c,p,q])
//            leave y[c,i,j] = factor x[top+i, left+j, c] for the h x w positions of a window
// reference: nstcore/engines/cuda/precision.py to_elements, from_elements
// requires:  y (C, H, W) float32, of a window (C, h, w); x (H, W, C) elements; not overlapping; any sizes, C H W
//            elements may be more than 2^31
// launch:    nstcore/engines/cuda/features.py: one block of TILE x ROWS threads per TILE positions and TILE channels
// napkin:    4 bytes and an element for each number, each read or written once. A warp reads 32 numbers side by side in
//            one layout and writes 32 side by side in the other: the tile is turned in shared memory, whose padding of
//            one float puts the 32 rows of a column into 32 banks.
#include "common.cuh"

#define TILE 32
#ifndef ROWS
#define ROWS 8  // of a tile that a block reads at a time
#endif
static_assert(TILE % ROWS == 0, "whole turns");

extern "C" __global__ void __launch_bounds__(TILE * ROWS)
    features_enter(const float* __restrict__ y, float factor, const float* __restrict__ scales,
                   element* __restrict__ x, int C, int64_t M) {
  __shared__ float tile[TILE][TILE + 1];  // [channel][position]
  const float scale = Factor{factor, scales, SCALE_LOSS};
  const int64_t first = (int64_t)blockIdx.x * TILE;
  const int channel = blockIdx.y * TILE, lane = threadIdx.x;
#pragma unroll
  for (int r = threadIdx.y; r < TILE; r += ROWS)
    if (channel + r < C && first + lane < M) tile[r][lane] = y[(channel + r) * M + first + lane];
  __syncthreads();
#pragma unroll
  for (int r = threadIdx.y; r < TILE; r += ROWS)
    if (first + r < M && channel + lane < C) x[(first + r) * C + channel + lane] = to_element(scale * tile[lane][r]);
}

extern "C" __global__ void __launch_bounds__(TILE * ROWS)
    features_leave(const element* __restrict__ x, float factor, const float* __restrict__ scales,
                   float* __restrict__ y, int C, int W, int top, int left, int h, int w) {
  __shared__ float tile[TILE][TILE + 1];  // [position][channel]
  const float scale = Factor{factor, scales, SCALE_BACK};
  const int64_t first = (int64_t)blockIdx.x * TILE, positions = (int64_t)h * w;
  const int channel = blockIdx.y * TILE, lane = threadIdx.x;
#pragma unroll
  for (int r = threadIdx.y; r < TILE; r += ROWS)
    if (first + r < positions && channel + lane < C) {
      const int64_t row = top + (first + r) / w, column = left + (first + r) % w;
      tile[r][lane] = scale * to_float(x[(row * W + column) * C + channel + lane]);
    }
  __syncthreads();
#pragma unroll
  for (int r = threadIdx.y; r < TILE; r += ROWS)
    if (channel + r < C && first + lane < positions) y[(channel + r) * positions + first + lane] = tile[lane][r];
}
