"""Pooling in one launch, forward and backward: kernels/cuda/pool.

The backward of a maximum or a mean needs of a window only which value was the largest, and which ones came out of the
ReLU above 0: 6 bits, its choice, which the forward leaves. So the features that were pooled need not be kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import OptionError, ShapeError
from ...ops.pool import POOLINGS
from .device import Array, Device, Kernel
from .precision import PRECISIONS, Precision
from .variants import Variant

RUNGS = {"01_naive": "pool/01_naive", "02_vector": "pool/02_vector", "03_choices": "pool/03_choices"}
CHOICES = "03_choices"
PRODUCTION = {"max": CHOICES, "average": CHOICES, "l2": "02_vector"}
THREADS = 256


def variants() -> Iterator[Variant]:
    """Every form in which the rungs are compiled."""
    for precision in PRECISIONS.values():
        yield Variant(RUNGS["01_naive"], precision)
        for short in ("02_vector", CHOICES):
            for aligned in (1, 0):
                yield Variant(RUNGS[short], precision, {"ALIGNED": aligned}, production=True)


def forward(
    device: Device,
    precision: Precision,
    x: Array,
    y: Array,
    C: int,
    H: int,
    W: int,
    kind: str,
    mask: bool,
    choices: Array | None = None,
    rung: str | None = None,
) -> None:
    """y = pool(x): `ops.pool_forward`; and for the backward its choices.

    Parameters
    ----------
    device, precision
    x : array (H, W, C) of elements
    y : array (H//2, W//2, C) of elements
    C, H, W : int
        H and W at least 2.
    kind : {"max", "average", "l2"}
    mask : bool
        Whether the gradient will pass only where x > 0: it is part of a choice.
    choices : uint8 array (ceil(H/2), ceil(W/2), C), optional
        Written; 03_choices must have it, which is the rung for all kinds but "l2", and no other.
    rung : str, optional
        Short name of another than the production rung.
    """
    rung = _rung(kind, rung)
    if min(H, W) < 2:
        raise ShapeError(f"x: expected at least 2 rows and 2 columns to pool, got {H} x {W}")
    _check("x", x, C * H * W)
    _check("y", y, C * (H // 2) * (W // 2))
    kernel, vector = _kernel(device, precision, "pool_forward", C, rung)
    if rung == CHOICES:
        _check("choices", choices, choices_size(C, H, W))
        grid = _grid(rung, 0, (H + 1) // 2, (W + 1) // 2 * (C // vector))
        kernel(grid, THREADS, x, y, choices, C, H, W, number(kind), mask)
    else:
        grid = _grid(rung, C * (H // 2) * (W // 2), H // 2, W // 2 * (C // vector))
        kernel(grid, THREADS, x, y, C, H, W, number(kind))


def backward(
    device: Device,
    precision: Precision,
    dy: Array,
    x: Array | None,
    dx: Array,
    C: int,
    H: int,
    W: int,
    kind: str,
    mask: bool,
    choices: Array | None = None,
    rung: str | None = None,
) -> None:
    """dx from dy, all of it: `ops.pool_backward`; where `mask`, then `ops.relu_backward` of the ReLU that gave x.

    Parameters
    ----------
    device, precision
    dy : array (H//2, W//2, C) of elements
    x, dx : arrays (H, W, C) of elements
        What the forward pass pooled; its gradient, which must not overlap anything.
    C, H, W : int
    kind : {"max", "average", "l2"}
    mask : bool
        Whether the gradient passes only where x > 0; of 03_choices, what its forward was told.
    choices : uint8 array (ceil(H/2), ceil(W/2), C), optional
        Those of the forward: 03_choices reads them in place of x.
    rung : str, optional
        Short name of another than the production rung.
    """
    rung = _rung(kind, rung)
    _check("dy", dy, C * (H // 2) * (W // 2))
    _check("dx", dx, C * H * W)
    kernel, vector = _kernel(device, precision, "pool_backward", C, rung)
    grid = _grid(rung, C * H * W, (H + 1) // 2, (W + 1) // 2 * (C // vector))
    if rung == CHOICES:
        _check("choices", choices, choices_size(C, H, W))
        kernel(grid, THREADS, dy, choices, dx, C, H, W, number(kind))
    else:
        _check("x", x, C * H * W)
        kernel(grid, THREADS, dy, x, dx, C, H, W, number(kind), mask)


def choices_size(C: int, H: int, W: int) -> int:
    """Bytes of the choices of a layer's windows, the incomplete ones of an odd last row or column among them."""
    return C * ((H + 1) // 2) * ((W + 1) // 2)


def passed(choices: np.ndarray, H: int, W: int) -> np.ndarray:
    """Where the ReLU let through, bool (C, H, W), by choices (ceil(H/2), ceil(W/2), C) that were told of one."""
    bits = choices[..., None] >> np.arange(2, 6, dtype=np.uint8) & 1
    rows, columns, C = choices.shape
    # (rows, columns, C, 2, 2) -> (C, rows, 2, columns, 2)
    planes = bits.reshape(rows, columns, C, 2, 2).transpose(2, 0, 3, 1, 4).reshape(C, 2 * rows, 2 * columns)
    return planes[:, :H, :W].astype(bool)


def largest(choices: np.ndarray, H: int, W: int) -> np.ndarray:
    """Which value of each whole window is the first of the largest, uint8 (C, H//2, W//2)."""
    return np.ascontiguousarray((choices[: H // 2, : W // 2] & 3).transpose(2, 0, 1))


def number(kind: str) -> int:
    """What the kernels know it by: enum pool_kind in kernels/cuda/window.cuh."""
    if kind not in POOLINGS:
        raise OptionError(f"pooling: expected one of {', '.join(POOLINGS)}, got {kind!r}")
    return POOLINGS.index(kind)


def _rung(kind: str, asked: str | None) -> str:
    """The production rung for a kind, or the one that is asked for."""
    number(kind)
    if asked == CHOICES and kind == "l2":
        raise OptionError("pooling: expected max or average for 03_choices, got 'l2'; take 02_vector")
    return asked or PRODUCTION[kind]


def _kernel(device: Device, precision: Precision, function: str, C: int, rung: str) -> tuple[Kernel, int]:
    """The kernel, and how many channels one of its threads has."""
    if rung == "01_naive":
        return device.kernel(RUNGS[rung], function, precision), 1
    per_16_bytes = 16 // precision.dtype.itemsize
    aligned = C % per_16_bytes == 0
    return device.kernel(RUNGS[rung], function, precision, ALIGNED=aligned), per_16_bytes if aligned else 1


def _grid(rung: str, elements: int, rows: int, threads_across: int) -> tuple[int, int]:
    """Blocks for one thread per element, or per vector of a row of windows."""
    return (-(-elements // THREADS), 1) if rung == "01_naive" else (rows, -(-threads_across // THREADS))


def _check(name: str, a: Array | None, size: int) -> None:
    if a is None or a.size != size:
        got = "none" if a is None else f"{a.size} in shape {a.shape}"
        raise ShapeError(f"{name}: expected {size} elements, got {got}")
