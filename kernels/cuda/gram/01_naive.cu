// op:        gram                       rung: 01_naive
// math:      G[i,j] = sum_m F[m,i] F[m,j];  g = [g +] (F > 0) (style_scale F S + content_scale (F - P))
// reference: nstcore/ops/gram.py gram_forward, gram_backward; nstcore/ops/content_loss.py content_backward
// requires:  F (M, N) position-major; any M, N
// launch:    nstcore/engines/cuda/gram.py: one thread per element of G, or of g
// napkin:    M*N*N multiply-adds and twice as many reads; a warp's 32 threads share the one of F[m,i]
#include "common.cuh"

// In double: M is the number of a picture's pixels, and float32 would lose two digits over a million additions
extern "C" __global__ void gram_forward(const element* __restrict__ F, float* __restrict__ G, int N, int M) {
  const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (int64_t)N * N) return;
  const int i = (int)(at / N), j = (int)(at % N);
  double sum = 0;
  for (int64_t m = 0; m < M; ++m) sum += (double)to_float(F[m * N + i]) * to_float(F[m * N + j]);
  G[at] = (float)sum;
}

extern "C" __global__ void gram_backward(const element* __restrict__ F, const element* __restrict__ S,
                                         float style_scale, const element* __restrict__ P, float content_scale,
                                         const float* __restrict__ scales, int mask, int add, element* __restrict__ g,
                                         int M, int N) {
  const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (int64_t)M * N) return;
  const int64_t m = at / N, c = at % N;
  const float f = to_float(F[at]);
  float sum = 0.f;
  if (S)
    for (int d = 0; d < N; ++d) sum = __fmaf_rn(to_float(F[m * N + d]), to_float(S[(int64_t)d * N + c]), sum);
  float value = Factor{style_scale, scales, SCALE_STYLE} * sum;
  if (P) value += Factor{content_scale, scales, SCALE_LOSS} * (f - to_float(P[at]));
  if (mask && f <= 0.f) value = 0.f;
  g[at] = to_element(add ? to_float(g[at]) + value : value);
}
