"""3x3 convolution, stride 1, padded by 1.

        y[k,p,q] = b[k] + sum_{c,r,s} w[k,c,r,s] xp[c,p+r,q+s]        r, s = 0, 1, 2

where xp is x with one more position on each side: 0 (`padding="zero"`) or the nearest value (`"replicate"`). Like every
program of the field, it is a cross-correlation: the filters are not mirrored. Its derivatives follow term by term:

        dxp[c,i,j]  = sum_{k,r,s} w[k,c,r,s] dy[k,i-r,j-s]        (the same, with filters turned by 180 degrees)
        dw[k,c,r,s] = sum_{p,q} dy[k,p,q] xp[c,p+r,q+s]
        db[k]       = sum_{p,q} dy[k,p,q]

Each sum over c (or k) is a matrix product, so nine of them, one per tap (r, s), make the whole.

References
----------
.. [1] Dumoulin, Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4.
"""

from __future__ import annotations

import numpy as np

from ..errors import OptionError
from . import _shapes
from .bias import bias_backward, bias_forward

PADDINGS = ("zero", "replicate")


def conv_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, padding: str = "zero") -> np.ndarray:
    """Convolve a picture's features with K filters and add the bias.

    Parameters
    ----------
    x : ndarray of shape (C, H, W)
        Features of the layer below, or the prepared picture (C = 3).
    w : ndarray of shape (K, C, 3, 3)
        Filters.
    b : ndarray of shape (K,), optional
        Bias; none is added without it.
    padding : {"zero", "replicate"}
        What lies outside x.

    Returns
    -------
    y : ndarray of shape (K, H, W), dtype of `x`

    Raises
    ------
    ShapeError
        If the shapes do not fit together.
    """
    _check(x, w)
    _, height, width = x.shape
    xp = pad(x, padding)
    y = np.zeros((w.shape[0], height, width), x.dtype)
    for r in range(3):
        for s in range(3):
            # (K, C) . (C, H, W) -> (K, H, W)
            y += np.tensordot(w[:, :, r, s], xp[:, r : r + height, s : s + width], axes=1)
    return y if b is None else bias_forward(y, b)


def conv_backward(dy: np.ndarray, w: np.ndarray, padding: str = "zero") -> np.ndarray:
    """Gradient with respect to the input, through y = conv(x, w).

    Parameters
    ----------
    dy : ndarray of shape (K, H, W)
        Upstream gradient.
    w : ndarray of shape (K, C, 3, 3)
        The filters of the forward pass.
    padding : {"zero", "replicate"}
        As in the forward pass.

    Returns
    -------
    dx : ndarray of shape (C, H, W), dtype of `dy`
    """
    _shapes.rank("dy", dy, "(K, H, W)")
    _shapes.equal("w", w, (dy.shape[0], *w.shape[1:2], 3, 3), f"dy {dy.shape}")
    _, height, width = dy.shape
    dxp = np.zeros((w.shape[1], height + 2, width + 2), dy.dtype)
    for r in range(3):
        for s in range(3):
            # forward: y += w[:, :, r, s] . xp[:, r:r+H, s:s+W]
            dxp[:, r : r + height, s : s + width] += np.tensordot(w[:, :, r, s].T, dy, axes=1)
    return unpad(dxp, padding)


def conv_backward_filters(dy: np.ndarray, x: np.ndarray, padding: str = "zero") -> tuple[np.ndarray, np.ndarray]:
    """Gradient with respect to filters and bias. Style transfer keeps both fixed; learning a network needs it.

    Parameters
    ----------
    dy : ndarray of shape (K, H, W)
        Upstream gradient.
    x : ndarray of shape (C, H, W)
        The input of the forward pass.
    padding : {"zero", "replicate"}
        As in the forward pass.

    Returns
    -------
    dw : ndarray of shape (K, C, 3, 3)
    db : ndarray of shape (K,)
    """
    _shapes.rank("x", x, "(C, H, W)")
    _shapes.equal("dy", dy, (*dy.shape[:1], *x.shape[1:]), f"x {x.shape}")
    _, height, width = x.shape
    xp = pad(x, padding)
    dw = np.empty((dy.shape[0], x.shape[0], 3, 3), dy.dtype)
    for r in range(3):
        for s in range(3):
            # (K, H, W) . (C, H, W) over positions -> (K, C)
            dw[:, :, r, s] = np.tensordot(dy, xp[:, r : r + height, s : s + width], axes=([1, 2], [1, 2]))
    return dw, bias_backward(dy)[1]


def pad(x: np.ndarray, padding: str) -> np.ndarray:
    """x (C, H, W) with one more position on every side, (C, H+2, W+2)."""
    if padding not in PADDINGS:
        raise OptionError(f"padding: expected one of {', '.join(PADDINGS)}, got {padding!r}")
    return np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="constant" if padding == "zero" else "edge")


def unpad(dxp: np.ndarray, padding: str) -> np.ndarray:
    """Backward of `pad`: (C, H+2, W+2) -> (C, H, W). A replicated border hands its gradient to what it copied."""
    if padding not in PADDINGS:
        raise OptionError(f"padding: expected one of {', '.join(PADDINGS)}, got {padding!r}")
    if padding == "replicate":
        dxp = dxp.copy()
        dxp[:, 1] += dxp[:, 0]
        dxp[:, -2] += dxp[:, -1]
        dxp[:, :, 1] += dxp[:, :, 0]
        dxp[:, :, -2] += dxp[:, :, -1]
    return dxp[:, 1:-1, 1:-1].copy()


def _check(x: np.ndarray, w: np.ndarray) -> None:
    _shapes.rank("x", x, "(C, H, W)")
    _shapes.rank("w", w, "(K, C, 3, 3)")
    _shapes.equal("w", w, (w.shape[0], x.shape[0], 3, 3), f"x {x.shape}")
