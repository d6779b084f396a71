"""Between the picture and the network: kernels/cuda/pixels.

The picture is (3, H, W) float32, RGB in [0, 1]. The network reads it prepared, as (H, W, 8) elements in its own order
of channels, five of them zero, so that conv1_1 reads whole 16-byte words. The way back leads from the gradient at
conv1_1 to the picture in one launch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import ShapeError
from ...ops.preprocess import ORDERS
from ...pretrained.weights import Preprocessing
from .device import Array, Device
from .precision import PRECISIONS, Precision
from .variants import Variant

RUNG = "pixels/01_direct"
PREPARED = 8  # channels of the prepared picture: three, then zeros, so that its rows are whole 16-byte words
THREADS = 256  # of a block of prepare
TILE = {"ACROSS": 32, "DOWN": 16, "PER": 4}  # of pixels_backward: pixels of a block; of a thread


def variants() -> Iterator[Variant]:
    """Every form in which the kernels are compiled."""
    for precision in PRECISIONS.values():
        for aligned in (1, 0):
            yield Variant(RUNG, precision, {**TILE, "ALIGNED": aligned}, production=True)


def turned_filters(w: np.ndarray) -> np.ndarray:
    """Filters (K, 3, 3, 3) of conv1_1 for `backward`: (9, K, 3) float32, turned by 180 degrees."""
    # (K, C, R, S) -> (R, S, K, C)
    turned = np.asarray(w, np.float32)[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    return np.ascontiguousarray(turned).reshape(9, *w.shape[:2])


def prepare(device: Device, precision: Precision, pixels: Array, x: Array, preprocessing: Preprocessing) -> None:
    """The prepared picture: `ops.preprocess_forward`.

    Parameters
    ----------
    device, precision
    pixels : float32 array (3, H, W)
    x : array (H, W, 8) of elements
    preprocessing : Preprocessing
        Of the network's weights.
    """
    H, W = _size(pixels, "pixels")
    if x.shape != (H, W, PREPARED):
        raise ShapeError(f"x: expected ({H}, {W}, {PREPARED}) for pixels {pixels.shape}, got {x.shape}")
    p = preprocessing
    kernel = device.kernel(RUNG, "prepare", precision, **TILE, ALIGNED=True)
    kernel(-(-H * W // THREADS), THREADS, pixels, x, p.range, *p.mean, *p.std, *ORDERS[p.channel_order], H, W)


def backward(
    device: Device,
    precision: Precision,
    dy: Array,
    w: Array,
    gradient: Array,
    preprocessing: Preprocessing,
    scale: float,
    replicate: bool,
    scales: Array | None = None,
) -> None:
    """The gradient at the pixels: `ops.conv_backward`, then `ops.preprocess_backward`, times `scale`.

    Parameters
    ----------
    device, precision
    dy : array (H, W, K) of elements
        Gradient at conv1_1, before its ReLU.
    w : float32 array (9, K, 3)
        See `turned_filters`.
    gradient : float32 array (3, H, W)
    preprocessing : Preprocessing
        Of the network's weights.
    scale : float
    replicate : bool
        Whether the convolution's border was replicated; else zero.
    scales : float32 array (4,), optional
        A further factor of float16's gradients, see loss_scale.py.
    """
    H, W = _size(gradient, "gradient")
    K = dy.shape[-1]
    if dy.shape != (H, W, K):
        raise ShapeError(f"dy: expected ({H}, {W}, K) for a gradient {gradient.shape}, got {dy.shape}")
    if w.shape != (9, K, 3):
        raise ShapeError(f"w: expected (9, {K}, 3) for dy {dy.shape}, got {w.shape}; see turned_filters")
    p = preprocessing
    kernel = device.kernel(RUNG, "pixels_backward", precision, **TILE, ALIGNED=K % 4 == 0)
    grid = -(-W // TILE["ACROSS"]), -(-H // TILE["DOWN"])
    threads = TILE["ACROSS"] * TILE["DOWN"] // TILE["PER"]
    order = ORDERS[p.channel_order]
    kernel(grid, threads, dy, w, gradient, p.range, *p.std, *order, scale, scales, K, H, W, replicate)


def _size(picture: Array, name: str) -> tuple[int, int]:
    if len(picture.shape) != 3 or picture.shape[0] != 3:
        raise ShapeError(f"{name}: expected a picture (3, H, W), got shape {picture.shape}")
    return picture.shape[1], picture.shape[2]
