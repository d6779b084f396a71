"""Windows of arrays (C, H, W) that may lie on disk: read and written a few planes at a time, so that few pages stay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...disk import on_disk, release
from .geometry import Window

ALL = (slice(None),)  # all planes
MOST = 1 << 23  # bytes of whole rows that are resident at once; a single plane may have more


def cut(array: np.ndarray, window: Window) -> np.ndarray:
    """A window, in memory."""
    if not on_disk(array):
        return array[ALL + window]
    rows, columns = (range(n)[s] for n, s in zip(array.shape[1:], window, strict=True))
    out = np.empty((len(array), len(rows), len(columns)), array.dtype)
    for planes in _planes(array, len(rows)):
        out[planes] = array[(planes, *window)]
        release(array)
    return out


def paste(array: np.ndarray, window: Window, values: np.ndarray) -> None:
    """Write a window."""
    for planes in _planes(array, values.shape[1]):
        array[(planes, *window)] = values[planes]
        release(array)


def _planes(array: np.ndarray, rows: int) -> Iterator[slice]:
    """So many at a time that their rows take no more than `MOST`."""
    count = max(1, MOST // max(1, rows * array.shape[2] * array.itemsize)) if on_disk(array) else len(array)
    for start in range(0, len(array), count):
        yield slice(start, start + count)
