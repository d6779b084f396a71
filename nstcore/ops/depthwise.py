"""Depthwise convolution: each channel with a filter of its own, none with another's.

        y[c,p,q] = b[c] + sum_{r,s} w[c,r,s] xp[c,t*p+r,t*q+s]        r < R, s < S, stride t

        dxp[c,i,j] = sum_{r,s} w[c,r,s] dy[c,(i-r)/t,(j-s)/t]         where t divides both; dy is 0 outside
        dw[c,r,s]  = sum_{p,q} dy[c,p,q] xp[c,t*p+r,t*q+s]
        db[c]      = sum_{p,q} dy[c,p,q]

with the border xp of `conv`, whose equations these are, without the sum over channels. So it needs 1/C of a
convolution's multiplications. A 1x1 convolution behind it mixes the channels; the two together stand for a convolution
of C x R x S filters, for 1/K + 1/(R S) of its price [1]. Nearly all of a MobileNet is made of this pair.

References
----------
.. [1] Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
   section 3.1.
"""

from __future__ import annotations

import numpy as np

from . import _shapes
from .bias import bias_backward, bias_forward
from .conv import Amounts, centred_amounts, pad, positions, size_below, tap, unpad


def depthwise_forward(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    padding: str = "zero",
    stride: int = 1,
    amounts: Amounts | None = None,
) -> np.ndarray:
    """Convolve each channel with its own filter and add its bias.

    Parameters
    ----------
    x : ndarray of shape (C, H, W)
        Features of the layer below.
    w : ndarray of shape (C, R, S)
        Filters.
    b : ndarray of shape (C,), optional
        Bias; none is added without it.
    padding, stride, amounts
        As in `conv_forward`.

    Returns
    -------
    y : ndarray of shape (C, P, Q), dtype of `x`
        P = (H + top + bottom - R) // stride + 1, and Q likewise.

    Raises
    ------
    ShapeError
        If the shapes do not fit together, or no position is left.
    OptionError
        For an unknown padding, a stride below 1, or amounts below 0.
    """
    _shapes.rank("x", x, "(C, H, W)")
    _shapes.rank("w", w, "(C, R, S)")
    _shapes.equal("w", w, (x.shape[0], *w.shape[1:]), f"x {x.shape}")
    _, R, S = w.shape
    amounts = amounts or centred_amounts(R, S)
    P, Q = positions(x.shape[1:], (R, S), stride, amounts)
    xp = pad(x, padding, amounts)
    y = np.zeros((x.shape[0], P, Q), x.dtype)
    for r in range(R):
        for s in range(S):
            y += w[:, r, s, None, None] * xp[:, tap(r, P, stride), tap(s, Q, stride)]
    return y if b is None else bias_forward(y, b)


def depthwise_backward(
    dy: np.ndarray,
    w: np.ndarray,
    padding: str = "zero",
    stride: int = 1,
    amounts: Amounts | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Gradient with respect to the input, through y = depthwise(x, w).

    Parameters
    ----------
    dy : ndarray of shape (C, P, Q)
        Upstream gradient.
    w : ndarray of shape (C, R, S)
        The filters of the forward pass.
    padding, stride, amounts
        As in the forward pass.
    size : (H, W), optional
        Of x. With stride 1 it follows from the rest; with another several sizes have one y, and it is needed.

    Returns
    -------
    dx : ndarray of shape (C, H, W), dtype of `dy`
    """
    _shapes.rank("dy", dy, "(C, P, Q)")
    _shapes.rank("w", w, "(C, R, S)")
    _shapes.equal("w", w, (dy.shape[0], *w.shape[1:]), f"dy {dy.shape}")
    C, R, S = w.shape
    P, Q = dy.shape[1:]
    amounts = amounts or centred_amounts(R, S)
    H, W = size_below((P, Q), (R, S), stride, amounts, size)
    dxp = np.zeros((C, sum(amounts[0]) + H, sum(amounts[1]) + W), dy.dtype)
    for r in range(R):
        for s in range(S):
            # forward: y += w[:, r, s] xp[:, r::t, s::t]
            dxp[:, tap(r, P, stride), tap(s, Q, stride)] += w[:, r, s, None, None] * dy
    return unpad(dxp, padding, amounts)


def depthwise_backward_filters(
    dy: np.ndarray,
    x: np.ndarray,
    padding: str = "zero",
    stride: int = 1,
    amounts: Amounts | None = None,
    kernel: tuple[int, int] = (3, 3),
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient with respect to filters and bias; learning a network needs it, painting does not.

    Parameters
    ----------
    dy : ndarray of shape (C, P, Q)
        Upstream gradient.
    x : ndarray of shape (C, H, W)
        The input of the forward pass.
    padding, stride, amounts
        As in the forward pass.
    kernel : (R, S)
        Of the filters.

    Returns
    -------
    dw : ndarray of shape (C, R, S)
    db : ndarray of shape (C,)
    """
    _shapes.rank("x", x, "(C, H, W)")
    R, S = kernel
    amounts = amounts or centred_amounts(R, S)
    P, Q = positions(x.shape[1:], kernel, stride, amounts)
    _shapes.equal("dy", dy, (x.shape[0], P, Q), f"x {x.shape}")
    xp = pad(x, padding, amounts)
    dw = np.empty((x.shape[0], R, S), dy.dtype)
    for r in range(R):
        for s in range(S):
            dw[:, r, s] = (dy * xp[:, tap(r, P, stride), tap(s, Q, stride)]).sum(axis=(1, 2))
    return dw, bias_backward(dy)[1]
