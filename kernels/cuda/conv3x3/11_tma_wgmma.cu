// op:        conv3x3 forward, backward            rung: 11_tma_wgmma
// over 07:   bulk tensor copies (TMA): one thread of a warp of its own has whole boxes copied, permuted and filled up
//            with zeros, and the warps that multiply neither copy nor compute addresses; three taps share a box; and
//            the pooling that follows is done where sums are finished, as in 10
// math:      y[k,p,q] = relu(b[k] + sum_{c,r,s} w[k,r,s,c] x[c,p+r-1,q+s-1])
//            pooled[k,p,q] = max, mean or L2 norm of y[k,2p,2q], y[k,2p,2q+1], y[k,2p+1,2q], y[k,2p+1,2q+1]
//            dx = (F > 0) (the same sum of dy with turned filters + style_scale F S + content_scale (F - P))
// reference: nstcore/ops/conv.py conv_forward, conv_backward; relu.py relu_forward; pool.py pool_forward; gram.py
//            gram_backward; content_loss.py content_backward
// launch:    nstcore/engines/cuda/conv.py Convolution, boxes.py BoxConvolution: one block of 288 threads for TILE_M
//            positions, in rows of 8, x TILE_N channels
// requires:  sm_90a, which is sm_90 and nothing later; TF32, float16 or bfloat16; C and K multiples of 8, of TF32 of 4;
//            zeros for a border in the forward pass; any H, W
// napkin:    9*C*K*H*W multiply-adds, at most 2048 in a cycle of a multiprocessor, 1024 of TF32. 128 bytes of channels,
//            which are 64 of 16 bits or 32 of TF32, of one tap of a tile of 256 x 128 take 1024 cycles of the tensor
//            cores; of shared memory, which moves 128 bytes a cycle, 768 for what they read (96 KB) and 219 for what
//            the copies write (27 KB: 128 filters, and a third of 34 x 8 positions). What the copies write comes from
//            the second-level cache: 75 multiply-adds a byte, 38 of TF32. 07 has 43, and 21
//
//   x --TMA--> POSITION_STAGES boxes of TILE_M / 8 + 2 rows of 8 positions -----wgmma--> sums
//   w --TMA--> FILTER_STAGES boxes of the filters of one tap -------------------wgmma--> sums
//
// Why these boxes: a tap reads the same a row or a column further. In a box a row further is 8 positions, 1024 bytes,
// where the permutation repeats: a descriptor may begin there, so the three taps of a column read one box, two rows
// higher than the tile. A column further is 128 bytes, in the middle of the pattern, and that a descriptor may begin
// there the PTX ISA does not promise. So the box is copied for each of three columns: three times, not nine.
//
// Where the pooling is done: a warp's 16 positions are two rows of 8, so four whole windows.
//
// What TMA cannot do: repeat a border, or copy rows of channels that do not begin on 16 bytes. 07 computes such passes.
// The tensor maps are made by the driver, on the host, one for an array and a box, and are arguments of the launch.
//
// A stage goes round: empty, asked for, full, being multiplied. Two barriers in shared memory count it: `full` waits
// for one arrival, the producer's, and the bytes that it says come; `empty` for one of each warp that has multiplied.
#ifndef PRECISION
#define PRECISION FLOAT16
#endif
#ifndef TILE_M
#define TILE_M 128
#endif
#ifndef TILE_N
#define TILE_N 128
#endif
#ifndef POSITION_STAGES
#define POSITION_STAGES 2
#endif
#ifndef FILTER_STAGES
#define FILTER_STAGES 4
#endif
#include "bulk_copies.cuh"
#include "warpgroup_sums.cuh"
#include "pooled_outputs.cuh"

constexpr int COLUMNS = 8, ROWS = TILE_M / COLUMNS;  // of the block's positions; a warpgroup has half of the rows
constexpr int THREADS = CONSUMERS + 32;
constexpr int CHUNK = 128 / (int)sizeof(element);    // channels
constexpr int LINE_BYTES = COLUMNS * 128;            // of a box, from one row of the picture to the next
constexpr int BOX_BYTES = (ROWS + 2) * LINE_BYTES;
constexpr int FILTER_BYTES = TILE_N * 128;
constexpr int BARRIERS_AT = POSITION_STAGES * BOX_BYTES + FILTER_STAGES * FILTER_BYTES;  // behind all stages
constexpr int RESIDENT = TILE_M * TILE_N <= 128 * 128 ? 2 : 1;  // blocks on a multiprocessor
static_assert(LINE_BYTES == 1024, "the permutation repeats with every row");
static_assert(BARRIERS_AT >= RESULT_BYTES, "the results pass through the stages' memory");

// COUNT stages of BYTES each, which are filled and read in turn; the producer has a copy of this, and every consumer
template <int BYTES, int COUNT>
struct Ring {
  unsigned char* stages;
  mbarrier *full, *empty;  // of each stage
  int now = 0, parity = 0;
  int last = -1;           // the stage before, or none

  __device__ __forceinline__ Ring(unsigned char* stages, mbarrier* barriers)
      : stages(stages), full(barriers), empty(barriers + COUNT) {}

  __device__ __forceinline__ void make_barriers() const {
    for (int stage = 0; stage < COUNT; ++stage) {
      barrier_init(full + stage, 1);
      barrier_init(empty + stage, CONSUMERS / 32);
    }
  }

  __device__ __forceinline__ void go_on() {
    last = now;
    if (++now == COUNT) now = 0, parity ^= 1;
  }

  // The producer's: a box into the next stage, once that is empty; in the first round it is
  __device__ __forceinline__ void fill(const tensor_map& map, int i2, int i1, int i0) {
    barrier_wait(empty + now, parity ^ 1);
    barrier_expect(full + now, BYTES);
    copy_box(stages + now * BYTES, map, i2, i1, i0, full + now);
    go_on();
  }

  // The consumers'
  __device__ __forceinline__ void wait() const { barrier_wait(full + now, parity); }
  __device__ __forceinline__ uint32_t address() const { return shared_address(stages) + now * BYTES; }
  __device__ __forceinline__ void leave_last() const {
    if (last >= 0 && threadIdx.x % 32 == 0) barrier_arrive(empty + last);
  }
};

// Where a block's positions and channels begin. Blocks that follow each other share their positions.
struct Place {
  int top, left, first_filter;

  __device__ __forceinline__ Place(int out, int W) {
    const int across = (out + TILE_N - 1) / TILE_N, wide = (W + COLUMNS - 1) / COLUMNS;
    const unsigned tile = blockIdx.x / across;
    top = (int)(tile / wide) * ROWS, left = (int)(tile % wide) * COLUMNS;
    first_filter = blockIdx.x % across * TILE_N;
  }
};

// d = the sums of one block, which then uses `shared` no more. They run over boxes of positions: of F S one for every
// chunk, as in tensor_core.cuh, and then three for every chunk of x, one for each column of taps.
template <bool STYLE>
__device__ __forceinline__ void sum_boxes(sums& d, unsigned char* shared, const Place& place, const tensor_map& x,
                                          const tensor_map& w, const tensor_map& F, const tensor_map& S, int style,
                                          const Factor& style_scale, int in, int out) {
  const int of_style = STYLE && style ? (out + CHUNK - 1) / CHUNK : 0;
  const int boxes = of_style + 3 * ((in + CHUNK - 1) / CHUNK);

  mbarrier* barriers = reinterpret_cast<mbarrier*>(shared + BARRIERS_AT);
  Ring<BOX_BYTES, POSITION_STAGES> positions(shared, barriers);
  Ring<FILTER_BYTES, FILTER_STAGES> filters(shared + POSITION_STAGES * BOX_BYTES, barriers + 2 * POSITION_STAGES);
  if (threadIdx.x == 0) {
    positions.make_barriers();
    filters.make_barriers();
    show_to_tensor_cores();  // rather, to the copies
  }
  __syncthreads();

  if (threadIdx.x == CONSUMERS) {
    for (int box = 0; box < boxes; ++box) {
      if (STYLE && box < of_style) {
        positions.fill(F, place.top - 1, place.left, box * CHUNK);
        filters.fill(S, place.first_filter, 0, box * CHUNK);  // symmetric: its rows are its columns
      } else {
        const int column = (box - of_style) % 3, c = (box - of_style) / 3 * CHUNK;
        positions.fill(x, place.top - 1, place.left + column - 1, c);
        for (int row = 0; row < 3; ++row) filters.fill(w, place.first_filter, 3 * row + column, c);
      }
    }
  } else if (threadIdx.x < CONSUMERS) {
    clear(d);
    // The same in all lanes, and the compiler shall know
    const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    for (int box = 0; box < boxes; ++box) {
      const bool center = STYLE && box < of_style;
      const int first = center ? 1 : 0, count = center ? 1 : 3;
      positions.wait();
      for (int row = first; row < first + count; ++row) {
        filters.wait();
        begin_chunk(d, positions.address() + (warpgroup * (ROWS / 2) + row) * LINE_BYTES, filters.address());
        products_wait<1>();  // those before
        filters.leave_last();
        if (row == first) positions.leave_last();
        filters.go_on();
      }
      positions.go_on();
      if (STYLE && box + 1 == of_style) {
        products_wait<0>();
        hold_all(d);
        multiply_by(d, style_scale);
      }
    }
    products_wait<0>();
    hold_all(d);
  }

  __syncthreads();  // all products are done, and so are all copies, which they waited for
}

// Hands the sums of each position to the epilogue
template <class Epilogue>
__device__ __forceinline__ void finish_positions(const sums& d, unsigned char* shared, const Place& place, int out,
                                                 int H, int W, const Epilogue& epilogue) {
  if (threadIdx.x >= CONSUMERS) return;
  for_each_quad_of_warp(d, shared, [&](int m, int n, float(&quad)[4]) {
    const int p = place.top + m / COLUMNS, q = place.left + m % COLUMNS;
    if (p < H && q < W) finish<4>(epilogue, (size_t)p * W + q, place.first_filter + n, out, quad);
  });
}

// Those of each window
__device__ __forceinline__ void finish_windows(const sums& d, unsigned char* shared, const Place& place,
                                               const Outputs& outputs) {
  if (threadIdx.x >= CONSUMERS) return;
  for_each_slice_of_warp(d, shared, [&](int first, const float* slice) {
#pragma unroll 1  // few turns, and long ones
    for (int at = threadIdx.x % 32; at < COLUMNS / 2 * QUADS; at += 32) {
      const int column = at / QUADS * 2, n = at % QUADS * 4;
      float four[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) read_quad(four[i], slice, i / 2 * COLUMNS + column + i % 2, n);
      outputs.finish(place.top + first / COLUMNS, place.left + column, place.first_filter + n, four);
    }
  });
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_forward(const __grid_constant__ tensor_map x, const __grid_constant__ tensor_map w,
                    const float* __restrict__ b, element* __restrict__ linear, element* __restrict__ y, int C, int K,
                    int H, int W) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Place place(K, W);
  const Forward epilogue = {b, linear, y};
  sums d;
  sum_boxes<false>(d, shared, place, x, w, x, w, 0, {}, C, K);
  finish_positions(d, shared, place, K, H, W, epilogue);
}

// The same, and the pooling of y; what is null of linear, y, pooled and choices is not written
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_pooled(const __grid_constant__ tensor_map x, const __grid_constant__ tensor_map w,
                   const float* __restrict__ b, element* __restrict__ linear, element* __restrict__ y,
                   element* __restrict__ pooled, uint8_t* __restrict__ choices, int kind, int C, int K, int H, int W) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Place place(K, W);
  const Outputs outputs = {b, linear, y, pooled, choices, kind, K, H, W};
  sums d;
  sum_boxes<false>(d, shared, place, x, w, x, w, 0, {}, C, K);
  finish_windows(d, shared, place, outputs);
}

// Without `style` neither boxes_of_F nor S is looked at
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    conv3x3_backward(const __grid_constant__ tensor_map dy, const __grid_constant__ tensor_map w,
                     const __grid_constant__ tensor_map boxes_of_F, const __grid_constant__ tensor_map S, int style,
                     float style_scale, const element* __restrict__ F, const element* __restrict__ P,
                     float content_scale, const float* __restrict__ scales, int mask, element* __restrict__ dx, int K,
                     int C, int H, int W) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Place place(C, W);
  const Backward epilogue = {F, P, {content_scale, scales, SCALE_LOSS}, mask, dx};
  sums d;
  sum_boxes<true>(d, shared, place, dy, w, boxes_of_F, S, style, {style_scale, scales, SCALE_STYLE}, K, C);
  finish_positions(d, shared, place, C, H, W, epilogue);
}
