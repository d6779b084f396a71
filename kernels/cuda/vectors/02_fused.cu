// op:        vectors                    rung: 02_fused
// over 01:   what an optimizer wants to know of the arrays is summed up while they pass by: nothing is read twice
// math:      sum x y;  max |x|;  free = not held, #held, max |g| of the free;
//            d = min(max(x + d, lo), hi) - x, the largest a with lo <= x + a d <= hi, sum g d;
//            s = x_next - x, y = g_next - g, s'y, s's, y'y
// reference: nstcore/optim/vectors.py Vectors.dot, max_abs, free_elements, shorten, pair
// requires:  float32; arrays of any size n that begin at multiples of 16 bytes
// launch:    nstcore/engines/cuda/vectors.py: one block of THREADS per piece, then finish with one block per result
// napkin:    bytes a float: dot 8, max_abs 4, free_elements 12, shorten 16, pair 24; of the pieces at most 24 KB
#include "reduce.cuh"

#define VECTOR 4
#define INFINITE 0x7f800000u  // the bits of infinity
static_assert(PRECISION == FLOAT32, "the optimizers' arrays are float32 in every precision");

extern "C" __global__ void __launch_bounds__(THREADS)
    dot(const float* __restrict__ x, const float* __restrict__ y, double* __restrict__ sums, int64_t n) {
  double sum = 0;
  for (EACH_VECTOR(i, n, VECTOR)) {
    float a[VECTOR], b[VECTOR], part = 0.f;
    load_part(a, x + i, n - i);
    load_part(b, y + i, n - i);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) part = __fmaf_rn(a[e], b[e], part);
    sum += part;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    max_abs(const float* __restrict__ x, unsigned* __restrict__ extremes, int64_t n) {
  unsigned most = 0;
  for (EACH_VECTOR(i, n, VECTOR)) {
    float a[VECTOR];
    load_part(a, x + i, n - i);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) most = max(most, magnitude(a[e]));
  }
  most = block_max(most);
  if (threadIdx.x == 0) extremes[blockIdx.x] = most;
}

// An element is held where x is on a bound and -g points out of the box
extern "C" __global__ void __launch_bounds__(THREADS)
    free_elements(const float* x, const float* g, float lo, float hi, float* out, double* __restrict__ sums,
                  unsigned* __restrict__ extremes, int64_t n) {
  int held = 0;
  unsigned most = 0;
  for (EACH_VECTOR(i, n, VECTOR)) {
    float a[VECTOR], b[VECTOR], free[VECTOR];
    load_part(a, x + i, n - i);
    load_part(b, g + i, n - i);  // beyond the end 0: never held
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) {
      const bool stuck = (a[e] <= lo && b[e] > 0.f) || (a[e] >= hi && b[e] < 0.f);
      free[e] = stuck ? 0.f : 1.f;
      held += stuck;
      if (!stuck) most = max(most, magnitude(b[e]));
    }
    store_part(out + i, free, n - i);
  }
  const double all = block_sum(held);
  most = block_max(most);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = all;
    extremes[blockIdx.x] = most;
  }
}

// The step that an element has room for is never negative, so the shortest of all is a minimum of bits, and that the
// complement of the maximum of their complements. A NaN is above infinity, and does not count.
extern "C" __global__ void __launch_bounds__(THREADS)
    shorten(float* d, const float* x, const float* g, float lo, float hi, double* __restrict__ sums,
            unsigned* __restrict__ extremes, int64_t n) {
  double slope = 0;
  unsigned least = INFINITE;
  for (EACH_VECTOR(i, n, VECTOR)) {
    float a[VECTOR], b[VECTOR], step[VECTOR], part = 0.f;
    load_part(a, x + i, n - i);
    load_part(b, g + i, n - i);
    load_part(step, d + i, n - i);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) {
      float to = a[e] + step[e];
      to = to < lo ? lo : to;
      to = to > hi ? hi : to;
      step[e] = to - a[e];
      part = __fmaf_rn(b[e], step[e], part);
      if (i + e < n && step[e] != 0.f) least = min(least, magnitude(((step[e] > 0.f ? hi : lo) - a[e]) / step[e]));
    }
    store_part(d + i, step, n - i);
    slope += part;
  }
  slope = block_sum(slope);
  const unsigned most = block_max(~least);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = slope;
    extremes[blockIdx.x] = most;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pair(const float* x, const float* g, const float* x_next, const float* g_next, float* s, float* y,
         double* __restrict__ sums, int64_t n) {
  double sy = 0, ss = 0, yy = 0;
  for (EACH_VECTOR(i, n, VECTOR)) {
    float before[VECTOR], moved[VECTOR], slope[VECTOR], turned[VECTOR], part[3] = {};
    load_part(before, x + i, n - i);
    load_part(moved, x_next + i, n - i);
    load_part(slope, g + i, n - i);
    load_part(turned, g_next + i, n - i);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) {
      moved[e] -= before[e];
      turned[e] -= slope[e];
      part[0] = __fmaf_rn(moved[e], turned[e], part[0]);
      part[1] = __fmaf_rn(moved[e], moved[e], part[1]);
      part[2] = __fmaf_rn(turned[e], turned[e], part[2]);
    }
    store_part(s + i, moved, n - i);
    store_part(y + i, turned, n - i);
    sy += part[0];
    ss += part[1];
    yy += part[2];
  }
  sy = block_sum(sy);
  ss = block_sum(ss);
  yy = block_sum(yy);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sy;
    sums[gridDim.x + blockIdx.x] = ss;
    sums[2 * gridDim.x + blockIdx.x] = yy;
  }
}

// Block b adds the b-th row of `sums`; the one after those of the sums takes the largest of `extremes`
extern "C" __global__ void __launch_bounds__(THREADS)
    finish(const double* __restrict__ sums, const unsigned* __restrict__ extremes, double* __restrict__ totals,
           unsigned* __restrict__ most, int pieces, int rows) {
  const int row = blockIdx.x;
  if (row < rows) {
    const double total = sum_of_pieces(sums + (int64_t)row * pieces, pieces);
    if (threadIdx.x == 0) totals[row] = total;
  } else {
    const unsigned largest = max_of_pieces(extremes, pieces);
    if (threadIdx.x == 0) *most = largest;
  }
}
