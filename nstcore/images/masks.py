"""Masks: one number in [0, 1] per pixel, from a picture that somebody painted."""

from __future__ import annotations

import numpy as np

from .colour import luminance
from .pictures import Picture, straight


def read_mask(picture: Picture) -> np.ndarray:
    """A picture as a mask: white (and opaque) 1, black or transparent 0, soft edges in between.

    Parameters
    ----------
    picture : path, PIL image, or array (H, W), (H, W, 3) or (H, W, 4) of uint8, uint16, bool or float in [0, 1]

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
    rgb, alpha, _, _ = straight(picture)
    mask = luminance(rgb.transpose(2, 0, 1).astype(np.float64))
    if alpha is not None:
        mask = mask * alpha
    return np.clip(mask, 0, 1).astype(np.float32)
