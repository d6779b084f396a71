/* Mean and variance of each channel, and what instance normalisation makes of them: two passes over memory.
 *
 * A strip (strips.h) finds its own mean first, while it comes into the cache, and then, of the differences d from that
 * mean m as a float32, sum d and sum d^2: its mean is m + sum d / n, and the squares around it are sum d^2 - (sum d)^2 / n,
 * where little is subtracted. Nothing here loses digits if the mean is much larger than the deviation.
 */
#include "activation.h"
#include "team.h"

#define AT_ONCE 4 /* vectors of sums, so that one need not wait for the other */

typedef struct {
    double mean, squares; /* of a strip, the squares around its mean */
} moments;

typedef struct {
    long C, M;
    const float *x, *mean, *factor, *shift, *plus;
    float *y;
    int activation, squares;
    moments *strips;
} job;

/* Sum of x, or of the differences from `from`; and, if `squares` is not NULL, of their squares */
INLINE double sum_up(const float *x, range s, float from, double *squares)
{
    double total = 0;
    EACH_PIECE (p, s) {
        vf sum[AT_ONCE] = {{0}}, square[AT_ONCE] = {{0}};
        long i = p.start;
        for (; i + AT_ONCE * VN <= p.end; i += AT_ONCE * VN)
            UNROLL for (int a = 0; a < AT_ONCE; a++) {
                const vf d = LOAD_ANY(x + i + a * VN) - from;
                sum[a] += d;
                if (squares) square[a] += d * d;
            }
        for (; i < p.end; i += VN) {
            const long left = p.end - i;
            vf d = load(x + i, left) - from;
            for (long e = left; e < VN; e++) d[e] = 0;
            sum[0] += d;
            if (squares) square[0] += d * d;
        }
        total += sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
        if (squares) *squares += sum_of((square[0] + square[1]) + (square[2] + square[3]));
    }
    return total;
}

/* Tasks: strips of channels */
static void moments_strip(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const float *x = j->x + task / strips(j->M) * j->M;
    const range s = strip(j->M, task % strips(j->M));
    const double n = (double)(s.end - s.start), mean = sum_up(x, s, 0, NULL) / n;
    moments *m = j->strips + task;
    *m = (moments){mean, 0};
    if (!j->squares) return;
    double squares = 0;
    const double off = sum_up(x, s, (float)mean, &squares);
    *m = (moments){(double)(float)mean + off / n, squares - off * off / n};
}

long nst_moments_work(long C, long M) { return C * strips(M) * (long)(sizeof(moments) / sizeof(float)); }

void nst_moments(nst_team *team, const float *x, long C, long M, double *mean, double *variance, float *work)
{
    job j = {.C = C, .M = M, .x = x, .squares = variance != NULL, .strips = (moments *)work};
    const long count = strips(M);
    team_run(team, C * count, moments_strip, &j);
    for (long c = 0; c < C; c++) {
        const moments *of = j.strips + c * count;
        double sum = 0, squares = 0;
        for (long i = 0; i < count; i++) sum += of[i].mean * (double)(strip(M, i).end - strip(M, i).start);
        mean[c] = sum / (double)M;
        if (!variance) continue;
        for (long i = 0; i < count; i++) {
            const double off = of[i].mean - mean[c];
            squares += of[i].squares + off * off * (double)(strip(M, i).end - strip(M, i).start);
        }
        variance[c] = squares > 0 || squares != squares ? squares / (double)M : 0; /* rounding may make it negative */
    }
}

static void normalise_strip(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const long c = task / strips(j->M);
    const range s = strip(j->M, task % strips(j->M));
    const float *x = j->x + c * j->M, *plus = j->plus ? j->plus + c * j->M : NULL;
    float *y = j->y + c * j->M;
    const vf mean = splat(j->mean[c]), factor = splat(j->factor[c]), shift = splat(j->shift[c]);
    const bounds b = bounds_of(j->activation);
    EACH_VECTOR (i, s) {
        const long left = s.end - i;
        vf v = activate((load(x + i, left) - mean) * factor + shift, j->activation, b);
        if (plus) v += load(plus + i, left);
        store(y + i, v, left);
    }
}

void nst_normalise(nst_team *team, const float *x, long C, long M, const float *mean, const float *factor,
                   const float *shift, int activation, const float *plus, float *y)
{
    job j = {.C = C, .M = M, .x = x, .mean = mean, .factor = factor, .shift = shift, .plus = plus, .y = y};
    j.activation = activation;
    team_run(team, C * strips(M), normalise_strip, &j);
}
