// op:        vectors                    rung: 01_elementwise
// math:      x = a;  x = min(max(x, lo), hi);  out = min(max(x + a d, lo), hi);  out = free (a q + sum_k c_k v_k);
//            m = beta1 m + rest1 g;  v = beta2 v + rest2 g^2;
//            x = min(max(x - rate m / (sqrt(scale v) + epsilon), lo), hi)
// reference: nstcore/optim/vectors.py Vectors.fill, clip, step, combine, adam
// requires:  float32; arrays of any size n that begin at multiples of 16 bytes
// launch:    nstcore/engines/cuda/vectors.py: one thread per 4 floats
// napkin:    each array is read once and written once, whatever is computed in between: bytes a float 4 for fill, 8
//            for clip, 12 for step, 28 for adam, 4 (count + 2) for combine, or + 3 with `free`; an array of a picture
//            of 512 x 512 has 3 MB
//
// A thread reads all that it needs before it writes, so that `out` may be one of the arrays read; none is __restrict__.
#include "reduce.cuh"

#define VECTOR 4
static_assert(PRECISION == FLOAT32, "the optimizers' arrays are float32 in every precision");

#define THIS_VECTOR(i) const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * VECTOR

// NaN stays NaN: no comparison with it is true
__device__ __forceinline__ float clipped(float v, float lo, float hi) {
  v = v < lo ? lo : v;
  return v > hi ? hi : v;
}

extern "C" __global__ void __launch_bounds__(THREADS) fill(float* x, float a, int64_t n) {
  THIS_VECTOR(i);
  const float all[VECTOR] = {a, a, a, a};
  store_part(x + i, all, n - i);
}

extern "C" __global__ void __launch_bounds__(THREADS) clip(float* x, float lo, float hi, int64_t n) {
  THIS_VECTOR(i);
  float v[VECTOR];
  load_part(v, x + i, n - i);
#pragma unroll
  for (int e = 0; e < VECTOR; ++e) v[e] = clipped(v[e], lo, hi);
  store_part(x + i, v, n - i);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    step(const float* x, float a, const float* d, float lo, float hi, float* out, int64_t n) {
  THIS_VECTOR(i);
  float v[VECTOR], w[VECTOR];
  load_part(v, x + i, n - i);
  load_part(w, d + i, n - i);
#pragma unroll
  for (int e = 0; e < VECTOR; ++e) v[e] = clipped(v[e] + a * w[e], lo, hi);
  store_part(out + i, v, n - i);
}

// `arrays`: addresses of v_1 .. v_count; `free` may be null: 1 everywhere
extern "C" __global__ void __launch_bounds__(THREADS)
    combine(float a, const float* q, const float* free, const float* coefficients, const int64_t* arrays, int count,
            float* out, int64_t n) {
  THIS_VECTOR(i);
  float sum[VECTOR];
  load_part(sum, q + i, n - i);
#pragma unroll
  for (int e = 0; e < VECTOR; ++e) sum[e] *= a;
#pragma unroll 4
  for (int k = 0; k < count; ++k) {
    float v[VECTOR];
    load_part(v, (const float*)arrays[k] + i, n - i);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) sum[e] += coefficients[k] * v[e];
  }
  if (free) {
    float v[VECTOR];
    load_part(v, free + i, n - i);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) sum[e] *= v[e];
  }
  store_part(out + i, sum, n - i);
}

// The same of at most one array, v, which may be null: without tables, which would have to reach the device first
extern "C" __global__ void __launch_bounds__(THREADS)
    combine_one(float a, const float* q, const float* free, float coefficient, const float* v, float* out, int64_t n) {
  THIS_VECTOR(i);
  float sum[VECTOR], other[VECTOR];
  load_part(sum, q + i, n - i);
#pragma unroll
  for (int e = 0; e < VECTOR; ++e) sum[e] *= a;
  if (v) {
    load_part(other, v + i, n - i);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) sum[e] += coefficient * other[e];
  }
  if (free) {
    load_part(other, free + i, n - i);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) sum[e] *= other[e];
  }
  store_part(out + i, sum, n - i);
}

// One element's step of Adam. rest = 1 - beta, rate = learning rate / correction 1, scale = 1 / correction 2
struct Decay {
  float beta1, rest1, beta2, rest2;
};

__device__ __forceinline__ void adam_step(float& at, float slope, float& mean, float& square, const Decay& by,
                                          float rate, float scale, float epsilon, float lo, float hi) {
  mean = by.beta1 * mean + by.rest1 * slope;
  square = by.beta2 * square + by.rest2 * (slope * slope);
  at = clipped(at - rate * (mean / (sqrtf(scale * square) + epsilon)), lo, hi);
}

// rest, rate and scale: from the host, in double
extern "C" __global__ void __launch_bounds__(THREADS)
    adam(float* x, const float* g, float* m, float* v, float beta1, float rest1, float beta2, float rest2, float rate,
         float scale, float epsilon, float lo, float hi, int64_t n) {
  THIS_VECTOR(i);
  const Decay by = {beta1, rest1, beta2, rest2};
  float at[VECTOR], slope[VECTOR], mean[VECTOR], square[VECTOR];
  load_part(at, x + i, n - i);
  load_part(slope, g + i, n - i);
  load_part(mean, m + i, n - i);
  load_part(square, v + i, n - i);
#pragma unroll
  for (int e = 0; e < VECTOR; ++e) adam_step(at[e], slope[e], mean[e], square[e], by, rate, scale, epsilon, lo, hi);
  store_part(m + i, mean, n - i);
  store_part(v + i, square, n - i);
  store_part(x + i, at, n - i);
}

// The same for a graph, whose arguments never change: rate and scale of every step lie in `corrections`, two by two,
// the last ones good for all after them; `done` steps were made, which `done_next` counts on. x, m, v are left as they
// are, for a host that is still to look at them.
extern "C" __global__ void __launch_bounds__(THREADS)
    adam_next(const float* x, const float* g, const float* m, const float* v, float beta1, float rest1, float beta2,
              float rest2, const float* corrections, int last, const int* done, float epsilon, float lo, float hi,
              float* x_next, float* m_next, float* v_next, int* done_next, int64_t n) {
  THIS_VECTOR(i);
  const int count = *done;
  const float rate = corrections[2 * min(count, last)], scale = corrections[2 * min(count, last) + 1];
  const Decay by = {beta1, rest1, beta2, rest2};
  float at[VECTOR], slope[VECTOR], mean[VECTOR], square[VECTOR];
  load_part(at, x + i, n - i);
  load_part(slope, g + i, n - i);
  load_part(mean, m + i, n - i);
  load_part(square, v + i, n - i);
#pragma unroll
  for (int e = 0; e < VECTOR; ++e) adam_step(at[e], slope[e], mean[e], square[e], by, rate, scale, epsilon, lo, hi);
  store_part(m_next + i, mean, n - i);
  store_part(v_next + i, square, n - i);
  store_part(x_next + i, at, n - i);
  if (i == 0) *done_next = count + 1;
}
