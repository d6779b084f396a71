"""Pre-processing: the picture as the network wants it.

        x[c] = (range * pixels[order[c]] - mean[c]) / std[c]
        dpixels[order[c]] = range * dx[c] / std[c]

`order` is (0, 1, 2) for a network that was trained on RGB and (2, 1, 0) for BGR; mean and std are in the network's
channel order and range. Each weights file carries its own: mixing them up is a mistake that still makes a picture, a
dull one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import OptionError
from . import _shapes

ORDERS = {"rgb": (0, 1, 2), "bgr": (2, 1, 0)}


def preprocess_forward(
    pixels: np.ndarray, channel_order: str, range: float, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
    """Prepare pixels (3, H, W), RGB in [0, 1].

    Parameters
    ----------
    pixels : ndarray of shape (3, H, W)
    channel_order : {"rgb", "bgr"}
    range : float
        What the network calls white: 1 or 255.
    mean, std : three floats each
        In the network's channel order and range.

    Returns
    -------
    x : ndarray of shape (3, H, W), dtype of `pixels`
    """
    order, mean_, std_ = _check(pixels, "pixels", channel_order, mean, std)
    return (pixels[order] * pixels.dtype.type(range) - mean_) / std_


def preprocess_backward(
    dx: np.ndarray, channel_order: str, range: float, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
    """Gradient (3, H, W) with respect to the pixels, in RGB."""
    order, _, std_ = _check(dx, "dx", channel_order, mean, std)
    dpixels = np.empty_like(dx)
    dpixels[order] = dx * dx.dtype.type(range) / std_
    return dpixels


def _check(
    a: np.ndarray, name: str, channel_order: str, mean: Sequence[float], std: Sequence[float]
) -> tuple[list[int], np.ndarray, np.ndarray]:
    _shapes.equal(name, a, (3, *a.shape[1:]) if a.ndim == 3 else (3, -1, -1), "a colour picture (3, H, W)")
    if channel_order not in ORDERS:
        raise OptionError(f"channel_order: expected one of {', '.join(ORDERS)}, got {channel_order!r}")
    mean_, std_ = (np.asarray(v, a.dtype).reshape(3, 1, 1) for v in (mean, std))
    return [*ORDERS[channel_order]], mean_, std_
