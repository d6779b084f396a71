/* The product at the heart of everything: out[t][k] = sum_c v[t][c] u[c][k].
 *
 *   v    [C/16][rows][16]      blocks `vs` floats apart: features, or a frequency of transformed ones
 *   u    [C][NP]               rows `us` floats apart: filters, packed so that a row is two vectors
 *   out  [K/16][rows][16]      blocks `os` floats apart
 *
 * The micro-kernel holds up to PM rows of out in registers. For each c it loads two vectors of u and, row by row, one
 * number of v, spread over a vector: 2 PM multiply-adds for 2 + PM loads. All displacements from v are constants, which
 * is what the layout in blocks of 16 channels is for. It prefetches the rows of v that come next (which may come from
 * the last-level cache), and `ahead`, a stretch of the filters that come next.
 */
#ifndef NST_GEMM_H
#define NST_GEMM_H

#include "vector.h"

/* X(1) X(2) ... X(PM): a case for each number of rows */
#if PM == 14
#define EACH_M(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif PM == 12
#define EACH_M(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#elif PM == 6
#define EACH_M(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define EACH_M(X) X(1) X(2) X(3) X(4)
#endif

/* out (T rows, K filters) = v u. u is [K/NP][C][NP], its panels `ks` floats apart; K is a multiple of NP. What will be
 * read after this product is prefetched: `next_v`, the first rows of the next v, and from `ahead` on `bytes` of filters,
 * spread evenly over the calls of the micro-kernel. */
void gemm(const float *v, long vs, const float *u, long us, long ks, float *out, long os, long T, long C, long K,
          const float *next_v, const char *ahead, long bytes);

/* The same where nothing is known of what comes after: the prefetches fall on what has just been read. */
INLINE void gemm_alone(const float *v, long vs, const float *u, long us, long ks, float *out, long os, long T, long C,
                       long K)
{
    gemm(v, vs, u, us, ks, out, os, T, C, K, v, (const char *)u, 0);
}

#endif
