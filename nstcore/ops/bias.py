"""Bias: one number per channel, added at every position.

y[k,p,q] = x[k,p,q] + b[k]
dx = dy,   db[k] = sum_{p,q} dy[k,p,q]
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def bias_forward(x: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Add b (K,) to x (K, H, W); a new array."""
    _shapes.rank("x", x, "(K, H, W)")
    _shapes.equal("b", b, x.shape[:1], f"x {x.shape}")
    return x + b[:, None, None]


def bias_backward(dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (dx, db) of shapes (K, H, W) and (K,), through y = x + b."""
    _shapes.rank("dy", dy, "(K, H, W)")
    return dy.copy(), dy.sum(axis=(1, 2))
