/* Filters into the order in which the kernels read them: for each 32 filters a run of memory, once; and, for those that
 * are kept plain, their transform on the way. */
#include "transforms.h"
#include "winograd.h"

typedef struct {
    const float *w;
    long K, C;
    int turned;
    float *out;
} packing;

/* Filter k, channel c, as (r, s); turned by 180 degrees, with in and out exchanged, for the backward pass */
static float tap(const packing *p, long k, long c, int r, int s)
{
    if (p->turned) return p->w[((c * p->K + k) * 3 + 2 - r) * 3 + 2 - s];
    return p->w[((k * p->C + c) * 3 + r) * 3 + s];
}

static const double G[WINDOW][3] = {
    {1. / 4, 0, 0},           {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6},
    {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {0, 0, 1},
};

/* U = G g G^T in float64, to [K/32][36][32/NP][C][NP]. Tasks: 32 filters. */
static void transformed(void *argument, long kb, int worker)
{
    (void)worker;
    const packing *p = argument;
    for (long k = 0; k < KB; k++)
        for (long c = 0; c < p->C; c++) {
            double left[WINDOW][3];
            for (int i = 0; i < WINDOW; i++)
                for (int s = 0; s < 3; s++) {
                    left[i][s] = 0;
                    for (int r = 0; r < 3; r++) left[i][s] += G[i][r] * tap(p, kb * KB + k, c, r, s);
                }
            float *to = p->out + kb * FREQUENCIES * p->C * KB + (k / NP * p->C + c) * NP + k % NP;
            for (int i = 0; i < WINDOW; i++)
                for (int j = 0; j < WINDOW; j++) {
                    double u = 0;
                    for (int s = 0; s < 3; s++) u += left[i][s] * G[j][s];
                    to[(i * WINDOW + j) * p->C * KB] = (float)u;
                }
        }
}

/* As they are, to [K/32][C][9][32] */
static void plain(void *argument, long kb, int worker)
{
    (void)worker;
    const packing *p = argument;
    for (long c = 0; c < p->C; c++)
        for (int r = 0; r < 3; r++)
            for (int s = 0; s < 3; s++)
                for (long k = 0; k < KB; k++)
                    p->out[((kb * p->C + c) * 9 + r * 3 + s) * KB + k] = tap(p, kb * KB + k, c, r, s);
}

void nst_pack_transformed(nst_team *team, const float *w, long K, long C, int turned, float *out)
{
    packing p = {w, K, C, turned, out};
    team_run(team, K / KB, transformed, &p);
}

void nst_pack_plain(nst_team *team, const float *w, long K, long C, int turned, float *out)
{
    packing p = {w, K, C, turned, out};
    team_run(team, K / KB, plain, &p);
}

INLINE void one_row(const int row, const float *plain, long C, float *U, long stride)
{
    for (long c = 0; c < C; c++, plain += 9 * KB)
        for (int h = 0; h < KB; h += VN) {
            float *to = U + (h / NP * C + c) * NP + h % NP;
            vf t[3], u[WINDOW];
            UNROLL for (int s = 0; s < 3; s++) {
                const float *g = plain + s * KB + h;
                t[s] = filter_row(row, LOAD(g), LOAD(g + 3 * KB), LOAD(g + 6 * KB));
            }
            filter_transform(t, u);
            UNROLL for (int s = 0; s < WINDOW; s++) STORE(to + s * stride, u[s]);
        }
}

void transform_row(int row, const float *plain, long C, float *U, long stride)
{
    switch (row) { /* a function for each, so that nothing is decided within the loop */
    case 0: one_row(0, plain, C, U, stride); break;
    case 1: one_row(1, plain, C, U, stride); break;
    case 2: one_row(2, plain, C, U, stride); break;
    case 3: one_row(3, plain, C, U, stride); break;
    case 4: one_row(4, plain, C, U, stride); break;
    default: one_row(5, plain, C, U, stride); break;
    }
}

typedef struct {
    const float *dG;
    long C;
    float *S;
} style;

/* S = dG + dG^T, to [C/NP][C][NP]. Tasks: NP columns. */
static void pack_columns(void *argument, long panel, int worker)
{
    (void)worker;
    const style *p = argument;
    const long C = p->C;
    for (long first = 0, rows; first < C; first += rows) {
        rows = C - first < 256 ? C - first : 256; /* of S: they stay in the first-level cache */
        float *S = p->S + (panel * C + first) * NP;
        for (long i = 0; i < rows; i++)
            for (long k = 0; k < NP; k++) S[i * NP + k] = p->dG[(first + i) * C + panel * NP + k];
        for (long k = 0; k < NP; k++) {
            const float *row = p->dG + (panel * NP + k) * C + first;
            for (long i = 0; i < rows; i++) S[i * NP + k] += row[i];
        }
    }
}

void nst_pack_style(nst_team *team, const float *dG, long C, float *S)
{
    style p = {dG, C, S};
    team_run(team, C / NP, pack_columns, &p);
}
