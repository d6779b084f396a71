// op:        content loss               rung: 01_two_stage
// math:      sum_m w[m] sum_c (F[m,c] - P[m,c])^2,    P = 0 where it is null, w = 1
// reference: nstcore/ops/content_loss.py content_forward
// requires:  elements of any precision, any number n of them, N to a position; F and P begin at multiples of 16 bytes
// launch:    nstcore/engines/cuda/losses.py: squared_distance with one block of THREADS per piece; sum_pieces with one
//            block for each sum, of any loss, once all of an evaluation have left their rows
// napkin:    2*n multiply-adds on 2*n elements, each read once: memory is what it waits for; a w is read by all threads
//            of its position, from the cache; 8 bytes per piece for the second stage, at most 8 KB
#include "reduce.cuh"

#define VECTOR ELEMENTS_PER_16_BYTES

extern "C" __global__ void __launch_bounds__(THREADS)
    squared_distance(const element* __restrict__ F, const element* __restrict__ P, const float* __restrict__ w,
                     double* __restrict__ pieces, int64_t n, int N) {
  leave_piece(pieces, block_sum(squares<VECTOR>(F, P, w, n, N, blockIdx.x, gridDim.x)));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sum_pieces(const double* __restrict__ rows, double* __restrict__ totals, int length) {
  const double* const row = rows + (int64_t)blockIdx.x * length;
  const double sum = sum_of_pieces(row + 1, (int)row[0]);
  if (threadIdx.x == 0) totals[blockIdx.x] = sum;
}
