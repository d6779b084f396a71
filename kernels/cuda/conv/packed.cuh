// The filters of kernels/cuda/conv as all rungs read them: 4 channels side by side with all taps and filters, zeros
// beyond the last channel and the last filter, so that whatever a block copies is one run of 16-byte words.
//
//   w (ceil(C/4), R S, 4, 4 ceil(K/4)) float32
#pragma once
#include "layers.cuh"

__device__ __forceinline__ int row_of_filters(int K) { return (K + 3) / 4 * 4; }

// Where the filters' numbers for channel c and a tap begin
__device__ __forceinline__ const float* filters_at(const float* w, int c, int tap, int taps, int K) {
  return w + ((size_t)(c / 4 * taps + tap) * 4 + c % 4) * row_of_filters(K);
}
