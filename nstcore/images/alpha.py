"""What lies behind the transparent parts of a picture."""

from __future__ import annotations

import numpy as np

from .resize import resample

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
