/* Runs every threaded kernel once with one thread and once with several, for ThreadSanitizer, and compares the bits.
 *
 * With an argument it races instead: proof that a race is seen.
 */
#define _POSIX_C_SOURCE 200809L
#include "nst.h"
#include "team.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define THREADS 3

static uint64_t digest;

static void add(const void *bytes, long n)
{
    for (long i = 0; i < n; i++) digest = (digest ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
}

static void add_floats(const float *a, long n) { add(a, n * (long)sizeof *a); }

/* n numbers in [-1, 1), the same at each run; never freed, for the process ends soon */
static float *floats(long n)
{
    uint32_t state = (uint32_t)n;
    float *a = aligned_alloc(64, ((size_t)n * sizeof *a + 63) / 64 * 64);
    if (!a) exit(3);
    for (long i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        a[i] = (float)(int32_t)state / 2147483648.0f;
    }
    return a;
}

static float *pack(nst_team *team, const float *w, long K, long C, int turned, int transformed)
{
    float *out = floats((transformed ? 36 : 9) * C * K);
    (transformed ? nst_pack_transformed : nst_pack_plain)(team, w, K, C, turned, out);
    return out;
}

/* One convolution C -> K with its pooling, forward and backward, and the statistics of its input */
static void convolution(nst_team *team, long C, long K, long H, long W, int replicate, int pooling)
{
    const int threads = nst_team_threads(team);
    const long below = C * H * W, above = K * H * W, pooled = K * (H / 2) * (W / 2);
    float *filters = floats(9 * C * K), *bias = floats(K), *x = floats(below), *target = floats(below), *dG = floats(C * C);
    float *linear = floats(above), *y = floats(above), *small = floats(pooled), *S = floats(C * C), *G = floats(C * C);

    nst_conv forward = {C, K, H, W, replicate, pack(team, filters, K, C, 0, nst_transformed(C, K)), NULL};
    nst_conv_forward(team, &forward, x, bias, linear, y, small, pooling, floats(nst_conv_work(&forward, 0, threads)));
    add_floats(linear, above);
    add_floats(small, pooled);

    nst_gram(team, x, C, H * W, G, floats(nst_gram_work(C)));
    add_floats(G, C * C);
    float *w = floats(H * W), *guided = floats(below), *ds = floats(C);
    double losses[3] = {nst_squared_distance(team, x, target, NULL, C, H * W),
                        nst_squared_distance(team, x, target, w, C, H * W),
                        nst_style(team, G, (double)(H * W), dG, 5, 0.1, C, G)};
    add(losses, (long)sizeof losses);
    double sums[2][512];
    nst_sums(team, x, NULL, C, H * W, sums[0]);
    nst_sums(team, x, w, C, H * W, sums[1]);
    for (int i = 0; i < 2; i++) add(sums[i], C * (long)sizeof **sums);
    const nst_window windows[2] = {{1, 2, H - 3, W - 5, W}, {2, 0, H - 2, W, W}}; /* inside, and of whole rows */
    for (int i = 0; i < 2; i++) {
        nst_gram_within(team, x, C, H * W, &windows[i], G, floats(nst_gram_work(C)));
        add_floats(G, C * C);
        nst_sums_within(team, x, i ? w : NULL, C, H * W, &windows[i], sums[i]);
        losses[i] = nst_squared_distance_within(team, x, target, i ? w : NULL, C, H * W, &windows[i]);
        add(sums[i], C * (long)sizeof **sums);
    }
    add(losses, (long)sizeof losses);
    float *book = floats(below);
    nst_unblock(team, x, H * W * 16, W * 16, 16, C, H, W, book);
    nst_block(team, book + 1, H * W, W, C, H - 1, W - 1, 1, guided);
    add_floats(guided, C * (H - 1) * (W - 1));
    nst_weigh(team, x, w, C, H * W, guided);
    add_floats(guided, below);

    nst_pool_backward(team, pooling, small, y, K, H, W, NULL, floats(nst_pool_work(K, W, threads)));
    add_floats(y, above);
    nst_pack_style(team, dG, C, S);
    nst_tap tap = {S, target, 0.5f, ds, NULL};
    nst_tap_gradient(team, x, w, guided, 1, 1, C, H * W, &tap, floats(nst_tap_work(C, threads)));
    add_floats(guided, below);
    tap.extra = guided;
    nst_conv backward = {K, C, H, W, replicate, pack(team, filters, C, K, 1, nst_transformed(K, C)), NULL};
    if (replicate) backward.plain = pack(team, filters, C, K, 1, 0);
    nst_conv_backward(team, &backward, y, x, 1, &tap, floats(nst_conv_work(&backward, 1, threads)));
    add_floats(x, below);
}

/* conv1_1, the preparation of the picture and the total variation */
static void first(nst_team *team, long K, long H, long W, int replicate)
{
    const nst_first c = {K, H, W, replicate, {2, 1, 0}, 255, {104, 117, 124}, {58, 57, 57}};
    float *w = floats(27 * K), *forward = floats(27 * K), *backward = floats(32 * K), *bias = floats(K);
    float *pixels = floats(3 * H * W), *planes = floats(nst_first_planes(&c));
    float *linear = floats(K * H * W), *y = floats(K * H * W), *gradient = floats(3 * H * W);
    nst_pack_first(w, K, forward, backward);
    nst_prepare(team, &c, pixels, planes);
    nst_first_forward(team, &c, planes, forward, bias, linear, y);
    nst_first_backward(team, &c, y, backward, gradient, floats(nst_first_work(&c, nst_team_threads(team))));
    double loss = nst_total_variation(team, pixels, 3, H, W, 0.5, 0.5, gradient);
    add_floats(y, K * H * W);
    add_floats(gradient, 3 * H * W);
    add(&loss, (long)sizeof loss);
}

/* What the optimizers do with n pixels */
static void vectors(nst_team *team, long n)
{
    enum { PAIRS = 3 };
    float *x = floats(n), *g = floats(n), *d = floats(n), *out = floats(n), *free_ones = floats(n), *arrays[2 * PAIRS];
    double numbers[8 + 2 * PAIRS * (PAIRS + 1)] = {0};
    for (int i = 0; i < 2 * PAIRS; i++) arrays[i] = floats(n);
    nst_clip(team, x, -0.5, 0.5, n);
    numbers[0] = (double)nst_free_elements(team, x, g, -0.5, 0.5, free_ones, &numbers[1], n);
    numbers[2] = nst_shorten(team, d, x, g, -0.5, 0.5, &numbers[3], n);
    nst_step(team, x, 0.5, d, -0.5, 0.5, out, n);
    numbers[4] = nst_dot(team, out, g, n);
    nst_pair(team, x, g, out, d, arrays[0], arrays[PAIRS], &numbers[5], n);
    nst_pair_products(team, g, free_ones, (const float *const *)arrays, PAIRS, &numbers[8],
                      floats(nst_pair_products_work(PAIRS, nst_team_threads(team))), n);
    nst_combine(team, -1, g, free_ones, &numbers[8], (const float *const *)arrays, 2 * PAIRS, out, n);
    numbers[7] += nst_max_abs(team, out, n);
    nst_copy(team, x, d, n);
    nst_fill(team, arrays[0], 0.25, n);
    nst_adam(team, d, g, out, arrays[0], 0.9, 0.999, 0.1, 0.001, 0.02, 1e-8, -0.5, 0.5, n);
    add(numbers, (long)sizeof numbers);
    add_floats(out, n);
    add_floats(d, n);
}

/* One layer C -> K (depthwise where K is 0) of R x R taps, then what normalises and resizes its result */
static void layer(nst_team *team, long C, long K, long H, long W, long R, long stride, long upsample, int padding)
{
    const int threads = nst_team_threads(team), depthwise = !K;
    const long before = R / 2, P = (H * upsample + 2 * before - R) / stride + 1;
    const long Q = (W * upsample + 2 * before - R) / stride + 1, many = depthwise ? C : K, M = P * Q;
    const nst_layer l = {C,      many,   H,        W,       R,         R,       P, Q, stride, before,
                         before, upsample, padding, NST_SIGMOID, depthwise};
    float *filters = floats(nst_layer_filters(&l)), *y = floats(many * M);
    nst_pack_layer(&l, floats((depthwise ? 1 : C) * many * R * R), floats(many), filters);
    nst_layer_forward(team, &l, floats(C * H * W), filters, y, floats(nst_layer_work(&l, threads)));
    add_floats(y, many * M);
    double mean[64], variance[64];
    nst_moments(team, y, many, M, mean, variance, floats(nst_moments_work(many, M)));
    add(mean, many * (long)sizeof *mean);
    add(variance, many * (long)sizeof *variance);
    nst_normalise(team, y, many, M, floats(many), floats(many), floats(many), NST_RELU6, floats(many * M), y);
    add_floats(y, many * M);
    float *small = floats(many * ((P + 1) / 2) * ((Q + 1) / 2)), *large = floats(many * (P + 3) * 2 * Q);
    nst_max_pool(team, y, many, P, Q, small);
    add_floats(small, many * ((P + 1) / 2) * ((Q + 1) / 2));
    for (int bilinear = 0; bilinear < 2; bilinear++) {
        nst_resize(team, y, many, P, Q, P + 3, 2 * Q, bilinear, large, floats(nst_resize_work(Q, 2 * Q, threads)));
        add_floats(large, many * (P + 3) * 2 * Q);
    }
}

static uint64_t all(int threads)
{
    nst_team *team = nst_team_new(threads);
    if (!team || nst_team_threads(team) != threads) exit(3);
    digest = 14695981039346656037u;
    vectors(team, 40003);
    layer(team, 33, 21, 40, 61, 3, 1, 1, NST_REPLICATE);
    layer(team, 60, 64, 1, 3, 1, 1, 1, NST_ZERO);
    layer(team, 3, 8, 90, 127, 9, 2, 1, NST_REFLECT);
    layer(team, 16, 8, 31, 40, 3, 1, 2, NST_REFLECT);
    layer(team, 16, 8, 31, 40, 5, 1, 2, NST_REFLECT);
    layer(team, 40, 0, 19, 33, 3, 1, 1, NST_ZERO);
    for (int replicate = 0; replicate < 2; replicate++) {
        first(team, 32, 37, 50, replicate);
        convolution(team, 32, 64, 37, 50, replicate, NST_MAX);
        convolution(team, 128, 64, 21, 35, replicate, NST_AVERAGE);
        convolution(team, 64, 288, 9, 22, replicate, NST_L2);
        convolution(team, 288, 32, 25, 18, replicate, NST_MAX);
    }
    nst_team_free(team);
    return digest;
}

static void racing(void *job, long task, int worker)
{
    const struct timespec pause = {0, 1000000};
    (void)worker;
    *(long *)job += task;
    nanosleep(&pause, NULL); /* else one thread may have done all before the others have woken up */
}

int main(int count, char **arguments)
{
    (void)arguments;
    if (count > 1) {
        long sum = 0;
        nst_team *team = nst_team_new(THREADS);
        for (int i = 0; i < 20; i++) team_run(team, 30, racing, &sum);
        nst_team_free(team);
        printf("%ld\n", sum);
        return 0;
    }
    if (all(1) != all(THREADS)) {
        fputs("the results depend on the number of threads\n", stderr);
        return 1;
    }
    puts("done");
    return 0;
}
