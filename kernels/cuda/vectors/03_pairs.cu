// op:        vectors                    rung: 03_pairs
// over 02:   all inner products of m pairs of arrays at once: a chunk of every array lies in shared memory, and a
//            thread multiplies 4 of them with 4 others from registers
// math:      s_i'(f y_j), (f y_i)'(f y_j) for i <= j, s_i'(f q), (f y_i)'(f q);  f = free, 0 or 1
// reference: nstcore/optim/vectors.py Vectors.pair_products
// requires:  float32; arrays of any size n that begin at multiples of 16 bytes; CHUNK floats of every array fit into
//            the shared memory of a block
// launch:    nstcore/engines/cuda/vectors.py: pair_products with one block of THREADS per group of at most THREADS
//            tiles and piece, then sum_products with one block per 32 products
// napkin:    4*(2m+1)*n bytes of memory, as every array is read once (where there are several groups, m > 59, by one
//            block of each at about the same time); 16*tiles*n multiply-adds, half a float from shared memory for each;
//            128*tiles bytes per piece for the second stage. For m = 20 and n = 3*512*512: 129 MB, 40 tiles and 0.5 G
//            multiply-adds, 5 KB per piece
//
// The rows in shared memory are s_1 .. s_m, then f y_1 .. f y_m and f q, both groups filled up to whole fours with
// zeros. A tile is 4 rows times 4 rows of (f y, f q); those below the diagonal are left out. Its 16 sums stay with one
// thread over the whole piece, or, where there are fewer tiles than threads, with several that share every chunk.
#include "reduce.cuh"

#define VECTOR 4
#define SIDE 4  // rows a side of a tile
#ifndef CHUNK
#define CHUNK 32  // floats of every array in shared memory at a time
#endif
#define FLUSH 4                        // chunks that are summed in float: at most 4 * 128 terms
#define SUMS (SIDE * SIDE)             // of a tile
#define GROUP (SIDE * CHUNK + VECTOR)  // four rows, and 16 bytes: threads of neighbouring tiles read neighbouring banks
static_assert(PRECISION == FLOAT32, "the optimizers' arrays are float32 in every precision");
static_assert(CHUNK % VECTOR == 0 && FLUSH * CHUNK <= 512, "16 bytes at a time; few terms in float");

__device__ __forceinline__ int fours(int n) { return (n + SIDE - 1) / SIDE; }

// Where row `row` of group `group` begins in shared memory
__device__ __forceinline__ int place(int group, int row) { return group * GROUP + row * CHUNK; }

// `arrays`: addresses of s_1 .. s_m, y_1 .. y_m, q; `free` may be null: 1 everywhere; products (pieces, tiles, SUMS)
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    pair_products(const int64_t* __restrict__ arrays, const float* __restrict__ free, double* __restrict__ products,
                  int m, int tiles, int64_t n) {
  extern __shared__ __align__(16) float rows[];
  const int s_groups = fours(m), groups = s_groups + fours(m + 1);
  // This block's tiles, the thread's one of them, and which of the threads that share it this one is
  const int each = (tiles + gridDim.x - 1) / gridDim.x, first_tile = blockIdx.x * each;
  const int mine = min(tiles - first_tile, each), sharers = THREADS / mine;
  const int tile = first_tile + threadIdx.x % mine, share = threadIdx.x / mine;
  int below = tile % (tiles / 2), row = 0;  // of the tiles of s, or of those of y: by rows, from the diagonal on
  while (below >= fours(m + 1) - row) below -= fours(m + 1) - row++;
  const int left = tile < tiles / 2 ? row : s_groups + row, right = s_groups + row + below;

  for (int i = threadIdx.x; i < groups * GROUP; i += THREADS) rows[i] = 0.f;
  double total[SUMS] = {};
  float sum[SUMS] = {};
  int summed = 0;
  for (int64_t start = (int64_t)blockIdx.y * CHUNK; start < n; start += (int64_t)gridDim.y * CHUNK) {
    __syncthreads();
    for (int i = threadIdx.x; i < (2 * m + 1) * (CHUNK / VECTOR); i += THREADS) {
      const int k = i / (CHUNK / VECTOR), at = i % (CHUNK / VECTOR) * VECTOR;
      const int64_t first = start + at;
      float v[VECTOR], f[VECTOR];
      load_part(v, (const float*)arrays[k] + first, n - first);
      if (free && k >= m) {
        load_part(f, free + first, n - first);
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) v[e] *= f[e];
      }
      const int to = k < m ? k : s_groups * SIDE + k - m;
      store_elements(rows + place(to / SIDE, to % SIDE) + at, v);
    }
    __syncthreads();
    if (share < sharers) {
      for (int at = share * VECTOR; at < CHUNK; at += sharers * VECTOR) {
        float a[SIDE][VECTOR], b[VECTOR];
#pragma unroll
        for (int r = 0; r < SIDE; ++r) load_elements(a[r], rows + place(left, r) + at);
#pragma unroll
        for (int c = 0; c < SIDE; ++c) {
          load_elements(b, rows + place(right, c) + at);
#pragma unroll
          for (int r = 0; r < SIDE; ++r)
#pragma unroll
            for (int e = 0; e < VECTOR; ++e) sum[r * SIDE + c] = __fmaf_rn(a[r][e], b[e], sum[r * SIDE + c]);
        }
      }
    }
    if (++summed % FLUSH == 0) {
#pragma unroll
      for (int k = 0; k < SUMS; ++k) {
        total[k] += sum[k];
        sum[k] = 0.f;
      }
    }
  }

  __shared__ double shares[SIDE][THREADS];
  double* out = products + ((int64_t)blockIdx.y * tiles + tile) * SUMS;
#pragma unroll
  for (int r = 0; r < SIDE; ++r) {
    __syncthreads();
#pragma unroll
    for (int c = 0; c < SIDE; ++c) shares[c][threadIdx.x] = total[r * SIDE + c] + sum[r * SIDE + c];
    __syncthreads();
    if (share == 0) {
#pragma unroll
      for (int c = 0; c < SIDE; ++c) {
        double all = shares[c][threadIdx.x];
        for (int t = 1; t < sharers; ++t) all += shares[c][threadIdx.x + t * mine];
        out[r * SIDE + c] = all;
      }
    }
  }
}

// The sums over all pieces, of products (pieces, count): a warp takes 32 neighbours of every WARPS-th piece
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_products(const double* __restrict__ products, double* __restrict__ totals, int pieces, int count) {
  __shared__ double warps[WARPS][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, i = blockIdx.x * 32 + lane;
  double sum = 0;
  if (i < count)
    for (int piece = warp; piece < pieces; piece += WARPS) sum += products[(int64_t)piece * count + i];
  warps[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && i < count) {
#pragma unroll
    for (int w = 1; w < WARPS; ++w) sum += warps[w][lane];
    totals[i] = sum;
  }
}
