/* Poolings backward, and the losses' gradient where no convolution can take it along: ops.pool_backward,
 * ops.relu_backward, ops.gram_backward, ops.moments_backward, ops.content_backward.
 *
 * Like winograd.c, they overwrite the features with their gradient. Which of four values won a max pooling follows from
 * the values themselves, which are still there: the first of the largest.
 */
#include "gemm.h"
#include "nst.h"
#include "team.h"

#define RUN 64 /* positions of a task */

typedef struct {
    const float *F, *w, *dy;
    float *g, *work;
    int pooling, add, mask;
    long C, H, W, M;
    nst_tap tap;
} job;

/* g + dF - S F - extra, at an offset of channels `channel` on */
INLINE vf add_losses(const job *j, vf g, vf F, long at, long channel)
{
    if (j->tap.target) g += 2.f * j->tap.scale * (F - LOAD(j->tap.target + at));
    if (j->tap.ds) g += LOAD(j->tap.ds + channel);
    return g;
}

/* ---- a tap alone ---------------------------------------------------------------------------------------------------- */

long nst_tap_work(long C, int threads) { return threads * C * RUN; }

/* Tasks: runs of positions */
static void tap_run(void *argument, long run, int worker)
{
    const job *j = argument;
    const long start = run * RUN, end = start + RUN < j->M ? start + RUN : j->M, n = end - start;
    float *add = j->work + worker * j->C * RUN;
    if (j->tap.S)
        gemm_alone(j->F + start * CB, j->M * CB, j->tap.S, NP, j->C * NP, add, RUN * CB, n, j->C, j->C);
    for (long block = 0; block < j->C / CB; block++)
        for (long i = 0; i < n * CB; i += VN) {
            const long at = (block * j->M + start) * CB + i;
            vf F = LOAD(j->F + at), g = j->tap.S ? LOAD(add + block * RUN * CB + i) : (vf){0};
            g = add_losses(j, g, F, at, block * CB + i % CB);
            if (j->tap.extra) g += LOAD(j->tap.extra + at);
            if (j->w) g *= j->w[start + i / CB];
            if (j->add) g += LOAD(j->g + at);
            STORE(j->g + at, j->mask ? where_positive(F, g) : g);
        }
}

void nst_tap_gradient(nst_team *team, const float *F, const float *w, float *g, int add, int mask, long C, long M,
                      const nst_tap *tap, float *work)
{
    job j = {.F = F, .w = w, .g = g, .add = add, .mask = mask, .C = C, .M = M, .work = work};
    if (tap) j.tap = *tap;
    team_run(team, (M + RUN - 1) / RUN, tap_run, &j);
}

/* ---- poolings -------------------------------------------------------------------------------------------------------- */

long nst_pool_work(long C, long W, int threads) { return threads * C * 2 * W; }

/* Gradients of the four values of a window */
INLINE void window_gradient(int pooling, const vf x[4], vf dy, vf g[4])
{
    if (pooling == NST_MAX) {
        vf largest = larger(larger(x[0], x[1]), larger(x[2], x[3]));
        vi taken = (vi){0};
        UNROLL for (int i = 0; i < 4; i++) {
            vi won = (vi)(x[i] == largest) & ~taken;
            taken |= won;
            g[i] = (vf)((vi)dy & won);
        }
    } else if (pooling == NST_AVERAGE) {
        UNROLL for (int i = 0; i < 4; i++) g[i] = 0.25f * dy;
    } else {
        vf y = square_root(x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + x[3] * x[3]);
        vf ratio = where_positive(y, dy / y);
        UNROLL for (int i = 0; i < 4; i++) g[i] = ratio * x[i];
    }
}

/* Tasks: pairs of rows, and an odd last one, which no window covers */
static void pool_rows(void *argument, long pair, int worker)
{
    const job *j = argument;
    const long H = j->H, W = j->W, h2 = H / 2, w2 = W / 2, rows = H - 2 * pair < 2 ? 1 : 2;
    float *add = j->work + worker * j->C * 2 * W;
    if (j->tap.S)
        gemm_alone(j->g + 2 * pair * W * CB, H * W * CB, j->tap.S, NP, j->C * NP, add, 2 * W * CB, rows * W, j->C, j->C);
    for (long block = 0; block < j->C / CB; block++)
        for (long q = 0; q < (W + 1) / 2; q++)
            for (int h = 0; h < CB; h += VN) {
                const int covered = pair < h2 && q < w2;
                vf x[4] = {{0}}, g[4] = {{0}};
                long at[4];
                for (int i = 0; i < 4; i++) {
                    const long y = 2 * pair + i / 2, xx = 2 * q + i % 2;
                    at[i] = y < H && xx < W ? ((block * H + y) * W + xx) * CB + h : -1;
                    if (at[i] >= 0) x[i] = LOAD(j->g + at[i]);
                }
                if (covered) window_gradient(j->pooling, x, LOAD(j->dy + ((block * h2 + pair) * w2 + q) * CB + h), g);
                for (int i = 0; i < 4; i++) {
                    if (at[i] < 0) continue;
                    if (j->tap.S) g[i] += LOAD(add + (block * 2 * W + i / 2 * W + 2 * q + i % 2) * CB + h);
                    g[i] = add_losses(j, g[i], x[i], at[i], block * CB + h);
                    if (j->tap.extra) g[i] += LOAD(j->tap.extra + at[i]);
                    STORE(j->g + at[i], where_positive(x[i], g[i]));
                }
            }
}

void nst_pool_backward(nst_team *team, int pooling, const float *dy, float *x, long C, long H, long W, const nst_tap *tap,
                       float *work)
{
    job j = {.pooling = pooling, .dy = dy, .g = x, .C = C, .H = H, .W = W, .work = work};
    if (tap) j.tap = *tap;
    team_run(team, (H + 1) / 2, pool_rows, &j);
}
