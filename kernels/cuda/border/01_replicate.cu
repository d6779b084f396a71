// op:        conv3x3 backward, replicated border            rung: 01_replicate
// launch:    nstcore/engines/cuda/conv.py Convolution.backward, after conv3x3_backward took the border for zero
// math:      dx[c,p,q] += sum of dxp[c,a,b] over the positions (a, b) around the picture whose nearest pixel is (p, q)
//            dxp[c,a,b] = sum_{k,r,s} w[r,s,k,c] dy[k,a+r-1,b+s-1], where w are the turned filters and dy is 0 outside
// reference: nstcore/ops/conv.py unpad
// requires:  any precision; any K, C, H, W; H W C elements may be more than 2^31
// napkin:    3*C*K*2*(H+W) multiply-adds: at 512x512 less than 1 % of the layer, so one thread for each value will do
#include "conv3x3.cuh"

// One thread: one channel of one pixel of the rim; the 32 threads of a warp are neighbouring channels.
extern "C" __global__ void __launch_bounds__(256)
    replicate_backward(const element* __restrict__ dy, const element* __restrict__ w, const element* __restrict__ F,
                       int mask, element* __restrict__ dx, int K, int C, int H, int W) {
  const int c = blockIdx.y * 32 + threadIdx.x % 32, slot = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;

  // Slots: the top row, the bottom row, the left column, the right column; corners belong to the rows
  int p, q;
  if (slot < 2 * W) {
    p = slot < W ? 0 : H - 1;
    q = slot % W;
    if (slot >= W && H == 1) return;
  } else {
    const int side = slot - 2 * W;
    p = side % H;
    q = side < H ? 0 : W - 1;
    if (p == 0 || p == H - 1 || (side >= H && W == 1)) return;
  }
  if (slot >= 2 * (H + W) || c >= C) return;

  const size_t at = ((size_t)p * W + q) * C + c;
  if (mask && !(to_float(F[at]) > 0.f)) return;
  float sum = 0.f;
  for (int a = p - 1; a <= p + 1; ++a)
    for (int b = q - 1; b <= q + 1; ++b) {
      const bool outside = a < 0 || a >= H || b < 0 || b >= W;
      if (!outside || clamp_to(a, H) != p || clamp_to(b, W) != q) continue;
      for (int tap = 0; tap < 9; ++tap) {
        const element* row = pixel(dy, a + tap / 3 - 1, b + tap % 3 - 1, K, H, W, 0);
        if (!row) continue;
        const element* filter = w + (size_t)tap * K * C + c;
        for (int k = 0; k < K; ++k) sum = __fmaf_rn(to_float(row[k]), to_float(filter[(size_t)k * C]), sum);
      }
    }
  dx[at] = to_element(to_float(dx[at]) + sum);
}
