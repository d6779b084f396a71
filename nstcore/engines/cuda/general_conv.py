"""Convolution of any kernel, stride and border, and depthwise convolution: kernels/cuda/conv, kernels/cuda/depthwise.

Maps are (H, W, C): what a position's neighbours share is a run of memory, 1x1 kernels are matrix products of it, and
vectors are maps as they are. They are float32 whatever the engine's precision. A network that paints 512 x 512 has
3.3 G multiply-adds, 0.1 ms of a large GPU's float32, and moves 0.26 GB, 0.06 ms of its memory: with so little to do,
shorter elements would save less than their rounding costs.

Which rung runs a layer, and with which tile, follows from its shape alone: the same bits on every GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...errors import OptionError, ShapeError
from ...ops.conv import PADDINGS, Amounts, centred_amounts, positions
from ..operations import ACTIVATIONS
from .device import Array, Device
from .precision import FLOAT32
from .variants import Variant

RUNGS = {"01_naive": "conv/01_naive", "02_register_tile": "conv/02_register_tile", "03_split_sum": "conv/03_split_sum"}
DEPTHWISE = "depthwise/01_direct"
NAIVE_THREADS = 256
DEPTHWISE_THREADS = 256

# Of 02_register_tile
WARPS = 4  # of a block
FORMS = ((4, 8), (2, 8), (4, 4))  # positions and filters of a thread
SHARED_BYTES = 48 * 1024  # what every GPU gives a block without being asked
DEEPEST, DEEPEST_1X1 = 2, 8  # times 4 channels in shared memory at a time; a 1x1 kernel does little with each
MANY = 256  # blocks that keep a large GPU busy, two for each of its processors
FEW = 64  # fewer leave most of it idle

# Of 03_split_sum
SPLIT_POSITIONS, SPLIT_FILTERS, SPLIT_THREADS = 4, 32, 512


def variants() -> Iterator[Variant]:
    """Every form in which the rungs are compiled."""
    yield Variant(RUNGS["01_naive"], FLOAT32)
    for form in FORMS:
        yield Variant(RUNGS["02_register_tile"], FLOAT32, _defines(form), SHARED_BYTES, production=True)
    yield Variant(RUNGS["03_split_sum"], FLOAT32, production=True)
    yield Variant(DEPTHWISE, FLOAT32, production=True)


@dataclass(frozen=True)
class Filters:
    """Filters (K, C, R, S) of `conv`, or (C, R, S) of `depthwise` with K = C, packed as the kernels read them.

    Attributes
    ----------
    w, b : float32 arrays of the device
        b is 0 where there is no bias.
    K, C, R, S : int
    each : bool
        Whether every channel has a filter of its own.
    """

    w: Array
    b: Array
    K: int
    C: int
    R: int
    S: int
    each: bool = False


def pack(device: Device, w: np.ndarray, b: np.ndarray | None) -> Filters:
    """Filters (K, C, R, S) and bias (K,), as kernels/cuda/conv/packed.cuh has them."""
    K, C, R, S = _sizes("w", w, "(K, C, R, S)")
    bias = _bias(b, K)
    quads, row = -(-C // 4), -(-K // 4) * 4
    packed = np.zeros((4 * quads, R * S, row), np.float32)
    packed[:C, :, :K] = w.reshape(K, C, R * S).transpose(1, 2, 0)
    by_quads = np.ascontiguousarray(packed.reshape(quads, 4, R * S, row).transpose(0, 2, 1, 3))
    wide = np.zeros(row, np.float32)
    wide[:K] = bias
    return Filters(device.to_device(by_quads), device.to_device(wide), K, C, R, S)


def pack_depthwise(device: Device, w: np.ndarray, b: np.ndarray | None) -> Filters:
    """Filters (C, R, S) and bias (C,): (R S, C), a row for each tap."""
    C, R, S = _sizes("w", w, "(C, R, S)")
    packed = np.ascontiguousarray(w.reshape(C, R * S).T, np.float32)
    return Filters(device.to_device(packed), device.to_device(_bias(b, C)), C, C, R, S, each=True)


@dataclass(frozen=True)
class Layer:
    """The numbers that all rungs of kernels/cuda/conv take, in their order."""

    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    P: int
    Q: int
    stride: int
    top: int
    left: int
    padding: int
    enlarged: int
    activation: int

    def flat(self) -> Layer:
        """The same as a picture of one row, where nothing depends on a position's neighbours."""
        still = (self.R, self.S, self.stride, self.enlarged, self.P, self.Q) == (1, 1, 1, 1, self.H, self.W)
        return replace(self, H=1, W=self.H * self.W, P=1, Q=self.P * self.Q) if still else self

    def numbers(self) -> tuple[int, ...]:
        """In the order in which kernels take them."""
        return tuple(vars(self).values())


@dataclass(frozen=True)
class Tile:
    """How a block of 02_register_tile shares out its work, as the head of the kernel says: powers of two."""

    form: tuple[int, int]
    columns: int
    groups: int
    deep: int
    grid: tuple[int, int, int]
    shared: int


def conv(
    device: Device,
    x: Array,
    filters: Filters,
    *,
    stride: int = 1,
    padding: str = "zero",
    amounts: Amounts | None = None,
    upsample: int = 1,
    activation: str = "none",
    rung: str | None = None,
    form: tuple[int, int] | None = None,
) -> Array:
    """activation(conv(x enlarged) + b): `ops.conv_forward`, `ops.resize_nearest_forward` and an activation.

    Parameters
    ----------
    device : Device
    x : float32 array (H, W, C)
    filters : Filters
        From `pack`.
    stride, padding, amounts, upsample, activation
        As in `Operations.conv`.
    rung, form : optional
        Short name of the rung to launch, and of 02_register_tile the form; those for this shape, if not given.

    Returns
    -------
    y : float32 array (P, Q, K), new

    Raises
    ------
    ShapeError
        If the shapes do not fit together, or no position is left.
    OptionError
        For an option that there is not.
    """
    _of_a_kind(filters, each=False)
    layer = describe(x.shape, filters, stride, padding, amounts, upsample, activation)
    y = device.empty((layer.P, layer.Q, layer.K), np.float32)
    _launch(device, layer.flat(), rung, form, x, filters.w, filters.b, y)
    return y


def depthwise(
    device: Device,
    x: Array,
    filters: Filters,
    *,
    stride: int = 1,
    padding: str = "zero",
    amounts: Amounts | None = None,
    activation: str = "none",
) -> Array:
    """activation(each channel with its own filter + b): `ops.depthwise_forward`; as `conv`, with filters of
    `pack_depthwise`."""
    _of_a_kind(filters, each=True)
    a = describe(x.shape, filters, stride, padding, amounts, 1, activation)
    y = device.empty((a.P, a.Q, a.C), np.float32)
    numbers = a.C, a.H, a.W, a.R, a.S, a.Q, a.stride, a.top, a.left, a.padding, a.activation
    grid = a.P, blocks_across(a.Q, a.C, DEPTHWISE_THREADS)
    device.kernel(DEPTHWISE, "depthwise_forward")(grid, DEPTHWISE_THREADS, x, filters.w, filters.b, y, *numbers)
    return y


def describe(
    shape: tuple[int, ...],
    filters: Filters,
    stride: int,
    padding: str,
    amounts: Amounts | None,
    upsample: int,
    activation: str,
) -> Layer:
    """One layer for an x of that shape (H, W, C)."""
    H, W, C = shape
    if filters.C != C:
        raise ShapeError(f"x: expected {filters.C} channels for these filters, got {C}")
    if upsample < 1:
        raise OptionError(f"upsample: expected 1 or more, got {upsample}")
    kernel = filters.R, filters.S
    amounts = amounts or centred_amounts(*kernel)
    P, Q = positions((H * upsample, W * upsample), kernel, stride, amounts)
    numbers = _index("padding", padding, PADDINGS), upsample, _index("activation", activation, ACTIVATIONS)
    return Layer(C, H, W, filters.K, *kernel, P, Q, stride, amounts[0][0], amounts[1][0], *numbers)


def blocks_across(Q: int, C: int, threads: int) -> int:
    """Blocks for a row of Q positions, a thread for each 4 channels, or for each where 4 does not divide them."""
    return -(-Q * (C // 4 if C % 4 == 0 else C) // threads)


def best(layer: Layer) -> tuple[str, Tile | None]:
    """The rung that the engine launches for a layer, and its tile if it is 02_register_tile."""
    for form, least in ((FORMS[2], FEW),) if layer.K <= 4 else ((FORMS[0], MANY), (FORMS[1], FEW)):
        found = tile(layer, form)
        if found and math.prod(found.grid) >= least:
            return "02_register_tile", found
    return "03_split_sum", None


def tile(layer: Layer, form: tuple[int, int]) -> Tile | None:
    """The tile of a layer whose threads have so many positions and filters; None where it does not fit."""
    places, filters = form
    groups = min((g for g in (1, 2) if g * filters >= layer.K), default=WARPS)
    size = 32 * places * WARPS // groups
    # As wide as a warp, or as a narrow picture; all of it where nothing is above or below
    columns = size if layer.P == layer.R == 1 else 8 if layer.Q <= 8 else 16 if layer.Q <= 16 else 32
    rows = size // columns
    taps, area = layer.R * layer.S, ((rows - 1) * layer.stride + layer.R) * ((columns - 1) * layer.stride + layer.S)
    each = 16 * (area + taps * groups * filters)  # bytes of 4 channels: of the rectangle, and of the filters
    room = (SHARED_BYTES - 4 * area) // each
    if room < 1:
        return None
    deep = DEEPEST_1X1 if taps == 1 else DEEPEST
    while deep > room or deep // 2 * 4 >= layer.C:
        deep //= 2
    grid = -(-layer.Q // columns), -(-layer.P // rows), -(-layer.K // (groups * filters))
    return Tile(form, columns, groups, deep, grid, deep * each + 4 * area)


def _launch(device: Device, layer: Layer, rung: str | None, form: tuple[int, int] | None, *arrays: Array) -> None:
    if rung is None:
        rung, found = best(layer)
    else:
        found = tile(layer, form or FORMS[0]) if rung == "02_register_tile" else None
    if found:
        kernel = device.kernel(RUNGS[rung], "conv_forward", FLOAT32, **_defines(found.form))
        powers = (n.bit_length() - 1 for n in (found.columns, found.groups, found.deep))
        kernel(found.grid, 32 * WARPS, *arrays, *layer.numbers(), *powers, shared=found.shared)
        return
    if rung == "02_register_tile":
        raise ShapeError(f"02_register_tile: expected a kernel that fits {SHARED_BYTES} bytes, got {layer}")
    positions = layer.P * layer.Q
    if rung == "03_split_sum":
        grid, threads = (-(-positions // SPLIT_POSITIONS), -(-layer.K // SPLIT_FILTERS)), SPLIT_THREADS
    else:
        grid, threads = (-(-positions * layer.K // NAIVE_THREADS), 1), NAIVE_THREADS
    device.kernel(RUNGS[rung], "conv_forward")(grid, threads, *arrays, *layer.numbers())


def _defines(form: tuple[int, int]) -> dict[str, int]:
    return {"POSITIONS": form[0], "FILTERS": form[1]}


def _of_a_kind(filters: Filters, each: bool) -> None:
    if filters.each != each:
        wanted, got = ("depthwise_filters", "filters") if each else ("filters", "depthwise_filters")
        raise ShapeError(f"filters: expected those that `{wanted}` prepares, got those of `{got}`")


def _sizes(name: str, w: np.ndarray, layout: str) -> tuple[int, ...]:
    if w.ndim != layout.count(",") + 1 or not w.size:
        raise ShapeError(f"{name}: expected filters {layout}, got shape {w.shape}")
    return w.shape


def _bias(b: np.ndarray | None, K: int) -> np.ndarray:
    if b is None:
        return np.zeros(K, np.float32)
    if b.shape != (K,):
        raise ShapeError(f"b: expected ({K},), one for each filter, got {b.shape}")
    return np.asarray(b, np.float32)


def _index(option: str, name: str, names: tuple[str, ...]) -> int:
    """The number that the kernels know it by: enum padding_kind, activation_kind in kernels/cuda/layers.cuh."""
    if name not in names:
        raise OptionError(f"{option}: expected one of {', '.join(names)}, got {name!r}")
    return names.index(name)
