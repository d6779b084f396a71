// op:        gates                      rung: 01_direct
// math:      words[b,i,j] = sum_e gate[16b+e, top+i, left+j] 2^e     e = 0 .. 15, in a window of h x w positions
//            gate[c,p,q] = F[p,q,c] > 0, or as the choice of its pooling's window says that the gradient passes
//            open: F = 1 where the gate is 1, else 0; or choices that let pass where gates are 1
// reference: nstcore/engines/gates.py words, bits, choice_of
// requires:  words uint16 (ceil(C/16), h, w); F (H, W, C) elements; choices as pool/03_choices leaves them, of a maximum
//            or a mean; any C, H, W; ALIGNED=1 where C is a multiple of 16
// launch:    nstcore/engines/cuda/gates.py: a thread for each word, of open_choices for a word of each of a window's
//            four positions; blockIdx.x counts the rows of all b, blockIdx.y the pieces of a row
// napkin:    16 elements, or 16 bytes, for each word of 2 bytes, each read or written once. A thread has 16 channels of
//            a position, 32 or 64 bytes that lie together, so whole sectors; the words of a warp lie side by side.
#include "common.cuh"
#include "window.cuh"

#define WORD 16
#ifndef ALIGNED
#define ALIGNED 1
#endif
#define VECTOR (ALIGNED ? ELEMENTS_PER_16_BYTES : 1)
#define BYTES (ALIGNED ? 8 : 1)  // choices in one access

extern "C" __global__ void gates_of_features(const element* __restrict__ F, uint16_t* __restrict__ words, int C, int W,
                                             int top, int left, int h, int w) {
  const int i = blockIdx.x % h, c = blockIdx.x / h * WORD, j = blockIdx.y * blockDim.x + threadIdx.x;
  if (j >= w) return;
  const element* from = F + ((int64_t)(top + i) * W + left + j) * C + c;
  unsigned word = 0;
#pragma unroll
  for (int k = 0; k < WORD; k += VECTOR) {
    float v[VECTOR];
    load_elements<VECTOR>(v, from + k, c + k < C);
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) word |= (unsigned)(v[e] > 0.f) << (k + e);
  }
  words[(int64_t)blockIdx.x * w + j] = (uint16_t)word;
}

// The gradient of a maximum passes no position that an odd last row or column leaves without a window
extern "C" __global__ void gates_of_choices(const uint8_t* __restrict__ choices, uint16_t* __restrict__ words, int C,
                                            int H, int W, int kind, int top, int left, int h, int w) {
  const int i = blockIdx.x % h, c = blockIdx.x / h * WORD, j = blockIdx.y * blockDim.x + threadIdx.x;
  if (j >= w) return;
  const int p = top + i, q = left + j, place = p % 2 * 2 + q % 2;
  const bool passes = kind == POOL_AVERAGE || (p / 2 < H / 2 && q / 2 < W / 2);
  const uint8_t* from = choices + ((int64_t)(p / 2) * ((W + 1) / 2) + q / 2) * C + c;
  unsigned word = 0;
#pragma unroll
  for (int k = 0; k < WORD; k += BYTES) {
    unsigned choice[BYTES] = {};
    if (c + k < C) load_choices<BYTES>(choice, from + k);
#pragma unroll
    for (int e = 0; e < BYTES; ++e)
      word |= (unsigned)(passes && choice_backward(1.f, choice[e], place, kind) != 0.f) << (k + e);
  }
  words[(int64_t)blockIdx.x * w + j] = (uint16_t)word;
}

extern "C" __global__ void open_features(const uint16_t* __restrict__ words, element* __restrict__ F, int C, int H,
                                         int W) {
  const int i = blockIdx.x % H, c = blockIdx.x / H * WORD, j = blockIdx.y * blockDim.x + threadIdx.x;
  if (j >= W) return;
  const unsigned word = words[(int64_t)blockIdx.x * W + j];
  element* to = F + ((int64_t)i * W + j) * C + c;
#pragma unroll
  for (int k = 0; k < WORD; k += VECTOR) {
    float v[VECTOR];
#pragma unroll
    for (int e = 0; e < VECTOR; ++e) v[e] = (float)(word >> (k + e) & 1);
    if (c + k < C) store_elements<VECTOR>(to + k, v);
  }
}

extern "C" __global__ void open_choices(const uint16_t* __restrict__ words, uint8_t* __restrict__ choices, int C, int H,
                                        int W) {
  const int rows = (H + 1) / 2, columns = (W + 1) / 2;
  const int p = blockIdx.x % rows, block = blockIdx.x / rows, c = block * WORD;
  const int q = blockIdx.y * blockDim.x + threadIdx.x;
  if (q >= columns) return;
  unsigned word[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 2 * p + i / 2, column = 2 * q + i % 2;
    word[i] = row < H && column < W ? words[((int64_t)block * H + row) * W + column] : 0;
  }
  uint8_t* to = choices + ((int64_t)p * columns + q) * C + c;
#pragma unroll
  for (int k = 0; k < WORD; k += BYTES) {
    unsigned choice[BYTES];
#pragma unroll
    for (int e = 0; e < BYTES; ++e) {
      unsigned passes = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) passes |= (word[i] >> (k + e) & 1) << i;
      const unsigned first = passes & 1 ? 0 : passes & 2 ? 1 : passes & 4 ? 2 : passes ? 3 : 0;
      choice[e] = passes << 2 | first;
    }
    if (c + k < C) store_choices<BYTES>(to + k, choice);
  }
}
