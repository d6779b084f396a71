"""The convolution as one matrix product: y = W X, column (p, q) of X being the 9 C inputs that output (p, q) sees.

The book has nine products, one for each tap of the filter, and adds them up.
"""

from __future__ import annotations

import numpy as np

from ..ops.conv import pad, unpad


def im2col_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, padding: str) -> np.ndarray:
    """y (K, H, W) of x (C, H, W), w (K, C, 3, 3), b (K,): `ops.conv_forward`."""
    K, (_, H, W) = len(w), x.shape
    # The nine shifted pictures, (C, 3, 3, H, W), copied into the columns (9 C, H W)
    X = np.lib.stride_tricks.sliding_window_view(pad(x, padding), (H, W), axis=(1, 2)).reshape(-1, H * W)
    y = w.reshape(K, -1) @ X
    y += b[:, None]
    return y.reshape(K, H, W)


def im2col_backward(dy: np.ndarray, w: np.ndarray, padding: str) -> np.ndarray:
    """dx (C, H, W) of dy (K, H, W): `ops.conv_backward`."""
    (K, C), (_, H, W) = w.shape[:2], dy.shape
    # forward: y = W X
    dX = (w.reshape(K, -1).T @ dy.reshape(K, -1)).reshape(C, 3, 3, H, W)
    dxp = np.zeros((C, H + 2, W + 2), dy.dtype)
    for r in range(3):
        for s in range(3):
            # forward: X[:, r, s] = xp[:, r:r+H, s:s+W]
            dxp[:, r : r + H, s : s + W] += dX[:, r, s]
    return unpad(dxp, padding)
