"""The adjoint of copying: what operations share that take positions of x, some of them more than once."""

from __future__ import annotations

import numpy as np


def take_backward(dy: np.ndarray, i: np.ndarray, n: int, axis: int) -> np.ndarray:
    """Backward of y = x.take(i, axis): each part of dy is added to the position, of n, that its y was taken from."""
    dx = np.zeros((*dy.shape[:axis], n, *dy.shape[axis + 1 :]), dy.dtype)
    parts = np.moveaxis(dx, axis, 0)  # a view
    for position, part in zip(i, np.moveaxis(dy, axis, 0), strict=True):
        parts[position] += part
    return dx
