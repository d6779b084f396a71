/* Convolution of any kernel, stride and border, of planes: direct, with vectors along the columns of y.
 *
 *     y[k][q] += w[k][tap] x[offset[tap] + q]
 *
 * The micro-kernel holds some filters times some vectors of neighbouring positions in registers. For each tap (of every
 * channel) it loads the vectors of x, wherever they begin, and one number of each filter, spread over a vector: with 8
 * filters and 3 vectors 24 multiply-adds for 11 loads. Where a tap stands is read from a table, so one loop serves every
 * layer. How the picture becomes a patch in which a tap is a plain displacement: direct.h.
 */
#include "direct.h"
#include "team.h"

#define PATCH 131072 /* floats of a worker's patch, where possible: a quarter of a second-level cache of 2 MB */
#define TILES 32     /* tasks, at least, where there are so many positions */
#define TASKS 8      /* tasks, at least, by cutting the filters where there are not */

/* WIDEST: the most filters of the micro-kernel. VECTORS(k): the most vectors, with k filters: k VECTORS(k) accumulators,
 * as many vectors of x and one number of a filter (and without fused multiply-adds a product). */
#if defined(__AVX512F__) || defined(__aarch64__) /* 32 registers */
#define WIDEST 8
#define EACH_WIDTH(X) X(1, 8) X(2, 8) X(3, 7) X(4, 6) X(5, 4) X(6, 4) X(7, 3) X(8, 3)
#elif defined(__AVX2__) /* 16 */
#define WIDEST 4
#define EACH_WIDTH(X) X(1, 7) X(2, 5) X(3, 3) X(4, 3)
#else
#define WIDEST 4
#define EACH_WIDTH(X) X(1, 6) X(2, 4) X(3, 3) X(4, 2)
#endif
#define MOST_VECTORS 8

static const int vectors_with[] = {0,
#define VECTORS(k, n) n,
                                   EACH_WIDTH(VECTORS)
#undef VECTORS
};

typedef struct {
    plan p;
    const float *x, *filters;
    const int *map, *offsets;
    float *y, *patches, *enlarged;
} job;

/* ---- plan ------------------------------------------------------------------------------------------------------------ */

static taps taps_of(const plan *p, long phase, long before, long count, long first)
{
    const long start = floor_div(phase - before, p->phases), last = floor_div(phase - before + count - 1, p->phases);
    return (taps){start - first, last - start + 1};
}

static taps rows_of(const plan *p, long a) { return taps_of(p, a, p->c.top, p->c.R, p->top); }
static taps columns_of(const plan *p, long b) { return taps_of(p, b, p->c.left, p->c.S, p->left); }

/* The filters are cut into panels that are computed together, as equal as they can be */
static long panels(const plan *p) { return (p->K + WIDEST - 1) / WIDEST; }
static long panel_start(const plan *p, long panel) { return p->K * panel / panels(p); }

/* Positions that the micro-kernel computes together, with the widest panel */
static long group_of(const plan *p) { return vectors_with[(p->K + panels(p) - 1) / panels(p)] * VN; }

static long patch_size(const plan *p, long rows, long columns)
{
    const long last = (p->columns - 1) / p->stride; /* the last tap's distance from the first */
    const long length = odd_lines(up_to(columns, VN) + last);
    return p->C * odd_lines(((rows - 1) * p->stride + p->rows) * p->stride * length);
}

static void cut(plan *p)
{
    const long wanted = (TILES + p->groups - 1) / p->groups, group = group_of(p);
    long rows = p->P < 4 ? p->P : 4, across = p->P < wanted ? (wanted + p->P - 1) / p->P : 1;
    long columns = (p->Q + across - 1) / across;
    while (columns > group && patch_size(p, rows, columns) > PATCH) columns = (columns + 1) / 2;
    if (columns < group) columns = group;
    p->across = (p->Q + columns - 1) / columns;
    p->tile_columns = up_to((p->Q + p->across - 1) / p->across, VN);
    p->across = (p->Q + p->tile_columns - 1) / p->tile_columns;
    rows = (p->P * p->across + wanted - 1) / wanted;
    if (rows < p->rows) rows = p->rows; /* or more is copied for the rows around than for these */
    if (rows > p->P) rows = p->P;
    while (rows > 1 && patch_size(p, rows, p->tile_columns) > PATCH) rows--;
    p->tile_rows = rows;
    p->down = (p->P + rows - 1) / rows;
    const long tiles = p->groups * p->down * p->across;
    p->parts = tiles < TASKS ? (TASKS + tiles - 1) / tiles : 1;
    if (p->parts > panels(p)) p->parts = panels(p);
}

/* With 1x1 filters and no border there are no rows, only positions: one row of them wastes no vectors */
static nst_layer flat(const nst_layer *c)
{
    nst_layer f = *c;
    const int point = c->R == 1 && c->S == 1 && c->stride == 1 && c->upsample == 1;
    if (point && c->P == c->H && c->Q == c->W && !c->top && !c->left) {
        f.H = f.P = 1;
        f.W = f.Q = c->H * c->W;
    }
    return f;
}

plan plan_of(const nst_layer *layer)
{
    const nst_layer flattened = flat(layer), *c = &flattened;
    plan p = {.c = *c, .groups = c->depthwise ? c->C : 1, .C = c->depthwise ? 1 : c->C, .K = c->depthwise ? 1 : c->K};
    const long u = c->upsample;
    const long bottom = c->P + c->R - 1 - c->top - c->H * u, right = c->Q + c->S - 1 - c->left - c->W * u;
    const int narrow = c->top < u && c->left < u && bottom < u && right < u;
    const int in_phases = c->stride == 1 && (c->padding != NST_REFLECT || narrow);
    p.phases = in_phases ? u : 1;
    p.enlarge = in_phases ? 1 : u;
    p.stride = c->stride;
    p.P = (c->P + p.phases - 1) / p.phases;
    p.Q = (c->Q + p.phases - 1) / p.phases;
    p.top = floor_div(-c->top, p.phases);
    p.left = floor_div(-c->left, p.phases);
    long in_rows = 0, in_columns = 0;
    for (long a = 0; a < p.phases; a++) {
        const taps r = rows_of(&p, a), s = columns_of(&p, a);
        p.rows = r.first + r.count > p.rows ? r.first + r.count : p.rows;
        p.columns = s.first + s.count > p.columns ? s.first + s.count : p.columns;
        in_rows += r.count;
        in_columns += s.count;
    }
    p.products = p.C * in_rows * in_columns;
    cut(&p);
    p.length = odd_lines(p.tile_columns + (p.columns - 1) / p.stride);
    p.channel = odd_lines(((p.tile_rows - 1) * p.stride + p.rows) * p.stride * p.length);
    return p;
}

/* ---- filters --------------------------------------------------------------------------------------------------------- */

long nst_layer_filters(const nst_layer *c)
{
    const plan p = plan_of(c);
    return p.groups * p.K * (1 + p.products);
}

/* Along one axis, the filter's taps that meet patch position `at` in that phase: there are up to `phases` of them */
static range meeting(const plan *p, long at, long phase, long first, long before, long count)
{
    const long start = (at + first) * p->phases + before - phase, end = start + p->phases;
    return (range){start < 0 ? 0 : start, end < count ? end : count};
}

/* The sum of those numbers of one filter (R, S) that meet patch position (r, s) in phase (a, b) */
static float merged(const plan *p, const float *w, long a, long b, long r, long s)
{
    const range rows = meeting(p, r, a, p->top, p->c.top, p->c.R);
    const range columns = meeting(p, s, b, p->left, p->c.left, p->c.S);
    double sum = 0;
    for (long i = rows.start; i < rows.end; i++)
        for (long j = columns.start; j < columns.end; j++) sum += w[i * p->c.S + j];
    return (float)sum;
}

/* Bias (groups, K), then filters [groups][phases][panels][C, rows, columns][filters of the panel] */
void nst_pack_layer(const nst_layer *c, const float *w, const float *b, float *out)
{
    const plan p = plan_of(c);
    for (long k = 0; k < p.groups * p.K; k++) *out++ = b ? b[k] : 0;
    for (long g = 0; g < p.groups; g++, w += p.K * p.C * c->R * c->S)
        for (long phase = 0; phase < p.phases * p.phases; phase++) {
            const taps rows = rows_of(&p, phase / p.phases), columns = columns_of(&p, phase % p.phases);
            for (long i = 0; i < panels(&p); i++)
                for (long at = 0; at < p.C; at++)
                    for (long r = rows.first; r < rows.first + rows.count; r++)
                        for (long s = columns.first; s < columns.first + columns.count; s++)
                            for (long k = panel_start(&p, i); k < panel_start(&p, i + 1); k++)
                                *out++ = merged(&p, w + (k * p.C + at) * c->R * c->S, phase / p.phases,
                                                phase % p.phases, r, s);
        }
}

/* Where each tap of each phase stands in a patch, in the order of the packed filters */
static void list_offsets(const plan *p, int *offsets)
{
    for (long phase = 0; phase < p->phases * p->phases; phase++) {
        const taps rows = rows_of(p, phase / p->phases), columns = columns_of(p, phase % p->phases);
        for (long c = 0; c < p->C; c++)
            for (long r = rows.first; r < rows.first + rows.count; r++)
                for (long s = columns.first; s < columns.first + columns.count; s++)
                    *offsets++ = (int)(c * p->channel + (r * p->stride + s % p->stride) * p->length + s / p->stride);
    }
}

/* ---- micro-kernel ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const float *x, *w, *bias;
    const int *offsets;
    long count; /* taps */
    bounds bounds;
    float *y;
    long plane; /* floats from one filter's y to the next */
} product;

/* Positions 0 .. left-1 of `k` filters, in `n` vectors */
INLINE void micro(const int k, const int n, const product *p, const float *x, float *y, long left)
{
    vf a[WIDEST][MOST_VECTORS];
    UNROLL for (int i = 0; i < k; i++)
        UNROLL for (int v = 0; v < n; v++) a[i][v] = splat(p->bias[i]);
    const float *w = p->w;
    for (long t = 0; t < p->count; t++, w += k) {
        const float *from = x + p->offsets[t];
        vf b[MOST_VECTORS];
        UNROLL for (int v = 0; v < n; v++) b[v] = LOAD_ANY(from + v * VN);
        UNROLL for (int i = 0; i < k; i++)
            UNROLL for (int v = 0; v < n; v++) a[i][v] += w[i] * b[v];
    }
    UNROLL for (int i = 0; i < k; i++) {
        float *to = y + i * p->plane;
        UNROLL for (int v = 0; v < n - 1; v++) STORE_ANY(to + v * VN, bounded(a[i][v], p->bounds));
        store(to + (n - 1) * VN, bounded(a[i][n - 1], p->bounds), left - (n - 1) * VN);
    }
}

#define FORMS(k, most)                                                                    \
    static void micro_##k(const product *p, const float *x, float *y, int n, long left) \
    {                                                                                     \
        switch (n) {                                                                      \
            COUNTS_##most(k)                                                              \
        }                                                                                 \
    }
#define COUNT(k, n)                   \
    case n:                           \
        micro(k, n, p, x, y, left);   \
        break;
#define COUNTS_1(k) COUNT(k, 1)
#define COUNTS_2(k) COUNTS_1(k) COUNT(k, 2)
#define COUNTS_3(k) COUNTS_2(k) COUNT(k, 3)
#define COUNTS_4(k) COUNTS_3(k) COUNT(k, 4)
#define COUNTS_5(k) COUNTS_4(k) COUNT(k, 5)
#define COUNTS_6(k) COUNTS_5(k) COUNT(k, 6)
#define COUNTS_7(k) COUNTS_6(k) COUNT(k, 7)
#define COUNTS_8(k) COUNTS_7(k) COUNT(k, 8)
EACH_WIDTH(FORMS)

/* `positions` neighbours of `k` filters, in equal pieces that the registers hold */
static void multiply(const product *p, long k, long positions)
{
    const long vectors = (positions + VN - 1) / VN, pieces = (vectors + vectors_with[k] - 1) / vectors_with[k];
    for (long i = 0; i < pieces; i++) {
        const long at = vectors * i / pieces * VN, n = vectors * (i + 1) / pieces - at / VN;
        switch (k) {
#define WIDTH(k, most)                                                     \
    case k:                                                                \
        micro_##k(p, p->x + at, p->y + at, (int)n, positions - at); \
        break;
            EACH_WIDTH(WIDTH)
#undef WIDTH
        }
    }
}

/* ---- tasks ----------------------------------------------------------------------------------------------------------- */

/* y[factor * i + b] = parts[b][i] for i < count and all b < factor, as far as y[end] */
static void interleave(const float *parts, long part, long factor, long count, float *y, long end)
{
    const long whole = end / factor < count ? end / factor : count;
    if (factor == 2)
        for (long i = 0; i < whole; i++) {
            y[2 * i] = parts[i];
            y[2 * i + 1] = parts[part + i];
        }
    else
        for (long b = 0; b < factor; b++)
            for (long i = 0; i < whole; i++) y[factor * i + b] = parts[b * part + i];
    if (whole < count)
        for (long b = 0; factor * whole + b < end; b++) y[factor * whole + b] = parts[b * part + whole];
}

static void squash(float *y, long n)
{
    EACH_VECTOR (i, ((range){0, n})) store(y + i, sigmoid(load(y + i, n - i)), n - i);
}

static long enlarged_size(const plan *p) { return p->phases * WIDEST * group_of(p); }

/* What is computed at once: filters [k0, k1) of a group, at positions (p, q) to (p, q + n - 1) of the phases (a, b) of all
 * b. Position p reads from row `row` of the patch on, counted in strides. */
typedef struct {
    long group, row, p, a, q, n, k0, k1;
} stretch;

static void compute(const job *j, const stretch *s, const float *patch, tile t, float *enlarged)
{
    const plan *p = &j->p;
    const nst_layer *c = &p->c;
    const long phases = p->phases, K = p->groups * p->K, part = group_of(p);
    const long at = phases * s->q, end = c->Q - at < phases * s->n ? c->Q - at : phases * s->n;
    product m = {.x = patch + s->row * p->stride * p->stride * p->length + s->q - t.q0,
                 .bounds = bounds_of(c->activation),
                 .bias = j->filters + s->group * p->K + s->k0};
    const long k = s->k1 - s->k0, plane = c->P * c->Q;
    float *y = j->y + (s->group * p->K + s->k0) * plane + (phases * s->p + s->a) * c->Q + at;
    const float *w = j->filters + K + s->group * p->K * p->products;
    const int *offsets = j->offsets;
    for (long phase = 0; phase < (s->a + 1) * phases; phase++) {
        m.count = p->C * rows_of(p, phase / phases).count * columns_of(p, phase % phases).count;
        if (phase >= s->a * phases) {
            m.w = w + s->k0 * m.count;
            m.offsets = offsets;
            m.y = phases > 1 ? enlarged + phase % phases * k * part : y;
            m.plane = phases > 1 ? part : plane;
            multiply(&m, k, s->n);
        }
        w += p->K * m.count;
        offsets += m.count;
    }
    for (long i = 0; i < k; i++) {
        if (phases > 1) interleave(enlarged + i * part, k * part, phases, s->n, y + i * plane, end);
        if (c->activation == NST_SIGMOID) squash(y + i * plane, end);
    }
}

static void forward_tile(void *argument, long task, int worker)
{
    const job *j = argument;
    const plan *p = &j->p;
    const long portion = task % p->parts, at = task / p->parts;
    const long across = at % p->across, down = at / p->across % p->down, group = at / p->across / p->down;
    const long p0 = down * p->tile_rows, q0 = across * p->tile_columns;
    const tile t = {p0, p0 + p->tile_rows < p->P ? p0 + p->tile_rows : p->P, q0,
                    q0 + p->tile_columns < p->Q ? q0 + p->tile_columns : p->Q};
    float *patch = j->patches + worker * p->C * p->channel, *enlarged = j->enlarged + worker * enlarged_size(p);
    fill_patch(p, j->map, t, j->x + group * p->C * p->c.H * p->c.W, patch);
    const long first = panels(p) * portion / p->parts, last = panels(p) * (portion + 1) / p->parts, most = group_of(p);
    const long pieces = (t.q1 - t.q0 + most - 1) / most, step = up_to((t.q1 - t.q0 + pieces - 1) / pieces, VN);
    /* A panel goes over the whole tile, for it may be larger than the patch */
    for (long i = first; i < last; i++)
        for (long row = t.p0; row < t.p1; row++)
            for (long a = 0; a < p->phases && row * p->phases + a < p->c.P; a++)
                for (long q = t.q0; q < t.q1; q += step) {
                    const stretch s = {group, row - t.p0, row, a, q, q + step < t.q1 ? step : t.q1 - q,
                                       panel_start(p, i), panel_start(p, i + 1)};
                    compute(j, &s, patch, t, enlarged);
                }
}

static long tables_size(const plan *p) { return up_to(map_size(p) + p->products, 16); }

long nst_layer_work(const nst_layer *c, int threads)
{
    const plan p = plan_of(c);
    return tables_size(&p) + threads * (p.C * p.channel + enlarged_size(&p));
}

void nst_layer_forward(nst_team *team, const nst_layer *c, const float *x, const float *filters, float *y, float *work)
{
    job j = {.p = plan_of(c), .x = x, .filters = filters, .y = y};
    int *map = (int *)work;
    map_borders(&j.p, map);
    list_offsets(&j.p, map + map_size(&j.p));
    j.map = map;
    j.offsets = map + map_size(&j.p);
    j.patches = work + tables_size(&j.p);
    j.enlarged = j.patches + nst_team_threads(team) * j.p.C * j.p.channel;
    team_run(team, j.p.groups * j.p.down * j.p.across * j.p.parts, forward_tile, &j);
}
