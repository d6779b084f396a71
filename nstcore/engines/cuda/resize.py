"""Maps of another size: kernels/cuda/resize, and kernels/cuda/maxima of 2x2 windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import OptionError
from .device import Array, Device
from .general_conv import blocks_across
from .precision import FLOAT32
from .variants import Variant

RESIZE, MAXIMA = "resize/01_direct", "maxima/01_direct"
THREADS = 256
LARGEST = 2**23  # rows or columns of y: twice as many are still a float32


def variants() -> Iterator[Variant]:
    """Every form in which the rungs are compiled: maps are float32 in every precision."""
    for rung in (RESIZE, MAXIMA):
        yield Variant(rung, FLOAT32, production=True)


def nearest(device: Device, x: Array, height: int, width: int) -> Array:
    """x (H, W, C) as (height, width, C), each value the nearest, a new array: `ops.resize_nearest_forward`."""
    return _resize(device, "resize_nearest", x, height, width)


def bilinear(device: Device, x: Array, height: int, width: int) -> Array:
    """x (H, W, C) as (height, width, C), interpolated, a new array: `ops.resize_bilinear_forward`."""
    return _resize(device, "resize_bilinear", x, height, width)


def maxima(device: Device, x: Array) -> Array:
    """Largest of each 2x2 window of x (H, W, C), (ceil(H/2), ceil(W/2), C), a new array: `Operations.max_pool`."""
    H, W, C = x.shape
    P, Q = -(-H // 2), -(-W // 2)
    y = device.empty((P, Q, C), np.float32)
    device.kernel(MAXIMA, "maxima_forward")((P, blocks_across(Q, C, THREADS)), THREADS, x, y, C, H, W)
    return y


def _resize(device: Device, function: str, x: Array, height: int, width: int) -> Array:
    if not (1 <= height <= LARGEST and 1 <= width <= LARGEST):
        raise OptionError(f"height, width: expected 1 to {LARGEST}, got {height}, {width}")
    H, W, C = x.shape
    y = device.empty((height, width, C), np.float32)
    grid = height, blocks_across(width, C, THREADS)
    device.kernel(RESIZE, function)(grid, THREADS, x, y, C, H, W, height, width)
    return y
