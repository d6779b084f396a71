/* The interface of the native CPU kernels. nstcore/engines/cpu/library.py binds it with ctypes; nothing here knows Python.
 *
 * Features are stored in blocks of 16 channels, (C/16, H, W, 16), each float32, 64-byte aligned; C and K are multiples of
 * 32. Pictures are (3, H, W). Beside each function stands the name of the one in nstcore/ops that it computes.
 *
 * Nothing here allocates, but for a team. A `work` argument is scratch of the size that the function named beside it
 * returns, in floats. Whatever is computed does not depend on the number of threads, to the last bit.
 */
#ifndef NST_H
#define NST_H

#if defined(__GNUC__)
#define NST_API __attribute__((visibility("default")))
#else
#define NST_API
#endif

/* ---- this library ------------------------------------------------------------------------------------------------ */

/* Hash of the sources that it was built from, in hexadecimal */
NST_API const char *nst_build(void);
/* Whether this machine has the instructions: "baseline", "avx2" or "avx512" */
NST_API int nst_supports(const char *instructions);

/* ---- threads ------------------------------------------------------------------------------------------------------ */

typedef struct nst_team nst_team;
NST_API nst_team *nst_team_new(int threads); /* NULL if there is no memory; fewer threads if the system gives fewer */
NST_API int nst_team_threads(const nst_team *team);
NST_API void nst_team_free(nst_team *team);

/* ---- convolutions ------------------------------------------------------------------------------------------------- */

/* One 3x3 convolution with a border of one pixel, C -> K channels. For a backward pass C and K are exchanged, the
 * filters packed as turned, and `plain` is given too where the border is replicated. */
typedef struct {
    long C, K, H, W;
    int replicate;        /* border: 0 zero, 1 the nearest value */
    const float *filters; /* by nst_pack_transformed or nst_pack_plain, as nst_transformed says */
    const float *plain;   /* by nst_pack_plain, or NULL */
} nst_conv;

/* Gradient of the losses at a tap: dF = S F + 2 scale (F - P) + ds + extra, S = dG + dG^T packed by nst_pack_style. */
typedef struct {
    const float *S;      /* or NULL */
    const float *target; /* P, as features, or NULL */
    float scale;
    const float *ds;    /* a number for each channel, or NULL */
    const float *extra; /* as features, or NULL: what has been computed before, by nst_tap_gradient */
} nst_tap;

enum { NST_MAX, NST_AVERAGE, NST_L2 };

/* Whether the filters of C -> K are transformed once (1, 36 C K floats) or on the way (0, 9 C K floats) */
NST_API int nst_transformed(long C, long K);
/* w (K, C, 3, 3), or with `turned` w (C, K, 3, 3), into the order in which the kernels read it */
NST_API void nst_pack_transformed(nst_team *team, const float *w, long K, long C, int turned, float *out);
NST_API void nst_pack_plain(nst_team *team, const float *w, long K, long C, int turned, float *out);
NST_API long nst_conv_work(const nst_conv *c, int backward, int threads);

/* ops.conv_forward, ops.relu_forward, ops.pool_forward: `linear` before the ReLU, `pooled` after the pooling, or NULL */
NST_API void nst_conv_forward(nst_team *team, const nst_conv *c, const float *x, const float *bias, float *linear,
                              float *y, float *pooled, int pooling, float *work);
/* ops.conv_backward, ops.relu_backward: x holds the features of the layer below and receives their gradient. `mask`: that
 * layer is a ReLU, and the gradient is that before it. `tap`: what the losses add to it, or NULL. */
NST_API void nst_conv_backward(nst_team *team, const nst_conv *c, const float *dy, float *x, int mask,
                               const nst_tap *tap, float *work);

/* conv1_1. The picture is prepared (ops.preprocess_forward: order, range, mean, std) into planes with a border:
 * (3, H+2, W+2+16). w (27, K) with rows (c, r, s); K a multiple of 32. */
typedef struct {
    long K, H, W;
    int replicate;
    int order[3]; /* which of R, G, B is the network's channel 0, 1, 2 */
    float range, mean[3], std[3];
} nst_first;
NST_API long nst_first_planes(const nst_first *c); /* floats of the prepared picture */
NST_API long nst_first_work(const nst_first *c, int threads);
NST_API void nst_pack_first(const float *w, long K, float *forward, float *backward); /* 27 K and 32 K floats */
NST_API void nst_prepare(nst_team *team, const nst_first *c, const float *pixels, float *planes);
NST_API void nst_first_forward(nst_team *team, const nst_first *c, const float *planes, const float *w,
                               const float *bias, float *linear, float *y);
/* dpixels (3, H, W): through conv1_1 and the preparation (ops.preprocess_backward) */
NST_API void nst_first_backward(nst_team *team, const nst_first *c, const float *dy, const float *w, float *dpixels,
                                float *work);

/* ---- poolings and taps --------------------------------------------------------------------------------------------- */

/* ops.pool_backward, ops.relu_backward: x holds the features below (a ReLU's) and receives the gradient before it */
NST_API long nst_pool_work(long C, long W, int threads);
NST_API void nst_pool_backward(nst_team *team, int pooling, const float *dy, float *x, long C, long H, long W,
                               const nst_tap *tap, float *work);
/* ops.moments_backward, ops.content_backward. The losses' gradient alone, under a guide, at the deepest layer or before a
 * ReLU: g = [g +] w dF, and 0 where the mask's F <= 0. `g` may be `F`. M positions; w (M), or NULL for 1 everywhere. */
NST_API long nst_tap_work(long C, int threads);
NST_API void nst_tap_gradient(nst_team *team, const float *F, const float *w, float *g, int add, int mask, long C, long M,
                              const nst_tap *tap, float *work);

/* ---- layouts --------------------------------------------------------------------------------------------------------- */

/* x (C, H, W), `plane` floats from channel to channel and `row` from row to row, into blocks out (C/16, H, W, 16); with
 * `add` onto them */
NST_API void nst_block(nst_team *team, const float *x, long plane, long row, long C, long H, long W, int add, float *out);
/* And back: out (C, H, W) of blocks with that many floats from block to block, row to row and column to column */
NST_API void nst_unblock(nst_team *team, const float *x, long block, long row, long column, long C, long H, long W,
                         float *out);

/* ---- statistics ------------------------------------------------------------------------------------------------------ */

/* The positions that count: a rectangle of features with rows of `row` positions. NULL: all of them. */
typedef struct {
    long top, left, height, width, row;
} nst_window;

/* ops.gram_forward: G (C, C) of F (C, M); with `_within`, here and below, of the positions in a window alone */
NST_API long nst_gram_work(long C);
NST_API void nst_gram(nst_team *team, const float *F, long C, long M, float *G, float *work);
NST_API void nst_gram_within(nst_team *team, const float *F, long C, long M, const nst_window *window, float *G,
                             float *work);
/* out = a F for F (C, M), a (M). ops.moments_forward: nst_gram of it is G, where a = sqrt(w) */
NST_API void nst_weigh(nst_team *team, const float *F, const float *a, long C, long M, float *out);
/* ops.moments_forward: s (C) = sum_m w[m] F[:,m] of F (C, M); w is 1 where it is NULL */
NST_API void nst_sums(nst_team *team, const float *F, const float *w, long C, long M, double *s);
NST_API void nst_sums_within(nst_team *team, const float *F, const float *w, long C, long M, const nst_window *window,
                             double *s);
/* S = dG + dG^T for nst_tap */
NST_API void nst_pack_style(nst_team *team, const float *dG, long C, float *S);
/* ops.style_forward and ops.style_backward: returns the loss; dG (C, C), which may be G, receives its gradient */
NST_API double nst_style(nst_team *team, const float *G, double M, const float *A, double M_style, double scale, long C,
                         float *dG);
/* ops.content_forward with scale 1: sum w (F - P)^2 of F, P (C, M); P is 0, w (M) is 1 where they are NULL */
NST_API double nst_squared_distance(nst_team *team, const float *F, const float *P, const float *w, long C, long M);
NST_API double nst_squared_distance_within(nst_team *team, const float *F, const float *P, const float *w, long C, long M,
                                           const nst_window *window);
/* ops.total_variation_forward and, added to dx, ops.total_variation_backward: x, dx (C, H, W) */
NST_API double nst_total_variation(nst_team *team, const float *x, long C, long H, long W, double scale, double diagonal,
                                   float *dx);

/* ---- gates ----------------------------------------------------------------------------------------------------------- */

/* Where the gradient passes a ReLU of features F (C, H, W), and `pooled`, the max pooling above it: gates
 * (C/16, height, width) of a window of them, the bit c of word b for channel 16 b + c */
NST_API void nst_gates(nst_team *team, const float *F, long C, long H, long W, int pooled, const nst_window *window,
                       unsigned short *gates);
/* And back: features (C, M) that are 1 where it passes and 0 elsewhere. To a backward pass they are what the others were. */
NST_API void nst_open(nst_team *team, const unsigned short *gates, long C, long M, float *F);

/* ---- vectors --------------------------------------------------------------------------------------------------------- */

/* The methods of nstcore/optim/vectors.py, where they are described: arrays of n floats, at any address. `free` is NULL
 * where every element is free. */
NST_API void nst_copy(nst_team *team, const float *x, float *out, long n);
NST_API void nst_fill(nst_team *team, float *x, double a, long n);
NST_API double nst_dot(nst_team *team, const float *x, const float *y, long n);
NST_API double nst_max_abs(nst_team *team, const float *x, long n);
NST_API void nst_clip(nst_team *team, float *x, double lo, double hi, long n);
NST_API long nst_free_elements(nst_team *team, const float *x, const float *g, double lo, double hi, float *out,
                               double *norm, long n);
NST_API void nst_step(nst_team *team, const float *x, double a, const float *d, double lo, double hi, float *out, long n);
NST_API double nst_shorten(nst_team *team, float *d, const float *x, const float *g, double lo, double hi, double *slope,
                           long n); /* returns the longest step */
/* products: s'y, s's, y'y */
NST_API void nst_pair(nst_team *team, const float *x, const float *g, const float *x_next, const float *g_next, float *s,
                      float *y, double *products, long n);
/* arrays: m of s, then m of y; products (2m, m+1). `work` is 64-byte aligned. */
NST_API long nst_pair_products_work(long m, int threads);
NST_API void nst_pair_products(nst_team *team, const float *q, const float *free, const float *const *arrays, long m,
                               double *products, float *work, long n);
NST_API void nst_combine(nst_team *team, double a, const float *q, const float *free, const double *coefficients,
                         const float *const *arrays, long count, float *out, long n);
NST_API void nst_adam(nst_team *team, float *x, const float *g, float *m, float *v, double beta1, double beta2,
                      double correction1, double correction2, double learning_rate, double epsilon, double lo, double hi,
                      long n);

/* ---- layers of feed-forward networks --------------------------------------------------------------------------------- */

/* Features here are planes, (C, H, W), of any sizes and at any address; a `work` argument is 64-byte aligned. */
enum { NST_ZERO, NST_REPLICATE, NST_REFLECT };
enum { NST_NONE, NST_RELU, NST_RELU6, NST_SIGMOID };

/* y (K, P, Q) = activation(conv(x enlarged) + b) of x (C, H, W), with filters of R x S */
typedef struct {
    long C, K, H, W, R, S, P, Q;
    long stride, top, left; /* positions added above and to the left; P and Q say how many on the other sides */
    long upsample;          /* the whole factor by which x is enlarged, each value repeated, before all that */
    int padding, activation, depthwise;
} nst_layer;

/* w (K, C, R, S), or depthwise (C, R, S), and b (K), or NULL for 0, into the order in which the kernel reads them. That
 * order depends on padding, stride and the border's widths, too, where x is enlarged; never on the picture's size. */
NST_API long nst_layer_filters(const nst_layer *c);
NST_API void nst_pack_layer(const nst_layer *c, const float *w, const float *b, float *out);
NST_API long nst_layer_work(const nst_layer *c, int threads);
/* ops.conv_forward, ops.depthwise_forward, ops.linear_forward; ops.resize_nearest_forward and an activation with them */
NST_API void nst_layer_forward(nst_team *team, const nst_layer *c, const float *x, const float *filters, float *y,
                               float *work);

/* ops.global_average_forward: mean (C) of x (C, M), and, where it is not NULL, the variance around it (divided by M) */
NST_API long nst_moments_work(long C, long M);
NST_API void nst_moments(nst_team *team, const float *x, long C, long M, double *mean, double *variance, float *work);
/* ops.instance_norm_forward: y = activation((x - mean) factor + shift) + plus of x (C, M), the first three (C); `plus` may
 * be NULL. y may be x or plus. */
NST_API void nst_normalise(nst_team *team, const float *x, long C, long M, const float *mean, const float *factor,
                           const float *shift, int activation, const float *plus, float *y);

/* ops.max_pool_forward of x (C, H, W) with an odd last row or column repeated: (C, ceil(H/2), ceil(W/2)) */
NST_API void nst_max_pool(nst_team *team, const float *x, long C, long H, long W, float *y);
/* ops.resize_nearest_forward, ops.resize_bilinear_forward: x (C, H, W), y (C, P, Q) */
NST_API long nst_resize_work(long W, long Q, int threads);
NST_API void nst_resize(nst_team *team, const float *x, long C, long H, long W, long P, long Q, int bilinear, float *y,
                        float *work);

#endif
