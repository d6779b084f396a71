// From global to shared memory: chunks of the rows of a matrix, by cp.async, where tensor cores read them without two
// lanes meeting in a bank. Included by headers that have said how many THREADS a block has and how many ROW_BYTES of a
// row make a chunk: warp_tiles.cuh, warpgroup_tiles.cuh.
//
//   -DALIGNED=1   every row of the matrix begins on 16 bytes
//   -DALIGNED=0   it may begin anywhere: element by element
#pragma once
#include "common.cuh"

#ifndef ALIGNED
#define ALIGNED 1
#endif

constexpr int CHUNK = ROW_BYTES / (int)sizeof(element);  // elements of k
constexpr int PIECE = ELEMENTS_PER_16_BYTES;             // elements that stay together
constexpr int PIECES = ROW_BYTES / 16;                   // of a row
constexpr int UNIT = ALIGNED ? PIECE : 1;                // elements of one copy
constexpr int UNITS = CHUNK / UNIT;                      // of a row: neighbouring threads copy neighbouring units
constexpr int ROWS_AT_ONCE = THREADS / UNITS;            // that the block copies in one go
static_assert(ROW_BYTES == 64 || ROW_BYTES == 128, "half of the 32 banks, or all of them");

// Byte in a tile where a piece (16 bytes) of a row lies. Tensor cores read one piece of 8 rows at a time. Unpermuted,
// rows of 64 bytes would let these 8 pieces meet in two groups of 4 banks, rows of 128 in one. Exclusive-or with the
// row's number, or half of it, sends them to all eight. Of 128 bytes that is the "128-byte swizzling" of the PTX ISA.
__device__ __forceinline__ int swizzled(int row, int piece) {
  return row * ROW_BYTES + (piece ^ (row * PIECES / 8 & (PIECES - 1))) * 16;
}

// The rows of a tile that this thread copies: this one and every ROWS_AT_ONCE-th from it on
__device__ __forceinline__ int unit_row() { return threadIdx.x / UNITS; }

// The element of a chunk that it copies of them, the first of UNIT
__device__ __forceinline__ int unit_column() { return threadIdx.x % UNITS * UNIT; }

// One unit of row `row` of a tile, from `from` where `inside`, else zeros; `from` must be readable in any case
__device__ __forceinline__ void copy_unit(unsigned char* tile, int row, const element* from, bool inside) {
  unsigned char* to = tile + swizzled(row, unit_column() / PIECE) + unit_column() % PIECE * (int)sizeof(element);
#if ALIGNED || PRECISION == TF32
  copy_async<UNIT * (int)sizeof(element)>(to, from, inside);
#else  // cp.async copies no less than 4 bytes: a number of 16 bits goes through a register
  *reinterpret_cast<element*>(to) = inside ? *from : (element)0;
#endif
}

// Rows [first, first + ROWS) of a matrix (rows, depth), zeros beyond; this thread's unit begins at k
template <int ROWS>
__device__ __forceinline__ void copy_rows(unsigned char* tile, const element* matrix, int first, int rows, int k,
                                          int depth) {
  constexpr int UNROLL = ALIGNED ? ROWS / ROWS_AT_ONCE : 4;  // no more registers under way than there are
#pragma unroll UNROLL
  for (int i = 0; i < ROWS; i += ROWS_AT_ONCE) {
    const int row = unit_row() + i;
    const bool inside = first + row < rows && k < depth;
    copy_unit(tile, row, inside ? matrix + (size_t)(first + row) * depth + k : matrix, inside);
  }
}
