// op:        content loss               rung: 01_two_stage
// math:      sum_m w[m] sum_c (F[m,c] - P[m,c])^2,    P = 0 where it is null, w = 1
// reference: nstcore/ops/content_loss.py content_forward
// requires:  elements of any precision, any number n of them, N to a position; F and P begin at multiples of 16 bytes
// launch:    nstcore/engines/cuda/losses.py: squared_distance with one block of THREADS per piece, then sum_pieces with
//            one block
// napkin:    2*n multiply-adds on 2*n elements, each read once: memory is what it waits for; a w is read by all threads
//            of its position, from the cache; 8 bytes per piece for the second stage, at most 8 KB
#include "reduce.cuh"

#define VECTOR ELEMENTS_PER_16_BYTES

extern "C" __global__ void __launch_bounds__(THREADS)
    squared_distance(const element* __restrict__ F, const element* __restrict__ P, const float* __restrict__ w,
                     double* __restrict__ pieces, int64_t n, int N) {
  double sum = 0;
  for (EACH_VECTOR(i, n, VECTOR)) {
    float f[VECTOR], p[VECTOR] = {}, weight[VECTOR], part = 0.f;
    load_part(f, F + i, n - i);
    if (P) load_part(p, P + i, n - i);
    load_weights(weight, w, i, n, N);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) {
      const float d = f[e] - p[e];
      part = __fmaf_rn(weight[e] * d, d, part);
    }
    sum += part;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) pieces[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sum_pieces(const double* __restrict__ pieces, double* __restrict__ total, int count) {
  const double sum = sum_of_pieces(pieces, count);
  if (threadIdx.x == 0) *total = sum;
}
