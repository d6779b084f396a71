"""Masks: one number in [0, 1] per pixel, from a picture that somebody painted."""

from __future__ import annotations

import numpy as np

from .. import disk
from .colour import luminance
from .pictures import Picture, load_large, straight
from .resize import numbers
from .sources import LARGE


def read_mask(picture: Picture, large: int = LARGE) -> np.ndarray:
    """A picture as a mask: white (and opaque) 1, black or transparent 0, soft edges in between.

    Parameters
    ----------
    picture : path, PIL image, or array (H, W), (H, W, 3) or (H, W, 4) of uint8, uint16, bool or float in [0, 1]
    large : int
        Pixels above which it is read in strips, and lies on disk.

    Returns
    -------
    ndarray of shape (H, W), float32, in [0, 1]
        Luminance times alpha.

    Raises
    ------
    PictureError
        If it is no picture.
    """
    if isinstance(picture, np.ndarray) and picture.dtype == bool:
        picture = picture.astype(np.float32)
    found = load_large(picture, large)
    if found is not None:
        mask = disk.new_array(found.pixels.shape[1:])
        for rows in disk.strips(found.pixels.shape):
            grey = luminance(numbers(found.pixels[:, rows]).astype(np.float64))
            mask[rows] = np.clip(grey if found.alpha is None else grey * found.alpha[rows], 0, 1)
            disk.release(mask, found.pixels)
        return mask
    rgb, alpha, _, _ = straight(picture)
    mask = luminance(rgb.transpose(2, 0, 1).astype(np.float64))
    if alpha is not None:
        mask = mask * alpha
    return np.clip(mask, 0, 1).astype(np.float32)
