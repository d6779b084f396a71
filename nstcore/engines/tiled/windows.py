"""Windows of arrays (C, H, W) that may lie on disk: read and written a few planes at a time, so that few pages stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ...disk import on_disk, release
from .geometry import Window

ALL = (slice(None),)  # all planes
MOST = 1 << 21  # bytes of whole rows that are touched at once, of which systems make up to four times as many resident


New = Callable[[tuple[int, ...], Any], np.ndarray]


class Room:
    """Memory for the windows of a part, taken once: a tile's lie where those of the tile before lay. Taken anew for
    each tile, memory would come in pieces that the system does not get back."""

    def __init__(self) -> None:
        self._blocks: dict[str, np.ndarray] = {}

    def named(self, name: str) -> New:
        """For `cut`: where the window of that name lies, until the next one of that name."""
        return partial(self._new, name)

    def _new(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        count = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._blocks or self._blocks[name].size < count:
            self._blocks.pop(name, None)  # before there is a new one
            self._blocks[name] = np.empty(count, np.uint8)
        return self._blocks[name][:count].view(dtype).reshape(shape)

    def clear(self) -> None:
        """Let the memory go."""
        self._blocks.clear()


def cut(array: np.ndarray, window: Window, new: New = np.empty) -> np.ndarray:
    """A window, in memory: where the array is, or if that lies on disk, in an array that `new` (shape, dtype) gives."""
    if not on_disk(array):
        return array[ALL + window]
    rows, columns = (range(n)[s] for n, s in zip(array.shape[1:], window, strict=True))
    out = new((len(array), len(rows), len(columns)), array.dtype)
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
