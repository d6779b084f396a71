// mma.sync and ldmatrix, for a whole warp at once. Fragments as in the PTX ISA; kernels/cuda/common.cuh states them.
#pragma once

#include "number.h"
#include "warp.h"

namespace cuda_on_cpu {

enum NumberKind { MMA_TF32, MMA_FLOAT16, MMA_BFLOAT16 };

// What a lane brings to mma: fragments of MI tiles of A, NJ of B, and MI x NJ of D
struct MmaOperands {
  float* d;
  const uint32_t *a, *b;
};

// The numbers in one register, in order; a tensor core reads 19 bits of a TF32 number and ignores the rest
template <NumberKind KIND>
inline void unpack(uint32_t bits, float* numbers) {
  if (KIND == MMA_TF32) {
    numbers[0] = float_of(bits & 0xffffe000);
  } else if (KIND == MMA_FLOAT16) {
    numbers[0] = half_to_float(uint16_t(bits)), numbers[1] = half_to_float(uint16_t(bits >> 16));
  } else {
    numbers[0] = bfloat_to_float(uint16_t(bits)), numbers[1] = bfloat_to_float(uint16_t(bits >> 16));
  }
}

// D += A B for all lanes. Lane 4g + t holds rows g and g + 8, columns 2t and 2t + 1 of every tile of D, so it needs
// those rows of A and those columns of B, laid out here so that the innermost loop runs over the lane's own part of D.
template <NumberKind KIND, int MI, int NJ>
void mma_all(Fiber* fibers) {
  constexpr int PACKED = KIND == MMA_TF32 ? 1 : 2, K = 8 * PACKED;
  alignas(64) float A[MI][8][K][4];  // [tile][g][k]: row g, g, g + 8, g + 8
  alignas(64) float B[4][K][NJ][4];  // [t][k][tile]: column 2t, 2t + 1, 2t, 2t + 1
  for (Fiber* f = fibers; f; f = f->next) {
    const MmaOperands& mine = *static_cast<MmaOperands*>(f->operands);
    const int g = lane(*f) / 4, t = lane(*f) % 4;
    float numbers[2];
    for (int i = 0; i < MI; ++i)
      for (int e = 0; e < 4; ++e) {
        unpack<KIND>(mine.a[4 * i + e], numbers);
        for (int h = 0; h < PACKED; ++h) {
          float* to = A[i][g][PACKED * t + h + 4 * PACKED * (e >> 1)];
          to[2 * (e & 1)] = to[2 * (e & 1) + 1] = numbers[h];
        }
      }
    for (int j = 0; j < NJ; ++j)
      for (int e = 0; e < 2; ++e) {
        unpack<KIND>(mine.b[2 * j + e], numbers);
        for (int h = 0; h < PACKED; ++h) {
          float* to = B[g / 2][PACKED * t + h + 4 * PACKED * e][j];
          to[g % 2] = to[g % 2 + 2] = numbers[h];
        }
      }
  }
  for (Fiber* f = fibers; f; f = f->next) {
    const int g = lane(*f) / 4, t = lane(*f) % 4;
    float* out = static_cast<MmaOperands*>(f->operands)->d;
    for (int i = 0; i < MI; ++i) {
      float d[NJ][4];
      memcpy(d, out + i * NJ * 4, sizeof d);
      for (int k = 0; k < K; ++k)
        for (int j = 0; j < NJ; ++j)
          for (int e = 0; e < 4; ++e) d[j][e] += A[i][g][k][e] * B[t][k][j][e];
      memcpy(out + i * NJ * 4, d, sizeof d);
    }
  }
}

template <NumberKind KIND, int MI, int NJ>
void mma(float* d, const uint32_t* a, const uint32_t* b, const char* file, int line) {
  MmaOperands mine = {d, a, b};
  meet_warp(ALL_LANES, {"mma", file, line}, &mine, mma_all<KIND, MI, NJ>);
}

// Row l % 8 of matrix l / 8, which lane l names, and what the lane gets
struct MatrixOperands {
  uint16_t row[8];
  uint32_t result[4];
};

template <bool TRANSPOSE>
void load_matrix_all(Fiber* fibers) {
  const uint16_t* rows[WARP];
  for (Fiber* f = fibers; f; f = f->next) rows[lane(*f)] = static_cast<MatrixOperands*>(f->operands)->row;
  for (Fiber* f = fibers; f; f = f->next) {
    const unsigned g = lane(*f) / 4, t = lane(*f) % 4;
    for (unsigned m = 0; m < 4; ++m) {
      const uint16_t* const* matrix = rows + 8 * m;
      const uint32_t low = TRANSPOSE ? matrix[2 * t][g] : matrix[g][2 * t];
      const uint32_t high = TRANSPOSE ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
      static_cast<MatrixOperands*>(f->operands)->result[m] = low | high << 16;
    }
  }
}

template <bool TRANSPOSE>
void load_matrix_x4(uint32_t (&r)[4], const void* row, const char* file, int line) {
  const Site site = {"load_matrix_x4", file, line};
  if (reinterpret_cast<uintptr_t>(row) % 16) fail(site, "row %p is not a multiple of its 16 bytes", row);
  if (!here().block->shared.holds(row)) fail(site, "row %p is not in shared memory", row);
  MatrixOperands mine;
  memcpy(mine.row, row, sizeof mine.row);
  meet_warp(ALL_LANES, site, &mine, load_matrix_all<TRANSPOSE>);
  memcpy(r, mine.result, sizeof mine.result);
}

}  // namespace cuda_on_cpu
