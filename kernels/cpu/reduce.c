/* Sums over whole arrays, and the losses made of them: ops.moments_forward, ops.content_forward, ops.style_forward,
 * ops.style_backward, ops.total_variation_forward, ops.total_variation_backward.
 *
 * An array is cut into pieces of a fixed size; a piece is summed in float32 vectors or in float64, the pieces in float64
 * and in order.
 */
#include "nst.h"
#include "team.h"
#include "window.h"

#include <stddef.h>

#define PIECE 16384  /* floats of a piece */
#define PIECES 1024  /* pieces that are summed at a time */
#define RUN 1024     /* positions of a piece, where each has its weight or each channel its sum */
#define SHORT 64     /* of them, those that are summed in float32 */

typedef struct {
    const float *a, *b, *w;
    long n, C, H, W, M;
    double scale_a, scale_b;
    float factor, *out;
    nst_window window;
    long first; /* piece of task 0 */
    double sums[PIECES];
} job;

static double add_up(nst_team *team, job *j, long pieces, nst_task *task)
{
    double total = 0;
    for (j->first = 0; j->first < pieces; j->first += PIECES) {
        const long n = pieces - j->first < PIECES ? pieces - j->first : PIECES;
        team_run(team, n, task, j);
        for (long i = 0; i < n; i++) total += j->sums[i];
    }
    return total;
}

/* ---- squared distance -------------------------------------------------------------------------------------------------- */

static void distance_piece(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const long start = (j->first + task) * PIECE, end = start + PIECE < j->n ? start + PIECE : j->n;
    vf sum[4] = {{0}};
    long i = start;
    for (; i + 4 * VN <= end; i += 4 * VN) {
        UNROLL for (int q = 0; q < 4; q++) {
            vf d = LOAD_ANY(j->a + i + q * VN);
            if (j->b) d -= LOAD_ANY(j->b + i + q * VN);
            sum[q] += d * d;
        }
    }
    double total = sum_of(sum[0]) + sum_of(sum[1]) + sum_of(sum[2]) + sum_of(sum[3]);
    for (; i < end; i++) {
        double d = (double)j->a[i] - (j->b ? j->b[i] : 0.f);
        total += d * d;
    }
    j->sums[task] = total;
}

/* Tasks: the window's runs of positions of 16 channels, each position with its weight */
static void guided_distance(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const long size = window_size(&j->window), runs = (size + RUN - 1) / RUN, block = (j->first + task) / runs;
    const long start = (j->first + task) % runs * RUN, end = start + RUN < size ? start + RUN : size;
    double total = 0;
    for (long p = start, n; p < end; p += n) {
        n = run_length(&j->window, p, end, SHORT);
        const long first = position(&j->window, p);
        vf sum = {0};
        for (long m = first; m < first + n; m++) {
            vf squares = {0};
            UNROLL for (int h = 0; h < CB; h += VN) {
                const long at = (block * j->M + m) * CB + h;
                vf d = LOAD(j->a + at);
                if (j->b) d -= LOAD(j->b + at);
                squares += d * d;
            }
            sum += j->w ? squares * j->w[m] : squares;
        }
        total += sum_of(sum);
    }
    j->sums[task] = total;
}

double nst_squared_distance_within(nst_team *team, const float *F, const float *P, const float *w, long C, long M,
                                   const nst_window *window)
{
    job j;
    j.a = F, j.b = P, j.w = w, j.n = C * M, j.M = M, j.window = window_of(window, M);
    if (!w && !window) return add_up(team, &j, (j.n + PIECE - 1) / PIECE, distance_piece);
    return add_up(team, &j, C / CB * ((window_size(&j.window) + RUN - 1) / RUN), guided_distance);
}

double nst_squared_distance(nst_team *team, const float *F, const float *P, const float *w, long C, long M)
{
    return nst_squared_distance_within(team, F, P, w, C, M, NULL);
}

/* ---- sums of the channels ----------------------------------------------------------------------------------------------- */

/* Tasks: the window's runs of positions of 16 channels */
static void channel_sums(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const long size = window_size(&j->window), runs = (size + RUN - 1) / RUN, block = (j->first + task) / runs;
    const long start = (j->first + task) % runs * RUN, end = start + RUN < size ? start + RUN : size;
    const float *F = j->a + block * j->M * CB;
    double *sums = j->sums + task * CB;
    for (int c = 0; c < CB; c++) sums[c] = 0;
    for (long p = start, n; p < end; p += n) {
        n = run_length(&j->window, p, end, SHORT);
        const long first = position(&j->window, p);
        vf sum[CB / VN] = {{0}};
        for (long m = first; m < first + n; m++) {
            UNROLL for (int h = 0; h < CB / VN; h++)
                sum[h] += j->w ? LOAD(F + m * CB + h * VN) * j->w[m] : LOAD(F + m * CB + h * VN);
        }
        for (int c = 0; c < CB; c++) sums[c] += sum[c / VN][c % VN];
    }
}

void nst_sums_within(nst_team *team, const float *F, const float *w, long C, long M, const nst_window *window, double *s)
{
    job j;
    j.a = F, j.w = w, j.M = M, j.window = window_of(window, M);
    const long runs = (window_size(&j.window) + RUN - 1) / RUN, tasks = C / CB * runs;
    for (long c = 0; c < C; c++) s[c] = 0;
    for (j.first = 0; j.first < tasks; j.first += PIECES / CB) {
        const long n = tasks - j.first < PIECES / CB ? tasks - j.first : PIECES / CB;
        team_run(team, n, channel_sums, &j);
        for (long i = 0; i < n; i++)
            for (int c = 0; c < CB; c++) s[(j.first + i) / runs * CB + c] += j.sums[i * CB + c];
    }
}

void nst_sums(nst_team *team, const float *F, const float *w, long C, long M, double *s)
{
    nst_sums_within(team, F, w, C, M, NULL, s);
}

/* ---- style ---------------------------------------------------------------------------------------------------------------- */

static void style_piece(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const long start = (j->first + task) * PIECE, end = start + PIECE < j->n ? start + PIECE : j->n;
    const float a = (float)j->scale_a, b = (float)j->scale_b, factor = j->factor;
    vf sum = {0};
    double total = 0;
    long i = start;
    for (; i + VN <= end; i += VN) {
        const vf d = LOAD_ANY(j->a + i) * a - LOAD_ANY(j->b + i) * b;
        STORE_ANY(j->out + i, factor * d);
        sum += d * d;
    }
    for (; i < end; i++) {
        const float d = j->a[i] * a - j->b[i] * b;
        j->out[i] = factor * d;
        total += (double)d * d;
    }
    j->sums[task] = total + sum_of(sum);
}

double nst_style(nst_team *team, const float *G, double M, const float *A, double M_style, double scale, long C, float *dG)
{
    job j;
    j.a = G, j.b = A, j.n = C * C, j.out = dG;
    j.scale_a = 1 / M, j.scale_b = 1 / M_style, j.factor = (float)(2 * scale / M);
    return scale * add_up(team, &j, (j.n + PIECE - 1) / PIECE, style_piece);
}

/* ---- total variation -------------------------------------------------------------------------------------------------------- */

/* Tasks: rows. Each gradient is gathered from the pixel's four differences. */
static void variation_row(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const long row = j->first + task, y = row % j->H, W = j->W;
    const float *x = j->a + row * W, f = j->factor;
    const float *up = y ? x - W : x, *down = y + 1 < j->H ? x + W : x; /* itself: a difference of 0 */
    float *dx = j->out + row * W;
    vf sum = {0};
    double total = 0;
    for (long i = 0; i < W;) {
        if (i > 0 && i + VN < W) {
            const vf at = LOAD_ANY(x + i), right = LOAD_ANY(x + i + 1) - at, below = LOAD_ANY(down + i) - at;
            const vf left = at - LOAD_ANY(x + i - 1), above = at - LOAD_ANY(up + i);
            sum += right * right + below * below;
            STORE_ANY(dx + i, LOAD_ANY(dx + i) + f * (left - right + above - below));
            i += VN;
            continue;
        }
        const float right = i + 1 < W ? x[i + 1] - x[i] : 0, left = i ? x[i] - x[i - 1] : 0;
        const float below = down[i] - x[i], above = x[i] - up[i];
        total += (double)right * right + (double)below * below;
        dx[i] += f * (left - right + above - below);
        i++;
    }
    j->sums[task] = total + sum_of(sum);
}

/* Tasks: rows. The same for the four diagonal differences. */
static void diagonal_row(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const long row = j->first + task, y = row % j->H, W = j->W;
    const float *x = j->a + row * W, f = j->factor;
    const float *up = y ? x - W : NULL, *down = y + 1 < j->H ? x + W : NULL;
    float *dx = j->out + row * W;
    vf sum = {0};
    double total = 0;
    for (long i = 0; i < W;) {
        if (i > 0 && i + VN < W) {
            const vf at = LOAD_ANY(x + i);
            vf push = {0};
            if (up) push += (at - LOAD_ANY(up + i - 1)) + (at - LOAD_ANY(up + i + 1));
            if (down) {
                const vf left = at - LOAD_ANY(down + i - 1), right = at - LOAD_ANY(down + i + 1);
                push += left + right;
                sum += left * left + right * right;
            }
            STORE_ANY(dx + i, LOAD_ANY(dx + i) + f * push);
            i += VN;
            continue;
        }
        float push = 0;
        for (long k = i ? i - 1 : i + 1; k <= i + 1 && k < W; k += 2) {
            if (up) push += x[i] - up[k];
            if (down) {
                const float d = x[i] - down[k];
                push += d;
                total += (double)d * d;
            }
        }
        dx[i] += f * push;
        i++;
    }
    j->sums[task] = total + sum_of(sum);
}

double nst_total_variation(nst_team *team, const float *x, long C, long H, long W, double scale, double diagonal, float *dx)
{
    job j;
    j.a = x, j.out = dx, j.C = C, j.H = H, j.W = W, j.factor = (float)(2 * scale);
    double total = add_up(team, &j, C * H, variation_row);
    if (diagonal != 0) {
        j.factor = (float)(2 * scale * diagonal);
        total += diagonal * add_up(team, &j, C * H, diagonal_row);
    }
    return scale * total;
}
