// op:        gram                       rung: 02_shared_tile
// over 01:   all layers in one launch, cut into tiles on and above the diagonal and into pieces of positions; each
//            number that a block reads is multiplied TILE times from shared memory, 8 times from registers
// math:      G[i,j] = sum_m F[m,i] F[m,j];  g = [g +] (F > 0) (style_scale F S + content_scale (F - P))
// reference: nstcore/ops/gram.py gram_forward, gram_backward; nstcore/ops/content_loss.py content_backward
// requires:  F (M, N) position-major; any M, N; ALIGNED=1 where N is a multiple of 16 bytes
// launch:    nstcore/engines/cuda/gram.py: one block of THREADS per tile and piece, then gram_sum; gram_backward one
//            block per TILE positions x TILE channels
// napkin:    M*N*(N+TILE)/2 multiply-adds; 8 x 8 per thread for 16 floats from shared memory
#include "common.cuh"
#include "jobs.cuh"

#ifndef TILE
#define TILE 64  // channels a side, of a tile of G
#endif
#ifndef POSITIONS
#define POSITIONS TILE
#define CHANNELS TILE
#endif
#ifndef ALIGNED
#define ALIGNED 0
#endif
#define DEPTH 8                         // rows (of F, of S) that are multiplied between two barriers
#define SIDE (TILE / 8)                 // threads a side; each has 8 x 8 sums
#define THREADS (SIDE * SIDE)           // of a block
#define PITCH (TILE + 4)                // of a row in shared memory: the transposed stores spread over its banks
#define VECTOR (ALIGNED ? ELEMENTS_PER_16_BYTES : 1)  // elements of one load
#define QUAD (ALIGNED ? 4 : 1)                        // elements of one store of gram_backward
#define LOADS (DEPTH * TILE / VECTOR / THREADS)       // of a thread, per operand
static_assert(TILE % 32 == 0 && TILE <= 128, "a row of a tile is whole words of 16 bytes, a block at most 256 threads");
static_assert(POSITIONS == TILE && CHANNELS == TILE, "a block of gram_backward is one tile, too");
static_assert(LOADS * VECTOR * THREADS == DEPTH * TILE, "every thread loads the same number of vectors");

typedef float operand[DEPTH][PITCH];  // one operand in shared memory
typedef float staged[LOADS][VECTOR];  // a thread's part of it in registers, while the last one is multiplied

// Rows [row, row + DEPTH) of columns [column, column + TILE) of a matrix with `width` columns; zeros beyond `rows`
__device__ __forceinline__ void load_rows(staged& to, const element* __restrict__ from, int row, int rows, int column,
                                          int width) {
#pragma unroll
  for (int n = 0; n < LOADS; ++n) {
    const int at = threadIdx.x + n * THREADS;
    const int r = row + at / (TILE / VECTOR), c = column + at % (TILE / VECTOR) * VECTOR;
    load_elements<VECTOR>(to[n], from + (int64_t)r * width + c, r < rows && c < width);
  }
}

__device__ __forceinline__ void store_rows(operand& to, const staged& from) {
#pragma unroll
  for (int n = 0; n < LOADS; ++n) {
    const int at = threadIdx.x + n * THREADS;
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) to[at / (TILE / VECTOR)][at % (TILE / VECTOR) * VECTOR + e] = from[n][e];
  }
}

// Columns [column, column + DEPTH) of rows [row, row + TILE): they become rows of the operand
__device__ __forceinline__ void load_columns(staged& to, const element* __restrict__ from, int row, int rows,
                                             int column, int width) {
#pragma unroll
  for (int n = 0; n < LOADS; ++n) {
    const int at = threadIdx.x + n * THREADS;
    const int r = row + at / (DEPTH / VECTOR), c = column + at % (DEPTH / VECTOR) * VECTOR;
    load_elements<VECTOR>(to[n], from + (int64_t)r * width + c, r < rows && c < width);
  }
}

__device__ __forceinline__ void store_columns(operand& to, const staged& from) {
#pragma unroll
  for (int n = 0; n < LOADS; ++n) {
    const int at = threadIdx.x + n * THREADS;
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) to[at % (DEPTH / VECTOR) * VECTOR + e][at / (DEPTH / VECTOR)] = from[n][e];
  }
}

// Where a thread's 8 sums of a side lie in the tile: four side by side, and four more half a tile on, so that the
// 16-byte reads of neighbouring threads are neighbours
__device__ __forceinline__ int place(int thread, int sum) { return sum / 4 * (TILE / 2) + thread * 4 + sum % 4; }

// sums[i][j] += sum over rows d of a[d][i] b[d][j]
__device__ __forceinline__ void multiply(float (&sums)[8][8], const operand& a, const operand& b) {
  const int ti = threadIdx.x / SIDE, tj = threadIdx.x % SIDE;
#pragma unroll
  for (int d = 0; d < DEPTH; ++d) {
    float av[8], bv[8];
#pragma unroll
    for (int h = 0; h < 8; h += 4) {
      *(float4*)&av[h] = *(const float4*)&a[d][place(ti, h)];
      *(float4*)&bv[h] = *(const float4*)&b[d][place(tj, h)];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) sums[i][j] = __fmaf_rn(av[i], bv[j], sums[i][j]);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gram_partial(const int64_t* __restrict__ jobs, int count, float* __restrict__ partials) {
  __shared__ __align__(16) operand a[2], b[2];
  const int64_t* job = find_job(jobs, count, JOB_FIRST, blockIdx.x);
  const element* F = (const element*)job[JOB_F];
  const int N = (int)job[JOB_N], M = (int)job[JOB_M], length = (int)job[JOB_LENGTH];
  const int across = (N + TILE - 1) / TILE, tiles = upper_squares(across);
  // Neighbouring blocks share a piece: what one has read, the next finds in the cache
  const int64_t block = blockIdx.x - job[JOB_FIRST];
  const int piece = (int)(block / tiles);
  int row, column;
  upper_square((int)(block % tiles), across, row, column);
  const int begin = piece * length, end = M - begin < length ? M : begin + length;
  const bool diagonal = row == column;  // then both operands are the same

  float sums[8][8] = {};
  staged next_a, next_b;
  load_rows(next_a, F, begin, end, row * TILE, N);
  if (!diagonal) load_rows(next_b, F, begin, end, column * TILE, N);
  int now = 0;
  for (int m = begin; m < end; m += DEPTH, now ^= 1) {
    store_rows(a[now], next_a);
    if (!diagonal) store_rows(b[now], next_b);
    __syncthreads();  // one is enough: whoever writes this half again has passed the barrier of the other
    if (m + DEPTH < end) {
      load_rows(next_a, F, m + DEPTH, end, row * TILE, N);
      if (!diagonal) load_rows(next_b, F, m + DEPTH, end, column * TILE, N);
    }
    multiply(sums, a[now], diagonal ? a[now] : b[now]);
  }

  float* to = partials + job[JOB_OFFSET] + block * (TILE * TILE);
  const int ti = threadIdx.x / SIDE, tj = threadIdx.x % SIDE;
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 8; j += 4)
      *(float4*)(to + place(ti, i) * TILE + place(tj, j)) =
          make_float4(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]);
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    gram_sum(const int64_t* __restrict__ jobs, int count, const float* __restrict__ partials) {
  sum_pieces<TILE>(jobs, count, partials);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gram_backward(const element* __restrict__ F, const element* __restrict__ S, float style_scale,
                  const element* __restrict__ P, float content_scale, const float* __restrict__ scales, int mask,
                  int add, element* __restrict__ g, int M, int N) {
  __shared__ __align__(16) operand a[2], b[2];
  const int across = (N + TILE - 1) / TILE;
  const int m0 = (int)(blockIdx.x / across) * TILE, c0 = (int)(blockIdx.x % across) * TILE;

  float sums[8][8] = {};
  if (S) {
    staged next_a, next_b;
    load_columns(next_a, F, m0, M, 0, N);
    load_rows(next_b, S, 0, N, c0, N);
    int now = 0;
    for (int d = 0; d < N; d += DEPTH, now ^= 1) {
      store_columns(a[now], next_a);
      store_rows(b[now], next_b);
      __syncthreads();
      if (d + DEPTH < N) {
        load_columns(next_a, F, m0, M, d + DEPTH, N);
        load_rows(next_b, S, d + DEPTH, N, c0, N);
      }
      multiply(sums, a[now], b[now]);
    }
  }

  const float style = Factor{style_scale, scales, SCALE_STYLE}, content = Factor{content_scale, scales, SCALE_LOSS};
  const int ti = threadIdx.x / SIDE, tj = threadIdx.x % SIDE;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int m = m0 + place(ti, i);
    if (m >= M) break;
#pragma unroll
    for (int j = 0; j < 8; j += QUAD) {
      const int c = c0 + place(tj, j);
      if (c >= N) break;
      const int64_t at = (int64_t)m * N + c;
      float f[QUAD], p[QUAD], value[QUAD];
      load_elements<QUAD>(f, F + at);
      load_elements<QUAD>(p, P + at, P != nullptr);
      load_elements<QUAD>(value, g + at, add);
#pragma unroll
      for (int e = 0; e < QUAD; ++e) {
        float more = style * sums[i][j + e];
        if (P) more += content * (f[e] - p[e]);
        if (!(mask && f[e] <= 0.f)) value[e] += more;
      }
      store_elements<QUAD>(g + at, value);
    }
  }
}
