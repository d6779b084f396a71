// wgmma: a matrix product of four warps, which reads both factors from shared memory while the warps go on. sm_90a.
//
// Beside each instruction stands what it is on the CPU (tools/cuda_on_cpu/warpgroup.h), written from the same sections
// of the PTX ISA (9.0): 9.7.15.5 for the products and their layouts, 9.7.15.5.1.2.2 for the descriptor.
//
//   products_begin    the sums' registers are as they should be
//   products          sums += A B^T, as often as wanted; each reads 64 rows of A, 8 NJ of B, 32 bytes of every row
//   products_commit   ends a group of them
//   products_wait     until then nobody may touch the sums, nor write where the products read
#pragma once
#include "common.cuh"

typedef unsigned long long uint64;

// Where `at` lies in the block's shared memory
__device__ __forceinline__ uint32_t shared_address(const void* at) {
#ifdef CUDA_ON_CPU
  return cuda_on_cpu::shared_address(at);
#else
  return (uint32_t)__cvta_generic_to_shared(at);
#endif
}

// Describes rows of 128 bytes, permuted as tile_copies.cuh does it, from shared address `at` on: a multiple of 1024,
// plus 32 for every step along the rows. The hardware applies the permutation to the address that results.
//
//   bits 0-13    address / 16
//   bits 16-29   distance along a row / 16: with a permutation not used, assumed to be 1
//   bits 32-45   from 8 rows to the next 8, / 16
//   bits 49-51   where the pattern of 8 rows begins: 0 on a multiple of 1024
//   bits 62-63   1: permuted within 128 bytes
__device__ __forceinline__ uint64 describe_rows(uint32_t at) {
  return (at & 0x3FFFF) >> 4 | (uint64)1 << 16 | (uint64)(8 * 128 >> 4) << 32 | (uint64)1 << 62;
}

// What this thread wrote to shared memory, with cp.async too once that is there, the tensor cores may read
// ("async proxy") after the next barrier; and barriers that it made, bulk copies may count at.
__device__ __forceinline__ void show_to_tensor_cores() {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::show_barriers();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ void products_begin() {
#ifndef CUDA_ON_CPU
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void products_commit() {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::products_commit();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Until at most KEEP groups are under way
template <int KEEP>
__device__ __forceinline__ void products_wait() {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::products_wait(KEEP);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(KEEP) : "memory");
#endif
}

// Here the compiler must have the sums in their registers, as before and after products under way
template <int NJ>
__device__ __forceinline__ void hold(float (&d)[NJ][4]) {
#ifndef CUDA_ON_CPU
#pragma unroll
  for (int j = 0; j < NJ; ++j) asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])::"memory");
#endif
}

#define NST_SUMS_32_0 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NST_SUMS_32_1 \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NST_SUMS_32_2 \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79," \
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define NST_SUMS_32_3 \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
  "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define NST_SUM(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define NST_SUMS_4(j) NST_SUM(j), NST_SUM(j + 1), NST_SUM(j + 2), NST_SUM(j + 3)
#define NST_SUMS_8(j) NST_SUMS_4(j), NST_SUMS_4(j + 4)
#if PRECISION == TF32
#define NST_FACTORS "k8.f32.tf32.tf32 {"
#define NST_ALONG_K
#elif PRECISION == BFLOAT16
#define NST_FACTORS "k16.f32.bf16.bf16 {"
#define NST_ALONG_K ",0,0"
#else
#define NST_FACTORS "k16.f32.f16.f16 {"
#define NST_ALONG_K ",0,0"
#endif
#define NST_WGMMA "{.reg .pred add; setp.eq.u32 add, 0, 0; wgmma.mma_async.sync.aligned.m64n"
#define NST_END ",add,1,1" NST_ALONG_K ";}"

// d[j][e] of lane l of warp v of the warpgroup is row 16 v + l / 4 + 8 (e >> 1), column 8 j + 2 (l % 4) + (e & 1)
// (9.7.15.5.1.1.1): the fragment of mma.sync, NJ times side by side. The last operands of the instruction: add to d;
// signs; and of 16 bits, that both factors run along memory in k, as TF32's must.
template <int NJ>
__device__ __forceinline__ void products(float (&d)[NJ][4], uint64 a, uint64 b CALL_SITE) {
  static_assert(NJ == 8 || NJ == 16 || NJ == 32, "64, 128 or 256 columns");
#ifdef CUDA_ON_CPU
  constexpr auto kind = PRECISION == TF32       ? cuda_on_cpu::MMA_TF32
                        : PRECISION == BFLOAT16 ? cuda_on_cpu::MMA_BFLOAT16
                                                : cuda_on_cpu::MMA_FLOAT16;
  cuda_on_cpu::products<kind, NJ>(&d[0][0], a, b, site_file, site_line);
#else
  if constexpr (NJ == 8)
    asm volatile(NST_WGMMA "64" NST_FACTORS NST_SUMS_32_0 "}, %32, %33" NST_END
                 : NST_SUMS_8(0)
                 : "l"(a), "l"(b));
  else if constexpr (NJ == 16)
    asm volatile(NST_WGMMA "128" NST_FACTORS NST_SUMS_32_0 "," NST_SUMS_32_1 "}, %64, %65" NST_END
                 : NST_SUMS_8(0), NST_SUMS_8(8)
                 : "l"(a), "l"(b));
  else
    asm volatile(NST_WGMMA "256" NST_FACTORS NST_SUMS_32_0 "," NST_SUMS_32_1 "," NST_SUMS_32_2 "," NST_SUMS_32_3
                 "}, %128, %129" NST_END
                 : NST_SUMS_8(0), NST_SUMS_8(8), NST_SUMS_8(16), NST_SUMS_8(24)
                 : "l"(a), "l"(b));
#endif
}
#undef NST_SUMS_32_0
#undef NST_SUMS_32_1
#undef NST_SUMS_32_2
#undef NST_SUMS_32_3
#undef NST_SUM
#undef NST_SUMS_4
#undef NST_SUMS_8
#undef NST_FACTORS
#undef NST_ALONG_K
#undef NST_WGMMA
#undef NST_END
