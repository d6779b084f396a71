/* conv1_1 and the preparation of the picture, forward and backward: ops.preprocess, ops.conv, ops.relu.
 *
 * Three channels are too few for Winograd's products. Forward, PM neighbouring pixels times 32 filters are summed over
 * the 27 taps in registers; the picture's planes carry their border, so there are no special cases. Backward, one product
 * per row gives what each pixel's gradient sends to its nine neighbours, and the neighbours' shares are added up.
 */
#include "gemm.h"
#include "nst.h"
#include "team.h"

#include <string.h>

#define SLACK 16 /* the last pixels of a row are computed with those beyond it */
#define BAND 16  /* rows of a task */
#define LANES 32 /* backward: 9 taps of 3 channels, rounded up */

typedef struct {
    const nst_first *c;
    const float *from;
    const float *w, *bias;
    float *linear, *to, *work;
} job;

static long plane_width(const nst_first *c) { return c->W + 2 + SLACK; }

long nst_first_planes(const nst_first *c) { return 3 * (c->H + 2) * plane_width(c) + SLACK; }

/* ---- the picture ---------------------------------------------------------------------------------------------------- */

/* Tasks: rows of one plane, border included */
static void prepare_row(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const nst_first *c = j->c;
    const long H = c->H, W = c->W, plane = task / (H + 2), row = task % (H + 2);
    float *to = j->to + task * plane_width(c);
    memset(to, 0, (size_t)plane_width(c) * sizeof *to);
    if (!c->replicate && (row == 0 || row == H + 1)) return;
    const long y = row == 0 ? 0 : row == H + 1 ? H - 1 : row - 1;
    const float *x = j->from + (c->order[plane] * H + y) * W;
    for (long i = 0; i < W; i++) to[i + 1] = (x[i] * c->range - c->mean[plane]) / c->std[plane];
    if (c->replicate) {
        to[0] = to[1];
        to[W + 1] = to[W];
    }
}

void nst_prepare(nst_team *team, const nst_first *c, const float *pixels, float *planes)
{
    job j = {.c = c, .from = pixels, .to = planes};
    team_run(team, 3 * (c->H + 2), prepare_row, &j);
    memset(planes + 3 * (c->H + 2) * plane_width(c), 0, SLACK * sizeof *planes);
}

/* ---- forward --------------------------------------------------------------------------------------------------------- */

/* Where the products with the three channels of tap (r, s) stand among the 32 of a pixel: five taps in the first block
 * of 16, four in the second */
static int lane(int r, int s)
{
    const int tap = 3 * r + s;
    return tap < 5 ? 3 * tap : CB + 3 * (tap - 5);
}

/* w (27, K), rows (c, r, s) -> [K/NP][27][NP] forward; [32/NP][K][NP] backward */
void nst_pack_first(const float *w, long K, float *forward, float *backward)
{
    memset(backward, 0, (size_t)(LANES * K) * sizeof *backward);
    for (long k = 0; k < K; k++)
        for (int c = 0; c < 3; c++)
            for (int r = 0; r < 3; r++)
                for (int s = 0; s < 3; s++) {
                    float v = w[((c * 3 + r) * 3 + s) * K + k];
                    forward[(k / NP * 27 + (c * 3 + r) * 3 + s) * NP + k % NP] = v;
                    const long to = lane(r, s) + c;
                    backward[(to / NP * K + k) * NP + to % NP] = v;
                }
}

INLINE void pixels_forward(const int m, const job *j, const float *planes, const float *w, const float *bias, float *y,
                           float *linear, long block)
{
    const long width = plane_width(j->c), plane = (j->c->H + 2) * width;
    vf a[PM], b[PM];
    UNROLL for (int t = 0; t < m; t++) {
        a[t] = LOAD(bias);
        b[t] = LOAD(bias + VN);
    }
    for (int c = 0; c < 3; c++)
        for (int r = 0; r < 3; r++) {
            const float *x = planes + c * plane + r * width;
            for (int s = 0; s < 3; s++, x++, w += NP) {
                vf w0 = LOAD(w), w1 = LOAD(w + VN);
                UNROLL for (int t = 0; t < m; t++) {
                    a[t] += w0 * x[t];
                    b[t] += w1 * x[t];
                }
            }
        }
    const long second = VN == CB ? block : VN;
    UNROLL for (int t = 0; t < m; t++) {
        if (linear) {
            STORE(linear + t * CB, a[t]);
            STORE(linear + t * CB + second, b[t]);
        }
        STORE(y + t * CB, relu(a[t]));
        STORE(y + t * CB + second, relu(b[t]));
    }
}

/* Tasks: rows */
static void forward_row(void *argument, long y, int worker)
{
    (void)worker;
    const job *j = argument;
    const long W = j->c->W, width = plane_width(j->c), block = j->c->H * W * CB;
    const long panels = (W + PM - 1) / PM;
    for (long i = 0, x = 0; i < panels; i++) {
        const long m = (W - x) / (panels - i);
        const float *planes = j->from + y * width + x;
        for (long k = 0; k < j->c->K; k += NP) {
            const long at = k / CB * block + (y * W + x) * CB + k % CB;
            switch (m) {
#define CASE(n)                                                                                                    \
    case n:                                                                                                        \
        pixels_forward(n, j, planes, j->w + k * 27, j->bias + k, j->to + at, j->linear ? j->linear + at : NULL, block); \
        break;
                EACH_M(CASE)
#undef CASE
            }
        }
        x += m;
    }
}

void nst_first_forward(nst_team *team, const nst_first *c, const float *planes, const float *w, const float *bias,
                       float *linear, float *y)
{
    job j = {.c = c, .from = planes, .w = w, .bias = bias, .linear = linear, .to = y};
    team_run(team, c->H, forward_row, &j);
}

/* ---- backward --------------------------------------------------------------------------------------------------------- */

typedef float quad __attribute__((vector_size(16), aligned(4))); /* the three channels of a pixel, and what follows */

/* Work space: the products of three rows in turn, one more pixel to each side, and the sums of one row */
static long products_size(const nst_first *c) { return LANES * (c->W + 2); }

long nst_first_work(const nst_first *c, int threads) { return threads * (3 * products_size(c) + (4 * (c->W + 2) + 15) / 16 * 16); }

/* Products of row y of dy with all taps: [2][W+2][16], pixel x at x + 1. Rows and pixels outside are 0. */
static void products_of_row(const job *j, long y, float *products)
{
    const long H = j->c->H, W = j->c->W, width = W + 2;
    if (y < 0 || y >= H) {
        memset(products, 0, (size_t)products_size(j->c) * sizeof *products);
        return;
    }
    for (int b = 0; b < LANES / CB; b++) {
        memset(products + b * width * CB, 0, CB * sizeof *products);
        memset(products + (b * width + width - 1) * CB, 0, CB * sizeof *products);
    }
    const float *dy = j->from + y * W * CB;
    gemm_alone(dy, H * W * CB, j->w, NP, j->c->K * NP, products + CB, width * CB, W, j->c->K, LANES);
}

/* sums[x] += what tap row r of one row of products sends to pixel x, x = -1 .. W: tap (r, s) of pixel x - s + 1 */
INLINE void add_row(const nst_first *c, const int r, const float *products, quad *sums)
{
    const long width = c->W + 2;
    const float *p[3];
    for (int s = 0; s < 3; s++) p[s] = products + lane(r, s) / CB * width * CB + lane(r, s) % CB + (1 - s) * CB;
    sums[0] += *(const quad *)(p[0]) + *(const quad *)(p[1]);
    for (long x = 1; x < width - 1; x++)
        sums[x] += *(const quad *)(p[0] + x * CB) + *(const quad *)(p[1] + x * CB) + *(const quad *)(p[2] + x * CB);
    sums[width - 1] += *(const quad *)(p[1] + (width - 1) * CB) + *(const quad *)(p[2] + (width - 1) * CB);
}

/* Tasks: bands of rows of dx */
static void backward_band(void *argument, long band, int worker)
{
    const job *j = argument;
    const nst_first *c = j->c;
    const long H = c->H, W = c->W, start = band * BAND, end = start + BAND < H ? start + BAND : H;
    float *products = j->work + worker * nst_first_work(c, 1), *rows[3];
    quad *sums = (quad *)(products + 3 * products_size(c));
    for (int i = 0; i < 3; i++) rows[i] = products + i * products_size(c);
    /* tap r of row y reads row y + r - 1: row y collects from row y + 1 by tap 0, from row y - 1 by tap 2 */
    products_of_row(j, start - 1, rows[2]);
    products_of_row(j, start, rows[1]);
    for (long y = start; y < end; y++) {
        products_of_row(j, y + 1, rows[0]);
        memset(sums, 0, (size_t)(W + 2) * sizeof *sums);
        add_row(c, 0, rows[0], sums);
        add_row(c, 1, rows[1], sums);
        add_row(c, 2, rows[2], sums);
        if (c->replicate) { /* what was read from the border belongs to the nearest pixel */
            if (y == 0) add_row(c, 0, rows[1], sums);
            if (y == H - 1) add_row(c, 2, rows[1], sums);
            sums[1] += sums[0];
            sums[W] += sums[W + 1];
        }
        for (int plane = 0; plane < 3; plane++) {
            const float factor = c->range / c->std[plane];
            float *to = j->to + (c->order[plane] * H + y) * W;
            for (long x = 0; x < W; x++) to[x] = factor * sums[x + 1][plane];
        }
        float *oldest = rows[2];
        rows[2] = rows[1];
        rows[1] = rows[0];
        rows[0] = oldest;
    }
}

void nst_first_backward(nst_team *team, const nst_first *c, const float *dy, const float *w, float *dpixels, float *work)
{
    job j = {.c = c, .from = dy, .w = w, .to = dpixels, .work = work};
    team_run(team, (c->H + BAND - 1) / BAND, backward_band, &j);
}
