/* The part of a picture that a tile of y reads, with its border (ops.conv.pad) and enlargement: see direct.h. */
#include "direct.h"

/* The position among n that position i beyond them is a copy of; -1 for 0 */
static long copied(long i, long n, int padding)
{
    if (i >= 0 && i < n) return i;
    if (padding == NST_ZERO) return -1;
    if (padding == NST_REPLICATE || n == 1) return i < 0 ? 0 : n - 1;
    const long period = 2 * (n - 1), at = i - floor_div(i, period) * period; /* mirrored to and fro */
    return at < n ? at : period - at;
}

static long padded_rows(const plan *p) { return (p->P - 1) * p->stride + p->rows; }
static long padded_columns(const plan *p) { return (p->Q - 1) * p->stride + p->columns; }

long map_size(const plan *p) { return padded_rows(p) + padded_columns(p); }

static void map_axis(const plan *p, long first, long count, long n, int *map)
{
    /* Among phases, a mirrored border is no wider than the copies of one position: that position itself */
    const int padding = p->phases > 1 && p->c.padding == NST_REFLECT ? NST_REPLICATE : p->c.padding;
    for (long i = 0; i < count; i++) {
        const long at = copied(first + i, n * p->enlarge, padding);
        map[i] = at < 0 ? -1 : (int)(at / p->enlarge);
    }
}

void map_borders(const plan *p, int *map)
{
    map_axis(p, p->top, padded_rows(p), p->c.H, map);
    map_axis(p, p->left, padded_columns(p), p->c.W, map + padded_rows(p));
}

static void copy(const float *from, long n, float *to)
{
    for (long i = 0; i + VN <= n; i += VN) STORE_ANY(to + i, LOAD_ANY(from + i));
    if (n >= VN)
        STORE_ANY(to + n - VN, LOAD_ANY(from + n - VN)); /* some of them again */
    else
        memcpy(to, from, (size_t)n * sizeof *to);
}

/* Columns [i, end) of one row, all of them in x, of which padded column 0 would be number `left`: plain copies */
static void copy_inside(const float *x, long left, long i, long end, long stride, long length, float *to)
{
    if (stride == 1) {
        copy(x + left + i, end - i, to + i);
        return;
    }
    for (long f = 0; f < stride; f++) {
        const long first = (i - f + stride - 1) / stride, last = (end - f + stride - 1) / stride;
        const float *from = x + left + f;
        float *part = to + f * length;
        if (stride == 2)
            for (long j = first; j < last; j++) part[j] = from[2 * j];
        else
            for (long j = first; j < last; j++) part[j] = from[stride * j];
    }
}

static void copy_mapped(const float *x, const int *map, long i, long end, long stride, long length, float *to)
{
    for (; i < end; i++) to[stride == 1 ? i : i % stride * length + i / stride] = map[i] < 0 ? 0 : x[map[i]];
}

void fill_patch(const plan *p, const int *map, tile t, const float *x, float *patch)
{
    const long W = p->c.W, rows = (t.p1 - t.p0 - 1) * p->stride + p->rows;
    const long columns = (t.q1 - t.q0 - 1) * p->stride + p->columns, start = t.q0 * p->stride, left = p->left + start;
    const int *row_of = map + t.p0 * p->stride, *column_of = map + padded_rows(p) + start;
    /* Columns [i, end) are x's own, one after the other */
    long i = left < 0 ? -left : 0, end = W - left < columns ? W - left : columns;
    if (p->enlarge > 1 || end <= i) i = end = columns;
    const long shortest = columns / p->stride, longer = columns % p->stride; /* parts of a row: the first ones are longer */
    for (long c = 0; c < p->C; c++)
        for (long r = 0; r < rows; r++) {
            float *to = patch + c * p->channel + r * p->stride * p->length;
            /* vectors reach beyond the last column: into zeros, whose products are not kept */
            for (long f = 0; f < p->stride; f++)
                for (long j = shortest + (f < longer); j < p->length; j++) to[f * p->length + j] = 0;
            if (row_of[r] < 0) {
                memset(to, 0, (size_t)(p->stride * p->length) * sizeof *to);
                continue;
            }
            const float *from = x + (c * p->c.H + row_of[r]) * W;
            copy_mapped(from, column_of, 0, i, p->stride, p->length, to);
            copy_inside(from, left, i, end, p->stride, p->length, to);
            copy_mapped(from, column_of, end, columns, p->stride, p->length, to);
        }
}
