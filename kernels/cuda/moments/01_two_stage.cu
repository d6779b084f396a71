// op:        moments under guides, their gradient   rung: 01_two_stage
// math:      s[c] = factor sum_m w[m] F[m,c];    Y[m,c] = w[m] F[m,c];
//            g[m,c] += (F[m,c] > 0) w[m] (T[m,c] + factor ds[c])
//            With sqrt(w) for w, the Gram matrix of Y is G = sum_m w[m] F[m] F[m]^T; with T = F (dG + dG^T), g is what
//            both send back. w is 1 where it is null, T and ds are 0; all of g without `mask`.
// reference: nstcore/ops/moments.py moments_forward, moments_backward
// requires:  elements of any precision; F, Y, T, g (M, N) position-major, beginning at multiples of 16 bytes; any M, N
// launch:    nstcore/engines/cuda/moments.py: weighted_sums with a block of THREADS for 32 channels of each piece of
//            positions, then sum_pieces with one for 32 channels; weigh and moments_backward with THREADS per 16 bytes
// napkin:    elements of M*N that memory moves: sums 1, weigh 2, moments_backward 4; 8*N bytes per piece of the sums
#include "reduce.cuh"

#define VECTOR ELEMENTS_PER_16_BYTES
#define GROUP 8  // positions that a thread adds in float, their loads under way together

// Sum of what the WARPS threads of a channel have, in a fixed order; for the first warp
__device__ __forceinline__ double sum_of_warps(double v) {
  __shared__ double rows[WARPS][32];
  const int lane = threadIdx.x % 32;
  rows[threadIdx.x / 32][lane] = v;
  __syncthreads();
  double sum = rows[0][lane];
#pragma unroll
  for (int row = 1; row < WARPS; ++row) sum += rows[row][lane];
  return sum;
}

// A warp reads 32 channels of a position side by side; a block takes `length` positions from blockIdx.y * length on
extern "C" __global__ void __launch_bounds__(THREADS)
    weighted_sums(const element* __restrict__ F, const float* __restrict__ w, double* __restrict__ pieces, int64_t M,
                  int N, int length) {
  const int c = blockIdx.x * 32 + threadIdx.x % 32;
  const int64_t begin = (int64_t)blockIdx.y * length, end = min(begin + length, M);
  double sum = 0;
  if (c < N)
    for (int64_t m = begin + threadIdx.x / 32; m < end; m += GROUP * WARPS) {
      float part = 0.f;
#pragma unroll
      for (int k = 0; k < GROUP; ++k) {
        const int64_t at = m + k * WARPS;
        if (at < end) part = __fmaf_rn(w ? w[at] : 1.f, to_float(F[at * N + c]), part);
      }
      sum += part;
    }
  sum = sum_of_warps(sum);
  if (threadIdx.x < 32 && c < N) pieces[(int64_t)blockIdx.y * N + c] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sum_pieces(const double* __restrict__ pieces, double factor, double* __restrict__ s, int count, int N) {
  const int c = blockIdx.x * 32 + threadIdx.x % 32;
  double sum = 0;
  if (c < N)
    for (int piece = threadIdx.x / 32; piece < count; piece += WARPS) sum += pieces[(int64_t)piece * N + c];
  sum = sum_of_warps(sum);
  if (threadIdx.x < 32 && c < N) s[c] = factor * sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    weigh(const element* __restrict__ F, const float* __restrict__ w, element* __restrict__ Y, int64_t n, int N) {
  for (EACH_VECTOR(i, n, VECTOR)) {
    float f[VECTOR], weight[VECTOR];
    load_part(f, F + i, n - i);
    load_weights(weight, w, i, n, N);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) f[e] *= weight[e];
    store_part(Y + i, f, n - i);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    moments_backward(const element* __restrict__ T, const float* __restrict__ ds, float factor,
                     const float* __restrict__ scales, const element* __restrict__ F, const float* __restrict__ w,
                     int mask, element* __restrict__ g, int64_t n, int N) {
  const float scale = Factor{factor, scales, SCALE_LOSS};
  for (EACH_VECTOR(i, n, VECTOR)) {
    float t[VECTOR] = {}, f[VECTOR], weight[VECTOR], value[VECTOR];
    if (T) load_part(t, T + i, n - i);
    load_part(f, F + i, n - i);
    load_part(value, g + i, n - i);
    load_weights(weight, w, i, n, N);
    int c = (int)(i % N);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) {
      const float more = weight[e] * (ds ? t[e] + scale * ds[c] : t[e]);
      if (weight[e] != 0.f && !(mask && f[e] <= 0.f)) value[e] += more;  // a T that nobody wants may be beyond float16
      if (++c == N) c = 0;
    }
    store_part(g + i, value, n - i);
  }
}
