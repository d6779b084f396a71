/* What a replicated border adds to a backward pass that took it for zero: the rest of ops.conv.unpad.
 *
 * The padded picture's gradient reaches one pixel further on each side; the nearest pixel collects it. Each edge of that
 * frame is a convolution in one dimension, with the row or column of filters that looks outwards:
 *
 *     top     t[x] = sum_s wt[2][s] dy[0][x+s-1]       x = -1 .. W, added to dx[0][clamp(x)]
 *     left    l[y] = sum_r wt[r][2] dy[y+r-1][0]       y = 0 .. H-1, added to dx[y][0]; corners belong to the rows
 *
 * and likewise bottom (wt[0][s]) and right (wt[r][0]), where wt are the turned filters.
 */
#include "winograd.h"

#include <string.h>

typedef struct {
    const job *j;
    float *ring, *columns, *lines;
    long line_size;
} frame;

/* Left and right columns of dy as rows: [2][C/16][H][16]. Tasks: blocks of 16 channels. */
static void copy_columns(void *argument, long block, int worker)
{
    (void)worker;
    const frame *f = argument;
    const long H = f->j->c->H, W = f->j->c->W, C = f->j->c->C;
    for (int side = 0; side < 2; side++)
        for (long y = 0; y < H; y++)
            memcpy(f->columns + side * C * H + (block * H + y) * CB,
                   f->j->x + ((block * H + y) * W + (side ? W - 1 : 0)) * CB, CB * sizeof(float));
}

/* Tasks: 32 filters of one edge */
static void fill_edge(void *argument, long task, int worker)
{
    const frame *f = argument;
    const long H = f->j->c->H, W = f->j->c->W, C = f->j->c->C;
    const long kb = task / 4, edge = task % 4; /* top, bottom, left, right */
    const int horizontal = edge < 2;
    const long length = horizontal ? W : H, start = edge == 0 ? 0 : edge == 1 ? W : edge == 2 ? 2 * W : 2 * W + H;
    const float *dy = horizontal ? f->j->x + (edge == 0 ? 0 : H - 1) * W * CB : f->columns + (edge - 2) * C * H;
    const long vs = (horizontal ? H * W : H) * CB, outwards = edge % 2 ? 0 : 2;
    float *line = f->lines + worker * f->line_size;
    for (long b = 0; b < KB / CB; b++)
        memset(f->ring + ((kb * 2 + b) * 2 * (H + W) + start) * CB, 0, length * CB * sizeof(float));
    for (long s = 0; s < 3; s++) {
        const float *taps = f->j->c->plain + kb * C * 9 * KB + (horizontal ? outwards * 3 + s : s * 3 + outwards) * KB;
        gemm_alone(dy, vs, taps, 9 * KB, NP, line, length * CB, length, C, KB);
        for (long b = 0; b < KB / CB; b++) {
            float *to = f->ring + ((kb * 2 + b) * 2 * (H + W) + start) * CB;
            for (long q = 0; q < length; q++) {
                long at = q - s + 1;
                if (at < 0 || at >= length) {
                    if (!horizontal) continue; /* a corner */
                    at = at < 0 ? 0 : length - 1;
                }
                for (int h = 0; h < CB; h += VN)
                    STORE(to + at * CB + h, LOAD(to + at * CB + h) + LOAD(line + (b * length + q) * CB + h));
            }
        }
    }
}

void fill_ring(nst_team *team, const job *j, float *ring, float *lines, long line_size)
{
    frame f = {j, ring, ring + 2 * (j->c->H + j->c->W) * j->c->K, lines, line_size};
    team_run(team, j->c->C / CB, copy_columns, &f);
    team_run(team, j->c->K / KB * 4, fill_edge, &f);
}

vf from_ring(const job *j, long block, long y, long x, int h)
{
    const long H = j->c->H, W = j->c->W;
    const float *ring = j->ring + block * 2 * (H + W) * CB + h;
    vf sum = {0};
    if (y == 0) sum += LOAD(ring + x * CB);
    if (y == H - 1) sum += LOAD(ring + (W + x) * CB);
    if (x == 0) sum += LOAD(ring + (2 * W + y) * CB);
    if (x == W - 1) sum += LOAD(ring + (2 * W + H + y) * CB);
    return sum;
}
