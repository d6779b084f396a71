"""Pictures in small, for the levels of the pyramid."""

from __future__ import annotations

import numpy as np

from .. import disk, images, ops


def reduced(picture: images.Loaded, k: int) -> np.ndarray:
    """A picture's means over k x k blocks: (H, W, 3), or (H, W, 4) with alpha."""
    small = _means(picture.pixels, k).transpose(1, 2, 0)
    if picture.alpha is None:
        return small
    return np.dstack([small, _means(picture.alpha[None], k)[0]])


def _means(x: np.ndarray, k: int) -> np.ndarray:
    """`ops.block_mean_forward`, strip by strip of what lies on disk."""
    if not disk.on_disk(x):
        return ops.block_mean_forward(x, k)
    found = []
    for rows in disk.strips(x, grid=k):
        found.append(ops.block_mean_forward(x[:, rows], k))
        disk.release(x)
    return np.concatenate(found, axis=1)


def product(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """a * b, of which None is 1 everywhere."""
    if a is None or b is None:
        return b if a is None else a
    return a * b
