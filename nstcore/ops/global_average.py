"""Global average pooling: a picture's features to one number for each channel.

        y[c] = 1/M sum_{p,q} x[c,p,q]        M = H*W positions
        dx[c,p,q] = dy[c] / M

What is left says how much of each feature there is, not where: so a network takes pictures of any size, and gives a
vector of one length.

References
----------
.. [1] Lin, Chen, Yan, "Network In Network", ICLR 2014, section 3.2.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def global_average_forward(x: np.ndarray) -> np.ndarray:
    """Mean (C,) of each channel of x (C, H, W)."""
    _shapes.rank("x", x, "(C, H, W)")
    _shapes.not_empty("x", x)
    return x.mean(axis=(1, 2))


def global_average_backward(dy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Gradient (C, H, W) with respect to x of that `size` (H, W), from dy (C,)."""
    _shapes.rank("dy", dy, "(C,)")
    H, W = size
    return np.broadcast_to((dy / (H * W))[:, None, None], (dy.size, H, W)).copy()
