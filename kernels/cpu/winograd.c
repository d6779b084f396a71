/* 3x3 convolution, forward and backward, by Winograd F(4x4, 3x3): ops.conv_forward, ops.conv_backward.
 *
 * Tiles of 4x4 outputs are taken block by block. What happens to a block happens while it is in a cache:
 *
 *     V[f] = B^T d B             input_tile: tiles x C for each of 36 frequencies
 *     M[f] = V[f] U[f]           gemm.h
 *     Y    = A^T M A             output_tile: and with Y still in registers whatever else the step needs
 *                                forward: bias, ReLU, pooling; backward: gradients of the losses at this layer, ReLU mask
 *
 * Two plans, by the number of channels, and so by what the caches can hold:
 *
 *   up to 256        A block is one worker's own, small enough for its second-level cache. Filters are transformed once,
 *                    when they are packed, and stream through.
 *   512              V of a larger block is shared by all workers. Each takes 32 filters at a time, transforms them on
 *                    the way (a quarter of the memory to hold and to stream), and keeps their M to itself.
 *
 * Backward is the same convolution with the filters turned by 180 degrees and C, K exchanged. The gradient overwrites
 * the features it belongs to, element by element, after their last use: no gradient has memory of its own.
 */
#define _DEFAULT_SOURCE /* sysconf */
#include "winograd.h"
#include "transforms.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#define LINE 16 /* floats of a cache line: keeps frequencies from falling on the same sets of a cache */

static long ceil_div(long a, long b) { return (a + b - 1) / b; }
static long round_up(long a, long b) { return ceil_div(a, b) * b; }

int nst_transformed(long C, long K) { return C <= 256 && K <= 256; }

/* ---- plans ---------------------------------------------------------------------------------------------------- */

/* Tiles of a shared block: V takes at most half of the last-level cache, and filters are transformed once for every 280
 * tiles at best, which then costs little. */
static long shared_tiles(long C)
{
    static atomic_long known; /* asking may take the processor longer than a plan */
    long cache = atomic_load_explicit(&known, memory_order_relaxed);
    if (!cache) {
#ifdef _SC_LEVEL3_CACHE_SIZE
        cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
        if (cache <= 0) cache = 8l << 20;
        atomic_store_explicit(&known, cache, memory_order_relaxed);
    }
    const long fit = cache / 2 / (FREQUENCIES * C * (long)sizeof(float)) / PM * PM;
    return fit < 4 * PM ? 4 * PM : fit < 280 ? fit : 280;
}

static plan make_plan(const nst_conv *c, int threads)
{
    plan p = {0};
    p.tile_rows = ceil_div(c->H, TILE);
    p.tile_columns = ceil_div(c->W, TILE);
    p.tiles = p.tile_rows * p.tile_columns;
    p.shared = !nst_transformed(c->C, c->K);
    long most = p.shared ? shared_tiles(c->C) : c->C < 128 ? 56 : 28;
    if (p.shared) {
        /* a part is what a worker takes of a block; more parts where 32 filters each would leave workers idle */
        long parts = ceil_div(2 * threads, c->K / KB);
        p.blocks = ceil_div(p.tiles, most * parts);
        p.block = ceil_div(p.tiles, p.blocks);
        p.parts = ceil_div(p.block, most);
        p.part = ceil_div(p.block, p.parts);
    } else {
        p.blocks = ceil_div(p.tiles, most);
        p.block = p.part = ceil_div(p.tiles, p.blocks);
        p.parts = 1;
    }
    p.v_block = p.block * CB;
    p.v_frequency = p.v_block * (c->C / CB) + LINE;
    p.m_block = p.part * CB;
    p.m_frequency = p.m_block * (KB / CB) + LINE;
    p.v_size = round_up(FREQUENCIES * p.v_frequency + 2 * PM * CB, LINE);
    p.m_size = round_up(FREQUENCIES * p.m_frequency, LINE);
    p.u_frequency = c->C * KB + LINE;
    p.u_size = p.shared ? WINDOW * p.u_frequency : 0;
    p.add_block = p.block * TILE * TILE * CB;
    p.add_size = p.add_block * (c->K / CB);
    long edges = c->H > c->W ? c->H : c->W;
    p.ring_size = 2 * (c->H + c->W) * c->K + 2 * c->H * c->C;
    p.line_size = edges * KB;
    return p;
}

long nst_conv_work(const nst_conv *c, int backward, int threads)
{
    plan p = make_plan(c, threads);
    long each = p.m_size + p.u_size + (p.shared ? 0 : p.v_size), all = p.shared ? p.v_size : 0;
    if (backward) {
        each += p.shared ? 0 : p.add_size;
        all += p.shared ? p.add_size : 0;
        if (c->plain) {
            all += p.ring_size;
            each += p.line_size;
        }
    }
    return all + threads * each;
}

/* ---- transforms of one tile, 16 channels ------------------------------------------------------------------------ */

static void input_tile(const job *j, long block, long tile, float *v)
{
    const long H = j->c->H, W = j->c->W;
    const long y0 = tile / j->p.tile_columns * TILE - 1, x0 = tile % j->p.tile_columns * TILE - 1;
    const float *x = j->x + block * H * W * CB;
    _Alignas(64) float copy[WINDOW * WINDOW * CB];
    const float *from = x + (y0 * W + x0) * CB;
    long row = W * CB;
    if (y0 < 0 || x0 < 0 || y0 + WINDOW > H || x0 + WINDOW > W) { /* the border is not in memory */
        for (long r = 0; r < WINDOW; r++)
            for (long s = 0; s < WINDOW; s++) {
                long y = y0 + r, xx = x0 + s;
                float *to = copy + (r * WINDOW + s) * CB;
                int outside = y < 0 || y >= H || xx < 0 || xx >= W;
                if (outside && (j->backward || !j->c->replicate)) {
                    memset(to, 0, CB * sizeof *to);
                    continue;
                }
                y = y < 0 ? 0 : y >= H ? H - 1 : y;
                xx = xx < 0 ? 0 : xx >= W ? W - 1 : xx;
                memcpy(to, x + (y * W + xx) * CB, CB * sizeof *to);
            }
        from = copy;
        row = WINDOW * CB;
    }
    for (int h = 0; h < CB; h += VN) {
        vf columns[WINDOW][WINDOW], d[WINDOW], t[WINDOW];
        for (int s = 0; s < WINDOW; s++) {
            UNROLL for (int r = 0; r < WINDOW; r++) d[r] = LOAD(from + r * row + s * CB + h);
            input_transform(d, t);
            UNROLL for (int r = 0; r < WINDOW; r++) columns[r][s] = t[r];
        }
        for (int r = 0; r < WINDOW; r++) {
            float *to = v + r * WINDOW * j->p.v_frequency + h;
            input_transform(columns[r], t);
            UNROLL for (int s = 0; s < WINDOW; s++) STORE(to + s * j->p.v_frequency, t[s]);
        }
    }
}

/* ReLU and pooling on the way out. `above` is the row before, for poolings. */
INLINE void finish_forward(const job *j, long block, long y, long x, long columns, int h, vf o[TILE], vf above[TILE])
{
    const long H = j->c->H, W = j->c->W;
    const long at = ((block * H + y) * W + x) * CB + h;
    UNROLL for (int s = 0; s < TILE; s++) {
        if (s < columns) {
            if (j->linear) STORE(j->linear + at + s * CB, o[s]);
            o[s] = relu(o[s]);
            STORE(j->y + at + s * CB, o[s]);
        }
    }
    if (j->pooled && y % 2) {
        const long h2 = H / 2, w2 = W / 2;
        float *to = j->pooled + ((block * h2 + y / 2) * w2 + x / 2) * CB + h;
        UNROLL for (int s = 0; s < TILE; s += 2) {
            if (s + 1 < columns) {
                vf r;
                if (j->pooling == NST_MAX)
                    r = larger(larger(above[s], above[s + 1]), larger(o[s], o[s + 1]));
                else if (j->pooling == NST_AVERAGE)
                    r = 0.25f * ((above[s] + above[s + 1]) + (o[s] + o[s + 1]));
                else
                    r = square_root(above[s] * above[s] + above[s + 1] * above[s + 1] + o[s] * o[s] +
                                    o[s + 1] * o[s + 1]);
                STORE(to + s / 2 * CB, r);
            }
        }
    }
    UNROLL for (int s = 0; s < TILE; s++) above[s] = o[s];
}

/* The losses' gradients at this layer and the ReLU mask. F is read for the last time, then overwritten. */
INLINE void finish_backward(const job *j, long block, long y, long x, long columns, int h, vf o[TILE],
                            const float *add)
{
    const long H = j->c->H, W = j->c->W;
    const long at = ((block * H + y) * W + x) * CB + h;
    UNROLL for (int s = 0; s < TILE; s++) {
        if (s < columns) {
            vf F = LOAD(j->y + at + s * CB), g = o[s];
            if (j->ring && (y == 0 || y == H - 1 || x + s == 0 || x + s == W - 1)) g += from_ring(j, block, y, x + s, h);
            if (add) g += LOAD(add + s * CB + h);
            if (j->tap.target) g += 2.f * j->tap.scale * (F - LOAD(j->tap.target + at + s * CB));
            if (j->tap.ds) g += LOAD(j->tap.ds + block * CB + h);
            if (j->tap.extra) g += LOAD(j->tap.extra + at + s * CB);
            STORE(j->y + at + s * CB, j->mask ? where_positive(F, g) : g);
        }
    }
}

INLINE void output_tile(const job *j, const int backward, long block, long tile, const float *m, const float *add,
                        long add_row)
{
    const long H = j->c->H, W = j->c->W;
    const long y0 = tile / j->p.tile_columns * TILE, x0 = tile % j->p.tile_columns * TILE;
    const long rows = H - y0 < TILE ? H - y0 : TILE, columns = W - x0 < TILE ? W - x0 : TILE;
    for (int h = 0; h < CB; h += VN) {
        vf t[TILE][WINDOW], a[WINDOW], o[TILE], above[TILE];
        vf bias = j->bias ? LOAD(j->bias + block * CB + h) : (vf){0};
        for (int s = 0; s < WINDOW; s++) {
            UNROLL for (int r = 0; r < WINDOW; r++) a[r] = LOAD(m + (r * WINDOW + s) * j->p.m_frequency + h);
            output_transform(a, o);
            UNROLL for (int r = 0; r < TILE; r++) t[r][s] = o[r];
        }
        UNROLL for (int s = 0; s < TILE; s++) above[s] = (vf){0};
        for (int r = 0; r < rows; r++) {
            output_transform(t[r], o);
            if (backward) {
                const float *from = add ? add + r * add_row : NULL;
                if (columns == TILE)
                    finish_backward(j, block, y0 + r, x0, TILE, h, o, from);
                else
                    finish_backward(j, block, y0 + r, x0, columns, h, o, from);
            } else {
                UNROLL for (int s = 0; s < TILE; s++) o[s] += bias;
                if (columns == TILE)
                    finish_forward(j, block, y0 + r, x0, TILE, h, o, above);
                else
                    finish_forward(j, block, y0 + r, x0, columns, h, o, above);
            }
        }
    }
}

/* One function each, so that what only one of them holds in registers is no burden to the other */
static void output_tile_forward(const job *j, long block, long tile, const float *m)
{
    output_tile(j, 0, block, tile, m, NULL, 0);
}

static void output_tile_backward(const job *j, long block, long tile, const float *m, const float *add, long add_row)
{
    output_tile(j, 1, block, tile, m, add, add_row);
}

/* ---- S F for the pixels of a run of tiles ------------------------------------------------------------------------ */

/* The stretch of tiles from `tile` on that lies in one tile row and ends before `end` */
static long stretch(const job *j, long tile, long end)
{
    long rest = j->p.tile_columns - tile % j->p.tile_columns;
    return end - tile < rest ? end - tile : rest;
}

/* add = S F for the pixels of `n` tiles of one row, the first being `first` tiles into the block: rows of 4 n pixels */
static void style_gradient(const job *j, long tile, long n, long first, float *add)
{
    const long H = j->c->H, W = j->c->W, K = j->c->K;
    const long y0 = tile / j->p.tile_columns * TILE, x0 = tile % j->p.tile_columns * TILE;
    const long width = W - x0 < TILE * n ? W - x0 : TILE * n;
    for (long r = 0; r < TILE && y0 + r < H; r++) {
        const float *F = j->y + ((y0 + r) * W + x0) * CB;
        gemm_alone(F, H * W * CB, j->tap.S, NP, K * NP, add + (first * TILE * TILE + r * TILE * n) * CB, j->p.add_block,
                   width, K, K);
    }
}

static void output_tiles(const job *j, long kb, long start, long end, long block_start, const float *m, const float *add)
{
    for (long b = 0; b < KB / CB; b++) {
        long block = kb * (KB / CB) + b;
        for (long tile = start; tile < end;) {
            /* a stretch of `add` belongs to the block's tiles of one row */
            long row = tile / j->p.tile_columns * j->p.tile_columns;
            long first = row > block_start ? row : block_start;
            long last = first + stretch(j, first, j->block_end);
            for (; tile < end && tile < last; tile++) {
                const float *from = NULL;
                if (add)
                    from = add + block * j->p.add_block +
                           ((first - block_start) * TILE * TILE + (tile - first) * TILE) * CB;
                const float *at = m + b * j->p.m_block + (tile - start) * CB;
                if (j->backward)
                    output_tile_backward(j, block, tile, at, from, TILE * (last - first) * CB);
                else
                    output_tile_forward(j, block, tile, at);
            }
        }
    }
}

/* ---- up to 256 channels: one block, one worker ------------------------------------------------------------------------- */

static void private_block(void *argument, long b, int worker)
{
    job mine = *(job *)argument, *j = &mine;
    const long C = j->c->C, K = j->c->K;
    const long start = j->p.tiles * b / j->p.blocks, end = j->p.tiles * (b + 1) / j->p.blocks, n = end - start;
    float *V = j->each + worker * j->each_size, *M = V + j->p.v_size, *add = j->tap.S ? M + j->p.m_size : NULL;
    j->block_end = end;
    for (long c = 0; c < C / CB; c++)
        for (long t = 0; t < n; t++) input_tile(j, c, start + t, V + c * j->p.v_block + t * CB);
    if (add)
        for (long t = start, run; t < end; t += run) style_gradient(j, t, run = stretch(j, t, end), t - start, add);
    for (long kb = 0; kb < K / KB; kb++) {
        for (long f = 0; f < FREQUENCIES; f++) {
            const float *U = j->c->filters + (kb * FREQUENCIES + f) * C * KB;
            gemm(V + f * j->p.v_frequency, j->p.v_block, U, NP, C * NP, M + f * j->p.m_frequency, j->p.m_block, n, C, KB,
                 V + (f + 1) % FREQUENCIES * j->p.v_frequency, (const char *)(U + C * KB), C * KB * (long)sizeof *U);
        }
        output_tiles(j, kb, start, end, start, M, add);
    }
}

/* ---- 512 channels: one block, all workers ------------------------------------------------------------------------ */

/* Tasks: a block of 16 channels to transform; then (with S) a stretch of tiles */
static void shared_input(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    if (task < j->c->C / CB) {
        for (long t = j->block_start; t < j->block_end; t++)
            input_tile(j, task, t, j->V + task * j->p.v_block + (t - j->block_start) * CB);
        return;
    }
    long t = j->block_start, row = t / j->p.tile_columns + (task - j->c->C / CB);
    if (row * j->p.tile_columns > t) t = row * j->p.tile_columns;
    style_gradient(j, t, stretch(j, t, j->block_end), t - j->block_start, j->add);
}

/* Tasks: 32 filters, one part of the block */
static void shared_filters(void *argument, long task, int worker)
{
    const job *j = argument;
    const long C = j->c->C, kb = task / j->parts, part = task % j->parts, size = j->block_end - j->block_start;
    const long start = j->block_start + size * part / j->parts, end = j->block_start + size * (part + 1) / j->parts;
    float *M = j->each + worker * j->each_size, *U = M + j->p.m_size;
    const float *plain = j->c->filters + kb * C * 9 * KB, *V = j->V + (start - j->block_start) * CB;
    const long bytes = C * 9 * KB * (long)sizeof *plain;
    const float *ahead = plain + C * 9 * KB; /* the next 32 filters */
    for (int row = 0; row < WINDOW; row++) {
        transform_row(row, plain, C, U, j->p.u_frequency);
        for (int s = 0; s < WINDOW; s++) {
            const long f = row * WINDOW + s, next = (f + 1) % FREQUENCIES;
            gemm(V + f * j->p.v_frequency, j->p.v_block, U + s * j->p.u_frequency, NP, C * NP, M + f * j->p.m_frequency,
                 j->p.m_block, end - start, C, KB, V + next * j->p.v_frequency, (const char *)ahead,
                 bytes / FREQUENCIES);
            ahead += bytes / FREQUENCIES / (long)sizeof *ahead;
        }
    }
    output_tiles(j, kb, start, end, j->block_start, M, j->tap.S ? j->add : NULL);
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

static void convolve(nst_team *team, job *j, float *work)
{
    const int threads = nst_team_threads(team);
    j->p = make_plan(j->c, threads);
    if (j->backward && j->c->plain) {
        j->ring = work;
        work += j->p.ring_size;
        fill_ring(team, j, (float *)j->ring, work, j->p.line_size);
        work += threads * j->p.line_size;
    }
    if (!j->p.shared) {
        j->each = work;
        j->each_size = j->p.v_size + j->p.m_size + (j->backward ? j->p.add_size : 0);
        team_run(team, j->p.blocks, private_block, j);
        return;
    }
    j->V = work;
    j->add = work + j->p.v_size;
    j->each = j->add + (j->backward ? j->p.add_size : 0);
    j->each_size = j->p.m_size + j->p.u_size;
    for (long b = 0; b < j->p.blocks; b++) {
        j->block_start = j->p.tiles * b / j->p.blocks;
        j->block_end = j->p.tiles * (b + 1) / j->p.blocks;
        long rows = (j->block_end - 1) / j->p.tile_columns - j->block_start / j->p.tile_columns + 1;
        j->parts = ceil_div(j->block_end - j->block_start, j->p.part);
        team_run(team, j->c->C / CB + (j->tap.S ? rows : 0), shared_input, j);
        team_run(team, j->c->K / KB * j->parts, shared_filters, j);
    }
}

void nst_conv_forward(nst_team *team, const nst_conv *c, const float *x, const float *bias, float *linear, float *y,
                      float *pooled, int pooling, float *work)
{
    job j = {.c = c, .x = x, .y = y, .bias = bias, .linear = linear, .pooled = pooled, .pooling = pooling};
    convolve(team, &j, work);
}

void nst_conv_backward(nst_team *team, const nst_conv *c, const float *dy, float *x, int mask, const nst_tap *tap,
                       float *work)
{
    job j = {.c = c, .x = dy, .y = x, .backward = 1, .mask = mask};
    if (tap) j.tap = *tap;
    convolve(team, &j, work);
}
