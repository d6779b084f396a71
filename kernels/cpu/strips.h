/* How vectors.c and pairs.c cut an array: into at most STRIPS strips, one a task, whose length depends on n alone. A strip
 * is summed piece by piece, a piece in float32 vectors, the pieces and then the strips in float64 and in order: the same
 * bits for any number of threads.
 */
#ifndef NST_STRIPS_H
#define NST_STRIPS_H

#include "vector.h"

#include <string.h>

#define STRIPS 64
#define PIECE (512 * VN) /* floats that are summed in float32: VN sums of 512 terms */

typedef struct {
    long start, end;
} range;

INLINE long strip_length(long n)
{
    const long pieces = (n + PIECE - 1) / PIECE;
    return (pieces + STRIPS - 1) / STRIPS * PIECE;
}

INLINE long strips(long n) { return n ? (n + strip_length(n) - 1) / strip_length(n) : 0; }

INLINE range part(range whole, long start, long length)
{
    return (range){start, start + length < whole.end ? start + length : whole.end};
}

/* The strip of task `task` */
INLINE range strip(long n, long task) { return part((range){0, n}, task * strip_length(n), strip_length(n)); }

#define EACH_PIECE(p, s) for (range p = part(s, (s).start, PIECE); p.start < (s).end; p = part(s, p.end, PIECE))
#define EACH_VECTOR(i, s) for (long i = (s).start; i < (s).end; i += VN)

/* A vector, of which only the first `left` floats may exist; the others are 0 */
INLINE vf load(const float *p, long left)
{
    if (left >= VN) return LOAD_ANY(p);
    vf v = {0};
    memcpy(&v, p, (size_t)left * sizeof(float));
    return v;
}

INLINE void store(float *p, vf v, long left)
{
    if (left >= VN)
        STORE_ANY(p, v);
    else
        memcpy(p, &v, (size_t)left * sizeof(float));
}

#endif
