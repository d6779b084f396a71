/* Convolution of planes: what direct.c and patch.c share.
 *
 * y is cut into tiles of rows and columns. A worker copies what a tile reads into a patch of its own, with the border
 * around it: from then on there is neither border nor stride, and x[tap] of neighbouring positions are neighbours.
 *
 *   patch  [C][rows][stride][length]   padded column stride * j + f is number j of part f
 *
 * An enlargement to `phases` times the size is no copy at all: the positions of y that have the same remainders (a, b)
 * after division by it meet each position of x as long as the same taps fall into it. So they are a convolution of x
 * itself, with fewer taps, sums of the filters' own: for 3x3 taps and twice the size four convolutions of 2x2 taps, 16
 * products for four values instead of 36. Where that cannot be (a stride, a mirrored border wider than the copies of one
 * position), the patch is enlarged instead.
 */
#ifndef NST_DIRECT_H
#define NST_DIRECT_H

#include "activation.h"

typedef struct {
    nst_layer c;
    long groups, C, K;            /* of one group: depthwise, each channel is a group of its own */
    long phases, enlarge, stride; /* of phases and enlarge one is c->upsample, the other 1 */
    long P, Q;                    /* positions of each phase */
    long top, left;               /* where the patch of position (0, 0) begins, in positions of x as enlarged */
    long rows, columns;           /* that one position of y reads, in all phases together */
    long tile_rows, tile_columns; /* positions of a tile */
    long down, across, parts;     /* tiles; parts of the filters, each a task of its own */
    long length, channel;         /* floats of a row's part, and of a channel, in a patch */
    long products;                /* of one filter: its numbers in all phases */
} plan;

/* One axis of phase a: the patch's position of its first tap, and the number of its taps */
typedef struct {
    long first, count;
} taps;

typedef struct {
    long p0, p1, q0, q1;
} tile;

plan plan_of(const nst_layer *c);
/* The position of x that each padded position is a copy of, -1 for 0: those of all rows, then of all columns */
long map_size(const plan *p);
void map_borders(const plan *p, int *map);
/* x (C, H, W) of one group into a patch */
void fill_patch(const plan *p, const int *map, tile t, const float *x, float *patch);

INLINE long up_to(long n, long step) { return (n + step - 1) / step * step; }

INLINE long floor_div(long a, long b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

/* Floats, in an odd number of cache lines: rows or channels at a multiple of 4096 bytes would push each other out */
INLINE long odd_lines(long n) { return ((n + 15) / 16 | 1) * 16; }

#endif
