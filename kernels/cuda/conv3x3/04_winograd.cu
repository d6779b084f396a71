// op:        conv3x3 forward, backward            rung: 04_winograd
// over 03:   2.25 times fewer multiplications: tiles of 2x2 outputs from 4x4 inputs with 16 instead of 36 (Lavin, Gray,
//            "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, F(2x2, 3x3))
// math:      Y = A^T [sum_c (G g G^T) . (B^T d B)] A     for each tile of y and each filter; . is element by element
//                  [1  0 -1  0]                     [1   0    0 ]
//            B^T = [0  1  1  0]   A^T = [1 1  1  0]   [1/2 1/2  1/2]
//                  [0 -1  1  0]         [0 1 -1 -1]   [1/2 -1/2 1/2] = G
//                  [0  1  0 -1]                       [0   0    1 ]
//            then y = relu(Y + b), or dx = (F > 0) (Y + content_scale (F - P)) from dy with turned filters
// reference: nstcore/ops/conv.py conv_forward, conv_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py Convolution, which hands w over as G g G^T, (16, C, K); S must be null
// requires:  float32; any C, K, H, W with H W and 4 W C below 2^31; H W C and H W K elements may be more
// napkin:    4*C*K*H*W multiply-adds. A step of 8 channels: (16 loads, 32 additions) for each of 8 x 32 tiles, and
//            16 x 8 x 32 filters, for 16*8*32*32 multiply-adds: 16 a load
//
// The 16 products are matrix products (tiles x channels) . (channels x filters), two for each of 8 warps, whose sums
// stay in registers until the last channel. What is transformed never leaves shared memory.
#include "conv3x3.cuh"

#ifndef TILES
#define TILES 32  // of 2x2 outputs, of a block
#endif
#ifndef CHANNELS
#define CHANNELS 32  // of the output, of a block
#endif
#define BC 8         // input channels at a time
#define THREADS 256  // 8 warps, two products each
#define PAD 4        // a warp stores 8 channels of 4 tiles: in 32 different banks

static_assert(TILES == 32 && CHANNELS == 32, "a thread transforms one tile and multiplies 8 tiles x 4 channels");

// The two factors of the 16 products, and later, half of the tiles at a time, the products themselves
union Shared {
  struct {
    float V[16][BC][TILES + PAD];  // B^T d B
    float U[16][BC][CHANNELS];     // G g G^T
  } in;
  float M[16][TILES / 2][CHANNELS];
};

// The 4x4 inputs of this thread's tile, of which the first output lies at `origin`
struct Patch {
  const element* origin;
  int rows[4], columns[4];  // from there, in elements
  unsigned inside;          // a bit for each of the 16; what is not inside is zero

  __device__ __forceinline__ Patch(const element* x, int tile, int in, int H, int W, int replicate) {
    const int wide = (W + 1) / 2, p = tile / wide * 2, q = tile % wide * 2;
    const bool there = p < H;
    origin = x + (there ? ((size_t)p * W + q) * in : 0);
    inside = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      rows[i] = there ? (clamp_to(p + i - 1, H) - p) * W * in : 0;
      columns[i] = there ? (clamp_to(q + i - 1, W) - q) * in : 0;
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const bool row = (unsigned)(p + i / 4 - 1) < (unsigned)H, column = (unsigned)(q + i % 4 - 1) < (unsigned)W;
      if (there && (replicate || (row && column))) inside |= 1u << i;
    }
  }

  __device__ __forceinline__ void load(float (&d)[16], int c, int in) const {
#pragma unroll
    for (int i = 0; i < 16; ++i)
      d[i] = c < in && (inside >> i & 1) ? to_float(origin[rows[i / 4] + columns[i % 4] + c]) : 0.f;
  }
};

// v = B^T v for four numbers a stride apart
__device__ __forceinline__ void transform_input(float* v, int stride) {
  const float v0 = v[0], v1 = v[stride], v2 = v[2 * stride], v3 = v[3 * stride];
  v[0] = v0 - v2;
  v[stride] = v1 + v2;
  v[2 * stride] = v2 - v1;
  v[3 * stride] = v1 - v3;
}

// What the sums of one column of M say about the two outputs of its column: A^T m
__device__ __forceinline__ void transform_output(float& y0, float& y1, float m0, float m1, float m2, float m3) {
  y0 = m0 + m1 + m2;
  y1 = m1 - m2 - m3;
}

// sums += V U for the two products of this warp, 8 tiles x 4 filters a thread: tiles 4 (lane / 8) + i % 4 + 16 (i / 4),
// filters 4 (lane % 8) + j
__device__ __forceinline__ void multiply(float (&sums)[2][8][4], const Shared& shared, int product, int tile, int k) {
#pragma unroll 2  // more, and sums spill
  for (int c = 0; c < BC; ++c)
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      const float4 v0 = *reinterpret_cast<const float4*>(&shared.in.V[product + f][c][tile]);
      const float4 v1 = *reinterpret_cast<const float4*>(&shared.in.V[product + f][c][tile + 16]);
      const float4 u = *reinterpret_cast<const float4*>(&shared.in.U[product + f][c][k]);
      const float v[8] = {v0.x, v0.y, v0.z, v0.w, v1.x, v1.y, v1.z, v1.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sums[f][i][0] = __fmaf_rn(v[i], u.x, sums[f][i][0]);
        sums[f][i][1] = __fmaf_rn(v[i], u.y, sums[f][i][1]);
        sums[f][i][2] = __fmaf_rn(v[i], u.z, sums[f][i][2]);
        sums[f][i][3] = __fmaf_rn(v[i], u.w, sums[f][i][3]);
      }
    }
}

template <class Epilogue>
__device__ __forceinline__ void conv3x3(const element* x, const element* w, int in, int out, int H, int W,
                                        int replicate, const Epilogue& epilogue) {
  __shared__ __align__(16) Shared shared;
  const int thread = threadIdx.x, lane = thread % 32, first_tile = blockIdx.x * TILES, first = blockIdx.y * CHANNELS;
  const int product = thread / 32 * 2, tile = lane / 8 * 4, k = lane % 8 * 4;

  float sums[2][8][4] = {};
  const Patch patch(x, first_tile + thread / BC, in, H, W, replicate);
  for (int c0 = 0; c0 < in; c0 += BC) {
    float d[16];
    patch.load(d, c0 + thread % BC, in);
#pragma unroll
    for (int i = 0; i < 4; ++i) transform_input(d + i, 4);  // columns
#pragma unroll
    for (int i = 0; i < 4; ++i) transform_input(d + 4 * i, 1);  // rows
#pragma unroll
    for (int i = 0; i < 16; ++i) shared.in.V[i][thread % BC][thread / BC] = d[i];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int f = thread / 64 + 4 * i, c = thread % 64 / 8, n = thread % 8 * 4;
      float u[4];
      load_channels<4>(u, c0 + c < in ? w + ((size_t)f * in + c0 + c) * out : nullptr, first + n, out);
      *reinterpret_cast<float4*>(&shared.in.U[f][c][n]) = make_float4(u[0], u[1], u[2], u[3]);
    }
    __syncthreads();  // both factors are there
    multiply(sums, shared, product, tile, k);
    __syncthreads();  // everybody has read them
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int f = 0; f < 2; ++f)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* s = sums[f][4 * half + i];
        *reinterpret_cast<float4*>(&shared.M[product + f][tile + i][k]) = make_float4(s[0], s[1], s[2], s[3]);
      }
    __syncthreads();  // the products of 16 tiles are there

    // Two filters of one tile for each thread
    const int n = thread % 16 * 2, wide = (W + 1) / 2, t = first_tile + 16 * half + thread / 16;
    float y[2][2][2];  // [row][column][filter]
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float m[2][4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* column = &shared.M[j][thread / 16][n + e];
        const int next = 4 * sizeof(shared.M[0]) / sizeof(float);
        transform_output(m[0][j], m[1][j], column[0], column[next], column[2 * next], column[3 * next]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) transform_output(y[i][0][e], y[i][1][e], m[i][0], m[i][1], m[i][2], m[i][3]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int p = t / wide * 2 + i, q = t % wide * 2 + j;
        if (p < H && q < W) finish<2>(epilogue, (size_t)p * W + q, first + n, out, y[i][j]);
      }
    __syncthreads();  // they have been read
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    conv3x3_forward(const element* __restrict__ x, const element* __restrict__ w, const float* __restrict__ b,
                    element* __restrict__ linear, element* __restrict__ y, int C, int K, int H, int W, int replicate) {
  const Forward epilogue = {b, linear, y};
  conv3x3(x, w, C, K, H, W, replicate, epilogue);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    conv3x3_backward(const element* __restrict__ dy, const element* __restrict__ w, const element* __restrict__ F,
                     const element* __restrict__ S, float style_scale, const element* __restrict__ P,
                     float content_scale, const float* __restrict__ scales, int mask, element* __restrict__ dx, int K,
                     int C, int H, int W) {
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  conv3x3(dy, w, K, C, H, W, 0, epilogue);
}
