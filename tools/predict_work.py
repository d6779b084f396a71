"""What a launch has to do, bytes and operations, from its arguments; predict_times.py makes times of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from predict_launches import COPY, FILL, READ, Launch, values

from nstcore.engines.cuda.pixels import PREPARED
from nstcore.engines.cuda.tile_launches import (
    BOX_COLUMNS,
    BOXES,
    HALO_COLUMNS,
    HALO_POOLED,
    HALO_TILE,
    POOLED,
    windows_with_border,
    with_border,
)

# Depth of a chunk: of kernels/cuda/tensor_tiles.cuh and warpgroup_tiles.cuh in bytes, of 03_register_tile in channels
ROW_BYTES, WARPGROUP_ROW_BYTES, REGISTER_CHUNK = 64, 128, 8
IN_PLACE = {"adam": ("x", "m", "v"), "style": ("G",), "total_variation": ("dx",)}  # read as well as written
FLOAT = 4
JOB_N, JOB_M, JOB_PIECES = 1, 2, 5  # columns of kernels/cuda/gram/jobs.cuh
JOB_P, JOB_W, JOB_SIZE, JOB_CHANNELS, JOB_FLOATS, JOB_FIRST = range(1, 7)  # and of kernels/cuda/style/01_two_stage.cu


@dataclass(frozen=True)
class Work:
    """What a launch does: see the head of predict_times.py. `unit` is what computes: a key of `Gpu.peaks`."""

    bytes: int
    cached: int = 0
    operations: int = 0
    issued: int = 0
    unit: str = "ffma"


def work_of(launch: Launch) -> Work:
    """Bytes and operations, from the arguments."""
    if launch.kernel == READ:
        return Work(0)
    return WORK.get(launch.kernel, _plain)(launch)


def _plain(launch: Launch) -> Work:
    """Every array passes by once; what is also read before it is written, twice."""
    return Work(_bytes(launch, IN_PLACE.get(launch.kernel, ())))


def _bytes(launch: Launch, in_place: tuple[str, ...] = ()) -> int:
    return sum(a.nbytes * (1 + (name in in_place)) for name, a in launch.arrays.items())


def _conv(launch: Launch) -> Work:
    """Implicit GEMM: positions x (9 taps x inputs) x outputs, and F S as a tenth tap."""
    given, item = launch.arguments, _item(launch)
    M = int(given["H"]) * int(given["W"])
    inputs, outputs = (int(given[name]) for name in CHANNELS[launch.kernel])
    style = outputs if given.get("S") is not None else 0
    m, n, chunk = _tile(launch, ("TILE_M", "BM"), ("TILE_N", "BN"))
    wide = up(outputs, n)
    unpools = given.get("dpooled") is not None
    if launch.rung in (HALO_TILE, HALO_POOLED):  # positions with their border, once for all nine taps
        # Or their windows, and a byte for each element of these
        read = windows_with_border(m) * (item + 1) // item if unpools else with_border(m)
        depth = 9 * up(inputs, chunk) + up(style, chunk)
        high = up(int(given["H"]), m // HALO_COLUMNS) * up(int(given["W"]), HALO_COLUMNS)
        rows = read * up(inputs, chunk) + with_border(m) * up(style, chunk) + n * depth
    elif launch.rung == BOXES:  # with a border above and below, once for three taps
        depth = 9 * up(inputs, chunk) + up(style, chunk)
        high = up(int(given["H"]), m // BOX_COLUMNS) * up(int(given["W"]), BOX_COLUMNS)
        rows = (m + 2 * BOX_COLUMNS) * (3 * up(inputs, chunk) + up(style, chunk)) + n * depth
    else:
        windows = up(int(given["H"]), 2) * up(int(given["W"]), 2)
        depth, high = (
            up(9 * inputs, chunk) + up(style, chunk),
            up(windows if launch.rung == POOLED else M, m),
        )
        rows = (m + n) * depth
    arrays = {name: a.nbytes for name, a in launch.arrays.items() if name != "boxes_of_F"}  # which is F
    if "parts" in arrays:  # of the scratch that layers share, what this one uses
        arrays["parts"] = _parts(launch.grid[1], M, outputs)
    operands = (high // m) * (wide // n) * rows * item
    operand = {"x", "dy", "dpooled", "w", "S"} | ({"choices"} if unpools else set())
    beside = sum(size for name, size in arrays.items() if name not in operand)
    real = 3 if inputs == PREPARED else inputs  # of the prepared picture the others are zero
    operations = 2 * M * outputs * (9 * real + style)
    return Work(sum(arrays.values()), operands + beside, operations, 2 * high * wide * depth, _unit(launch))


def _finish(launch: Launch) -> Work:
    """The parts of a split sum added up, with what the losses send back."""
    given = launch.arguments
    outputs = int(given["K" if launch.kernel == "finish_forward" else "C"])
    parts = _parts(int(given["count"]), int(given["positions"]), outputs)
    return Work(parts + sum(a.nbytes for name, a in launch.arrays.items() if name != "parts"))


def _parts(count: int, positions: int, channels: int) -> int:
    """Bytes of partial sums: whole quads of floats."""
    return count * positions * up(channels, 4) * FLOAT


def _gram_partial(launch: Launch) -> Work:
    """Tiles on and above the diagonal, every position of them; partial sums are written."""
    item, tile = _item(launch), int(launch.defines["TILE"])
    moved = cached = operations = issued = 0
    for N, M, pieces in _jobs(launch):
        across = math.ceil(N / tile)
        tiles = across * (across + 1) // 2
        partials = tiles * pieces * tile**2 * FLOAT
        moved += M * N * item + partials
        cached += M * tile * item * (2 * tiles - across) + partials
        operations += M * N * (N + 1)
        issued += 2 * M * tiles * tile**2
    return Work(moved, cached, operations, issued, _unit(launch))


def _measure(launch: Launch) -> Work:
    """Of every job that has blocks its arrays, once."""
    rows = values(launch.arguments["jobs"])
    moved = 0
    for row, end in zip(rows, [*rows[1:, JOB_FIRST], launch.blocks], strict=True):
        if row[JOB_FIRST] < end:
            elements = int(row[JOB_SIZE]) * (FLOAT if row[JOB_FLOATS] else _item(launch))
            weights = int(row[JOB_SIZE] // row[JOB_CHANNELS]) * FLOAT
            moved += elements * (2 if row[JOB_P] else 1) + (weights if row[JOB_W] else 0)
    return Work(moved)


def _gram_sum(launch: Launch) -> Work:
    tile = int(launch.defines["TILE"])
    moved = 0
    for N, _, pieces in _jobs(launch):
        across = math.ceil(N / tile)
        moved += across * (across + 1) // 2 * pieces * tile**2 * FLOAT + N * N * FLOAT
    return Work(moved)


def _gram_backward(launch: Launch) -> Work:
    M, N = int(launch.arguments["M"]), int(launch.arguments["N"])
    m, n, chunk = _tile(launch, ("POSITIONS",), ("CHANNELS",))
    moved = _bytes(launch, ("g",) if launch.arguments["add"] else ())
    if launch.arguments["S"] is None:
        return Work(moved)
    high, wide, depth = up(M, m), up(N, n), up(N, chunk)
    cached = (high // m) * (wide // n) * depth * (m + n) * _item(launch)
    return Work(moved, cached, 2 * M * N * N, 2 * high * wide * depth, _unit(launch))


def _pixels_backward(launch: Launch) -> Work:
    """27 multiply-adds for each channel of each pixel, outside tensor cores."""
    K, H, W = (int(launch.arguments[name]) for name in "KHW")
    across, down = int(launch.defines["ACROSS"]), int(launch.defines["DOWN"])
    return Work(_bytes(launch), 0, 2 * 27 * K * H * W, 2 * 27 * K * up(H, down) * up(W, across))


# Names of the arguments that hold the channels that a convolution reads and writes
CHANNELS = {
    "conv3x3_forward": ("C", "K"),
    "conv3x3_pooled": ("C", "K"),
    "conv3x3_backward": ("K", "C"),
    "conv3x3_parts": ("in", "out"),
}
WORK: dict[str, Callable[[Launch], Work]] = {
    COPY: _plain,
    FILL: _plain,
    "conv3x3_forward": _conv,
    "conv3x3_pooled": _conv,
    "conv3x3_backward": _conv,
    "conv3x3_parts": _conv,
    "finish_forward": _finish,
    "finish_backward": _finish,
    "gram_partial": _gram_partial,
    "gram_sum": _gram_sum,
    "measure": _measure,
    "gram_backward": _gram_backward,
    "pixels_backward": _pixels_backward,
}


def _tile(launch: Launch, positions: tuple[str, ...], channels: tuple[str, ...]) -> tuple[int, int, int]:
    """Positions and channels of a block's tile; elements of a chunk of the sum."""
    m, n = (next((int(launch.defines[d]) for d in names if d in launch.defines), 1) for names in (positions, channels))
    if not _on_tensor_cores(launch):
        return m, n, REGISTER_CHUNK
    return m, n, (WARPGROUP_ROW_BYTES if "wgmma" in launch.rung else ROW_BYTES) // _item(launch)


def _jobs(launch: Launch) -> list[tuple[int, int, int]]:
    """N, M and the number of pieces of every matrix in a launch."""
    rows = values(launch.arguments["jobs"])
    return [(int(row[JOB_N]), int(row[JOB_M]), int(row[JOB_PIECES])) for row in rows]


def _item(launch: Launch) -> int:
    assert launch.precision is not None
    return launch.precision.dtype.itemsize


def _on_tensor_cores(launch: Launch) -> bool:
    return "tensor_core" in launch.rung or "TILE_M" in launch.defines


def _unit(launch: Launch) -> str:
    if not _on_tensor_cores(launch):
        return "ffma"
    if "wgmma" in launch.rung:
        return "wgmma" if _item(launch) == 2 else "wgmma tf32"
    return "16bit" if _item(launch) == 2 else "tf32"


def up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
