"""Fully connected layer: every number of y a weighted sum of all numbers of x.

        y[k] = b[k] + sum_c w[k,c] x[c]

        dx[c]   = sum_k w[k,c] dy[k]
        dw[k,c] = dy[k] x[c]
        db[k]   = dy[k]

It is the convolution of a single position, with 1x1 filters.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def linear_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """y (K,) of a vector x (C,), with weights w (K, C) and bias b (K,); none is added without it."""
    _shapes.rank("x", x, "(C,)")
    _shapes.rank("w", w, "(K, C)")
    _shapes.equal("w", w, (w.shape[0], x.size), f"x {x.shape}")
    if b is None:
        return w @ x
    _shapes.equal("b", b, w.shape[:1], f"w {w.shape}")
    return w @ x + b


def linear_backward(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Gradient (C,) with respect to x, from dy (K,) and w (K, C)."""
    _shapes.rank("w", w, "(K, C)")
    _shapes.equal("dy", dy, w.shape[:1], f"w {w.shape}")
    return w.T @ dy


def linear_backward_filters(dy: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (dw, db) with respect to weights (K, C) and bias (K,), from dy (K,) and x (C,)."""
    _shapes.rank("dy", dy, "(K,)")
    _shapes.rank("x", x, "(C,)")
    return np.outer(dy, x), dy.copy()
