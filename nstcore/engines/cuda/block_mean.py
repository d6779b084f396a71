"""Means of a picture's blocks, and their gradient: kernels/cuda/block_mean."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import OptionError, ShapeError
from .device import Array, Device
from .precision import FLOAT32
from .variants import Variant

RUNG = "block_mean/01_direct"
THREADS = 256


def variants() -> Iterator[Variant]:
    """The one form in which the rung is compiled: pictures are float32 in every precision."""
    yield Variant(RUNG, FLOAT32, production=True)


def small(shape: tuple[int, ...], k: int) -> tuple[int, int, int]:
    """Shape (C, ceil(H/k), ceil(W/k)) of the means of blocks of k x k of a picture (C, H, W)."""
    if len(shape) != 3 or not min(shape):
        raise ShapeError(f"pixels: expected a picture (C, H, W), got shape {shape}")
    if k < 1:
        raise OptionError(f"k: expected blocks of 1 pixel or more, got {k}")
    C, H, W = shape
    return C, -(-H // k), -(-W // k)


def forward(device: Device, x: Array, k: int, y: Array) -> None:
    """y = the means of x: `ops.block_mean_forward`.

    Parameters
    ----------
    device : Device
    x : float32 array (C, H, W)
    k : int
        Side of a block.
    y : float32 array of shape `small(x.shape, k)`
        Must not overlap x.
    """
    _check("y", y, k, x.shape)
    _launch(device, "block_mean_forward", x, y, k, x.shape)


def backward(device: Device, dy: Array, k: int, dx: Array) -> None:
    """dx += the gradient that comes from dy: `ops.block_mean_backward`.

    Parameters
    ----------
    device : Device
    dy : float32 array of shape `small(dx.shape, k)`
    k : int
        Side of a block.
    dx : float32 array (C, H, W)
        Must not overlap dy.
    """
    _check("dy", dy, k, dx.shape)
    _launch(device, "block_mean_backward", dy, dx, k, dx.shape)


def _launch(device: Device, function: str, source: Array, out: Array, k: int, shape: tuple[int, int, int]) -> None:
    """A thread for each element of `out`; every row of it begins a block."""
    rows, across = out.shape[0] * out.shape[1], -(-out.shape[2] // THREADS)
    _, H, W = shape
    # A larger k makes the same one block, and might not be an int
    device.kernel(RUNG, function)((rows, across), THREADS, source, out, min(k, max(H, W)), H, W)


def _check(name: str, a: Array, k: int, shape: tuple[int, int, int]) -> None:
    expected = small(shape, k)
    if a.shape != expected:
        raise ShapeError(f"{name}: expected {expected} for blocks of {k} x {k} in {shape}, got {a.shape}")
