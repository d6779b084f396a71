"""What lies behind the transparent parts of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import disk
from .resize import numbers, resample

_WHOLE_BYTES = 1 << 24  # of colours whose holes are filled in one piece
_TINY = 1e-12  # against 0/0 in holes


def over_white(rgb: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Straight colours (H, W, 3) with alpha (H, W), on white paper."""
    if alpha is None:
        return rgb
    return rgb * alpha[..., None] + (1 - alpha[..., None])


def fill_hidden(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Straight colours (H, W, 3) in which the wholly transparent pixels continue the visible ones around them.

    What a file hides where alpha is 0 is arbitrary (black, white, leftovers), but a network sees it, and every filter
    that reaches over the edge mixes it in. Pull: means of the visible colours over 2x2 pixels, again and again; push:
    from coarse to fine, each pixel that is not covered takes the colour of the coarser picture. Where nothing is
    visible at all, white.

    Returns
    -------
    ndarray of shape (H, W, 3), of the type of `rgb`
        Unchanged where alpha > 0.

    References
    ----------
    .. [1] Gortler, Grzeszczuk, Szeliski, Cohen, The Lumigraph, SIGGRAPH 1996, section 3.4 (pull-push).
    """
    hidden = alpha == 0
    if not hidden.any():
        return rgb
    if hidden.all():
        return np.ones_like(rgb)
    weight = alpha.astype(np.float32)
    filled = _pull_push(rgb.transpose(2, 0, 1).astype(np.float32) * weight, weight).transpose(1, 2, 0)
    return np.where(hidden[..., None], np.clip(filled, 0, 1), rgb).astype(rgb.dtype)


def fill_planes(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """`fill_hidden` for a picture on disk, strip by strip, to the same numbers.

    Parameters
    ----------
    pixels : ndarray of shape (3, H, W), float, or uint8, uint16, which span 0 to 1
    alpha : ndarray of shape (H, W), or None

    Returns
    -------
    ndarray of shape (3, H, W)
        `pixels` where nothing is hidden; else a new array, float32.
    """
    if alpha is None or _least(alpha) > 0:
        return pixels
    filled = disk.new_array(pixels.shape)
    if _least(alpha, np.max) == 0:
        disk.fill(filled, 1)
        return filled
    for rows in disk.strips(filled):
        filled[:, rows] = numbers(pixels[:, rows]) * alpha[rows]
        disk.release(filled, pixels, alpha)
    _pull_push_strips(filled, alpha)
    for rows in disk.strips(filled):
        hidden = alpha[rows] == 0
        filled[:, rows] = np.where(hidden, np.clip(filled[:, rows], 0, 1), numbers(pixels[:, rows]))
        disk.release(filled, pixels, alpha)
    return filled


def _least(alpha: np.ndarray, of: Any = np.min) -> float:
    """The least of an array on disk, or the most."""
    found = []
    for rows in disk.strips(alpha):
        found.append(of(alpha[rows]))
        disk.release(alpha)
    return float(of(found))


def _pull_push_strips(colour: np.ndarray, weight: np.ndarray) -> None:
    """`_pull_push` in place, strip by strip."""
    if colour.nbytes <= _WHOLE_BYTES:
        colour[:] = _pull_push(colour, weight)
        return
    height, width = (-(-n // 2) for n in weight.shape)
    coarser, coarser_weight = disk.new_array((3, height, width)), disk.new_array((height, width))
    for rows in disk.strips(coarser):
        finer = slice(2 * rows.start, 2 * rows.stop)
        sums = _sums(weight[finer])
        coarser_weight[rows] = np.minimum(sums, 1)
        coarser[:, rows] = _sums(colour[:, finer]) * (coarser_weight[rows] / np.maximum(sums, _TINY))
        disk.release(colour, weight, coarser, coarser_weight)
    _pull_push_strips(coarser, coarser_weight)
    below = resample(coarser, (2 * height, 2 * width), "bilinear", disk.new_array((3, 2 * height, 2 * width)))
    for rows in disk.strips(colour):
        w = weight[rows]
        own = colour[:, rows] / np.maximum(w, _TINY)
        colour[:, rows] = w * own + (1 - w) * below[:, rows, : weight.shape[1]]
        disk.release(colour, weight, below)


def _pull_push(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The colours (3, H, W), given times their weight (H, W) in [0, 1], with the holes filled; not all is a hole."""
    own = colour / np.maximum(weight, _TINY)
    if weight.size == 1:
        return own
    sums = _sums(weight)
    coarser_weight = np.minimum(sums, 1)  # one whole pixel's worth covers the coarser pixel
    coarser = _pull_push(_sums(colour) * (coarser_weight / np.maximum(sums, _TINY)), coarser_weight)
    size = weight.shape
    below = resample(coarser, (2 * coarser.shape[1], 2 * coarser.shape[2]), "bilinear")[:, : size[0], : size[1]]
    return weight * own + (1 - weight) * below


def _sums(x: np.ndarray) -> np.ndarray:
    """Sums over 2x2 pixels of the last two axes; beyond an odd edge there is nothing."""
    edge = [(0, 0)] * (x.ndim - 2) + [(0, x.shape[-2] % 2), (0, x.shape[-1] % 2)]
    x = np.pad(x, edge)
    return x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]
