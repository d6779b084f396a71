/* What follows a layer, element by element: ops.relu_forward, ops.relu6_forward, ops.sigmoid_forward. NaN stays NaN. */
#ifndef NST_ACTIVATION_H
#define NST_ACTIVATION_H

#include "nst.h"
#include "strips.h"

#include <math.h>

/* None, ReLU and ReLU6 are bounds that a value is moved into */
typedef struct {
    vf lo, hi;
} bounds;

INLINE bounds bounds_of(int activation)
{
    const int bounded = activation == NST_RELU || activation == NST_RELU6;
    return (bounds){splat(bounded ? 0 : -INFINITY), splat(activation == NST_RELU6 ? 6 : INFINITY)};
}

/* `larger` gives its second argument where one is NaN */
INLINE vf bounded(vf v, bounds b) { return -larger(-b.hi, -larger(b.lo, v)); }

/* exp(z) for z <= 0: 2^n exp(r) with n the whole number nearest to z / log 2, and |r| <= log(2) / 2, where the series up to
 * r^7 errs by 5e-9 of exp(r), less than a tenth of a rounding. 2^n comes in two factors, for n reaches -150: what is
 * smaller than the smallest normal number is rounded once. */
INLINE vf exp_negative(vf z)
{
    const vf shift = splat(12582912.0f); /* 1.5 * 2^23: of a sum with it, the last bits are a whole number */
    z = larger(splat(-104), z);          /* exp(-104) is 0; NaN stays */
    const vf sum = z * 1.44269504f + shift, whole = sum - shift;
    const vf r = z - whole * 0.693359375f + whole * 2.12194440e-4f; /* log 2 in two parts: the first product is exact */
    vf e = splat(1.0f / 5040);
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    const vi n = (vi)sum - (vi)shift, half = n >> 1;
    return e * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
}

/* 1 / (1 + exp(-v)), the exponent never above 0: within 3 units in the last place */
INLINE vf sigmoid(vf v)
{
    const vi negative = (vi)(v < (vf){0}), sign = (vi){0} + (-0x7fffffff - 1);
    const vf e = exp_negative((vf)((vi)v | sign)), one = splat(1); /* of -|v| */
    return (vf)((negative & (vi)e) | (~negative & (vi)one)) / (one + e);
}

INLINE vf activate(vf v, int activation, bounds b) { return activation == NST_SIGMOID ? sigmoid(v) : bounded(v, b); }

#endif
