/* Vectors of float32, by the compiler's vector extension: one source for every instruction set.
 *
 * The build compiles every file once per instruction set; __AVX512F__ and __AVX2__ are the compiler's. What differs is
 * the width of a vector (VN floats) and how many accumulators the micro-kernel of gemm.h keeps in registers (PM rows).
 */
#ifndef NST_VECTOR_H
#define NST_VECTOR_H

#if defined(__AVX512F__)
#define VN 16 /* floats in a vector */
#define PM 14 /* rows of the micro-kernel: 14 * 2 accumulators, 2 filters, 1 broadcast of 32 registers */
#include <immintrin.h>
#elif defined(__AVX2__)
#define VN 8
#define PM 6 /* 6 * 2 + 2 + 1 of 16 registers */
#include <immintrin.h>
#elif defined(__aarch64__)
#define VN 4
#define PM 12 /* 12 * 2 + 2 + 1 of 32 registers */
#else
#define VN 4
#define PM 4 /* no fused multiply-add: each product needs a register of its own */
#endif

#define CB 16       /* channels of a block: features are stored as (C/16, H, W, 16) */
#define KB 32       /* filters that are computed together */
#define NP (2 * VN) /* filters of one micro-kernel: two vectors */

typedef float vf __attribute__((vector_size(4 * VN)));
typedef int vi __attribute__((vector_size(4 * VN)));
typedef float vf_any __attribute__((vector_size(4 * VN), aligned(4))); /* a vector at any address of a float */

#define LOAD(p) (*(const vf *)(p))
#define STORE(p, v) (*(vf *)(p) = (v))
#define LOAD_ANY(p) ((vf) * (const vf_any *)(p))
#define STORE_ANY(p, v) (*(vf_any *)(p) = (vf_any)(v))

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

INLINE vf splat(float a) { return (vf){0} + a; }

/* v where c > 0, else 0; where c is NaN, 0 */
INLINE vf where_positive(vf c, vf v) { return (vf)((vi)v & (vi)(c > (vf){0})); }

/* max(v, 0), and NaN where v is NaN: a broken picture must not look like a finished one */
INLINE vf relu(vf v)
{
#if defined(__AVX512F__)
    return _mm512_max_ps(_mm512_setzero_ps(), v); /* of two, max gives the second where one is NaN */
#elif defined(__AVX2__)
    return _mm256_max_ps(_mm256_setzero_ps(), v);
#else
    return (vf)((vi)v & ~(vi)(v < (vf){0}));
#endif
}

/* the larger of a and b, element by element; where one is NaN, b */
INLINE vf larger(vf a, vf b)
{
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#else
    vi m = (vi)(a > b);
    return (vf)(((vi)a & m) | ((vi)b & ~m));
#endif
}

INLINE vf square_root(vf v)
{
#if defined(__AVX512F__)
    return _mm512_sqrt_ps(v);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(v);
#else
    vf r = {0};
    for (int i = 0; i < VN; i++) r[i] = __builtin_sqrtf(v[i]);
    return r;
#endif
}

/* The sum of its elements, in float64 and in order */
INLINE double sum_of(vf v)
{
    double sum = 0;
    for (int i = 0; i < VN; i++) sum += v[i];
    return sum;
}

#endif
