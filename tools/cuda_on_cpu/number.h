// The number formats of tensor cores, made from float and back, bit by bit.
#pragma once

#include <stdint.h>
#include <string.h>

namespace cuda_on_cpu {

inline uint32_t bits_of(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

constexpr uint32_t SIGN = 0x80000000, INFINITE = 0x7f800000;

// 8 exponent and 10 fraction bits, in the upper 19 of a float's; ties go away from zero, as cvt.rna does
inline float round_to_tf32(float v) {
  const uint32_t bits = bits_of(v);
  if ((bits & ~SIGN) > INFINITE) return float_of(0x7fffffff);
  return float_of((bits + 0x1000) & 0xffffe000);
}

// 8 exponent and 7 fraction bits: the upper half of a float; ties to even
inline uint16_t float_to_bfloat(float v) {
  const uint32_t bits = bits_of(v);
  if ((bits & ~SIGN) > INFINITE) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float bfloat_to_float(uint16_t half) { return float_of(uint32_t(half) << 16); }

// 5 exponent and 10 fraction bits; ties to even, beyond 65504 infinity
inline uint16_t float_to_half(float v) {
  const uint32_t bits = bits_of(v), magnitude = bits & ~SIGN;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  if (magnitude > INFINITE) return 0x7fff;
  if (magnitude >= 0x47800000) return sign | 0x7c00;  // 2^16 and more
  if (magnitude >= 0x38800000)                        // 2^-14: normal; a carry may reach infinity, rightly
    return sign | uint16_t((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
  // Subnormal, in units of 2^-24. Added to 0.5, whose last place has that weight, the sum is rounded by the hardware.
  return sign | uint16_t(bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f));
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return float_of(sign | INFINITE | (magnitude & 0x3ff) << 13);
  if (magnitude >= 0x400) return float_of(sign | (0x38000000 + (magnitude << 13)));
  return float_of(sign | bits_of(float(magnitude) * 0x1p-24f));
}

}  // namespace cuda_on_cpu
