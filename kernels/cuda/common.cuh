// What every kernel starts from: the element type of a precision, and the few instructions that CUDA C++ has no name
// for.
//
//   -DPRECISION=FLOAT32 | TF32 | FLOAT16 | BFLOAT16     chosen by the host; FLOAT32 if it says nothing
//
// Features, filters and gradients are arrays of `element`; sums are float. An element is made with `to_element`, which
// rounds to nearest, ties to even (TF32: ties away from zero, as the hardware's conversion does), so that tensor cores
// read exactly what memory holds.
//
// The same files are compiled by NVRTC for a GPU and by a C++ compiler for a CPU (tools/cuda_on_cpu): everything that
// is PTX stands here, beside the call that stands in for it there.
#pragma once

#define FLOAT32 0
#define TF32 1
#define FLOAT16 2
#define BFLOAT16 3
#ifndef PRECISION
#define PRECISION FLOAT32
#endif

#ifdef CUDA_ON_CPU  // where a call stands in the .cu file, for the messages of the stand-ins
#define CALL_SITE , const char *site_file = __builtin_FILE(), int site_line = __builtin_LINE()
#else
#define CALL_SITE
typedef unsigned int uint32_t;
typedef unsigned short uint16_t;
typedef unsigned char uint8_t;
typedef long long int64_t;
#endif

// ---- elements ------------------------------------------------------------------------------------------------------

#if PRECISION == FLOAT32 || PRECISION == TF32
typedef float element;
#else
typedef uint16_t element;  // the bits of a float16 or a bfloat16
#endif
#define ELEMENTS_PER_16_BYTES (16 / (int)sizeof(element))

// 19 of a float's 32 bits, to nearest: what a TF32 tensor core reads. Without it the unit would truncate.
__device__ __forceinline__ float round_to_tf32(float v) {
#ifdef CUDA_ON_CPU
  return cuda_on_cpu::round_to_tf32(v);
#else
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return __uint_as_float(bits);
#endif
}

__device__ __forceinline__ uint16_t float_to_half(float v) {
#ifdef CUDA_ON_CPU
  return cuda_on_cpu::float_to_half(v);
#else
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
  return bits;
#endif
}

__device__ __forceinline__ float half_to_float(uint16_t bits) {
#ifdef CUDA_ON_CPU
  return cuda_on_cpu::half_to_float(bits);
#else
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
  return v;
#endif
}

__device__ __forceinline__ uint16_t float_to_bfloat(float v) {
#ifdef CUDA_ON_CPU
  return cuda_on_cpu::float_to_bfloat(v);
#else
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(v));
  return bits;
#endif
}

__device__ __forceinline__ float bfloat_to_float(uint16_t bits) { return __uint_as_float((uint32_t)bits << 16); }

__device__ __forceinline__ element to_element(float v) {
#if PRECISION == FLOAT32
  return v;
#elif PRECISION == TF32
  return round_to_tf32(v);
#elif PRECISION == FLOAT16
  return float_to_half(v);
#else
  return float_to_bfloat(v);
#endif
}

__device__ __forceinline__ float to_float(element e) {
#if PRECISION == FLOAT16
  return half_to_float(e);
#elif PRECISION == BFLOAT16
  return bfloat_to_float(e);
#else
  return e;
#endif
}

// a b, rounded before anything is added to it: a plain product and sum would become one fused operation
__device__ __forceinline__ float rounded_product(float a, float b) {
#ifdef CUDA_ON_CPU
  volatile float product = a * b;
  return product;
#else
  return __fmul_rn(a, b);
#endif
}

// max(v, 0) that keeps NaN: a result computed from memory that nothing wrote must show
__device__ __forceinline__ float relu(float v) { return v < 0.f ? 0.f : v; }

// N elements side by side as floats, in one access of 4, 8 or 16 bytes (then `from` is aligned to as many);
// zeros where not `inside`
template <int N>
__device__ __forceinline__ void load_elements(float (&to)[N], const element* from, bool inside = true) {
  constexpr int BYTES = N * (int)sizeof(element);
  static_assert(N == 1 || BYTES == 4 || BYTES == 8 || BYTES == 16, "one element, or 4, 8 or 16 bytes of them");
  __align__(16) element v[N] = {};
  if (inside) {
    if constexpr (N == 1)
      v[0] = *from;
    else if constexpr (BYTES == 4)
      *(unsigned*)v = *(const unsigned*)from;
    else if constexpr (BYTES == 8)
      *(uint2*)v = *(const uint2*)from;
    else
      *(uint4*)v = *(const uint4*)from;
  }
#pragma unroll
  for (int e = 0; e < N; ++e) to[e] = to_float(v[e]);
}

// The way back, rounding
template <int N>
__device__ __forceinline__ void store_elements(element* to, const float (&from)[N]) {
  constexpr int BYTES = N * (int)sizeof(element);
  static_assert(N == 1 || BYTES == 4 || BYTES == 8 || BYTES == 16, "one element, or 4, 8 or 16 bytes of them");
  __align__(16) element v[N];
#pragma unroll
  for (int e = 0; e < N; ++e) v[e] = to_element(from[e]);
  if constexpr (N == 1)
    *to = v[0];
  else if constexpr (BYTES == 4)
    *(unsigned*)to = *(const unsigned*)v;
  else if constexpr (BYTES == 8)
    *(uint2*)to = *(const uint2*)v;
  else
    *(uint4*)to = *(const uint4*)v;
}

// ---- loss scales: factors that only the device knows ---------------------------------------------------------------
//
// float16's gradients are multiplied by powers of two on their way back. loss_scales in style/01_two_stage leaves a row
// of them in memory for every loss; whoever is handed null in place of such a row multiplies by none.
enum scale_kind {
  SCALE_STYLE,  // of F S: that of the gradients, divided by that of S
  SCALE_LOSS,   // of all other gradients
  SCALE_S,      // of S
  SCALE_BACK    // of what leaves the network: 1 / that of the gradients
};

// A factor of which the host knows `value`. The rest is read where the factor is used, so that no register has to hold
// it until then.
struct Factor {
  float value;
  const float* scales;
  scale_kind kind;

  __device__ __forceinline__ operator float() const {
#if PRECISION == FLOAT16
    return scales ? value * scales[kind] : value;
#else
    return value;
#endif
  }
};

// Where a replicated border repeats position i of n
__device__ __forceinline__ int clamp_to(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

// ---- cp.async: global to shared memory without passing through registers; sm_80 ------------------------------------

// BYTES (4, 8 or 16) to shared memory, from `source` where `inside`, else zeros; `source` must be readable in any case.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* shared, const void* source, bool inside CALL_SITE) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
#ifdef CUDA_ON_CPU
  cuda_on_cpu::copy_async(shared, source, BYTES, inside ? BYTES : 0, site_file, site_line);
#else
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
  const int from = inside ? BYTES : 0;
  if (BYTES == 16)  // past the first-level cache: a tile is read once per block
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(source), "r"(from) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(source), "n"(BYTES), "r"(from)
                 : "memory");
#endif
}

// Ends a group of copies
__device__ __forceinline__ void copy_async_commit() {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::copy_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most KEEP of this thread's groups are under way; then a barrier makes them visible to the block
template <int KEEP>
__device__ __forceinline__ void copy_async_wait() {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::copy_async_wait(KEEP);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(KEEP) : "memory");
#endif
}

// ---- tensor cores: D = A B + D on MI x NJ tiles of 16x8, all 32 lanes of a warp together; sm_80 --------------------
//
// Fragments as in the PTX ISA, "Matrix fragments for mma.m16n8k8 / m16n8k16"; g = lane / 4, t = lane % 4:
//
//   TF32, 16x8x8     a[e] = A[g + 8 (e&1)][t + 4 (e>>1)]           b[e] = B[t + 4 e][g]
//   16 bits, 16x8x16 a[e] = A[g + 8 (e&1)][2t + 8 (e>>1) + {0,1}]  b[e] = B[2t + 8 e + {0,1}][g]     low half first
//   all              d[e] = D[g + 8 (e>>1)][2t + (e&1)]

template <int MI, int NJ>
__device__ __forceinline__ void mma_tf32(float (&d)[MI][NJ][4], const uint32_t (&a)[MI][4],
                                         const uint32_t (&b)[NJ][2] CALL_SITE) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::mma<cuda_on_cpu::MMA_TF32, MI, NJ>(&d[0][0][0], &a[0][0], &b[0][0], site_file, site_line);
#else
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int j = 0; j < NJ; ++j)
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
          : "+f"(d[i][j][0]), "+f"(d[i][j][1]), "+f"(d[i][j][2]), "+f"(d[i][j][3])
          : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
#endif
}

#ifdef CUDA_ON_CPU
#define NST_MMA_16(KIND, TYPE) \
  cuda_on_cpu::mma<cuda_on_cpu::KIND, MI, NJ>(&d[0][0][0], &a[0][0], &b[0][0], site_file, site_line);
#else
#define NST_MMA_16(KIND, TYPE)                                                                                   \
  _Pragma("unroll") for (int i = 0; i < MI; ++i) _Pragma("unroll") for (int j = 0; j < NJ; ++j) asm volatile(    \
      "mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                                                     \
      ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                               \
      : "+f"(d[i][j][0]), "+f"(d[i][j][1]), "+f"(d[i][j][2]), "+f"(d[i][j][3])                                   \
      : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
#endif

// Elements of 16 bits, of the PRECISION that the file is compiled for
template <int MI, int NJ>
__device__ __forceinline__ void mma_16bit(float (&d)[MI][NJ][4], const uint32_t (&a)[MI][4],
                                          const uint32_t (&b)[NJ][2] CALL_SITE) {
#if PRECISION == BFLOAT16
  NST_MMA_16(MMA_BFLOAT16, "bf16")
#else
  NST_MMA_16(MMA_FLOAT16, "f16")
#endif
}
#undef NST_MMA_16

// Four 8x8 matrices of 16-bit elements from shared memory: lane l names row l % 8 of matrix l / 8 (16 bytes, aligned),
// and gets in r[m] the elements [g][2t], [g][2t+1] of matrix m; with TRANSPOSE, [2t][g] and [2t+1][g].
template <bool TRANSPOSE>
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row CALL_SITE) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::load_matrix_x4<TRANSPOSE>(r, row, site_file, site_line);
#else
  const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
  if (TRANSPOSE)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
#endif
}
