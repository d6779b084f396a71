// op:        style loss                 rung: 01_two_stage
// math:      d[i,j] = G[i,j]/M - A[i,j]/M_style;  loss = scale sum d^2;
//            dG = factor d in G's place, factor = 2 scale/M;
//            S = to_element(factor (dG + dG^T)), by which the features are multiplied for their gradient;
//            loss scale = the power of two that brings sqrt(max over taps of the sum of the tap's terms) to (1/2, 1],
//            divided by 2^lowered, a term = coefficient sum[a] sum[b], each sum w (a - p)^2 or sum a^2 of a job's array;
//            scale of S = the power of two that brings max |dG| to (2^10, 2^11]
//            With mean = s/M, C = G/M - mean mean^T, primes the style's, in double throughout, ds = gradient of s:
//            centred: loss = scale sum (C - C')^2; dG = factor (C - C'), ds[i] = -2 sum_j dG[i,j] mean[j]
//            mean-std: loss = scale (sum (mean - mean')^2 + sum (sigma - sigma')^2), sigma^2 = max(C_ii, 0) + eps;
//            dG = diag(dC)/M, dC = scale (sigma - sigma') / sigma, 0 where C_ii <= 0;
//            ds = (2 scale (mean - mean') - 2 dC mean)/M
// reference: nstcore/ops/style_loss.py style_forward, style_backward; gram.py gram_backward; style_centred.py
//            centred_forward, centred_backward; style_mean_std.py mean_std_forward, mean_std_backward
// requires:  G, A, dG float32, S elements, all N x N, any N; G and A begin at multiples of 16 bytes; in centred, G and
//            C' are symmetric. Of the scales, places: where each tap's terms begin and the last one's end; a and b of
//            each term, jobs or below 0 for a 1; the job of each dG. rows: one of scale_kind for losses without dG,
//            then one for each dG
// launch:    nstcore/engines/cuda/losses.py: style with one block of THREADS per piece, centred and mean_std with one
//            per row; their sums by sum_pieces of content/01_two_stage; pack_style with one block of 32 x ROWS per
//            32 x 32 tile; loss_scale.py: measure with one block of THREADS for each piece of every job, then
//            loss_scales with one block
// napkin:    12*N*N bytes in style, 16*N*N in centred, 4*N*N in mean_std, 8*N*N or less in pack_style: 4 MB at most for
//            N = 512, which the L2 cache holds; 3*N*N divisions in double in centred, the slowest where double is slow;
//            in measure every array once
#include "reduce.cuh"

#define TILE 32
#ifndef ROWS
#define ROWS 8  // of a tile that a block of pack_style reads at a time
#endif
static_assert(TILE % ROWS == 0, "whole turns");
#define LARGEST_DG 11      // the exponent where max |dG| is brought: S keeps its small ones, and is below 2^13
#define LARGEST_SCALE 100  // of an exponent

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
  leave_piece(pieces, block_sum(sum));
}

// ---- losses of means and covariances --------------------------------------------------------------------------------

// C is a difference of large numbers: of all of them, G alone was rounded to float
extern "C" __global__ void __launch_bounds__(THREADS)
    centred(float* __restrict__ G, const double* __restrict__ s, const double* __restrict__ target,
            double* __restrict__ pieces, float* __restrict__ ds, double M, double scale, int N) {
  double squares = 0;
  for (int i = blockIdx.x; i < N; i += gridDim.x) {
    const double mean = s[i] / M;
    double product = 0;
    for (int j = threadIdx.x; j < N; j += THREADS) {
      const int64_t at = (int64_t)i * N + j;
      const double other = s[j] / M, d = G[at] / M - mean * other - target[at];
      G[at] = (float)(2 * scale * d / M);
      squares += d * d;
      product += d * other;  // d is symmetric: its row is its column
    }
    product = block_sum(product);
    if (threadIdx.x == 0) ds[i] = (float)(-4 * scale * product / M);
  }
  leave_piece(pieces, block_sum(squares));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    mean_std(float* __restrict__ G, const double* __restrict__ s, const double* __restrict__ target_mean,
             const double* __restrict__ target_std, double* __restrict__ pieces, float* __restrict__ ds, double M,
             double eps, double scale, int N) {
  double sum = 0;
  for (int i = blockIdx.x; i < N; i += gridDim.x) {
    float* const row = G + (int64_t)i * N;
    for (int j = threadIdx.x; j < N; j += THREADS)
      if (j != i) row[j] = 0.f;
    if (threadIdx.x == 0) {
      const double mean = s[i] / M, C = row[i] / M - mean * mean, sigma = sqrt((C < 0 ? 0 : C) + eps);
      const double off = mean - target_mean[i], deviation = sigma - target_std[i];
      const double dC = C > 0 ? scale * deviation / sigma : 0;
      row[i] = (float)(dC / M);
      ds[i] = (float)((2 * scale * off - 2 * dC * mean) / M);
      sum += off * off + deviation * deviation;
    }
  }
  leave_piece(pieces, sum);  // the first thread's
}

// ---- S --------------------------------------------------------------------------------------------------------------

// The mirrored tile goes through shared memory, so that both are read and written by rows: a column of it would be 32
// lines of memory. One float of padding puts the 32 rows of a column into 32 banks.
extern "C" __global__ void __launch_bounds__(TILE * ROWS)
    pack_style(const float* __restrict__ dG, float factor, const float* __restrict__ scales, element* __restrict__ S,
               int N) {
  const float scale = Factor{factor, scales, SCALE_S};
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
      S[at] = to_element(scale * (dG[at] + mirrored[lane][r]));
    }
}

// ---- float16's loss scales ------------------------------------------------------------------------------------------
//
// What they are found from are sums over many arrays, a job each: a row of a table in device memory, written by
// nstcore/engines/cuda/loss_scale.py. Blocks find theirs as in gram/jobs.cuh.

enum job_column {
  JOB_A,         // address of what is squared: elements, or floats
  JOB_P,         // of what is taken from them before, elements; 0 for none
  JOB_W,         // of the weights of their positions, floats; 0 for none
  JOB_SIZE,      // how many numbers
  JOB_CHANNELS,  // to a position
  JOB_FLOATS,    // whether they are floats: then their largest magnitude is wanted, too
  JOB_FIRST,     // first block of the job
  JOB_PIECES,    // how many pieces there are
  JOB_SUMS,      // address of their sums, doubles; where somebody else has left these, the job has no blocks
  JOB_COLUMNS
};

// Four floats, of which only the first `left` exist; the others are 0
__device__ __forceinline__ void load_floats(float (&to)[4], const float* from, int64_t left) {
  __align__(16) float v[4] = {};
  if (left >= 4) {
    *(float4*)v = *(const float4*)from;
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (e < left) v[e] = from[e];
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) to[e] = v[e];
}

extern "C" __global__ void __launch_bounds__(THREADS)
    measure(const int64_t* __restrict__ jobs, int count, unsigned* __restrict__ extremes) {
  const int64_t* job = jobs;
  while (--count && blockIdx.x >= job[JOB_COLUMNS + JOB_FIRST]) job += JOB_COLUMNS;
  const int64_t piece = blockIdx.x - job[JOB_FIRST], pieces = job[JOB_PIECES], n = job[JOB_SIZE];
  double sum = 0;
  unsigned most = 0;
  if (job[JOB_FLOATS]) {
    for (EACH_VECTOR_OF(i, n, 4, piece, pieces)) {
      float v[4], part = 0.f;
      load_floats(v, (const float*)job[JOB_A] + i, n - i);
#pragma unroll
      for (int e = 0; e < 4; ++e) part = __fmaf_rn(v[e], v[e], part), most = max(most, magnitude(v[e]));
      sum += part;
    }
    most = block_max(most);
  } else {
    sum = squares<ELEMENTS_PER_16_BYTES>((const element*)job[JOB_A], (const element*)job[JOB_P],
                                         (const float*)job[JOB_W], n, (int)job[JOB_CHANNELS], piece, pieces);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    ((double*)job[JOB_SUMS])[piece] = sum;
    extremes[blockIdx.x] = most;
  }
}

// e for which 2^e v is in (2^(wanted-1), 2^wanted]; 0 where there is nothing to bring
__device__ __forceinline__ int exponent(int wanted, double v) {
  if (!(v > 0 && v <= 1.7976931348623157e308)) return 0;  // NaN is neither
  int e;
  const double mantissa = frexp(v, &e);  // v = mantissa 2^e, in [1/2, 1)
  e = wanted - (mantissa == 0.5 ? e - 1 : e);
  return min(max(e, -LARGEST_SCALE), LARGEST_SCALE);
}

__device__ __forceinline__ double read(const double* results, int job) { return job < 0 ? 1. : results[2 * job]; }

// Of every job the pieces, by a warp: to `results` their sum, and the largest of the magnitudes
__device__ __forceinline__ void add_jobs(const int64_t* jobs, int count, const unsigned* extremes, double* results) {
  const int lane = threadIdx.x % 32;
  for (int j = threadIdx.x / 32; j < count; j += WARPS) {
    const int64_t* const job = jobs + (int64_t)j * JOB_COLUMNS;
    const double* const sums = (const double*)job[JOB_SUMS];
    const unsigned* const mosts = job[JOB_FLOATS] ? extremes + job[JOB_FIRST] : nullptr;
    const int64_t pieces = job[JOB_PIECES];
    double sum = 0;
    unsigned most = 0;
#pragma unroll 8
    for (int64_t i = lane; i < pieces; i += 32) {
      sum += sums[i];
      if (mosts) most = max(most, mosts[i]);
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
      most = max(most, __shfl_xor_sync(0xffffffffu, most, lanes));
    }
    if (lane == 0) results[2 * j] = sum, results[2 * j + 1] = __uint_as_float(most);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    loss_scales(const int64_t* __restrict__ jobs, const unsigned* __restrict__ extremes, double* results,
                const double* __restrict__ coefficients, const int* __restrict__ places,
                const int* __restrict__ lowered, float* __restrict__ rows, int count, int taps, int terms,
                int gradients) {
  add_jobs(jobs, count, extremes, results);
  __syncthreads();  // all results are there
  if (threadIdx.x >= 32) return;
  const int *first = places, *factors = first + taps + 1, *of_gradients = factors + 2 * terms;
  double largest = 0;
  for (int tap = threadIdx.x; tap < taps; tap += 32) {
    double sum = 0;
    for (int i = first[tap]; i < first[tap + 1]; ++i)
      sum += coefficients[i] * read(results, factors[2 * i]) * read(results, factors[2 * i + 1]);
    largest = fmax(largest, sum);
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) largest = fmax(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));

  const int loss = exponent(0, sqrt(largest)) - *lowered;
  for (int row = threadIdx.x; row <= gradients; row += 32) {
    const int style = row ? exponent(LARGEST_DG, results[2 * of_gradients[row - 1] + 1]) : 0;
    float* to = rows + 4 * row;
    to[SCALE_STYLE] = ldexpf(1.f, loss - style);
    to[SCALE_LOSS] = ldexpf(1.f, loss);
    to[SCALE_S] = ldexpf(1.f, style);
    to[SCALE_BACK] = ldexpf(1.f, -loss);
  }
}
