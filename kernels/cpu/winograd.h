/* What winograd.c, border.c and filters.c share. */
#ifndef NST_WINOGRAD_H
#define NST_WINOGRAD_H

#include "gemm.h"
#include "nst.h"
#include "team.h"

/* How the tiles of one convolution are cut, and how large its work spaces are. Strides and sizes in floats. */
typedef struct {
    long tile_rows, tile_columns, tiles;
    int shared;                /* 512 channels: a block belongs to all workers */
    long blocks, block;        /* how many, and the tiles of the largest */
    long parts, part;          /* of a shared block: what one worker takes */
    long v_block, v_frequency; /* V: between blocks of 16 channels, between frequencies */
    long m_block, m_frequency; /* M: likewise */
    long u_frequency;          /* U, where filters are transformed on the way */
    long add_block;            /* S F: between blocks of 16 channels */
    long v_size, m_size, u_size, add_size, ring_size, line_size;
} plan;

typedef struct {
    const nst_conv *c;
    plan p;
    const float *x;
    float *y;
    /* forward */
    const float *bias;
    float *linear, *pooled;
    int pooling;
    /* backward */
    int backward, mask;
    nst_tap tap;
    const float *ring;
    /* the block in work */
    long block_start, block_end, parts;
    /* work spaces */
    float *V, *add, *each;
    long each_size;
} job;

/* Row `row` of U = G g G^T for 32 filters: from plain [C][9][KB] to [6][KB/NP][C][NP], frequencies `stride` floats
 * apart */
void transform_row(int row, const float *plain, long C, float *U, long stride);

/* What a replicated border adds to the backward pass; `lines` has `line_size` floats for each worker. */
void fill_ring(nst_team *team, const job *j, float *ring, float *lines, long line_size);
/* The part of it that falls on one of the outermost pixels: VN channels from `h` on of a block */
vf from_ring(const job *j, long block, long y, long x, int h);

#endif
