/* Gram matrix: ops.gram_forward. G = F F^T for F (C, M), one half computed and mirrored.
 *
 * The positions are cut into a number of shares that depends on their number alone, each summed by itself (and, for many
 * channels, by strips of columns), then the shares are added in order: the same bits for any number of threads.
 */
#include "nst.h"
#include "team.h"
#include "window.h"

#include <string.h>

#define ROWS (VN == 16 ? 8 : 4) /* of the micro-kernel: ROWS * 2 accumulators */
#define STRIP 64                /* columns of a task */
#define SLAB 128                /* positions taken at a time: NP columns of them stay in the first-level cache */

typedef struct {
    const float *F;
    float *G, *partial;
    long C, M, shares, strips;
    nst_window window;
} job;

static long most_shares(long C) { return C >= 512 ? 4 : C >= 256 ? 8 : C >= 128 ? 16 : 32; }

static long shares(long C, long M)
{
    const long n = M / (4 * SLAB), most = most_shares(C);
    return n < 1 ? 1 : n < most ? n : most;
}

long nst_gram_work(long C) { return most_shares(C) * C * C; }

/* g[i][k] += sum_p F[i][p] F[k][p] for m rows i and one or two vectors of columns k, over n positions;
 * `ahead` floats further on lies what a later call reads */
INLINE void corner(const int m, const int two, const float *fi, const float *fk0, const float *fk1, long n, float *g,
                   long C, long ahead)
{
    vf a[2 * ROWS], b[2 * ROWS];
    UNROLL for (int t = 0; t < m; t++) a[t] = b[t] = (vf){0};
    for (long p = 0; p < n; p++, fi += CB, fk0 += CB, fk1 += CB) {
        __builtin_prefetch(fk0 + ahead);
        __builtin_prefetch(fk1 + ahead);
        vf f0 = LOAD(fk0), f1 = two ? LOAD(fk1) : (vf){0};
        UNROLL for (int t = 0; t < m; t++) {
            a[t] += f0 * fi[t];
            if (two) b[t] += f1 * fi[t];
        }
    }
    UNROLL for (int t = 0; t < m; t++) {
        STORE(g + t * C, LOAD(g + t * C) + a[t]);
        if (two) STORE(g + t * C + VN, LOAD(g + t * C + VN) + b[t]);
    }
}

/* Tasks: one strip of columns of one share, the longest strips first */
static void sum_share(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const long C = j->C, share = task / j->strips, strip = j->strips - 1 - task % j->strips, block = j->M * CB;
    const long size = window_size(&j->window), start = size * share / j->shares, end = size * (share + 1) / j->shares;
    const long first = strip * STRIP, last = first + STRIP < C ? first + STRIP : C;
    float *G = j->partial + share * C * C;
    for (long i = 0; i < last; i++) memset(G + i * C + first, 0, (size_t)(last - first) * sizeof *G);
    for (long p = start, n; p < end; p += n) {
        n = run_length(&j->window, p, end, SLAB);
        const long at = position(&j->window, p), ahead = (position(&j->window, p + n) - at) * CB;
        const float *F = j->F + at * CB;
        for (long k = first; k < last; k += NP) {
            const float *fk0 = F + k / CB * block + k % CB;
            const float *fk1 = F + (k + VN) / CB * block + (k + VN) % CB;
            for (long i = 0; i < k + VN; i += ROWS)
                corner(ROWS, 1, F + i / CB * block + i % CB, fk0, fk1, n, G + i * C + k, C, i ? 0 : ahead);
            for (long i = k + VN; i < k + NP; i += 2 * ROWS > VN ? VN : 2 * ROWS) /* above the diagonal: one vector */
                corner(2 * ROWS > VN ? VN : 2 * ROWS, 0, F + i / CB * block + i % CB, fk1, fk1, n, G + i * C + k + VN, C, 0);
        }
    }
}

/* Tasks: 16 rows of G, from the diagonal on */
static void add_shares(void *argument, long rows, int worker)
{
    (void)worker;
    const job *j = argument;
    const long C = j->C;
    for (long i = rows * CB; i < (rows + 1) * CB; i++)
        for (long k = rows * CB; k < C; k += VN) {
            vf sum = LOAD(j->partial + i * C + k);
            for (long s = 1; s < j->shares; s++) sum += LOAD(j->partial + (s * C + i) * C + k);
            STORE_ANY(j->G + i * C + k, sum);
        }
}

/* Tasks: 16 rows of G, up to the diagonal, in blocks of 16 x 16 */
static void mirror(void *argument, long rows, int worker)
{
    (void)worker;
    const job *j = argument;
    const long C = j->C;
    for (long columns = 0; columns <= rows; columns++)
        for (long i = rows * CB; i < (rows + 1) * CB; i++)
            for (long k = columns * CB; k < (columns + 1) * CB && k < i; k++) j->G[i * C + k] = j->G[k * C + i];
}

/* ---- a guided one: that of sqrt(w) F ------------------------------------------------------------------------------ */

typedef struct {
    const float *F, *a;
    long M;
    float *out;
} weighing;

/* Tasks: a run of positions of 16 channels */
static void weigh_run(void *argument, long task, int worker)
{
    (void)worker;
    const weighing *j = argument;
    const long runs = (j->M + SLAB - 1) / SLAB, start = task % runs * SLAB, block = task / runs * j->M;
    for (long m = start; m < start + SLAB && m < j->M; m++)
        for (int h = 0; h < CB; h += VN) {
            const long at = (block + m) * CB + h;
            STORE(j->out + at, LOAD(j->F + at) * j->a[m]);
        }
}

void nst_weigh(nst_team *team, const float *F, const float *a, long C, long M, float *out)
{
    weighing j = {F, a, M, out};
    team_run(team, C / CB * ((M + SLAB - 1) / SLAB), weigh_run, &j);
}

/* ---- the whole --------------------------------------------------------------------------------------------------------- */

void nst_gram_within(nst_team *team, const float *F, long C, long M, const nst_window *window, float *G, float *work)
{
    job j = {.F = F, .G = G, .partial = work, .C = C, .M = M, .strips = (C + STRIP - 1) / STRIP};
    j.window = window_of(window, M);
    j.shares = shares(C, window_size(&j.window));
    team_run(team, j.shares * j.strips, sum_share, &j);
    team_run(team, C / CB, add_shares, &j);
    team_run(team, C / CB, mirror, &j);
}

void nst_gram(nst_team *team, const float *F, long C, long M, float *G, float *work)
{
    nst_gram_within(team, F, C, M, NULL, G, work);
}
