// Kernels with one mistake each, where BUG is 1; where it is 0, the same without the mistake. What must be noticed is
// told in tests/test_cuda_on_cpu.py and test_cuda_on_cpu_sanitizers.py; the comment // NAME marks the line to be named.
#include "common.cuh"

#ifndef BUG
#define BUG 0
#endif
#define N 64  // threads of a block, unless said otherwise

extern "C" __global__ void missing_barrier(const float* x, float* y) {
  __shared__ float tile[N];
  const int t = threadIdx.x;
  tile[t] = x[t];
#if !BUG
  __syncthreads();
#endif
  y[t] = tile[N - 1 - t];  // missing_barrier
}

extern "C" __global__ void missing_second_barrier(const float* x, float* y, int steps) {
  __shared__ float tile[N];
  const int t = threadIdx.x;
  float sum = 0.f;
  for (int s = 0; s < steps; ++s) {
    tile[t] = x[N * s + t];
    __syncthreads();
    sum += tile[N - 1 - t];
#if !BUG
    __syncthreads();
#endif
  }
  y[t] = sum;
}

extern "C" __global__ void missing_wait(const float* x, float* y) {
  extern __shared__ __align__(16) float tile[];
  const int t = threadIdx.x;
  copy_async<4>(&tile[t], x + t, true);
  copy_async_commit();
#if !BUG
  copy_async_wait<0>();
#endif
  __syncthreads();
  y[t] = tile[N - 1 - t];
  copy_async_wait<0>();
}

extern "C" __global__ void missing_commit(const float* x, float* y) {
  __shared__ float tile[N];
  const int t = threadIdx.x;
  copy_async<4>(&tile[t], x + t, true);  // missing_commit
#if !BUG
  copy_async_commit();
#endif
  copy_async_wait<0>();
  __syncthreads();
  y[t] = tile[N - 1 - t];
}

extern "C" __global__ void waits_for_too_few(const float* x, float* y) {
  __shared__ float tile[2][N];
  const int t = threadIdx.x;
  for (int stage = 0; stage < 2; ++stage) {
    copy_async<4>(&tile[stage][t], x + N * stage + t, true);
    copy_async_commit();
  }
  copy_async_wait<BUG>();  // the second group may still be under way
  __syncthreads();
  y[t] = tile[0][N - 1 - t] + tile[1][N - 1 - t];
  copy_async_wait<0>();
}

extern "C" __global__ void refilled_too_early(const float* x, float* y, int steps) {
  __shared__ float tile[N];
  const int t = threadIdx.x;
  float sum = 0.f;
  for (int s = 0; s < steps; ++s) {
    copy_async<4>(&tile[t], x + N * s + t, true);  // others may still read what the last step brought
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    sum += tile[N - 1 - t];
#if !BUG
    __syncthreads();
#endif
  }
  y[t] = sum;
}

extern "C" __global__ void misaligned_copy(const float* x, float* y) {
  __shared__ __align__(16) float tile[4 * N + 4];
  const int t = threadIdx.x;
  copy_async<16>(&tile[4 * t + BUG], x + 4 * t, true);  // misaligned_copy
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  y[t] = tile[4 * t];
}

extern "C" __global__ void misaligned_source(const float* x, float* y) {
  __shared__ __align__(16) float tile[4 * N];
  const int t = threadIdx.x;
  copy_async<16>(&tile[4 * t], x + 4 * t + BUG, t < N - 1);  // misaligned_source
  copy_async_commit();
  copy_async_wait<0>();
  y[t] = tile[4 * t];
}

extern "C" __global__ void misaligned_matrix(const float* x, float* y) {
  __shared__ __align__(16) float tile[128 + 4];
  const int t = threadIdx.x;  // of 32
  for (int i = 0; i < 4; ++i) tile[32 * i + t] = x[32 * i + t];
  __syncwarp();
  uint32_t r[4];
  load_matrix_x4<false>(r, &tile[4 * t + BUG]);  // misaligned_matrix
  y[t] = __uint_as_float(r[0]);
}

extern "C" __global__ void not_shared(const float* x, float* y) {
  __shared__ __align__(16) float tile[128];
  copy_async<4>(BUG ? y + threadIdx.x : &tile[threadIdx.x], x, true);  // not_shared
  copy_async_commit();
  copy_async_wait<0>();
  y[threadIdx.x] = 1.f;
}

extern "C" __global__ void global_overrun(float* y, int n) {
  const int i = blockIdx.x * N + threadIdx.x;
  if (i < n + BUG) y[i] = 1.f;  // global_overrun
}

extern "C" __global__ void static_overrun(float* y) {
  __shared__ float before[N];
  __shared__ float tile[N - 1];
  __shared__ float after[N];
  const int t = threadIdx.x;
  before[t] = after[t] = 0.f;
  float* to = tile;  // who knows how long it is?
  if (t < N - 1 + BUG) to[t] = 1.f;  // static_overrun
  __syncthreads();
  y[t] = t < N - 1 ? tile[t] + before[t] + after[t] : 1.f;
}

extern "C" __global__ void dynamic_overrun(float* y) {
  extern __shared__ __align__(16) unsigned char bytes[];
  const int t = threadIdx.x;
  bytes[t + BUG] = 1;  // dynamic_overrun
  y[t] = 1.f;
}

extern "C" __global__ void copied_overrun(const float* x, float* y) {
  __shared__ float tile[N];
  const int t = threadIdx.x;
  copy_async<4>(&tile[t], x + t + BUG, true);  // copied_overrun
  copy_async_commit();
  copy_async_wait<0>();
  y[t] = tile[t];
}

extern "C" __global__ void register_overrun(float* y, int n) {
  float several[4];
  for (int i = 0; i < 4; ++i) several[i] = 1.f;
  for (int i = 0; i < n + BUG; ++i) several[i] += 1.f;  // register_overrun
  y[threadIdx.x] = several[threadIdx.x % 4];
}

extern "C" __global__ void barrier_of_some(float* y) {
  if (!BUG || threadIdx.x < 40) __syncthreads();  // barrier_of_some
  y[threadIdx.x] = 1.f;
}

extern "C" __global__ void two_barriers(float* y) {
  if (BUG && threadIdx.x % 2)
    __syncthreads();
  else
    __syncthreads();  // two_barriers
  y[threadIdx.x] = 1.f;
}

extern "C" __global__ void early_exit(float* y, int n) {
  if (BUG && (int)threadIdx.x >= n) return;
  __syncthreads();  // early_exit
  if ((int)threadIdx.x < n) y[threadIdx.x] = 1.f;
}

extern "C" __global__ void race_of_blocks(float* y) {
  y[BUG ? 0 : blockIdx.x] = (float)blockIdx.x;  // race_of_blocks
}

extern "C" __global__ void missing_lane(float* y) {
  float v = threadIdx.x;
  if (!BUG || threadIdx.x != 33) v = __shfl_xor_sync(0xffffffffu, v, 1);  // missing_lane
  y[threadIdx.x] = v;
}

extern "C" __global__ void not_in_its_mask(float* y) {
  y[threadIdx.x] = __shfl_sync(BUG ? 0xfffffffeu : 0xffffffffu, 1.f, 1);  // not_in_its_mask
}

extern "C" __global__ void masks_differ(float* y) {
  const unsigned mine = threadIdx.x % 32 < 16 ? 0x0000ffffu : BUG ? 0xffff0001u : 0xffff0000u;
  y[threadIdx.x] = __shfl_sync(mine, 1.f, threadIdx.x);  // masks_differ
}

extern "C" __global__ void half_a_product(float* y) {
  float d[1][1][4] = {};
  const uint32_t a[1][4] = {}, b[1][2] = {};
  if (!BUG || threadIdx.x < 16) mma_tf32(d, a, b);  // half_a_product
  y[threadIdx.x] = d[0][0][0];
}

extern "C" __global__ void shuffle_as_barrier(float* y) {
  __shared__ float tile[32];
  const int t = threadIdx.x;  // of 32
  tile[t] = 1.f;
#if BUG
  __shfl_sync(0xffffffffu, 1.f, 0);  // orders no memory
#else
  __syncwarp();
#endif
  y[t] = tile[31 - t];  // shuffle_as_barrier
}

extern "C" __global__ void unwritten(float* y) {
  __shared__ float tile[N];
  const int t = threadIdx.x;
  if (!BUG || t % 2) tile[t] = 1.f;
  y[t] = relu(tile[t]);
}

extern "C" __global__ void left_by_the_last_block(float* y) {
  extern __shared__ float kept[];
  if (!BUG || blockIdx.x == 0) kept[threadIdx.x] = 1.f;
  y[N * blockIdx.x + threadIdx.x] = kept[threadIdx.x];
}

extern "C" __global__ void undefined_shift(int* y, int by) {
  y[threadIdx.x] = 1 << (by + BUG);  // undefined_shift
}

extern "C" __global__ void overflow(int* y, int n) {
  y[threadIdx.x] = n * (BUG ? n : 1);  // overflow
}

extern "C" __global__ void misaligned_vector(const float* x, float* y) {
  y[threadIdx.x] = reinterpret_cast<const float4*>(x + 4 * threadIdx.x + BUG)->x;  // misaligned_vector
}

extern "C" __global__ void __launch_bounds__(N, 2) bounded(float* y) { y[threadIdx.x] = 1.f; }
