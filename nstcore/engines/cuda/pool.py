"""Pooling in one launch, forward and backward: kernels/cuda/pool."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import OptionError, ShapeError
from ...ops.pool import POOLINGS
from .device import Array, Device, Kernel
from .precision import PRECISIONS, Precision
from .variants import Variant

RUNGS = {"01_naive": "pool/01_naive", "02_vector": "pool/02_vector"}
PRODUCTION = "02_vector"
THREADS = 256


def variants() -> Iterator[Variant]:
    """Every form in which the rungs are compiled."""
    for precision in PRECISIONS.values():
        yield Variant(RUNGS["01_naive"], precision)
        for aligned in (1, 0):
            yield Variant(RUNGS["02_vector"], precision, {"ALIGNED": aligned}, production=True)


def forward(
    device: Device,
    precision: Precision,
    x: Array,
    y: Array,
    C: int,
    H: int,
    W: int,
    kind: str,
    rung: str = PRODUCTION,
) -> None:
    """y = pool(x): `ops.pool_forward`.

    Parameters
    ----------
    device, precision
    x : array (H, W, C) of elements
    y : array (H//2, W//2, C) of elements
    C, H, W : int
        H and W at least 2.
    kind : {"max", "average", "l2"}
    rung : str, optional
        Short name of another than the production rung.
    """
    if min(H, W) < 2:
        raise ShapeError(f"x: expected at least 2 rows and 2 columns to pool, got {H} x {W}")
    _check("x", x, C * H * W)
    _check("y", y, C * (H // 2) * (W // 2))
    kernel, vector = _kernel(device, precision, "pool_forward", C, rung)
    grid = _grid(rung, C * (H // 2) * (W // 2), H // 2, W // 2 * (C // vector))
    kernel(grid, THREADS, x, y, C, H, W, _kind(kind))


def backward(
    device: Device,
    precision: Precision,
    dy: Array,
    x: Array,
    dx: Array,
    C: int,
    H: int,
    W: int,
    kind: str,
    mask: bool,
    rung: str = PRODUCTION,
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
        Whether the gradient passes only where x > 0.
    rung : str, optional
        Short name of another than the production rung.
    """
    _check("dy", dy, C * (H // 2) * (W // 2))
    _check("x", x, C * H * W)
    _check("dx", dx, C * H * W)
    kernel, vector = _kernel(device, precision, "pool_backward", C, rung)
    grid = _grid(rung, C * H * W, (H + 1) // 2, (W + 1) // 2 * (C // vector))
    kernel(grid, THREADS, dy, x, dx, C, H, W, _kind(kind), mask)


def _kind(name: str) -> int:
    """The number that the kernels know it by: enum pool_kind in kernels/cuda/pool/window.cuh."""
    if name not in POOLINGS:
        raise OptionError(f"pooling: expected one of {', '.join(POOLINGS)}, got {name!r}")
    return POOLINGS.index(name)


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


def _check(name: str, a: Array, size: int) -> None:
    if a.size != size:
        raise ShapeError(f"{name}: expected {size} elements, got {a.size} in shape {a.shape}")
