"""How long a launch should take on a GPU, from what it must do and what its block takes of a processor. No measurement.

        time  = max(bytes / bandwidth, cached / cache bandwidth, issued / (peak x rate)) x tail + launch
        tail  = ceil(blocks / processors) / (blocks / processors)
        floor = max(bytes / bandwidth, operations / peak)

`bytes` are what memory moves if each array is read and written once; `cached` what the second-level cache hands to the
blocks, which read the same rows for every tile beside and every tap; `operations` those of the equation, `issued` those
of whole tiles. The tail says by how much the busiest processor has more than its share; it supposes that a block that
has a processor to itself gets all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from predict_launches import COPY, FILL, READ, Launch, values

from nstcore.engines.cuda import source
from nstcore.engines.cuda.compile import compile_rung
from nstcore.engines.cuda.nvrtc import Resources
from nstcore.engines.cuda.pixels import PREPARED
from nstcore.engines.cuda.tiles import BOX_COLUMNS, BOXES, HALO_COLUMNS, HALO_TILE, POOLED, with_border
from nstcore.errors import OptionError

WARP, SCHEDULERS = 32, 4  # threads; parts of a processor, each with a quarter of its registers
REGISTER_UNIT, SHARED_UNIT, RESERVED = (
    256,
    128,
    1024,
)  # registers of a warp, bytes of a block; bytes kept for the system
# Depth of a chunk: of kernels/cuda/tensor_tiles.cuh and warpgroup_tiles.cuh in bytes, of 03_register_tile in channels
ROW_BYTES, WARPGROUP_ROW_BYTES, REGISTER_CHUNK = 64, 128, 8
IN_PLACE = {"adam": ("x", "m", "v"), "style": ("G",), "total_variation": ("dx",)}  # read as well as written
FLOAT = 4
JOB_N, JOB_M, JOB_PIECES = 1, 2, 5  # columns of kernels/cuda/gram/jobs.cuh


@dataclass(frozen=True)
class Gpu:
    """A GPU, and what is assumed of it; the defaults are an H200.

    Attributes
    ----------
    name : str
    architecture, processors : int
        90 for sm_90; multiprocessors.
    bandwidth, cache_bandwidth : float
        Bytes per second that a copy reaches in memory, and reads of the second-level cache.
    peaks : dict of float
        Operations per second by unit: "ffma", "tf32", "16bit", "wgmma" (16 bits by the instruction of sm_90a).
    rates : dict of float
        The share of each peak that our kernels are assumed to reach.
    launch : float
        Seconds from one kernel to the next within a graph.
    registers, shared_bytes, threads, blocks : int
        Of a processor.
    """

    name: str = "NVIDIA H200"
    architecture: int = 90
    processors: int = 132
    bandwidth: float = 4.3e12
    cache_bandwidth: float = 6.5e12
    peaks: Mapping[str, float] = field(
        default_factory=lambda: {"ffma": 67e12, "tf32": 495e12, **dict.fromkeys(("16bit", "wgmma"), 990e12)}
    )
    rates: Mapping[str, float] = field(
        default_factory=lambda: {"ffma": 0.6, "tf32": 0.62, "16bit": 0.62, "wgmma": 0.75}
    )
    launch: float = 2e-6
    registers: int = 65536
    shared_bytes: int = 233472
    threads: int = 2048
    blocks: int = 32

    @classmethod
    def read(cls, path: Path) -> Gpu:
        """From a JSON object with some of the attributes; the others are an H200's.

        Raises
        ------
        OptionError
            If it holds anything else.
        """
        standard = asdict(cls())
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            if unknown := set(given) - {f.name for f in fields(cls)}:
                raise ValueError(f"{', '.join(sorted(unknown))}, which nobody knows")
            for name, value in given.items():
                _check(name, value, standard[name])
            merged = {n: {**standard[n], **v} if isinstance(v, dict) else v for n, v in given.items()}
            return cls(**{**standard, **merged})
        except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
            known = ", ".join(standard)
            raise OptionError(f"{path}: expected a JSON object with some of {known}, got {error}") from None


def _check(name: str, value: Any, standard: Any) -> None:
    """Refuse a value of another kind than the standard one, or one that is not above 0."""
    if isinstance(standard, dict):
        if not isinstance(value, dict) or not set(value) <= set(standard):
            raise ValueError(f"{name}: {value!r}, not an object with some of {', '.join(standard)}")
        for unit, one in value.items():
            _check(f"{name} {unit}", one, 1.0)
    elif isinstance(standard, str):
        if not isinstance(value, str):
            raise ValueError(f"{name}: {value!r}, no text")
    elif isinstance(value, bool) or not isinstance(value, (int, type(standard))) or not 0 < value < math.inf:
        raise ValueError(f"{name}: {value!r}, no {'whole ' if isinstance(standard, int) else ''}number above 0")


@dataclass(frozen=True)
class Work:
    """What a launch does: see the head of this file. `unit` is what computes: a key of `Gpu.peaks`."""

    bytes: int
    cached: int = 0
    operations: int = 0
    issued: int = 0
    unit: str = "ffma"


@dataclass(frozen=True)
class Prediction:
    """One launch on one GPU.

    Attributes
    ----------
    launch : Launch
    work : Work
    resources : Resources or None
        Of the compiled kernel; None for a copy or a fill.
    resident : int
        Blocks that a processor holds at the same time; 0 for a copy or a fill.
    limit : str
        "memory", "cache" or "arithmetic": which of the three takes longest.
    seconds, floor : float
    parts : dict of float
        Seconds above the floor: "cache" while operands come from there; then "rate", below the peak; "tail", until the
        busiest processor is done; "padding", by products of zeros; "launch".
    waves, tail : float
        Blocks relative to all that fit the GPU at once; see above.
    """

    launch: Launch
    work: Work
    resources: Resources | None
    resident: int
    limit: str
    seconds: float
    floor: float
    parts: Mapping[str, float]
    waves: float
    tail: float

    @property
    def lone(self) -> float:
        """Seconds if a block that has a processor to itself were no faster than one that shares it."""
        if not self.resident:
            return self.seconds
        worst = math.ceil(self.waves) / self.waves
        return (self.seconds - self.parts["launch"]) / self.tail * max(worst, self.tail) + self.parts["launch"]


def predict(launch: Launch, gpu: Gpu) -> Prediction:
    """What is expected of a launch.

    Raises
    ------
    DeviceError
        Without NVRTC.
    """
    work = work_of(launch)
    resources = resources_of(launch, gpu) if launch.rung else None
    resident = blocks_per_processor(launch, resources, gpu) if resources else 0
    waves = launch.blocks / (resident * gpu.processors) if resident else 0.0
    tail = math.ceil(launch.blocks / gpu.processors) * gpu.processors / launch.blocks if launch.blocks else 1.0
    peak, rate = gpu.peaks[work.unit], gpu.rates[work.unit]
    times = {
        "memory": work.bytes / gpu.bandwidth,
        "cache": work.cached / gpu.cache_bandwidth,
        "arithmetic": work.issued / (peak * rate),
    }
    limit = max(times, key=lambda name: times[name])

    seconds = times[limit] * tail + gpu.launch
    floor = max(times["memory"], work.operations / peak)
    # One limit after the other is lifted, in this order, until the floor is left
    computed, at_peak = max(times["memory"], times["arithmetic"]), max(times["memory"], work.issued / peak)
    parts = {
        "cache": (times[limit] - computed) * tail,
        "rate": (computed - at_peak) * tail,
        "tail": at_peak * (tail - 1),
        "padding": at_peak - floor,
        "launch": gpu.launch,
    }
    return Prediction(launch, work, resources, resident, limit, seconds, floor, parts, waves, tail)


# ---- what a block takes of a processor ------------------------------------------------------------------------------


def resources_of(launch: Launch, gpu: Gpu) -> Resources:
    """Of the kernel, compiled for the GPU as the engine compiles it."""
    compiled = compile_rung(source.read(launch.rung), gpu.architecture, launch.defines)
    return compiled.resources[launch.kernel]


def blocks_per_processor(launch: Launch, resources: Resources, gpu: Gpu) -> int:
    """How many blocks registers, shared memory and threads leave room for, at least one."""
    warps = math.ceil(launch.threads / WARP)
    of_a_warp = _up(max(1, resources.registers) * WARP, REGISTER_UNIT)
    by_registers = gpu.registers // SCHEDULERS // of_a_warp * SCHEDULERS // warps
    by_shared = gpu.shared_bytes // _up(resources.shared + launch.shared + RESERVED, SHARED_UNIT)
    return max(1, min(by_registers, by_shared, gpu.threads // (warps * WARP), gpu.blocks))


# ---- what a launch does ---------------------------------------------------------------------------------------------


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
    wide = _up(outputs, n)
    if launch.rung == HALO_TILE:  # positions with their border, once for all nine taps
        depth = 9 * _up(inputs, chunk) + _up(style, chunk)
        high = _up(int(given["H"]), m // HALO_COLUMNS) * _up(int(given["W"]), HALO_COLUMNS)
        rows = with_border(m) * (_up(inputs, chunk) + _up(style, chunk)) + n * depth
    elif launch.rung == BOXES:  # with a border above and below, once for three taps
        depth = 9 * _up(inputs, chunk) + _up(style, chunk)
        high = _up(int(given["H"]), m // BOX_COLUMNS) * _up(int(given["W"]), BOX_COLUMNS)
        rows = (m + 2 * BOX_COLUMNS) * (3 * _up(inputs, chunk) + _up(style, chunk)) + n * depth
    else:
        windows = _up(int(given["H"]), 2) * _up(int(given["W"]), 2)
        depth, high = _up(9 * inputs, chunk) + _up(style, chunk), _up(windows if launch.rung == POOLED else M, m)
        rows = (m + n) * depth
    arrays = {name: a.nbytes for name, a in launch.arrays.items() if name != "boxes_of_F"}  # which is F
    if "parts" in arrays:  # of the scratch that layers share, what this one uses
        arrays["parts"] = _parts(launch.grid[1], M, outputs)
    operands = (high // m) * (wide // n) * rows * item
    beside = sum(size for name, size in arrays.items() if name not in ("x", "dy", "w", "S"))
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
    return count * positions * _up(channels, 4) * FLOAT


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
    high, wide, depth = _up(M, m), _up(N, n), _up(N, chunk)
    cached = (high // m) * (wide // n) * depth * (m + n) * _item(launch)
    return Work(moved, cached, 2 * M * N * N, 2 * high * wide * depth, _unit(launch))


def _pixels_backward(launch: Launch) -> Work:
    """27 multiply-adds for each channel of each pixel, outside tensor cores."""
    K, H, W = (int(launch.arguments[name]) for name in "KHW")
    across, down = int(launch.defines["ACROSS"]), int(launch.defines["DOWN"])
    return Work(_bytes(launch), 0, 2 * 27 * K * H * W, 2 * 27 * K * _up(H, down) * _up(W, across))


# Names of the arguments that hold the channels that a convolution reads and writes
CHANNELS = {"conv3x3_forward": ("C", "K"), "conv3x3_backward": ("K", "C"), "conv3x3_parts": ("in", "out")}
WORK: dict[str, Callable[[Launch], Work]] = {
    COPY: _plain,
    FILL: _plain,
    "conv3x3_forward": _conv,
    "conv3x3_backward": _conv,
    "conv3x3_parts": _conv,
    "finish_forward": _finish,
    "finish_backward": _finish,
    "gram_partial": _gram_partial,
    "gram_sum": _gram_sum,
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
        return "wgmma"
    return "16bit" if _item(launch) == 2 else "tf32"


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
