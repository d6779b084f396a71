/* Gates: one bit for each feature of a ReLU, 1 where the gradient passes on its way back (see nstcore/engines/gates.py).
 * Of a feature a convolution's backward pass asks no more, so 32 bits of it need not be kept, nor computed again.
 *
 * The bits of a block of 16 channels are one word, channel 16 b + c the bit c: gates (C/16, H, W) of 16 bits.
 */
#include "nst.h"
#include "team.h"
#include "vector.h"

typedef struct {
    const float *F;
    const unsigned short *from;
    unsigned short *to;
    float *out;
    long H, W, M;
    int pooled;
    nst_window window;
} job;

/* One bit for each element of a comparison's result, the first the lowest */
INLINE unsigned bits_of(vi m)
{
#if defined(__AVX512F__)
    return (unsigned)_mm512_movepi32_mask((__m512i)m);
#elif defined(__AVX2__)
    return (unsigned)_mm256_movemask_ps((__m256)m);
#else
    unsigned bits = 0;
    for (int i = 0; i < VN; i++) bits |= (unsigned)(m[i] & 1) << i;
    return bits;
#endif
}

/* Whether the value at row y, column x is the one that max pooling takes: the first of the largest of its 2x2 window */
INLINE vi wins(const float *F, long y, long x, long W, vf v)
{
    const float *others = F + ((y & ~1L) * W + (x & ~1L)) * CB;
    vi m = ~(vi){0};
    for (int i = 0; i < 4; i++) {
        const vf other = LOAD(others + (i / 2 * W + i % 2) * CB);
        const int at = (int)(2 * (y & 1) + (x & 1));
        if (i != at) m &= i < at ? (vi)(v > other) : (vi)(v >= other);
    }
    return m;
}

/* Tasks: the window's rows of 16 channels */
static void gates_row(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const nst_window *w = &j->window;
    const long block = task / w->height, y = w->top + task % w->height;
    const float *plane = j->F + block * j->H * j->W * CB;
    for (long n = 0; n < w->width; n++) {
        const long x = w->left + n;
        unsigned bits = 0;
        if (!j->pooled || ((y | 1) < j->H && (x | 1) < j->W)) { /* pooling drops an odd last row or column */
            UNROLL for (int h = 0; h < CB; h += VN) {
                const vf v = LOAD(plane + (y * j->W + x) * CB + h);
                vi m = (vi)(v > (vf){0});
                if (j->pooled) m &= wins(plane + h, y, x, j->W, v);
                bits |= bits_of(m) << h;
            }
        }
        j->to[task * w->width + n] = (unsigned short)bits;
    }
}

void nst_gates(nst_team *team, const float *F, long C, long H, long W, int pooled, const nst_window *window,
               unsigned short *gates)
{
    job j = {.F = F, .to = gates, .H = H, .W = W, .pooled = pooled, .window = *window};
    team_run(team, C / CB * window->height, gates_row, &j);
}

#define RUN 4096 /* positions of a task */

/* Tasks: runs of positions of all blocks */
static void open_run(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const long start = task * RUN, end = start + RUN < j->M ? start + RUN : j->M;
    vi bit[CB / VN];
    for (int c = 0; c < CB; c++) bit[c / VN][c % VN] = 1 << c;
    const vi one = (vi)splat(1);
    for (long m = start; m < end; m++) {
        const vi word = (vi){0} + (int)j->from[m];
        UNROLL for (int h = 0; h < CB / VN; h++)
            STORE(j->out + m * CB + h * VN, (vf)((vi)((word & bit[h]) != 0) & one));
    }
}

void nst_open(nst_team *team, const unsigned short *gates, long C, long M, float *F)
{
    job j = {.from = gates, .out = F, .M = C / CB * M};
    team_run(team, (j.M + RUN - 1) / RUN, open_run, &j);
}
