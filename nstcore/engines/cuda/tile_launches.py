"""A pass of a convolution on tensor cores, the tiles of each rung, and how one is launched for a pass."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from .precision import Precision

WGMMA = "conv3x3/07_wgmma"
SPLIT_SUM = "conv3x3/08_split_sum"
HALO_TILE = "conv3x3/09_halo_tile"
POOLED = "conv3x3/10_pooled"
BOXES = "conv3x3/11_tma_wgmma"
HALO_POOLED = "conv3x3/12_halo_pooled"
Tile = tuple[int, int]

# Tiles of a block (TILE_M positions, TILE_N channels) of kernels/cuda/tensor_tiles.cuh, and how long a chunk of one
# takes relative to the others: by its products, but the smaller it is, the more it reads from shared memory for each.
TILES: dict[Tile, int] = {(128, 128): 16, (128, 64): 11, (64, 64): 8}
THREADS, STAGES, ROW_BYTES = 128, 3, 64

# The same of kernels/cuda/conv3x3/09_halo_tile.cu, which has a warp for 64 x 64 sums: one block of the first tile keeps
# a multiprocessor as busy as two of the others
HALO_TILES: dict[Tile, int] = {(256, 128): 32, (256, 64): 16, (128, 128): 16}
HALO_COLUMNS, TAPS_OF_A_STAGE = 16, 3  # positions of a tile that lie in one row of the picture

# The same of kernels/cuda/warpgroup_tiles.cuh: by what its tensor cores and copies move through shared memory
WARPGROUP_TILES: dict[Tile, int] = {(128, 256): 16, (128, 128): 10, (128, 64): 7}
WARPGROUP_STAGES: dict[Tile, int] = {(128, 256): 4, (128, 128): 3, (128, 64): 4}
WARPGROUP_THREADS, WARPGROUP_ROW_BYTES = 256, 128

# The same of kernels/cuda/conv3x3/11_tma_wgmma.cu, by what its copies take from the second-level cache where that is
# more; and how many boxes of positions and of filters are on their way or multiplied
BOX_TILES: dict[Tile, int] = {(256, 128): 16, (128, 128): 12, (256, 64): 11, (128, 64): 8}
BOX_STAGES: dict[Tile, tuple[int, int]] = {(256, 128): (3, 7), (128, 128): (2, 4), (256, 64): (2, 4), (128, 64): (3, 6)}
BOX_THREADS, BARRIER_BYTES = 288, 8
BOX_COLUMNS = 8  # of a box of positions

# Of a rung by name; None: the one in use
TILES_OF: dict[str | None, Collection[Tile]] = {
    None: TILES,
    WGMMA: WARPGROUP_TILES,
    HALO_TILE: HALO_TILES,
    POOLED: TILES,
    BOXES: BOX_TILES,
    HALO_POOLED: HALO_TILES,
}
OF_SM_90 = (WGMMA, BOXES)  # rungs that no other GPU has
SIXTEEN_BITS = ("float16", "bfloat16")


@dataclass(frozen=True)
class Pass:
    """One pass of one layer: from (H, W, inputs) to (H, W, outputs); whether what it reads has a replicated border.

    With `pooled`, together with the pooling above the layer; with `unpools`, a backward pass, together with that of the
    pooling, whose gradient it reads.
    """

    inputs: int
    outputs: int
    H: int
    W: int
    precision: Precision
    architecture: int = 90
    replicate: bool = False
    pooled: bool = False
    unpools: bool = False

    @property
    def positions(self) -> int:
        return self.H * self.W

    @property
    def aligned(self) -> int:
        """1 where every row of channels is a whole number of 16-byte words."""
        words = 16 // self.precision.dtype.itemsize
        return int(self.inputs % words == 0 and self.outputs % words == 0)


@dataclass(frozen=True)
class Launch:
    """How a pass is launched: with which options the rung is compiled, grid, block, bytes of dynamic shared memory.

    Where `parts` is not 0 it is launched by 08_split_sum, whichever rung asked, with so many parts; else by `rung`, if
    that is given.
    """

    grid: tuple[int, ...]
    block: int
    defines: dict[str, int] = field(default_factory=dict)
    shared: int = 0
    parts: int = 0
    rung: str | None = None


def with_border(positions: int) -> int:
    """Positions of a tile of 09, and of the border around it."""
    return (positions // HALO_COLUMNS + 2) * (HALO_COLUMNS + 2)


def windows_with_border(positions: int) -> int:
    """Windows of four positions that 12 reads for a tile, and for the border around it."""
    return (positions // HALO_COLUMNS // 2 + 2) * (HALO_COLUMNS // 2 + 2)


def blocks(n: int, size: int) -> int:
    """How many blocks of that size hold n."""
    return -(-n // size)


def whole_with(p: Pass, tile: Tile) -> Launch:
    """Of 05 and 06, with that tile; a sum is not split."""
    m, n = tile
    defines = {"TILE_M": m, "TILE_N": n, "STAGES": STAGES, "ALIGNED": p.aligned}
    grid = (blocks(p.positions, m) * blocks(p.outputs, n),)
    return Launch(grid, THREADS, defines, STAGES * (m + n) * ROW_BYTES)


def pooled_with(p: Pass, tile: Tile) -> Launch:
    """Of 10, with that tile, of windows of four positions; one block for a sum."""
    (m, n), windows = tile, blocks(p.H, 2) * blocks(p.W, 2)
    return replace(whole_with(p, tile), grid=(blocks(windows, m // 4) * blocks(p.outputs, n),))


def halo_rectangles(p: Pass, positions: int) -> int:
    """How many of 09's tiles a picture has."""
    return blocks(p.H, positions // HALO_COLUMNS) * blocks(p.W, HALO_COLUMNS)


def halo_tile_with(p: Pass, tile: Tile) -> Launch:
    """Of 09 and 12, with that tile: room for what is multiplied and for what is ahead."""
    m, n = tile
    shared = 2 * (with_border(m) + TAPS_OF_A_STAGE * n) * ROW_BYTES
    defines = {"TILE_M": m, "TILE_N": n, "ALIGNED": p.aligned}
    return Launch((halo_rectangles(p, m) * blocks(p.outputs, n),), 32 * (m // 64) * (n // 64), defines, shared)


def wgmma_with(p: Pass, tile: Tile) -> Launch:
    """Of 07, with that tile."""
    (m, n), stages = tile, WARPGROUP_STAGES[tile]
    defines = {"TILE_M": m, "TILE_N": n, "STAGES": stages, "ALIGNED": p.aligned}
    grid = (blocks(p.positions, m) * blocks(p.outputs, n),)
    return Launch(grid, WARPGROUP_THREADS, defines, stages * (m + n) * WARPGROUP_ROW_BYTES)


def box_rectangles(p: Pass, positions: int) -> int:
    """How many of 11's tiles a picture has."""
    return blocks(p.H, positions // BOX_COLUMNS) * blocks(p.W, BOX_COLUMNS)


def boxes_with(p: Pass, tile: Tile) -> Launch:
    """Of 11, with that tile."""
    (m, n), (positions, filters) = tile, BOX_STAGES[tile]
    stages = (positions * (m + 2 * BOX_COLUMNS) + filters * n) * WARPGROUP_ROW_BYTES
    barriers = 2 * (positions + filters) * BARRIER_BYTES
    defines = {"TILE_M": m, "TILE_N": n, "POSITION_STAGES": positions, "FILTER_STAGES": filters}
    return Launch((box_rectangles(p, m) * blocks(p.outputs, n),), BOX_THREADS, defines, stages + barriers)


OF_RUNG: dict[str, Callable[[Pass, Tile], Launch]] = {
    WGMMA: wgmma_with,
    HALO_TILE: halo_tile_with,
    POOLED: pooled_with,
    BOXES: boxes_with,
    HALO_POOLED: halo_tile_with,
}
