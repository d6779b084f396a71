"""Convolution of any kernel, stride and border.

        y[k,p,q] = b[k] + sum_{c,r,s} w[k,c,r,s] xp[c,t*p+r,t*q+s]        r < R, s < S, stride t

where xp is x with more positions around it: 0 (`padding="zero"`), the nearest value (`"replicate"`), or x mirrored at
its outermost positions (`"reflect"`: x[1] lies before x[0]). VGG's convolutions are those of a 3x3 kernel, stride 1,
one position on each side, and so are the defaults. Like every program of the field, it is a cross-correlation: the
filters are not mirrored. Its derivatives follow term by term:

        dxp[c,i,j]  = sum_{k,r,s} w[k,c,r,s] dy[k,(i-r)/t,(j-s)/t]      where t divides both; dy is 0 outside
        dw[k,c,r,s] = sum_{p,q} dy[k,p,q] xp[c,t*p+r,t*q+s]
        db[k]       = sum_{p,q} dy[k,p,q]

(for t = 1 the first is the same again, with filters turned by 180 degrees), and every position of the border hands its
part of dxp to the one that it copied. Each sum over c (or k) is a matrix product, so R S of them, one per tap (r, s),
make the whole.

References
----------
.. [1] Dumoulin, Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4.
"""

from __future__ import annotations

import numpy as np

from ..errors import OptionError, ShapeError
from . import _shapes
from ._take import take_backward
from .bias import bias_backward, bias_forward

PADDINGS = ("zero", "replicate", "reflect")

Amounts = tuple[tuple[int, int], tuple[int, int]]


def conv_forward(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    padding: str = "zero",
    stride: int = 1,
    amounts: Amounts | None = None,
) -> np.ndarray:
    """Convolve a picture's features with K filters and add the bias.

    Parameters
    ----------
    x : ndarray of shape (C, H, W)
        Features of the layer below, or the prepared picture (C = 3).
    w : ndarray of shape (K, C, R, S)
        Filters.
    b : ndarray of shape (K,), optional
        Bias; none is added without it.
    padding : {"zero", "replicate", "reflect"}
        What lies outside x.
    stride : int
        Step from one position of y to the next, in positions of x, down and across.
    amounts : ((top, bottom), (left, right)), optional
        Positions added on each side; R//2 and S//2 if not given, with which an odd kernel of stride 1 keeps the size.

    Returns
    -------
    y : ndarray of shape (K, P, Q), dtype of `x`
        P = (H + top + bottom - R) // stride + 1, and Q likewise.

    Raises
    ------
    ShapeError
        If the shapes do not fit together, or no position is left.
    OptionError
        For an unknown padding, a stride below 1, or amounts below 0.
    """
    _check(x, w)
    K, _, R, S = w.shape
    amounts = amounts or centred_amounts(R, S)
    P, Q = positions(x.shape[1:], (R, S), stride, amounts)
    xp = pad(x, padding, amounts)
    y = np.zeros((K, P, Q), x.dtype)
    for r in range(R):
        for s in range(S):
            # (K, C) . (C, P, Q) -> (K, P, Q)
            y += np.tensordot(w[:, :, r, s], xp[:, tap(r, P, stride), tap(s, Q, stride)], axes=1)
    return y if b is None else bias_forward(y, b)


def conv_backward(
    dy: np.ndarray,
    w: np.ndarray,
    padding: str = "zero",
    stride: int = 1,
    amounts: Amounts | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Gradient with respect to the input, through y = conv(x, w).

    Parameters
    ----------
    dy : ndarray of shape (K, P, Q)
        Upstream gradient.
    w : ndarray of shape (K, C, R, S)
        The filters of the forward pass.
    padding, stride, amounts
        As in the forward pass.
    size : (H, W), optional
        Of x. With stride 1 it follows from the rest; with another several sizes have one y, and it is needed.

    Returns
    -------
    dx : ndarray of shape (C, H, W), dtype of `dy`
    """
    _shapes.rank("dy", dy, "(K, P, Q)")
    _shapes.rank("w", w, "(K, C, R, S)")
    _shapes.equal("w", w, (dy.shape[0], *w.shape[1:]), f"dy {dy.shape}")
    _, C, R, S = w.shape
    P, Q = dy.shape[1:]
    amounts = amounts or centred_amounts(R, S)
    H, W = size_below((P, Q), (R, S), stride, amounts, size)
    dxp = np.zeros((C, sum(amounts[0]) + H, sum(amounts[1]) + W), dy.dtype)
    for r in range(R):
        for s in range(S):
            # forward: y += w[:, :, r, s] . xp[:, r::t, s::t]
            dxp[:, tap(r, P, stride), tap(s, Q, stride)] += np.tensordot(w[:, :, r, s].T, dy, axes=1)
    return unpad(dxp, padding, amounts)


def conv_backward_filters(
    dy: np.ndarray,
    x: np.ndarray,
    padding: str = "zero",
    stride: int = 1,
    amounts: Amounts | None = None,
    kernel: tuple[int, int] = (3, 3),
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient with respect to filters and bias. Style transfer keeps both fixed; learning a network needs it.

    Parameters
    ----------
    dy : ndarray of shape (K, P, Q)
        Upstream gradient.
    x : ndarray of shape (C, H, W)
        The input of the forward pass.
    padding, stride, amounts
        As in the forward pass.
    kernel : (R, S)
        Of the filters.

    Returns
    -------
    dw : ndarray of shape (K, C, R, S)
    db : ndarray of shape (K,)
    """
    _shapes.rank("x", x, "(C, H, W)")
    R, S = kernel
    amounts = amounts or centred_amounts(R, S)
    P, Q = positions(x.shape[1:], kernel, stride, amounts)
    _shapes.equal("dy", dy, (*dy.shape[:1], P, Q), f"x {x.shape}")
    xp = pad(x, padding, amounts)
    dw = np.empty((dy.shape[0], x.shape[0], R, S), dy.dtype)
    for r in range(R):
        for s in range(S):
            # (K, P, Q) . (C, P, Q) over positions -> (K, C)
            dw[:, :, r, s] = np.tensordot(dy, xp[:, tap(r, P, stride), tap(s, Q, stride)], axes=([1, 2], [1, 2]))
    return dw, bias_backward(dy)[1]


def centred_amounts(R: int, S: int) -> Amounts:
    """R//2 and S//2 positions on each side: the kernel's middle goes over every position of x."""
    return (R // 2, R // 2), (S // 2, S // 2)


def same_amounts(H: int, W: int, R: int, S: int, stride: int) -> Amounts:
    """TensorFlow's "SAME": as many positions as make y ceil(H/t) x ceil(W/t), the odd one after, not before."""
    needed = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in ((H, R), (W, S))]
    return tuple((n // 2, n - n // 2) for n in needed)  # type: ignore[return-value]


def outputs(n: int, kernel: int, stride: int, amounts: tuple[int, int]) -> int:
    """Positions of y along an axis of n positions of x; `ShapeError` if there is none."""
    if stride < 1 or min(amounts) < 0:
        raise OptionError(f"stride, amounts: expected 1 or more, and 0 or more, got {stride}, {amounts}")
    found = (n + sum(amounts) - kernel) // stride + 1
    if n < 1 or found < 1:
        raise ShapeError(f"x: expected at least {max(kernel - sum(amounts), 1)} positions along each axis, got {n}")
    return found


def positions(size: tuple[int, ...], kernel: tuple[int, int], stride: int, amounts: Amounts) -> tuple[int, int]:
    """(P, Q) of y, for an x of that size (H, W)."""
    (H, W), (R, S) = size, kernel
    return outputs(H, R, stride, amounts[0]), outputs(W, S, stride, amounts[1])


def size_below(
    size: tuple[int, int], kernel: tuple[int, int], stride: int, amounts: Amounts, said: tuple[int, int] | None
) -> tuple[int, int]:
    """(H, W) of x, for a y of that size (P, Q): what is `said`, if that has such a y."""
    if said is None and stride != 1:
        raise ShapeError(f"size: expected that of x, which stride {stride} does not tell, got none")
    found = said or tuple(n + k - 1 - sum(a) for n, k, a in zip(size, kernel, amounts, strict=True))
    if size != positions(found, kernel, stride, amounts):
        raise ShapeError(f"dy: expected what an x of size {found} gives, got size {size}; pass the size of x")
    H, W = found
    return H, W


def pad(x: np.ndarray, padding: str, amounts: Amounts = ((1, 1), (1, 1))) -> np.ndarray:
    """x (C, H, W) with more positions around it, (C, top+H+bottom, left+W+right).

    Where "reflect" would reach beyond the other side, it is mirrored there again; a single position is repeated.
    """
    if padding == "zero":
        return np.pad(x, ((0, 0), *amounts))
    _, H, W = x.shape
    return x.take(_copied(H, padding, amounts[0]), axis=1).take(_copied(W, padding, amounts[1]), axis=2)


def unpad(dxp: np.ndarray, padding: str, amounts: Amounts = ((1, 1), (1, 1))) -> np.ndarray:
    """Backward of `pad`: (C, top+H+bottom, left+W+right) -> (C, H, W).

    A position of the border hands its gradient to the one that it copied; zeros copied none.
    """
    (top, bottom), (left, right) = amounts
    H, W = dxp.shape[1] - top - bottom, dxp.shape[2] - left - right
    if padding == "zero":
        return dxp[:, top : top + H, left : left + W].copy()
    rows, columns = _copied(H, padding, amounts[0]), _copied(W, padding, amounts[1])
    return take_backward(take_backward(dxp, columns, W, axis=2), rows, H, axis=1)


def _copied(n: int, padding: str, amounts: tuple[int, int]) -> np.ndarray:
    """Which of n positions each one along an axis of xp is a copy of."""
    if padding not in PADDINGS:
        raise OptionError(f"padding: expected one of {', '.join(PADDINGS)}, got {padding!r}")
    before, after = amounts
    i = np.arange(-before, n + after)
    if padding == "replicate":
        return np.clip(i, 0, n - 1)
    # There and back again: 0 1 2 3 2 1 | 0 1 2 3 ...
    period = max(2 * (n - 1), 1)
    return np.minimum(i % period, -i % period)


def tap(first: int, count: int, stride: int) -> slice:
    """The positions of xp, along one axis, that the filters' row (or column) `first` meets: one for each of y."""
    return slice(first, first + (count - 1) * stride + 1, stride)


def _check(x: np.ndarray, w: np.ndarray) -> None:
    _shapes.rank("x", x, "(C, H, W)")
    _shapes.rank("w", w, "(K, C, R, S)")
    _shapes.equal("w", w, (w.shape[0], x.shape[0], *w.shape[2:]), f"x {x.shape}")
