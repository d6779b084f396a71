// op:        resize, nearest and bilinear   rung: 01_direct
// math:      y[c,p,q] = x[c,i,j] with i = floor(p H / P), j = floor(q W / Q)
//            y[c,p,q] = (1-u) ((1-t) x[c,i,j] + t x[c,i',j]) + u ((1-t) x[c,i,j'] + t x[c,i',j'])
//            with i + t = (p + 1/2) H/P - 1/2, j + u = (q + 1/2) W/Q - 1/2, both moved into the picture; i' = i + 1
//            and j' = j + 1, or the last
// reference: nstcore/ops/resize.py resize_nearest_forward, resize_bilinear_forward
// launch:    nstcore/engines/cuda/resize.py
// requires:  x (H, W, C), y (P, Q, C) float32; any C, H, W, P, Q; 2 P and 2 Q at most 2^24
// napkin:    4*C*(H*W + P*Q) bytes of memory; where y is larger, an x is read again from the caches. (In front of a
//            convolution nothing is enlarged, as kernels/cuda/conv reads each x as often as it needs.)
//
// One thread for 4 channels of an output where C is a multiple of 4, for one where it is not; blockIdx.x is a row of y,
// and (blockIdx.y, threadIdx.x) a place in it.
#include "common.cuh"

// Position k of `count` lies between i and j of n, t of the way; the place is a fraction of whole numbers, rounded once
__device__ __forceinline__ void between(int k, int count, int n, int& i, int& j, float& t) {
  const int64_t below = 2 * (int64_t)count, above = (2 * (int64_t)k + 1) * n - count;
  const int64_t inside = max((int64_t)0, min(above, (n - 1) * below));
  i = (int)(inside / below);
  j = min(i + 1, n - 1);
  t = (float)(inside % below) / (float)below;
}

__device__ __forceinline__ float mixed(float a, float b, float t) { return __fmaf_rn(t, b, (1.f - t) * a); }

template <int N>
__device__ __forceinline__ void nearest(const float* __restrict__ x, float* __restrict__ y, int C, int H, int W, int P,
                                        int Q) {
  const int at = blockIdx.y * blockDim.x + threadIdx.x, p = blockIdx.x, q = at / (C / N), c = at % (C / N) * N;
  if (q >= Q) return;
  const int i = (int)((int64_t)p * H / P), j = (int)((int64_t)q * W / Q);
  float v[N];
  load_elements<N>(v, x + ((size_t)i * W + j) * C + c);
  store_elements<N>(y + ((size_t)p * Q + q) * C + c, v);
}

template <int N>
__device__ __forceinline__ void bilinear(const float* __restrict__ x, float* __restrict__ y, int C, int H, int W, int P,
                                         int Q) {
  const int at = blockIdx.y * blockDim.x + threadIdx.x, p = blockIdx.x, q = at / (C / N), c = at % (C / N) * N;
  if (q >= Q) return;
  int rows[2], columns[2];
  float t, u, v[4][N];
  between(p, P, H, rows[0], rows[1], t);
  between(q, Q, W, columns[0], columns[1], u);
#pragma unroll
  for (int i = 0; i < 4; ++i) load_elements<N>(v[i], x + ((size_t)rows[i / 2] * W + columns[i % 2]) * C + c);
#pragma unroll
  for (int e = 0; e < N; ++e) v[0][e] = mixed(mixed(v[0][e], v[2][e], t), mixed(v[1][e], v[3][e], t), u);
  store_elements<N>(y + ((size_t)p * Q + q) * C + c, v[0]);
}

extern "C" __global__ void __launch_bounds__(256)
    resize_nearest(const float* __restrict__ x, float* __restrict__ y, int C, int H, int W, int P, int Q) {
  if (C % 4 == 0)
    nearest<4>(x, y, C, H, W, P, Q);
  else
    nearest<1>(x, y, C, H, W, P, Q);
}

extern "C" __global__ void __launch_bounds__(256)
    resize_bilinear(const float* __restrict__ x, float* __restrict__ y, int C, int H, int W, int P, int Q) {
  if (C % 4 == 0)
    bilinear<4>(x, y, C, H, W, P, Q);
  else
    bilinear<1>(x, y, C, H, W, P, Q);
}
