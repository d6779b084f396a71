// What common.cuh and tools/cuda_on_cpu offer, called by itself: tests/test_cuda_vocabulary.py compares it with what it
// should be, on the CPU, and where there is a GPU, there too.
#include "common.cuh"

extern "C" __global__ void halves(const uint16_t* x, float* floats, float* bfloats, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  floats[i] = half_to_float(x[i]);
  bfloats[i] = bfloat_to_float(x[i]);
}

extern "C" __global__ void rounded(const float* x, float* tf32, uint16_t* halves, uint16_t* bfloats, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  tf32[i] = round_to_tf32(x[i]);
  halves[i] = float_to_half(x[i]);
  bfloats[i] = float_to_bfloat(x[i]);
}

// D = A B + C for MI x NJ tiles; A (16 MI, K), B (K, 8 NJ), C and D (16 MI, 8 NJ); one warp. K = 8 for TF32 numbers of
// 4 bytes, else 16 numbers of 2.
#define MI 2
#define NJ 3
template <int K, class number, class Multiply>
__device__ __forceinline__ void product(const number* A, const number* B, const float* C, float* D, Multiply multiply) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4, packed = 4 / sizeof(number);
  uint32_t a[MI][4] = {}, b[NJ][2] = {};
  float d[MI][NJ][4];
  for (int i = 0; i < MI; ++i)
    for (int e = 0; e < 4; ++e)
      for (int h = 0; h < packed; ++h) {
        const int row = 16 * i + g + 8 * (e & 1), k = packed * t + h + 4 * packed * (e >> 1);
        a[i][e] |= (uint32_t)A[row * K + k] << 16 * h;
      }
  for (int j = 0; j < NJ; ++j)
    for (int e = 0; e < 2; ++e)
      for (int h = 0; h < packed; ++h)
        b[j][e] |= (uint32_t)B[(packed * t + h + 4 * packed * e) * (8 * NJ) + 8 * j + g] << 16 * h;
  for (int i = 0; i < MI; ++i)
    for (int j = 0; j < NJ; ++j)
      for (int e = 0; e < 4; ++e) d[i][j][e] = C[(16 * i + g + 8 * (e >> 1)) * (8 * NJ) + 8 * j + 2 * t + (e & 1)];
  multiply(d, a, b);
  for (int i = 0; i < MI; ++i)
    for (int j = 0; j < NJ; ++j)
      for (int e = 0; e < 4; ++e) D[(16 * i + g + 8 * (e >> 1)) * (8 * NJ) + 8 * j + 2 * t + (e & 1)] = d[i][j][e];
}

extern "C" __global__ void product_tf32(const unsigned* A, const unsigned* B, const float* C, float* D) {
  product<8>(A, B, C, D, [](auto& d, auto& a, auto& b) { mma_tf32(d, a, b); });
}

extern "C" __global__ void product_16bit(const uint16_t* A, const uint16_t* B, const float* C, float* D) {
  product<16>(A, B, C, D, [](auto& d, auto& a, auto& b) { mma_16bit(d, a, b); });
}

// r[m][lane] of four 8x8 matrices (4, 8, 8)
extern "C" __global__ void matrices(const uint16_t* x, unsigned* plain, unsigned* turned) {
  __shared__ __align__(16) uint16_t tile[4 * 64];
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) tile[i] = x[i];
  __syncwarp();
  uint32_t r[4], s[4];
  load_matrix_x4<false>(r, &tile[8 * lane]);
  load_matrix_x4<true>(s, &tile[8 * lane]);
  for (int m = 0; m < 4; ++m) plain[32 * m + lane] = r[m], turned[32 * m + lane] = s[m];
}

// (6, 32): every kind of shuffle; the last two within halves of the warp that do not run together
extern "C" __global__ void shuffles(const int* x, int* y) {
  const int lane = threadIdx.x;
  const unsigned all = 0xffffffffu;
  y[lane] = __shfl_sync(all, x[lane], 31 - lane);
  y[32 + lane] = __shfl_down_sync(all, x[lane], 5);
  y[64 + lane] = __shfl_up_sync(all, x[lane], 3);
  y[96 + lane] = __shfl_xor_sync(all, x[lane], 9);
  if (lane < 16)
    y[128 + lane] = __shfl_xor_sync(0x0000ffffu, x[lane], 3);
  else
    y[128 + lane] = __shfl_down_sync(0xffff0000u, x[lane], 1);
  const float half = __shfl_sync(all, 0.5f * x[lane], lane ^ 1);
  y[160 + lane] = (int)(2 * half);
}

// 4, 8 and 16 bytes, or zeros
extern "C" __global__ void copies(const float* x, float* y, int n) {
  __shared__ __align__(16) float tile[3][4 * 32];
  const int t = threadIdx.x;
  for (int i = 0; i < 4; ++i) copy_async<4>(&tile[0][4 * t + i], x + 4 * t + i, 4 * t + i < n);
  copy_async_commit();
  for (int i = 0; i < 4; i += 2) copy_async<8>(&tile[1][4 * t + i], x + 4 * t + i, 4 * t + i < n);
  copy_async_commit();
  copy_async<16>(&tile[2][4 * t], x + 4 * t, 4 * t < n);
  copy_async_commit();
  copy_async_wait<1>();
  __syncthreads();
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 2; ++k) y[128 * k + 4 * t + i] = tile[k][4 * t + i];
  copy_async_wait<0>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) y[256 + 4 * t + i] = tile[2][4 * t + i];
}

// Which thread of which block it is, as CUDA counts them
extern "C" __global__ void coordinates(int* y) {
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  y[threads * block + thread] = (int)(threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z) +
                                1000 * (int)(blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z);
}

// y[0] counts; y[1 + i] is when thread i came, y[1 + n + i] when it went on after a barrier: a race, on purpose
extern "C" __global__ void sequence(int* y) {
  const int n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
  y[1 + i] = y[0]++;
  __syncthreads();
  y[1 + n + i] = y[0]++;
}

// Several kinds of declaration in one
template <int ROWS>
__device__ float both(float v) {
  __shared__ float first[ROWS][3], second[2 * ROWS];
  first[0][2] = v, second[ROWS] = 2.f * v;
  return first[0][2] + second[ROWS];
}

extern "C" __global__ void declarations(float* y) {
  __shared__ int flag;
  __shared__ __align__(64) float aligned[3];  // in __shared__ memory
  int mine = 3; /* not in __shared__
  memory */ float own = 4.f;
  if (threadIdx.x == 0) flag = 7, aligned[0] = ((size_t)aligned % 64 == 0) ? 1.f : 0.f;
  __syncthreads();
  if (threadIdx.x != 5) mine = 0, own = 0.f;
  if (threadIdx.x == 0) y[0] = both<2>(1.f), y[1] = both<3>(10.f), y[2] = (float)flag, y[3] = aligned[0];
  if (threadIdx.x == 5) y[4] = mine + own;
}
