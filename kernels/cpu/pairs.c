/* Inner products of L-BFGS's pairs, all at once: Vectors.pair_products of nstcore/optim/vectors.py.
 *
 *     s_i'y_j, y_i'y_j, s_i'q, y_i'q      i, j = 1 .. m, with y and q times `free`
 *
 * so that the two-loop recursion (nstcore/optim/pairs.py) reads its 2 m arrays once instead of four times.
 *
 * Blocks of BLOCK floats of every array are copied side by side into the cache: rows s_1 .. s_m, then y_1 .. y_m and q,
 * these times `free`. Both groups are followed by rows of 0 up to full tiles. A tile is TILE rows of s or of y times
 * TILE_COLUMNS rows of (y, q). Tiles that lie below the diagonal of s'y and of y'y are left out.
 */
#include "nst.h"
#include "strips.h"
#include "team.h"

#define BLOCK 512 /* floats of each array of which all products are computed in the cache */
#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE 4 /* arrays whose products with TILE_COLUMNS others are kept in registers */
#else
#define TILE 3 /* 12 sums, 3 factors, 1 factor of 16 registers */
#endif
#define TILE_COLUMNS 4

typedef struct {
    long n, count; /* floats of an array; pairs */
    const float *q, *free;
    const float *const *arrays;
    float *work;
} job;

typedef struct {
    long m, s_rows, y_rows, tiles; /* rows of 0 included */
    long sums, block, tile_sums;   /* floats of: the sums of a strip, a worker's rows, a worker's sums of a piece */
} plan;

static long whole(long n, long unit) { return (n + unit - 1) / unit * unit; }

/* The first column of tiles to compute for the row of tiles that starts at row r of s or y */
INLINE long first_column(long r) { return r / TILE_COLUMNS * TILE_COLUMNS; }

static plan plan_products(long m)
{
    plan p = {.m = m, .s_rows = whole(m, TILE), .y_rows = whole(m + 1, TILE * TILE_COLUMNS)};
    const long columns = whole(m + 1, TILE_COLUMNS);
    for (long r = 0; r < m; r += TILE) p.tiles += 2 * (columns - first_column(r)) / TILE_COLUMNS;
    p.sums = whole(2 * m * (m + 1) * 2, 16);
    p.block = (p.s_rows + p.y_rows) * BLOCK;
    p.tile_sums = p.tiles * TILE * TILE_COLUMNS * VN;
    return p;
}

long nst_pair_products_work(long m, int threads)
{
    const plan p = plan_products(m);
    return STRIPS * p.sums + threads * (p.block + p.tile_sums);
}

/* sums += the products of a tile; meanwhile the next block of one array is fetched */
INLINE void multiply_tile(const float *rows, const float *columns, float *sums, const float *next)
{
    vf sum[TILE][TILE_COLUMNS];
    UNROLL for (int r = 0; r < TILE; r++) {
        UNROLL for (int c = 0; c < TILE_COLUMNS; c++) sum[r][c] = LOAD(sums + (r * TILE_COLUMNS + c) * VN);
    }
    for (long i = 0; i < BLOCK; i += VN) {
        __builtin_prefetch(next + i);
        vf a[TILE];
        UNROLL for (int r = 0; r < TILE; r++) a[r] = LOAD(rows + r * BLOCK + i);
        UNROLL for (int c = 0; c < TILE_COLUMNS; c++) {
            const vf b = LOAD(columns + c * BLOCK + i);
            UNROLL for (int r = 0; r < TILE; r++) sum[r][c] += a[r] * b;
        }
    }
    UNROLL for (int r = 0; r < TILE; r++) {
        UNROLL for (int c = 0; c < TILE_COLUMNS; c++) STORE(sums + (r * TILE_COLUMNS + c) * VN, sum[r][c]);
    }
}

/* The rows of one block, and 0 beyond the end */
static void gather(const job *j, const plan *l, range b, float *rows)
{
    for (long k = 0; k <= 2 * l->m; k++) {
        const float *a = k < 2 * l->m ? j->arrays[k] : j->q;
        const float *free = k >= l->m ? j->free : NULL;
        float *row = rows + (k < l->m ? k : l->s_rows + k - l->m) * BLOCK;
        for (long i = 0; i < BLOCK; i += VN) {
            const long left = b.end - b.start - i;
            vf v = left > 0 ? load(a + b.start + i, left) : (vf){0};
            if (free && left > 0) v *= load(free + b.start + i, left);
            STORE(row + i, v);
        }
    }
}

static void products_strip(void *argument, long task, int worker)
{
    const job *j = argument;
    const plan l = plan_products(j->count);
    const range s = strip(j->n, task);
    double *total = (double *)(j->work + task * l.sums);
    float *rows = j->work + STRIPS * l.sums + worker * (l.block + l.tile_sums), *columns = rows + l.s_rows * BLOCK;
    float *sums = rows + l.block;
    memset(total, 0, (size_t)l.sums * sizeof(float));
    memset(rows, 0, (size_t)l.block * sizeof(float));
    EACH_PIECE (p, s) {
        memset(sums, 0, (size_t)l.tile_sums * sizeof(float));
        for (range b = part(p, p.start, BLOCK); b.start < p.end; b = part(p, b.end, BLOCK)) {
            gather(j, &l, b, rows);
            const long next = b.end + BLOCK <= j->n ? b.end : b.start;
            long tile = 0;
            for (long h = 0; h < 2; h++)
                for (long r = 0; r < l.m; r += TILE)
                    for (long c = first_column(r); c <= l.m; c += TILE_COLUMNS, tile++) {
                        const float *fetched = (tile < 2 * l.m ? j->arrays[tile] : j->q) + next;
                        multiply_tile((h ? columns : rows) + r * BLOCK, columns + c * BLOCK,
                                      sums + tile * TILE * TILE_COLUMNS * VN, fetched);
                    }
        }
        const float *sum = sums;
        for (long h = 0; h < 2; h++)
            for (long r = 0; r < l.m; r += TILE)
                for (long c = first_column(r); c <= l.m; c += TILE_COLUMNS)
                    for (long i = r; i < r + TILE; i++)
                        for (long k = c; k < c + TILE_COLUMNS; k++, sum += VN)
                            if (i < l.m && i <= k && k <= l.m) total[(h * l.m + i) * (l.m + 1) + k] += sum_of(LOAD(sum));
    }
}

void nst_pair_products(nst_team *team, const float *q, const float *free, const float *const *arrays, long m,
                       double *products, float *work, long n)
{
    job j;
    j.n = n, j.q = q, j.free = free, j.arrays = arrays, j.count = m, j.work = work;
    team_run(team, strips(n), products_strip, &j);
    const plan l = plan_products(m);
    for (long i = 0; i < 2 * m; i++)
        for (long k = 0; k <= m; k++) {
            const long row = i >= m && k < i - m ? m + k : i, column = row == i ? k : i - m; /* y'y is symmetric */
            double sum = 0;
            for (long t = 0; t < strips(n); t++) sum += ((const double *)(work + t * l.sums))[row * (m + 1) + column];
            products[i * (m + 1) + k] = sum;
        }
}
