/* Features between the book's layout, (C, H, W), and blocks of 16 channels, (C/16, H, W, 16). Both sides may be parts of
 * larger arrays.
 *
 * A task turns one row of 16 channels, a run of positions at a time: the run's blocks stay in the first-level cache while
 * each channel in turn is read, or written, from one end to the other.
 */
#include "nst.h"
#include "team.h"
#include "vector.h"

#define RUN 16 /* positions: 1 KB of blocks */

typedef struct {
    const float *x;
    float *out;
    long H, W, plane, row;           /* floats from channel to channel and from row to row in the book's layout */
    long block, blocked_row, column; /* from block to block, row to row, position to position of the blocks */
    int add;
} job;

static void block_row(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const float *x = j->x + task / j->H * CB * j->plane + task % j->H * j->row;
    float *out = j->out + task * j->W * CB;
    for (long start = 0; start < j->W; start += RUN) {
        const long n = j->W - start < RUN ? j->W - start : RUN;
        for (int c = 0; c < CB; c++) {
            const float *from = x + c * j->plane + start;
            float *to = out + start * CB + c;
            if (j->add)
                for (long m = 0; m < n; m++) to[m * CB] += from[m];
            else
                for (long m = 0; m < n; m++) to[m * CB] = from[m];
        }
    }
}

void nst_block(nst_team *team, const float *x, long plane, long row, long C, long H, long W, int add, float *out)
{
    job j = {.x = x, .out = out, .H = H, .W = W, .plane = plane, .row = row, .add = add};
    team_run(team, C / CB * H, block_row, &j);
}

static void unblock_row(void *argument, long task, int worker)
{
    (void)worker;
    const job *j = argument;
    const float *x = j->x + task / j->H * j->block + task % j->H * j->blocked_row;
    float *out = j->out + task / j->H * CB * j->plane + task % j->H * j->W;
    for (long start = 0; start < j->W; start += RUN) {
        const long n = j->W - start < RUN ? j->W - start : RUN;
        for (int c = 0; c < CB; c++) {
            const float *from = x + start * j->column + c;
            float *to = out + c * j->plane + start;
            for (long m = 0; m < n; m++) to[m] = from[m * j->column];
        }
    }
}

void nst_unblock(nst_team *team, const float *x, long block, long row, long column, long C, long H, long W, float *out)
{
    job j = {.x = x, .out = out, .H = H, .W = W, .plane = H * W, .block = block, .blocked_row = row, .column = column};
    team_run(team, C / CB * H, unblock_row, &j);
}
