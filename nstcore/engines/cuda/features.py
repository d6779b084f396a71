"""Features between the book's layout, (C, H, W) float32, and the engine's, (H, W, C) elements: kernels/cuda/features.

A part of a network takes features from the part below and a gradient from the part above, and hands on its own. A
number that was an element comes back as the same element.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import ShapeError
from .device import Array, Device
from .precision import PRECISIONS, Precision
from .variants import Variant

RUNG = "features/01_tile"
TILE, ROWS = 32, 8  # a block of TILE x ROWS threads, -DROWS, per TILE positions and TILE channels


def variants() -> Iterator[Variant]:
    """Every form in which the rung is compiled; all of them are production's."""
    for precision in PRECISIONS.values():
        yield Variant(RUNG, precision, {"ROWS": ROWS}, production=True)


def enter(
    device: Device, precision: Precision, y: Array, x: Array, factor: float = 1.0, scales: Array | None = None
) -> None:
    """x = factor y, in the engine's layout.

    Parameters
    ----------
    device, precision
    y : float32 array (C, H, W)
    x : array (H, W, C) of elements
        Must not overlap it.
    factor : float, optional
    scales : float32 array (4,), optional
        A further factor of float16's gradients, see loss_scale.py.
    """
    if len(y.shape) != 3 or x.shape != (*y.shape[1:], y.shape[0]):
        raise ShapeError(f"x: expected (H, W, C) for y (C, H, W), got {x.shape} for {y.shape}")
    C, H, W = y.shape
    kernel = device.kernel(RUNG, "features_enter", precision, ROWS=ROWS)
    kernel(_grid(H * W, C), (TILE, ROWS), y, factor, scales, x, C, H * W)


def leave(
    device: Device,
    precision: Precision,
    x: Array,
    y: Array,
    top: int = 0,
    left: int = 0,
    factor: float = 1.0,
    scales: Array | None = None,
) -> None:
    """y = factor x, in the book's layout: the window of x, as large as y, whose first position is (top, left).

    Parameters
    ----------
    device, precision
    x : array (H, W, C) of elements
    y : float32 array (C, h, w)
        Must not overlap it.
    top, left : int, optional
    factor : float, optional
    scales : float32 array (4,), optional
        A further factor of float16's gradients, see loss_scale.py.
    """
    H, W, C = x.shape
    if len(y.shape) != 3 or y.shape[0] != C:
        raise ShapeError(f"y: expected ({C}, h, w) for x {x.shape}, got {y.shape}")
    _, h, w = y.shape
    if not (0 <= top <= H - h and 0 <= left <= W - w):
        raise ShapeError(f"y: expected a window within x {x.shape}, got {h}x{w} from row {top}, column {left} on")
    kernel = device.kernel(RUNG, "features_leave", precision, ROWS=ROWS)
    kernel(_grid(h * w, C), (TILE, ROWS), x, factor, scales, y, C, W, top, left, h, w)


def _grid(positions: int, channels: int) -> tuple[int, int]:
    return -(-positions // TILE), -(-channels // TILE)
