"""What is written to a file, made of floats strip by strip: no whole copy of a picture is needed."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .. import disk
from .alpha import over_white


class Samples(Protocol):
    """Samples (H, W, C), uint8 or uint16, of which writers take rows; an array is one, too."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class Rounded:
    """Pixels as samples.

    Parameters
    ----------
    pixels : ndarray of shape (3, H, W), RGB in [0, 1]
        Values outside are cut off.
    alpha : ndarray of shape (H, W), in [0, 1], or None
    bits : 8 or 16
    on_white : bool
        Put what is transparent on white, rather than keep alpha.
    """

    def __init__(self, pixels: np.ndarray, alpha: np.ndarray | None, bits: int, on_white: bool) -> None:
        self._pixels, self._alpha, self._on_white = pixels, alpha, on_white
        self.dtype = np.dtype(f"u{bits // 8}")
        self.shape = (*pixels.shape[1:], 3 if alpha is None or on_white else 4)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows (n, W, C), rounded to nearest."""
        bands = np.clip(self._pixels[:, rows].transpose(1, 2, 0), 0, 1)
        if self._alpha is not None and self._on_white:
            bands = over_white(bands, self._alpha[rows])
        elif self._alpha is not None:
            bands = np.dstack([bands, np.clip(self._alpha[rows], 0, 1)])
        disk.release(self._pixels, *(() if self._alpha is None else (self._alpha,)))
        scaled = np.rint(bands * np.iinfo(self.dtype).max)
        return np.ascontiguousarray(scaled.astype(self.dtype))
