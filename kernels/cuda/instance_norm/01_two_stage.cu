// op:        instance norm, and the sums it is made of   rung: 01_two_stage
// math:      mean[c] = 1/M sum_m x[m,c];    sigma[c] = sqrt(1/M sum_m (x[m,c] - mean[c])^2 + epsilon)
//            y[m,c] = act(scale[c] (x[m,c] - mean[c]) / sigma[c] + shift[c]) + plus[m,c]
//            act is none, relu, relu6 or sigmoid; plus is 0 where it is null
// reference: nstcore/ops/instance_norm.py instance_norm_forward; global_average.py global_average_forward; relu.py
//            relu_forward, relu6_forward; sigmoid.py sigmoid_forward
// launch:    nstcore/engines/cuda/instance_norm.py: channel_sums with a block for each piece of positions and each
//            THREADS channels, then channel_means; both again for sigma; normalise as channel_sums
// requires:  x, y, plus (M, C) float32, position-major; y may be x; any M, C; THREADS is -D of the host
// napkin:    three reads of x and one write of y, one more read with `plus`: 16 or 20 bytes for each of M*C numbers,
//            and 8*C bytes per piece. The maps of a network that paints 512 x 512 have 8 MB or less: what was just
//            written is still in the second-level cache of a large GPU
//
// Two passes, mean and then deviations, as the book: squares of x less the square of the mean would cancel where a
// channel is bright and even. A thread stays with one channel and takes every rows-th position, GROUP at a time: their
// loads are under way together, their sum is float, all others are double, in an order that depends on the size alone.
#include "layers.cuh"

#ifndef THREADS
#define THREADS 256
#endif
#define GROUP 8

// Where a thread is in a block of `rows` positions x at most THREADS channels
struct Lane {
  int across, rows, row, c;
  bool works;

  __device__ __forceinline__ explicit Lane(int C) {
    const int before = blockIdx.x * THREADS;
    across = min(C - before, THREADS);
    rows = THREADS / across;
    row = threadIdx.x / across;
    c = before + threadIdx.x % across;
    works = row < rows;
  }
};

// Sums of a channel over a block, by a tree; for the threads of row 0
__device__ __forceinline__ double sum_of_rows(const Lane& lane, double v) {
  __shared__ double sums[THREADS];
  sums[threadIdx.x] = v;
  int half = 1;
  while (2 * half < lane.rows) half *= 2;
  for (; half > 0; half /= 2) {
    __syncthreads();  // the sums of twice as many rows are there
    if (lane.row < half && lane.row + half < lane.rows) sums[threadIdx.x] += sums[threadIdx.x + half * lane.across];
  }
  return sums[threadIdx.x];
}

// Pieces of the sums of x; with `mean`, of (x - mean)^2. blockIdx.y counts pieces of `length` positions.
extern "C" __global__ void __launch_bounds__(THREADS)
    channel_sums(const float* __restrict__ x, const float* __restrict__ mean, double* __restrict__ pieces, int64_t M,
                 int C, int64_t length) {
  const Lane lane(C);
  const int64_t begin = blockIdx.y * length, end = min(begin + length, M);
  double sum = 0;
  if (lane.works) {
    const float centre = mean ? mean[lane.c] : 0.f;
    for (int64_t m = begin + lane.row; m < end; m += GROUP * lane.rows) {
      float part = 0.f;
#pragma unroll
      for (int i = 0; i < GROUP; ++i) {
        const int64_t at = m + i * lane.rows;
        if (at < end) {
          const float v = x[at * C + lane.c] - centre;
          part = mean ? __fmaf_rn(v, v, part) : part + v;
        }
      }
      sum += part;
    }
  }
  sum = sum_of_rows(lane, sum);
  if (lane.row == 0) pieces[(int64_t)blockIdx.y * C + lane.c] = sum;
}

// out = mean of the pieces; with `root`, sqrt(mean + epsilon)
extern "C" __global__ void __launch_bounds__(THREADS)
    channel_means(const double* __restrict__ pieces, float* __restrict__ out, int count, int64_t M, int C, int root,
                  double epsilon) {
  const Lane lane(C);
  double sum = 0;
  if (lane.works)
    for (int piece = lane.row; piece < count; piece += lane.rows) sum += pieces[(int64_t)piece * C + lane.c];
  sum = sum_of_rows(lane, sum);
  if (lane.row == 0) out[lane.c] = (float)(root ? sqrt(sum / M + epsilon) : sum / M);
}

// y may be x, so neither is __restrict__: a thread reads GROUP numbers before it writes one
extern "C" __global__ void __launch_bounds__(THREADS)
    normalise(const float* x, const float* __restrict__ mean, const float* __restrict__ sigma,
              const float* __restrict__ scale, const float* __restrict__ shift, const float* plus, float* y, int64_t M,
              int C, int64_t length, int activation) {
  const Lane lane(C);
  if (!lane.works) return;
  const int64_t end = min((blockIdx.y + (int64_t)1) * length, M);
  const float centre = mean[lane.c], gain = scale[lane.c] / sigma[lane.c], level = shift[lane.c];
  for (int64_t m = blockIdx.y * length + lane.row; m < end; m += GROUP * lane.rows) {
    float v[GROUP], more[GROUP];
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
      const int64_t at = (m + i * lane.rows) * C + lane.c;
      const bool inside = m + i * lane.rows < end;
      v[i] = inside ? x[at] : 0.f;
      more[i] = inside && plus ? plus[at] : 0.f;
    }
#pragma unroll
    for (int i = 0; i < GROUP; ++i)
      if (m + i * lane.rows < end)
        y[(m + i * lane.rows) * C + lane.c] = activate(__fmaf_rn(v[i] - centre, gain, level), activation) + more[i];
  }
}
