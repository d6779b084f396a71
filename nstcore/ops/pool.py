"""2x2 pooling, stride 2: maximum, average, or L2 norm of the four values x_0 .. x_3 of each window.

        max:      y = max_i x_i                  dx_i = dy if i is the first largest, else 0
        average:  y = 1/4 sum_i x_i              dx_i = dy / 4
        l2:       y = sqrt(sum_i x_i^2)          dx_i = dy x_i / y,  0 where y = 0

Windows are numbered row by row: i = 2*row + column. An odd last row or column belongs to no window and gets no
gradient. Gatys et al. found that average pooling gives slightly more pleasing pictures [1]; the networks were trained
with maximum.

References
----------
.. [1] Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, section 2.
"""

from __future__ import annotations

import numpy as np

from ..errors import OptionError, ShapeError
from . import _shapes

POOLINGS = ("max", "average", "l2")


def max_pool_forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest value of each window, and which it was.

    Parameters
    ----------
    x : ndarray of shape (C, H, W)

    Returns
    -------
    y : ndarray of shape (C, H//2, W//2), dtype of `x`
    choice : ndarray of shape (C, H//2, W//2), uint8
        Index 0..3 of the largest value in its window; the first where several are equal.
    """
    windows = np.stack(_windows(x))  # (4, C, H//2, W//2)
    choice = windows.argmax(axis=0).astype(np.uint8)
    return windows.max(axis=0), choice


def max_pool_backward(dy: np.ndarray, choice: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Gradient (C, H, W) with respect to x of that `shape`, from dy and the forward's `choice`, both of y's shape."""
    _shapes.equal("dy", dy, choice.shape, f"choice {choice.shape}")
    dx = np.zeros(shape, dy.dtype)
    for i, window in enumerate(_windows(dx)):
        window[...] = np.where(choice == i, dy, np.zeros((), dy.dtype))
    return dx


def average_pool_forward(x: np.ndarray) -> np.ndarray:
    """Mean of each window: (C, H, W) -> (C, H//2, W//2)."""
    a, b, c, d = _windows(x)
    return (a + b + c + d) / 4


def average_pool_backward(dy: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Gradient (C, H, W) with respect to x of that `shape`, from dy (C, H//2, W//2)."""
    _shapes.rank("dy", dy, "(C, H//2, W//2)")
    dx = np.zeros(shape, dy.dtype)
    for window in _windows(dx):
        window[...] = dy / 4
    return dx


def l2_pool_forward(x: np.ndarray) -> np.ndarray:
    """Euclidean norm of each window: (C, H, W) -> (C, H//2, W//2)."""
    a, b, c, d = _windows(x)
    return np.sqrt(a * a + b * b + c * c + d * d)


def l2_pool_backward(dy: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient (C, H, W) with respect to x, from dy, the input x and the output y of the forward pass."""
    _shapes.equal("dy", dy, y.shape, f"y {y.shape}")
    ratio = np.divide(dy, y, out=np.zeros_like(dy), where=y > 0)
    dx = np.zeros_like(x)
    for window, value in zip(_windows(dx), _windows(x), strict=True):
        window[...] = ratio * value
    return dx


def pool_forward(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Pooling by name: y, and the choices that `kind="max"` needs on the way back (None otherwise)."""
    if kind == "max":
        return max_pool_forward(x)
    if kind == "average":
        return average_pool_forward(x), None
    if kind == "l2":
        return l2_pool_forward(x), None
    raise OptionError(f"pooling: expected one of {', '.join(POOLINGS)}, got {kind!r}")


def pool_backward(dy: np.ndarray, x: np.ndarray, y: np.ndarray, choice: np.ndarray | None, kind: str) -> np.ndarray:
    """Backward of `pool_forward`: its input x, and both its results, y and `choice`."""
    if kind == "max":
        if choice is None:
            raise OptionError("choice: max pooling needs the choices of its forward pass, got None")
        return max_pool_backward(dy, choice, x.shape)
    if kind == "average":
        return average_pool_backward(dy, x.shape)
    if kind == "l2":
        return l2_pool_backward(dy, x, y)
    raise OptionError(f"pooling: expected one of {', '.join(POOLINGS)}, got {kind!r}")


def _windows(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Four views (C, H//2, W//2): the values 0..3 of every window."""
    _shapes.rank("x", x, "(C, H, W)")
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    if not height or not width:
        raise ShapeError(f"x: expected at least 2 rows and 2 columns to pool, got shape {x.shape}")
    return tuple(x[:, r:height:2, s:width:2] for r in (0, 1) for s in (0, 1))
