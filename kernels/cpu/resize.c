/* Planes of another size: 2x2 maxima, nearest and bilinear resizing. They do little arithmetic on much memory. */
#include "nst.h"
#include "strips.h"
#include "team.h"

#define BAND 16 /* rows of y that are a task */

typedef struct {
    long C, H, W, P, Q;
    const float *x;
    float *y;
    int bilinear;
    const int *columns;  /* nearest: (Q); bilinear: (2, Q), the left ones, then the right ones */
    const float *weight; /* (Q): of the right ones */
    float *rows;         /* a row of x for each worker */
} job;

static long bands(const job *j) { return (j->P + BAND - 1) / BAND; }

static range rows_of(const job *j, long task) { return part((range){0, j->P}, task % bands(j) * BAND, BAND); }

/* ---- maximum ----------------------------------------------------------------------------------------------------------- */

/* The larger one; NaN where one is */
INLINE float most(float a, float b) { return ((a > b) | (a != a)) ? a : b; }

static void max_band(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const long channel = task / bands(j), whole = j->W / 2;
    for (range r = rows_of(j, task); r.start < r.end; r.start++) {
        const float *above = j->x + (channel * j->H + 2 * r.start) * j->W;
        const float *below = 2 * r.start + 1 < j->H ? above + j->W : above;
        float *y = j->y + (channel * j->P + r.start) * j->Q;
        for (long q = 0; q < whole; q++)
            y[q] = most(most(above[2 * q], above[2 * q + 1]), most(below[2 * q], below[2 * q + 1]));
        if (whole < j->Q) y[whole] = most(above[2 * whole], below[2 * whole]);
    }
}

void nst_max_pool(nst_team *team, const float *x, long C, long H, long W, float *y)
{
    job j = {.C = C, .H = H, .W = W, .P = (H + 1) / 2, .Q = (W + 1) / 2, .x = x, .y = y};
    team_run(team, C * bands(&j), max_band, &j);
}

/* ---- resizing ---------------------------------------------------------------------------------------------------------- */

typedef struct {
    long i, next; /* the positions of x around one of y */
    float t;      /* the weight of the second */
} between;

/* Position p of `count` has its middle at (p + 1/2) n / count - 1/2, in whole numbers over 2 count */
static between between_of(long p, long n, long count)
{
    const long below = 2 * count, most_above = (n - 1) * below, above = (2 * p + 1) * n - count;
    const long at = above < 0 ? 0 : above > most_above ? most_above : above;
    const long i = at / below;
    return (between){i, i + 1 < n ? i + 1 : i, (float)((double)(at % below) / (double)below)};
}

static void nearest_row(const job *j, const float *x, long p, float *y)
{
    const float *from = x + p * j->H / j->P * j->W;
    for (long q = 0; q < j->Q; q++) y[q] = from[j->columns[q]];
}

static void bilinear_row(const job *j, const float *x, long p, float *row, float *y)
{
    const between r = between_of(p, j->H, j->P);
    const float *above = x + r.i * j->W, *below = x + r.next * j->W, t = r.t;
    for (long i = 0; i < j->W; i++) row[i] = (1 - t) * above[i] + t * below[i];
    const int *left = j->columns, *right = j->columns + j->Q;
    const float *s = j->weight;
    for (long q = 0; q < j->Q; q++) y[q] = (1 - s[q]) * row[left[q]] + s[q] * row[right[q]];
}

static void resize_band(void *argument, long task, int worker)
{
    const job *j = argument;
    const long channel = task / bands(j);
    const float *x = j->x + channel * j->H * j->W;
    float *y = j->y + channel * j->P * j->Q;
    for (range r = rows_of(j, task); r.start < r.end; r.start++) {
        if (j->bilinear)
            bilinear_row(j, x, r.start, j->rows + worker * j->W, y + r.start * j->Q);
        else
            nearest_row(j, x, r.start, y + r.start * j->Q);
    }
}

long nst_resize_work(long W, long Q, int threads) { return 3 * Q + threads * W; }

void nst_resize(nst_team *team, const float *x, long C, long H, long W, long P, long Q, int bilinear, float *y, float *work)
{
    int *columns = (int *)work;
    float *weight = work + 2 * Q;
    for (long q = 0; q < Q; q++) {
        const between b = between_of(q, W, Q);
        columns[q] = (int)(bilinear ? b.i : q * W / Q);
        columns[Q + q] = (int)b.next;
        weight[q] = b.t;
    }
    job j = {.C = C, .H = H, .W = W, .P = P, .Q = Q, .x = x, .y = y, .bilinear = bilinear};
    j.columns = columns;
    j.weight = weight;
    j.rows = work + 3 * Q;
    team_run(team, C * bands(&j), resize_band, &j);
}
