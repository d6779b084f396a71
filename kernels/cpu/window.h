/* Rectangles of positions, walked run by run: a run is a part of one row, or of all rows where the rectangle is as wide as
 * the features. */
#ifndef NST_WINDOW_H
#define NST_WINDOW_H

#include "nst.h"
#include "vector.h"

/* NULL is everywhere; whole rows are one long one */
INLINE nst_window window_of(const nst_window *given, long M)
{
    if (!given) return (nst_window){0, 0, 1, M, M};
    if (given->width < given->row) return *given;
    return (nst_window){0, given->top * given->row, 1, given->height * given->row, M};
}

INLINE long window_size(const nst_window *v) { return v->height * v->width; }

/* Which of the M positions is number p of the rectangle */
INLINE long position(const nst_window *v, long p) { return (v->top + p / v->width) * v->row + v->left + p % v->width; }

/* Positions that follow one another in memory from number p on: no more than `most`, none from number `end` on */
INLINE long run_length(const nst_window *v, long p, long end, long most)
{
    long n = v->width - p % v->width;
    if (n > end - p) n = end - p;
    return n < most ? n : most;
}

#endif
