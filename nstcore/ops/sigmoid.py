"""Sigmoid: any number to one between 0 and 1.

        y  = 1 / (1 + exp(-x))
        dx = dy y (1 - y)

The last layer of a network whose output is a picture. exp(-x) overflows where x is very negative; there y is computed
as exp(x) / (1 + exp(x)), which is the same: the exponent is -|x| either way.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def sigmoid_forward(x: np.ndarray) -> np.ndarray:
    """y = 1 / (1 + exp(-x)) for x of any shape; 0 and 1 at -inf and inf. NaN stays NaN."""
    _shapes.floating("x", x)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, np.ones((), x.dtype), small) / (1 + small)


def sigmoid_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient with respect to x, from the upstream gradient dy and the *output* y, all of one shape."""
    _shapes.equal("dy", dy, y.shape, f"y {y.shape}")
    return dy * y * (1 - y)
