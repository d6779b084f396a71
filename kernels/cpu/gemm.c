/* The micro-kernel of gemm.h for every number of rows, and the loops around it. */
#include "gemm.h"

typedef struct {
    const float *rows;  /* the rows of v that the next call reads */
    const char *ahead;  /* filters that a later call reads */
    long step;          /* bytes of `ahead` to prefetch for each c */
} soon;

INLINE void micro_kernel(const int m, const float *v, long vs, const float *u, long us, float *out, long os, long C,
                         soon s)
{
    vf a[PM], b[PM];
    UNROLL for (int t = 0; t < m; t++) a[t] = b[t] = (vf){0};
    for (long c = 0; c < C; c += CB, v += vs, s.rows += vs) {
        const float *vc = v;
        for (int i = 0; i < CB; i++, vc++, u += us) {
            vf u0 = LOAD(u), u1 = LOAD(u + VN);
            __builtin_prefetch(s.rows + i * CB, 0, 3);
            __builtin_prefetch(s.ahead, 0, 2);
            s.ahead += s.step;
            UNROLL for (int t = 0; t < m; t++) {
                float x = vc[t * CB];
                a[t] += u0 * x;
                b[t] += u1 * x;
            }
        }
    }
    float *out1 = out + (VN == CB ? os : VN);
    UNROLL for (int t = 0; t < m; t++) {
        STORE(out + t * CB, a[t]);
        STORE(out1 + t * CB, b[t]);
    }
}

void gemm(const float *v, long vs, const float *u, long us, long ks, float *out, long os, long T, long C, long K,
          const float *next_v, const char *ahead, long bytes)
{
    long panels = (T + PM - 1) / PM, calls = panels * (K / NP);
    long step = (bytes + calls * C - 1) / (calls * C);
    for (long k = 0; k < K; k += NP, u += ks) {
        float *o = out + k / CB * os + k % CB;
        for (long i = 0, t = 0; i < panels; i++) {
            long m = (T - t) / (panels - i); /* equal parts, not PM, PM, ..., and a remainder */
            const float *rows = i + 1 < panels ? v + (t + m) * CB : k + NP < K ? v : next_v;
            soon s = {rows, ahead, step};
            ahead += step * C;
            switch (m) {
#define CASE(n)                                                                      \
    case n:                                                                          \
        micro_kernel(n, v + t * CB, vs, u, us, o + t * CB, os, C, s);                \
        break;
                EACH_M(CASE)
#undef CASE
            }
            t += m;
        }
    }
}
