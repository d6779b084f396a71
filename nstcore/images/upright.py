"""Which way up: a photograph's rows lie as the sensor did, and its EXIF orientation says how to look at them.

References
----------
.. [1] CIPA DC-008, Exif 2.32: tag 274, Orientation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

_ORIENTATION = 274

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def orientation_of(image: Image.Image) -> int:
    """1 to 8, of an image that has been loaded (Pillow itself turns a TIFF then); 1 where nothing or nonsense is said.

    Metadata that cannot be read spoils no picture.
    """
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata raises nearly anything
        return 1
    return found if found in _TURNS else 1


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W) or (H, W, C) as it is to be looked at; a view."""
    turn = _TURNS.get(orientation)
    return array if turn is None else turn(array)


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W) or (H, W, C) that is upright as the sensor's rows lie: `turned` backwards; a view."""
    return turned(upright, {6: 8, 8: 6}.get(orientation, orientation))
