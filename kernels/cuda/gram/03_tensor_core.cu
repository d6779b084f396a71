// op:        gram                       rung: 03_tensor_core
// over 02:   products by mma.sync, operands brought to shared memory by cp.async, three chunks of positions ahead
// math:      G[i,j] = sum_m F[m,i] F[m,j];  g = [g +] (F > 0) (style_scale F S + content_scale (F - P))
// reference: nstcore/ops/gram.py gram_forward, gram_backward; nstcore/ops/content_loss.py content_backward
// requires:  sm_80; TF32, float16 or bfloat16; F (M, N) position-major; any M, N; ALIGNED=1 where N is a multiple of 16
//            bytes
// launch:    nstcore/engines/cuda/gram.py: one block of THREADS per tile and piece, then gram_sum; gram_backward one
//            block per POSITIONS x CHANNELS
// napkin:    M*N*(N+TILE)/2 multiply-adds for 2*M*N*(N/TILE+1)/2 elements read: at TILE = 64 some 16 a byte of TF32, so
//            the second-level cache sets the pace, not the tensor cores
#ifndef PRECISION
#define PRECISION TF32
#endif
#ifndef TILE
#define TILE 64  // channels a side, of a tile of G
#endif
#ifndef POSITIONS
#define POSITIONS 64  // of a block of gram_backward
#endif
#ifndef CHANNELS
#define CHANNELS 64
#endif
#define TILE_M POSITIONS
#define TILE_N CHANNELS
#include "jobs.cuh"
#include "tensor_tiles.cuh"
static_assert(PRECISION != FLOAT32, "there is no tensor core for float32");
static_assert(TILE == 64, "4 warps of 32 x 32");

// ---- forward -------------------------------------------------------------------------------------------------------
//
// The sum runs over positions, but memory runs along channels: a chunk is CHUNK rows of positions, TILE elements each.
// They are 8 elements further apart than they are long, so that the reads below meet in no bank.

#define AHEAD 4           // chunks in shared memory: one that is read, three on their way
#define PITCH (TILE + 8)  // elements from one row to the next
#define OPERAND (CHUNK * PITCH)
#define ROW_UNITS (TILE / UNIT)

typedef float square[2][4][4];  // a warp's 32 x 32 sums: 2 x 4 mma

// Positions [m, m + CHUNK) of channels [c, c + TILE), zeros from position `end` or channel N on
__device__ __forceinline__ void copy_positions(element* to, const element* F, int m, int end, int c, int N) {
#pragma unroll
  for (int at = threadIdx.x; at < CHUNK * ROW_UNITS; at += THREADS) {
    const int row = at / ROW_UNITS, column = at % ROW_UNITS * UNIT;
    const bool inside = m + row < end && c + column < N;
    const element* from = inside ? F + (int64_t)(m + row) * N + c + column : F;
#if ALIGNED || PRECISION == TF32
    copy_async<UNIT * (int)sizeof(element)>(to + row * PITCH + column, from, inside);
#else
    to[row * PITCH + column] = inside ? *from : (element)0;
#endif
  }
}

// The fragments of one step, 8 positions of floats or 16 of 16 bits: A[channel][position] of 32 channels from `a` on,
// B[position][channel] of 32 from `b` on
__device__ __forceinline__ void load_transposed(uint32_t (&fa)[2][4], uint32_t (&fb)[4][2], const element* a,
                                                const element* b) {
  const int lane = threadIdx.x % 32;
#if PRECISION == TF32
  // ldmatrix transposes pairs of bytes only. Rows are 8 modulo 32 words apart: 4 positions x 8 channels, 32 banks
  const int at = lane % 4 * PITCH + lane / 4;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) fa[i][e] = __float_as_uint(a[at + e / 2 * 4 * PITCH + 16 * i + e % 2 * 8]);
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) fb[j][e] = __float_as_uint(b[at + e * 4 * PITCH + 8 * j]);
#else
  // 8x8 matrices, rows of 8 channels. Rows are 4 modulo 32 words apart: 8 of them, 16 bytes each, 32 banks
  const int a_at = (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8;
  const int b_at = (lane / 8 % 2 * 8 + lane % 8) * PITCH + lane / 16 * 8;
#pragma unroll
  for (int i = 0; i < 2; ++i) load_matrix_x4<true>(fa[i], a + a_at + 16 * i);
#pragma unroll
  for (int j = 0; j < 4; j += 2) {
    uint32_t two[4];
    load_matrix_x4<true>(two, b + b_at + 8 * j);
    fb[j][0] = two[0], fb[j][1] = two[1], fb[j + 1][0] = two[2], fb[j + 1][1] = two[3];
  }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gram_partial(const int64_t* __restrict__ jobs, int count, float* __restrict__ partials) {
  __shared__ __align__(16) element operands[AHEAD][2][OPERAND];
  const int64_t* job = find_job(jobs, count, JOB_FIRST, blockIdx.x);
  const element* F = (const element*)job[JOB_F];
  const int N = (int)job[JOB_N], M = (int)job[JOB_M], length = (int)job[JOB_LENGTH];
  const int across = (N + TILE - 1) / TILE, tiles = upper_squares(across);
  // Neighbouring blocks share a piece: what one has read, the next finds in the cache
  const int64_t block = blockIdx.x - job[JOB_FIRST];
  const int piece = (int)(block / tiles);
  int row, column;
  upper_square((int)(block % tiles), across, row, column);
  const int begin = piece * length, end = M - begin < length ? M : begin + length;
  const bool diagonal = row == column;  // then both operands are the same
  const int chunks = (end - begin + CHUNK - 1) / CHUNK;

  const auto copy = [&](int chunk) {
    if (chunk < chunks) {
      element(&to)[2][OPERAND] = operands[chunk % AHEAD];
      copy_positions(to[0], F, begin + chunk * CHUNK, end, row * TILE, N);
      if (!diagonal) copy_positions(to[1], F, begin + chunk * CHUNK, end, column * TILE, N);
    }
    copy_async_commit();
  };
#pragma unroll
  for (int chunk = 0; chunk < AHEAD - 1; ++chunk) copy(chunk);

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int i0 = warp % 2 * 32, j0 = warp / 2 * 32;  // the warp's quarter of the tile
  square d = {};
  for (int chunk = 0; chunk < chunks; ++chunk) {
    copy_async_wait<AHEAD - 2>();
    __syncthreads();  // chunk is there for all, and all have left chunk - 1, whose memory is written next
    copy(chunk + AHEAD - 1);
    const element* a = operands[chunk % AHEAD][0] + i0;
    const element* b = operands[chunk % AHEAD][diagonal ? 0 : 1] + j0;
#pragma unroll
    for (int step = 0; step < CHUNK; step += CHUNK / 2) {
      uint32_t fa[2][4], fb[4][2];
      load_transposed(fa, fb, a + step * PITCH, b + step * PITCH);
#if PRECISION == TF32
      mma_tf32(d, fa, fb);
#else
      mma_16bit(d, fa, fb);
#endif
    }
  }

  float* to = partials + job[JOB_OFFSET] + block * (TILE * TILE) + (i0 + lane / 4) * TILE + j0 + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        *reinterpret_cast<float2*>(to + (16 * i + 4 * e) * TILE + 8 * j) = make_float2(d[i][j][e], d[i][j][e + 1]);
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    gram_sum(const int64_t* __restrict__ jobs, int count, const float* __restrict__ partials) {
  sum_pieces<TILE>(jobs, count, partials);
}

// ---- backward ------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS)
    gram_backward(const element* __restrict__ F, const element* __restrict__ S, float style_scale,
                  const element* __restrict__ P, float content_scale, const float* __restrict__ scales, int mask,
                  int add, element* __restrict__ g, int M, int N) {
  extern __shared__ __align__(128) unsigned char stages[];
  const int across = (N + CHANNELS - 1) / CHANNELS;
  const int m0 = (int)(blockIdx.x / across) * POSITIONS, c0 = (int)(blockIdx.x % across) * CHANNELS;

  sums d = {};
  int k = unit_column();
  const auto copy = [&](unsigned char* stage) {
    copy_rows<TILE_M>(stage, F, m0, M, k, N);
    copy_rows<TILE_N>(stage + TILE_M * ROW_BYTES, S, c0, N, k, N);  // symmetric: its rows are its columns
    k += CHUNK;
  };
  if (S) multiply(d, stages, copy, (N + CHUNK - 1) / CHUNK, 0, {});

  const float style = Factor{style_scale, scales, SCALE_STYLE}, content = Factor{content_scale, scales, SCALE_LOSS};
  constexpr int WIDTH = ALIGNED ? 4 : 1;
  for_each_quad(d, stages, [&](int m, int c, float(&quad)[4]) {
    m += m0, c += c0;
    if (m >= M) return;
#pragma unroll
    for (int n = 0; n < 4; n += WIDTH) {
      if (c + n >= N) return;
      const int64_t at = (int64_t)m * N + c + n;
      float f[WIDTH], p[WIDTH], value[WIDTH];
      load_elements<WIDTH>(f, F + at);
      load_elements<WIDTH>(p, P + at, P != nullptr);
      load_elements<WIDTH>(value, g + at, add);
#pragma unroll
      for (int e = 0; e < WIDTH; ++e) {
        float more = style * quad[n + e];
        if (P) more += content * (f[e] - p[e]);
        if (!(mask && f[e] <= 0.f)) value[e] += more;
      }
      store_elements<WIDTH>(g + at, value);
    }
  });
}
