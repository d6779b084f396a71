/* Winograd's minimal filtering F(4x4, 3x3): the three transforms, in one dimension, on vectors.
 *
 *     Y = A^T [ (G g G^T) * (B^T d B) ] A
 *
 * B^T, G and A^T as in nstcore/engines/cpu/winograd.py (interpolation at 0, 1, -1, 2, -2 and infinity), with the sums
 * that two rows share computed once.
 *
 * Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.3.
 */
#ifndef NST_TRANSFORMS_H
#define NST_TRANSFORMS_H

#include "vector.h"

#define TILE 4         /* outputs of a tile, each way */
#define WINDOW 6       /* inputs that they see */
#define FREQUENCIES 36 /* 6 x 6 */

/* v = B^T d, 6 -> 6 */
INLINE void input_transform(const vf d[WINDOW], vf v[WINDOW])
{
    vf even = d[4] - 4.f * d[2], odd = d[3] - 4.f * d[1];
    vf even2 = d[4] - d[2], odd2 = 2.f * (d[3] - d[1]);
    v[0] = 4.f * (d[0] - d[2]) + even2;
    v[1] = even + odd;
    v[2] = even - odd;
    v[3] = even2 + odd2;
    v[4] = even2 - odd2;
    v[5] = 4.f * d[1] - 5.f * d[3] + d[5];
}

/* y = A^T m, 6 -> 4 */
INLINE void output_transform(const vf m[WINDOW], vf y[TILE])
{
    vf sum = m[1] + m[2], difference = m[1] - m[2];
    vf sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    y[0] = m[0] + sum + sum2;
    y[1] = difference + 2.f * difference2;
    y[2] = sum + 4.f * sum2;
    y[3] = difference + 8.f * difference2 + m[5];
}

/* One row of G g */
INLINE vf filter_row(const int row, vf g0, vf g1, vf g2)
{
    if (row == 0) return 0.25f * g0;
    if (row == 5) return g2;
    vf ends = row <= 2 ? (g0 + g2) * (-1.f / 6) : (g0 + 4.f * g2) * (1.f / 24);
    vf middle = g1 * (row <= 2 ? -1.f / 6 : 1.f / 12);
    return row % 2 ? ends + middle : ends - middle;
}

/* u = G g, 3 -> 6 */
INLINE void filter_transform(const vf g[3], vf u[WINDOW])
{
    vf ends = (g[0] + g[2]) * (-1.f / 6), middle = g[1] * (-1.f / 6);
    vf ends2 = (g[0] + 4.f * g[2]) * (1.f / 24), middle2 = g[1] * (1.f / 12);
    u[0] = 0.25f * g[0];
    u[1] = ends + middle;
    u[2] = ends - middle;
    u[3] = ends2 + middle2;
    u[4] = ends2 - middle2;
    u[5] = g[2];
}

#endif
