// wgmma, for a whole warp at once. The rules leave it open when, between the request and the wait, a product happens.
// So here it happens at the wait: who looks at the sums too early, or writes over what the product reads, shows.
//
// Written from the PTX ISA 9.0, section 9.7.15.5.1: descriptors of the factors, which both run along memory in k with
// their 16-byte pieces permuted within 128 bytes, and fragments of the sums.
#pragma once

#include "tensor_core.h"

namespace cuda_on_cpu {

// A matrix product of a warpgroup, as one of its threads asked for it (warpgroup.h)
struct WarpgroupProduct {
  float* d;
  uint64_t a, b;  // descriptors
  void (*of_warp)(Fiber*);
  unsigned group;
  const char* file;
  int line;
};

// As a GPU counts it: from the beginning of the block's shared memory
inline uint32_t shared_address(const void* at) {
  return uint32_t(static_cast<const char*>(at) - here().block->shared.variable(0));
}

// How many numbers of a row one product reads: 32 bytes
template <NumberKind KIND>
constexpr int product_depth = KIND == MMA_TF32 ? 8 : 16;

// The numbers of a row that a descriptor leads to
template <NumberKind KIND>
inline void described_row(uint64_t descriptor, unsigned row, float* numbers) {
  const SharedMemory& shared = here().block->shared;
  const uint32_t start = (descriptor & 0x3fff) << 4, eight_rows = (descriptor >> 32 & 0x3fff) << 4;
  for (unsigned piece = 0; piece < 2; ++piece) {
    uint32_t at = start + row / 8 * eight_rows + row % 8 * 128 + piece * 16;
    at ^= (at >> 7 & 7) << 4;  // bits 4 to 6 by bits 7 to 9
    uint32_t words[4];
    memset(words, 0xff, sizeof words);  // NaN beyond the end
    if (shared.holds(shared.variable(at + 15))) memcpy(words, shared.variable(at), sizeof words);
    for (unsigned i = 0; i < 4; ++i) unpack<KIND>(words[i], numbers + product_depth<KIND> / 8 * (4 * piece + i));
  }
}

// D += A B^T for all lanes of one of the four warps: its 16 of the 64 rows of A, all 8 NJ of B. Laid out as in mma_all.
template <NumberKind KIND, int NJ>
void product_of_warp(Fiber* fibers) {
  constexpr int K = product_depth<KIND>;
  alignas(64) static thread_local float A[8][K][4], B[4][K][NJ][4];
  const WarpgroupProduct& first = *static_cast<WarpgroupProduct*>(fibers->operands);
  const unsigned warp = fibers->thread / WARP % 4;
  float numbers[K];
  for (unsigned row = 0; row < 16; ++row) {
    described_row<KIND>(first.a, 16 * warp + row, numbers);
    for (int k = 0; k < K; ++k) {
      float* to = A[row % 8][k] + row / 8 * 2;
      to[0] = to[1] = numbers[k];
    }
  }
  for (unsigned column = 0; column < 8 * NJ; ++column) {
    described_row<KIND>(first.b, column, numbers);
    for (int k = 0; k < K; ++k) {
      float* to = B[column % 8 / 2][k][column / 8] + column % 2;
      to[0] = to[2] = numbers[k];
    }
  }
  for (Fiber* f = fibers; f; f = f->next) {
    const WarpgroupProduct& mine = *static_cast<WarpgroupProduct*>(f->operands);
    const int g = lane(*f) / 4, t = lane(*f) % 4;
    float d[NJ][4];
    memcpy(d, mine.d, sizeof d);
    for (int k = 0; k < K; ++k)
      for (int j = 0; j < NJ; ++j)
        for (int e = 0; e < 4; ++e) d[j][e] += A[g][k][e] * B[t][k][j][e];
    if (mine.a != first.a || mine.b != first.b) memset(d, 0xff, sizeof d);  // a warpgroup has one descriptor each
    memcpy(mine.d, d, sizeof d);
  }
}

template <NumberKind KIND, int NJ>
void products(float* d, uint64_t a, uint64_t b, const char* file, int line) {
  const Site site = {"products", file, line};
  for (uint64_t descriptor : {a, b}) {
    const uint64_t unknown = descriptor & ~(0x3fffull | 0x3fffull << 16 | 0x3fffull << 32 | 3ull << 62);
    if (descriptor >> 62 != 1 || unknown)
      fail(site, "descriptor %016llx: only rows of 128 permuted bytes are emulated", (unsigned long long)descriptor);
  }
  request_product(d, a, b, product_of_warp<KIND, NJ>, site);
}

}  // namespace cuda_on_cpu
