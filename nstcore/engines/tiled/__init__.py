"""Exact tiles: an engine around another one, for pictures that do not fit into its memory.

Arrays of a picture's size are NumPy's and lie on disk, in files that the system maps into memory; only windows of them
go to the engine underneath. See `network` for what is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ... import vgg
from ...disk import copy, disk_array, on_disk, release, return_freed, strips
from ...pretrained.weights import Weights
from ..base import Engine, Network
from ..cpu import CpuEngine
from ..operations import Operations
from . import work
from .geometry import framed, tiles, within
from .low import LowEngine
from .network import TiledNetwork
from .tiling import GRID, Tiling
from .vectors import StripVectors
from .windows import cut, paste

LEAST = 1 << 22  # what the system caches of larger files is in memory as long as there is room
STRIP = 1 << 22  # bytes of one strip, of which there are several copies

__all__ = ["LowEngine", "TiledEngine", "TiledNetwork", "Tiling"]


class TiledEngine(Engine):
    """An engine whose networks compute in tiles.

    Parameters
    ----------
    base : Engine
        What computes the windows.
    tiling : Tiling
    least : int, optional
        Bytes of an array from which on it lies on disk; `LEAST`, if not given.
    folder : path, optional
        Where; see `nstcore.disk`.
    """

    def __init__(
        self, base: Engine, tiling: Tiling, least: int | None = None, folder: str | Path | None = None
    ) -> None:
        return_freed()
        self.base, self.folder = base, folder
        self.least = LEAST if least is None else least
        self.name, self.dtype, self.precision = base.name, base.dtype, base.precision
        self.threads, self.notice = base.threads, base.notice
        # What computes on arrays of a picture's size: the engine underneath, unless its arrays are not NumPy's
        self.host = base if base.on_host else CpuEngine("float32")
        self.tiling = tiling
        self.vectors = StripVectors(self.host.vectors, self.new)
        self._means: dict[int, np.ndarray] = {}  # the last ones of each size of block

    def describe(self) -> str:
        return f"{self.base.describe()} in tiles of {self.tiling.side} pixels"

    def new(self, shape: tuple[int, ...], dtype: np.dtype | None = None) -> np.ndarray:
        """An array, its values unset."""
        dtype = self.dtype if dtype is None else dtype
        if self.in_memory(math.prod(shape) * dtype.itemsize):
            return np.empty(shape, dtype)
        return disk_array(shape, dtype, self.folder)

    def room(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.new(shape, np.dtype(np.float32))

    def in_memory(self, count: int) -> int:
        return count if count < self.least else 0

    def network(self, weights: Weights, taps: Iterable[str], pooling: str, part: vgg.Part = vgg.WHOLE) -> Network:
        if part != vgg.WHOLE:
            return self.base.network(weights, taps, pooling, part)
        return TiledNetwork(self, weights, taps, pooling, self.tiling)

    def operations(self) -> Operations:
        return self.base.operations()

    def raised(self) -> Engine | None:
        higher = self.base.raised()
        return None if higher is None else TiledEngine(higher, self.tiling, self.least, self.folder)

    def memory(self) -> int | None:
        return self.base.memory()

    # -- arrays ---------------------------------------------------------------------------------------------------

    def array(self, a: np.ndarray) -> np.ndarray:
        out = self.new(a.shape)
        if not on_disk(out):
            out[...] = a
            return out
        copy(a, out)
        return out

    def asarray(self, a: Any) -> np.ndarray:
        usable = isinstance(a, np.ndarray) and a.dtype == self.dtype and a.flags.c_contiguous
        return a if usable else self.array(np.asarray(a))

    def numpy(self, a: Any) -> np.ndarray:
        return self.array(a)

    # -- the objective's ------------------------------------------------------------------------------------------

    def style_term(self, G: Any, M: int, A: Any, M_style: int, scale: float) -> tuple[float, Any]:
        return self.host.style_term(G, M, A, M_style, scale)

    def total_variation(self, pixels: Any, scale: float, gradient: Any, diagonal: float = 0.0) -> float:
        _, height, width = pixels.shape
        total = 0.0
        for tile in tiles(height, width, self.tiling.side, 0, GRID):
            own = tile.own_of_all(1)
            seen = framed(own, (height, width))
            x, g = np.ascontiguousarray(cut(pixels, seen)), np.ascontiguousarray(cut(gradient, own))
            total += work.total_variation(self.host, x, within(own, seen), g, scale, diagonal)
            paste(gradient, own, g)
        return total

    def block_mean(self, pixels: Any, k: int) -> np.ndarray:
        _, height, width = pixels.shape
        shape = len(pixels), -(-height // k), -(-width // k)
        if k not in self._means or self._means[k].shape != shape:
            self._means[k] = self.new(shape)
        out = self._means[k]
        for rows in _rows(pixels, k):
            means = self.host.block_mean(np.ascontiguousarray(pixels[:, rows]), k)
            out[:, rows.start // k : -(-rows.stop // k)] = means
            release(pixels, out)
        return out

    def add_block_mean_gradient(self, dy: Any, k: int, gradient: Any) -> None:
        for rows in _rows(gradient, k):
            g = np.ascontiguousarray(gradient[:, rows])
            above = np.ascontiguousarray(dy[:, rows.start // k : -(-rows.stop // k)])
            self.host.add_block_mean_gradient(above, k, g)
            if not np.may_share_memory(g, gradient):
                gradient[:, rows] = g
            release(dy, gradient)


def _rows(a: np.ndarray, grid: int = 1) -> Iterable[slice]:
    """Strips of an array on disk; all rows of another one."""
    return strips(a, STRIP, grid) if on_disk(a) else [slice(0, a.shape[-2])]
