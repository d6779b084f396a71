/* The optimizers' vector operations: nstcore/optim/vectors.py, in threads.
 *
 * They do little arithmetic on much memory: each array is read once and written once. The products of all pairs of L-BFGS
 * are in pairs.c.
 */
#include "nst.h"
#include "strips.h"
#include "team.h"

#include <math.h>

#define GROUP 1024 /* floats of one array that are combined before the next one is read */

typedef struct {
    long n;
    const float *x, *g, *d, *free, *x_next, *g_next;
    float *out, *m, *v;
    double a, lo, hi;
    double beta1, beta2, rate, scale, epsilon; /* of Adam */
    long count; /* of arrays */
    const float *const *arrays;
    const double *coefficients;
    double results[STRIPS][3];
} job;

INLINE vf choose(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }

INLINE vf smaller(vf a, vf b) { return -larger(-a, -b); } /* where one is NaN, b */

INLINE vf clipped(vf v, vf lo, vf hi) { return smaller(hi, larger(lo, v)); }

INLINE vf magnitude(vf v) { return (vf)((vi)v & 0x7fffffff); }

INLINE double largest_of(vf v)
{
    double largest = v[0];
    for (int i = 1; i < VN; i++) largest = v[i] > largest ? v[i] : largest;
    return largest;
}

INLINE int any(vi mask)
{
    int found = 0;
    for (int i = 0; i < VN; i++) found |= mask[i];
    return found;
}

static double add_up(const job *j, int which)
{
    double sum = 0;
    for (long i = 0; i < strips(j->n); i++) sum += j->results[i][which];
    return sum;
}

/* The largest of the strips; NaN if one is */
static double largest(const job *j, int which)
{
    double found = 0;
    for (long i = 0; i < strips(j->n); i++)
        if (!(j->results[i][which] <= found)) {
            found = j->results[i][which];
            if (isnan(found)) break;
        }
    return found;
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

static void copy_strip(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const range s = strip(j->n, task);
    memcpy(j->out + s.start, j->x + s.start, (size_t)(s.end - s.start) * sizeof(float));
}

void nst_copy(nst_team *team, const float *x, float *out, long n)
{
    job j;
    j.n = n, j.x = x, j.out = out;
    if (x != out) team_run(team, strips(n), copy_strip, &j);
}

static void fill_strip(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const range s = strip(j->n, task);
    const vf a = splat((float)j->a);
    EACH_VECTOR (i, s) store(j->out + i, a, s.end - i);
}

void nst_fill(nst_team *team, float *x, double a, long n)
{
    job j;
    j.n = n, j.out = x, j.a = a;
    team_run(team, strips(n), fill_strip, &j);
}

/* ---- sums and extremes --------------------------------------------------------------------------------------------------- */

static void dot_strip(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const range s = strip(j->n, task);
    double total = 0;
    EACH_PIECE (p, s) {
        vf sum = {0};
        EACH_VECTOR (i, p) sum += load(j->x + i, p.end - i) * load(j->g + i, p.end - i);
        total += sum_of(sum);
    }
    j->results[task][0] = total;
}

double nst_dot(nst_team *team, const float *x, const float *y, long n)
{
    job j;
    j.n = n, j.x = x, j.g = y;
    team_run(team, strips(n), dot_strip, &j);
    return add_up(&j, 0);
}

static void max_abs_strip(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const range s = strip(j->n, task);
    vf most = {0};
    vi broken = {0};
    EACH_VECTOR (i, s) {
        const vf x = load(j->x + i, s.end - i);
        most = larger(magnitude(x), most);
        broken |= (vi)(x != x);
    }
    j->results[task][0] = any(broken) ? NAN : largest_of(most);
}

double nst_max_abs(nst_team *team, const float *x, long n)
{
    job j;
    j.n = n, j.x = x;
    team_run(team, strips(n), max_abs_strip, &j);
    return largest(&j, 0);
}

/* ---- bounds ---------------------------------------------------------------------------------------------------------------- */

static void clip_strip(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const range s = strip(j->n, task);
    const vf lo = splat((float)j->lo), hi = splat((float)j->hi);
    EACH_VECTOR (i, s) store(j->out + i, clipped(load(j->out + i, s.end - i), lo, hi), s.end - i);
}

void nst_clip(nst_team *team, float *x, double lo, double hi, long n)
{
    job j;
    j.n = n, j.out = x, j.lo = lo, j.hi = hi;
    team_run(team, strips(n), clip_strip, &j);
}

static void free_strip(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const range s = strip(j->n, task);
    const vf lo = splat((float)j->lo), hi = splat((float)j->hi), zero = {0}, one = splat(1);
    vf most = {0};
    vi broken = {0};
    double held = 0;
    EACH_PIECE (p, s) {
        vi minus_held = {0};
        EACH_VECTOR (i, p) {
            const vf x = load(j->x + i, p.end - i), g = load(j->g + i, p.end - i); /* beyond the end g = 0: not held */
            const vi stuck = ((vi)(x <= lo) & (vi)(g > zero)) | ((vi)(x >= hi) & (vi)(g < zero));
            store(j->out + i, choose(stuck, zero, one), p.end - i);
            minus_held += stuck;
            most = larger(choose(stuck, zero, magnitude(g)), most);
            broken |= (vi)(g != g);
        }
        for (int i = 0; i < VN; i++) held -= minus_held[i];
    }
    j->results[task][0] = held;
    j->results[task][1] = any(broken) ? NAN : largest_of(most);
}

long nst_free_elements(nst_team *team, const float *x, const float *g, double lo, double hi, float *out, double *norm,
                       long n)
{
    job j;
    j.n = n, j.x = x, j.g = g, j.lo = lo, j.hi = hi, j.out = out;
    team_run(team, strips(n), free_strip, &j);
    *norm = largest(&j, 1);
    return (long)add_up(&j, 0);
}

/* ---- steps of L-BFGS --------------------------------------------------------------------------------------------------------- */

static void step_strip(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const range s = strip(j->n, task);
    const vf a = splat((float)j->a), lo = splat((float)j->lo), hi = splat((float)j->hi);
    EACH_VECTOR (i, s) {
        const vf x = load(j->x + i, s.end - i), d = load(j->d + i, s.end - i);
        store(j->out + i, clipped(x + a * d, lo, hi), s.end - i);
    }
}

void nst_step(nst_team *team, const float *x, double a, const float *d, double lo, double hi, float *out, long n)
{
    job j;
    j.n = n, j.x = x, j.a = a, j.d = d, j.lo = lo, j.hi = hi, j.out = out;
    team_run(team, strips(n), step_strip, &j);
}

static void shorten_strip(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const range s = strip(j->n, task);
    const vf lo = splat((float)j->lo), hi = splat((float)j->hi), zero = {0}, never = splat(INFINITY);
    vf shortest = never;
    double total = 0;
    EACH_PIECE (p, s) {
        vf sum = {0};
        EACH_VECTOR (i, p) {
            const vf x = load(j->x + i, p.end - i), g = load(j->g + i, p.end - i);
            const vf d = load(j->out + i, p.end - i);
            const vf moved = choose((vi)(d != zero), clipped(x + d, lo, hi) - x, zero); /* beyond the end: 0 */
            const vf room = choose((vi)(moved > zero), hi - x, lo - x);
            store(j->out + i, moved, p.end - i);
            shortest = smaller(choose((vi)(moved != zero), room / moved, never), shortest);
            sum += g * moved;
        }
        total += sum_of(sum);
    }
    j->results[task][0] = total;
    j->results[task][1] = -largest_of(-shortest);
}

double nst_shorten(nst_team *team, float *d, const float *x, const float *g, double lo, double hi, double *slope, long n)
{
    job j;
    j.n = n, j.out = d, j.x = x, j.g = g, j.lo = lo, j.hi = hi;
    team_run(team, strips(n), shorten_strip, &j);
    *slope = add_up(&j, 0);
    double longest = INFINITY;
    for (long i = 0; i < strips(n); i++) longest = j.results[i][1] < longest ? j.results[i][1] : longest;
    return longest;
}

static void pair_strip(void *argument, long task, int worker)
{
    (void)worker;
    job *j = argument;
    const range r = strip(j->n, task);
    double sy = 0, ss = 0, yy = 0;
    EACH_PIECE (p, r) {
        vf sum_sy = {0}, sum_ss = {0}, sum_yy = {0};
        EACH_VECTOR (i, p) {
            const vf s = load(j->x_next + i, p.end - i) - load(j->x + i, p.end - i);
            const vf y = load(j->g_next + i, p.end - i) - load(j->g + i, p.end - i);
            store(j->m + i, s, p.end - i);
            store(j->v + i, y, p.end - i);
            sum_sy += s * y;
            sum_ss += s * s;
            sum_yy += y * y;
        }
        sy += sum_of(sum_sy), ss += sum_of(sum_ss), yy += sum_of(sum_yy);
    }
    j->results[task][0] = sy, j->results[task][1] = ss, j->results[task][2] = yy;
}

void nst_pair(nst_team *team, const float *x, const float *g, const float *x_next, const float *g_next, float *s, float *y,
              double *products, long n)
{
    job j;
    j.n = n, j.x = x, j.g = g, j.x_next = x_next, j.g_next = g_next, j.m = s, j.v = y;
    team_run(team, strips(n), pair_strip, &j);
    for (int i = 0; i < 3; i++) products[i] = add_up(&j, i);
}

/* ---- linear combination ------------------------------------------------------------------------------------------------------ */

static void combine_strip(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const range s = strip(j->n, task);
    const vf a = splat((float)j->a);
    _Alignas(64) float sums[GROUP];
    for (range b = part(s, s.start, GROUP); b.start < s.end; b = part(s, b.end, GROUP)) {
        EACH_VECTOR (i, b) STORE(sums + (i - b.start), a * load(j->x + i, b.end - i));
        long k = 0;
        for (; k + 4 <= j->count; k += 4) {
            const float *const *v = j->arrays + k;
            vf c[4];
            UNROLL for (int q = 0; q < 4; q++) c[q] = splat((float)j->coefficients[k + q]);
            EACH_VECTOR (i, b) {
                vf sum = LOAD(sums + (i - b.start));
                UNROLL for (int q = 0; q < 4; q++) sum += c[q] * load(v[q] + i, b.end - i);
                STORE(sums + (i - b.start), sum);
            }
        }
        for (; k < j->count; k++) {
            const vf c = splat((float)j->coefficients[k]);
            EACH_VECTOR (i, b) {
                const vf sum = LOAD(sums + (i - b.start)) + c * load(j->arrays[k] + i, b.end - i);
                STORE(sums + (i - b.start), sum);
            }
        }
        EACH_VECTOR (i, b) {
            vf sum = LOAD(sums + (i - b.start));
            if (j->free) sum *= load(j->free + i, b.end - i);
            store(j->out + i, sum, b.end - i);
        }
    }
}

void nst_combine(nst_team *team, double a, const float *q, const float *free, const double *coefficients,
                 const float *const *arrays, long count, float *out, long n)
{
    job j;
    j.n = n, j.a = a, j.x = q, j.free = free, j.coefficients = coefficients, j.arrays = arrays, j.count = count;
    j.out = out;
    team_run(team, strips(n), combine_strip, &j);
}

/* ---- Adam -------------------------------------------------------------------------------------------------------------------- */

static void adam_strip(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const range s = strip(j->n, task);
    const vf beta1 = splat((float)j->beta1), rest1 = splat((float)(1 - j->beta1));
    const vf beta2 = splat((float)j->beta2), rest2 = splat((float)(1 - j->beta2));
    const vf rate = splat((float)j->rate), scale = splat((float)j->scale), epsilon = splat((float)j->epsilon);
    const vf lo = splat((float)j->lo), hi = splat((float)j->hi);
    EACH_VECTOR (i, s) {
        const long left = s.end - i;
        const vf g = load(j->g + i, left);
        const vf m = beta1 * load(j->m + i, left) + rest1 * g, v = beta2 * load(j->v + i, left) + rest2 * (g * g);
        const vf x = load(j->out + i, left) - rate * (m / (square_root(scale * v) + epsilon));
        store(j->m + i, m, left);
        store(j->v + i, v, left);
        store(j->out + i, clipped(x, lo, hi), left);
    }
}

void nst_adam(nst_team *team, float *x, const float *g, float *m, float *v, double beta1, double beta2,
              double correction1, double correction2, double learning_rate, double epsilon, double lo, double hi, long n)
{
    job j;
    j.n = n, j.out = x, j.g = g, j.m = m, j.v = v, j.lo = lo, j.hi = hi;
    j.beta1 = beta1, j.beta2 = beta2, j.epsilon = epsilon;
    j.rate = learning_rate / correction1, j.scale = 1 / correction2;
    team_run(team, strips(n), adam_strip, &j);
}
