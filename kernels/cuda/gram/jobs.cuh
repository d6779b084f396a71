// The Gram matrices of many layers in one launch: the table of jobs, and the sum of their pieces.
//
// A job is one matrix G = F^T F, cut two ways: into the tiles of TILE x TILE that lie on or above the diagonal, and
// into pieces of positions. One block computes one tile of one piece and writes it to `partials`; a second launch adds
// the pieces of every element. Both find their job by walking a table of int64 in device memory, one row of JOB_COLUMNS
// per job, written by nstcore/engines/cuda/gram.py.
#pragma once
#include "common.cuh"

enum job_column {
  JOB_F,           // address of F (M, N), elements
  JOB_N,           // channels
  JOB_M,           // positions
  JOB_FIRST,       // first block of the job in the launch of gram_partial
  JOB_LENGTH,      // positions of a piece; the last one may be shorter
  JOB_PIECES,      // how many
  JOB_OFFSET,      // where the job's tiles begin in `partials`: [piece][tile][TILE][TILE] floats
  JOB_G,           // address of G (N, N), floats
  JOB_FIRST_SUM,   // first block of the job in the launch of gram_sum
  JOB_TRACE,       // address of parts of G's trace, a double for each patch on the diagonal; 0 if nobody asks
  JOB_COLUMNS
};

// Row of the table whose blocks `block` is one of; `first` is JOB_FIRST or JOB_FIRST_SUM
__device__ __forceinline__ const int64_t* find_job(const int64_t* jobs, int count, int first, int64_t block) {
  const int64_t* job = jobs;
  while (--count && block >= job[JOB_COLUMNS + first]) job += JOB_COLUMNS;
  return job;
}

// How many of across x across squares lie on or above the diagonal
__device__ __forceinline__ int upper_squares(int across) { return across * (across + 1) / 2; }

// Square number `index` of those, counted row by row: its row and column
__device__ __forceinline__ void upper_square(int index, int across, int& row, int& column) {
  row = 0;
  while (index >= across - row) index -= across - row++;
  column = row + index;
}

// The inverse: the number of square (row, column), row <= column
__device__ __forceinline__ int upper_index(int row, int column, int across) {
  return row * across - row * (row - 1) / 2 + column - row;
}

// ---- the second launch ----------------------------------------------------------------------------------------------

#ifndef PATCH
#define PATCH 8   // a block sums PATCH x PATCH elements of G
#define SLICES 8  // each by SLICES threads, which share its pieces between them
#endif
#define SUM_THREADS (PATCH * PATCH * SLICES)

// Adds the pieces in double, in an order that depends on the shape alone, and writes G[i][j] and G[j][i], i <= j.
template <int TILE_SIDE>
__device__ __forceinline__ void sum_pieces(const int64_t* __restrict__ jobs, int count,
                                           const float* __restrict__ partials) {
  static_assert(TILE_SIDE % PATCH == 0, "a patch lies within one tile");
  __shared__ double slices[SLICES][PATCH][PATCH];
  __shared__ float sums[PATCH][PATCH + 1];
  const int64_t* job = find_job(jobs, count, JOB_FIRST_SUM, blockIdx.x);
  const int N = (int)job[JOB_N], pieces = (int)job[JOB_PIECES];
  const int across = (N + TILE_SIDE - 1) / TILE_SIDE;
  int row, column;  // of the patch
  upper_square((int)(blockIdx.x - job[JOB_FIRST_SUM]), (N + PATCH - 1) / PATCH, row, column);

  const int c = threadIdx.x % PATCH, r = threadIdx.x / PATCH % PATCH, slice = threadIdx.x / (PATCH * PATCH);
  const int i = row * PATCH + r, j = column * PATCH + c;
  const int64_t stride = (int64_t)upper_squares(across) * TILE_SIDE * TILE_SIDE;  // from one piece to the next
  const float* from = partials + job[JOB_OFFSET] + (i % TILE_SIDE) * TILE_SIDE + j % TILE_SIDE +
                      (int64_t)upper_index(i / TILE_SIDE, j / TILE_SIDE, across) * TILE_SIDE * TILE_SIDE;
  double sum = 0;
#pragma unroll 8
  for (int piece = slice; piece < pieces; piece += SLICES) sum += from[piece * stride];
  slices[slice][r][c] = sum;
  __syncthreads();
  if (slice == 0) {
#pragma unroll
    for (int s = 1; s < SLICES; ++s) sum += slices[s][r][c];
    sums[r][c] = (float)sum;
  }
  __syncthreads();
  double* const trace = (double*)job[JOB_TRACE];
  if (trace && row == column && threadIdx.x == 0) {
    double part = 0;
    for (int k = 0; k < PATCH; ++k) part += sums[k][k];  // from channel N on zeros, as a tile's rows were
    trace[row] = part;
  }
  // Below the diagonal by the first slice's threads, on and above it by the second's: rows of G in both
  float* G = (float*)job[JOB_G];
  if (slice == 0 && i <= j && j < N) G[(int64_t)i * N + j] = sums[r][c];
  const int across_i = row * PATCH + c, down_j = column * PATCH + r;
  if (slice == 1 && across_i < down_j && down_j < N) G[(int64_t)down_j * N + across_i] = sums[c][r];
}
