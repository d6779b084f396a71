"""Gram matrices of many layers in two launches, and their gradient: kernels/cuda/gram.

Every layer is a job: its matrix is cut into tiles on and above the diagonal, its positions into pieces. The first
launch has one block per tile and piece, of all jobs together; the second adds the pieces in a fixed order and mirrors.
How a job is cut depends on its shape alone: the same bits on every GPU, and for one layer as for many.

A sum of at most LONGEST products is made in float32, the sum over pieces in double. So each element of G is off by at
most (LONGEST + 2) 2^-24 times the sum of its products' absolute values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .device import Array, Device
from .precision import BFLOAT16, FLOAT16, FLOAT32, PRECISIONS, TF32, Precision
from .variants import Variant

LONGEST = 2048  # positions of a piece, at most
SHORTEST = 128  # and at least, where there are as many: a piece writes a tile for what it reads
GRAIN = 32  # a piece is a multiple of this: whole steps of every rung's loop
BLOCKS = 264  # a job has so many, if its pieces are not too short for it: two for each multiprocessor of a large GPU
PATCH = 8  # -DPATCH: a block of the second launch sums PATCH x PATCH elements
SLICES = 8  # -DSLICES: each by so many threads

EVERY = tuple(PRECISIONS)
TENSOR = tuple(p.name for p in (TF32, FLOAT16, BFLOAT16))  # those that tensor cores multiply


@dataclass(frozen=True)
class GramRung:
    """How a file of kernels/cuda/gram is launched.

    Attributes
    ----------
    name : str
        "gram/02_shared_tile".
    precisions : tuple of str
        Names of those that it has.
    tile : int
        Side of a tile of G, -DTILE; 0 for a rung that takes one layer per launch.
    threads : int
        Of a block of gram_partial.
    positions, channels : int
        Of a block of gram_backward, -DPOSITIONS, -DCHANNELS; 0 for one thread per element.
    backward_threads : int
        Of a block of gram_backward.
    shared, backward_shared : int
        Dynamic shared memory that a block of either asks for, in bytes.
    """

    name: str
    precisions: tuple[str, ...]
    tile: int
    threads: int
    positions: int
    channels: int
    backward_threads: int
    shared: int = 0
    backward_shared: int = 0

    def defines(self, precision: Precision, channels: Sequence[int]) -> dict[str, int]:
        """-D options for matrices with so many channels; 16 bytes at a time where every row is a multiple of them."""
        if not self.tile:
            return {}
        aligned = all(N * precision.dtype.itemsize % 16 == 0 for N in channels)
        sides = {"TILE": self.tile, "POSITIONS": self.positions, "CHANNELS": self.channels}
        return {**sides, "PATCH": PATCH, "SLICES": SLICES, "ALIGNED": int(aligned)}


RUNGS = {
    "01_naive": GramRung("gram/01_naive", EVERY, tile=0, threads=256, positions=0, channels=0, backward_threads=256),
    "02_shared_tile": GramRung(
        "gram/02_shared_tile", EVERY, tile=64, threads=64, positions=64, channels=64, backward_threads=64
    ),
    # Backward: three stages of 64 + 64 rows of 64 bytes (kernels/cuda/tensor_tiles.cuh)
    "03_tensor_core": GramRung(
        "gram/03_tensor_core",
        TENSOR,
        tile=64,
        threads=128,
        positions=64,
        channels=64,
        backward_threads=128,
        backward_shared=3 * (64 + 64) * 64,
    ),
}
PRODUCTION = {FLOAT32.name: "02_shared_tile", **dict.fromkeys(TENSOR, "03_tensor_core")}


def variants() -> Iterator[Variant]:
    """Every form in which the rungs are compiled."""
    for short, rung in RUNGS.items():
        for name in rung.precisions:
            precision = PRECISIONS[name]
            forms = [rung.defines(precision, [N]) for N in (8, 1)] if rung.tile else [{}]
            for defines in forms:
                shared = max(rung.shared, rung.backward_shared)
                yield Variant(rung.name, precision, defines, shared, PRODUCTION[name] == short)


def find(precision: Precision, rung: str | None) -> GramRung:
    """The rung of that short name, the production one for None; it must have the precision."""
    found = RUNGS[rung or PRODUCTION[precision.name]]
    if precision.name not in found.precisions:
        raise ValueError(f"{found.name}: expected {' or '.join(found.precisions)}, got {precision.name}")
    return found


class Grams:
    """The Gram matrices G = F^T F (N, N) of features F (M, N), all in two launches: `ops.gram_forward`.

    Parameters
    ----------
    device : Device
    precision : Precision
        Of the features; G is float32.
    shapes : sequence of (N, M)
        Channels and positions of each layer.
    rung : str, optional
        Short name of another than the production rung.
    traced : bool
        Whether traces are wanted as well; 01_naive has none.

    Attributes
    ----------
    partial_floats : int
        Work space: how long `partials` must be.
    traces : list of float64 arrays
        Of the last call, for each matrix: numbers whose sum is its trace, sum F^2.
    """

    def __init__(
        self,
        device: Device,
        precision: Precision,
        shapes: Sequence[tuple[int, int]],
        rung: str | None = None,
        traced: bool = False,
    ) -> None:
        self.device, self.precision, self.rung = device, precision, find(precision, rung)
        self.shapes = [(int(N), int(M)) for N, M in shapes]
        if not self.shapes or min(map(min, self.shapes)) < 1:
            raise ValueError(f"shapes: expected at least one (N, M), none of them empty, got {shapes}")
        self._defines = self.rung.defines(precision, [N for N, _ in self.shapes])
        self._jobs: list[tuple[int, ...]] = []  # FIRST, LENGTH, PIECES, OFFSET, FIRST_SUM of jobs.cuh
        self.blocks = self.sum_blocks = self.partial_floats = 0
        for N, M in self.shapes if self.rung.tile else ():
            tiles = _upper(N, self.rung.tile)
            count, length = pieces(M, tiles)
            self._jobs.append((self.blocks, length, count, self.partial_floats, self.sum_blocks))
            self.blocks += tiles * count
            self.partial_floats += tiles * count * self.rung.tile**2
            self.sum_blocks += _upper(N, PATCH)
        if traced and not self.rung.tile:
            raise ValueError(f"traced: expected False for {self.rung.name}, which leaves none, got True")
        parts = [_ceil(N, PATCH) for N, _ in self.shapes] if traced else []
        self.traces: list[Array] = [device.empty(count, np.float64) for count in parts]
        self._addresses: list[tuple[int, int]] = []
        self._table: Array = None

    def __call__(self, features: Sequence[Array], partials: Array, out: Sequence[Array]) -> None:
        """out[i] = features[i]^T features[i].

        Parameters
        ----------
        features : sequence of arrays (M, N) of elements
        partials : float32 array of at least `partial_floats`, or None where that is 0
        out : sequence of float32 arrays (N, N)
        """
        self._check(features, out)
        if not self.rung.tile:
            kernel = self.device.kernel(self.rung.name, "gram_forward", self.precision)
            for (N, M), F, G in zip(self.shapes, features, out, strict=True):
                kernel(_ceil(N * N, self.rung.threads), self.rung.threads, F, G, N, M)
            return
        if partials is None or partials.size < self.partial_floats:
            size = None if partials is None else partials.size
            raise ValueError(f"partials: expected at least {self.partial_floats} floats, got {size}")
        table, count = self._jobs_table(features, out), len(self.shapes)
        first = self.device.kernel(self.rung.name, "gram_partial", self.precision, **self._defines)
        second = self.device.kernel(self.rung.name, "gram_sum", self.precision, **self._defines)
        first(self.blocks, self.rung.threads, table, count, partials, shared=self.rung.shared)
        second(self.sum_blocks, PATCH * PATCH * SLICES, table, count, partials)

    def _check(self, features: Sequence[Array], out: Sequence[Array]) -> None:
        """Kernels take their addresses from a table, where no launch can check what lies there."""
        for name, arrays, dtype in (("features", features, self.precision.dtype), ("out", out, np.dtype(np.float32))):
            if len(arrays) != len(self.shapes):
                raise ValueError(f"{name}: expected {len(self.shapes)} arrays, got {len(arrays)}")
            for a, (N, M) in zip(arrays, self.shapes, strict=True):
                shape = (M, N) if name == "features" else (N, N)
                if not self.device.owns(a):
                    raise TypeError(f"{name}: expected arrays of {self.device.name}, got {type(a)}")
                if a.dtype != dtype or a.shape != shape or not a.flags.c_contiguous:
                    raise ValueError(
                        f"{name}: expected a C-contiguous {dtype} array {shape}, got {a.dtype} {a.shape} with strides "
                        f"{a.strides}"
                    )

    def _jobs_table(self, features: Sequence[Array], out: Sequence[Array]) -> Array:
        """The table of jobs.cuh on the device; made anew only for other arrays than last time."""
        addresses = [(self.device.address(F), self.device.address(G)) for F, G in zip(features, out, strict=True)]
        if addresses != self._addresses:
            traces = [self.device.address(trace) for trace in self.traces] or [0] * len(addresses)
            rows = [
                (F, N, M, first, length, count, offset, G, first_sum, trace)
                for (F, G), (N, M), (first, length, count, offset, first_sum), trace in zip(
                    addresses, self.shapes, self._jobs, traces, strict=True
                )
            ]
            self._table, self._addresses = self.device.to_device(np.array(rows, np.int64)), addresses
        return self._table


def pieces(M: int, tiles: int) -> tuple[int, int]:
    """Into how many pieces M positions are cut for a matrix of so many tiles, and how long each but the last is."""
    wanted = max(_ceil(M, LONGEST), min(_ceil(BLOCKS, tiles), _ceil(M, SHORTEST)))
    length = _ceil(_ceil(M, wanted), GRAIN) * GRAIN
    return _ceil(M, length), length


def gram_backward(
    device: Device,
    precision: Precision,
    F: Array,
    S: Array,
    style_scale: float,
    P: Array,
    content_scale: float,
    mask: bool,
    add: bool,
    g: Array,
    N: int | None = None,
    M: int | None = None,
    rung: str | None = None,
    scales: Array | None = None,
) -> None:
    """g = [g +] (F > 0) (style_scale F S + content_scale (F - P)).

    `ops.gram_backward` for S = dG + dG^T, `ops.content_backward` and `ops.relu_backward` in one launch.

    Parameters
    ----------
    device, precision
    F : array (M, N) or (H, W, N) of elements
    S : array (N, N) of elements, or None
        Symmetric.
    style_scale : float
    P : array like F, or None
    content_scale : float
    mask : bool
        Whether the gradient passes only where F > 0.
    add : bool
        Whether g keeps what is in it.
    g : array like F
        Must not overlap it.
    N, M : int, optional
        Channels and positions, if F's shape does not tell.
    rung : str, optional
        Short name of another than the production rung.
    scales : float32 array (4,), optional
        Further factors of float16's gradients, see loss_scale.py.
    """
    found = find(precision, rung)
    N = F.shape[-1] if N is None else N
    M = F.size // N if M is None else M
    for name, a, size in (("F", F, M * N), ("S", S, N * N), ("P", P, M * N), ("g", g, M * N)):
        if a is not None and a.size != size:
            raise ValueError(f"{name}: expected {size} elements for N = {N} and M = {M}, got {a.size}")
    kernel = device.kernel(found.name, "gram_backward", precision, **found.defines(precision, [N]))
    if found.tile:
        blocks = _ceil(M, found.positions) * _ceil(N, found.channels)
    else:
        blocks = _ceil(M * N, found.backward_threads)
    arguments: tuple[Any, ...] = (F, S, style_scale, P, content_scale, scales, mask, add, g, M, N)
    kernel(blocks, found.backward_threads, *arguments, shared=found.backward_shared)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _upper(N: int, side: int) -> int:
    """Squares of that side on and above the diagonal of an (N, N) matrix."""
    across = _ceil(N, side)
    return across * (across + 1) // 2
