"""One block of memory for all buffers, its size known before anything is allocated."""

from __future__ import annotations

import math

import numpy as np

ALIGNMENT = 64  # a cache line, and the widest vector register


class Arena:
    """Plan first (`add`), then `allocate` once; buffers are views of one block.

    `bytes` is exact: it is what `allocate` takes.
    """

    def __init__(self) -> None:
        self._plan: dict[str, tuple[int, tuple[int, ...], np.dtype]] = {}
        self.bytes = 0

    def add(self, name: str, shape: tuple[int, ...], dtype: np.dtype | type) -> None:
        dtype = np.dtype(dtype)
        self._plan[name] = (self.bytes, shape, dtype)
        size = math.prod(shape) * dtype.itemsize
        self.bytes += -(-size // ALIGNMENT) * ALIGNMENT

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every buffer, by name; together `bytes`."""
        starts = [start for start, _, _ in self._plan.values()]
        ends = [*starts[1:], self.bytes]
        return {name: end - start for name, start, end in zip(self._plan, starts, ends, strict=True)}

    def allocate(self) -> dict[str, np.ndarray]:
        block = np.empty(self.bytes + ALIGNMENT, np.uint8)
        block = block[-block.ctypes.data % ALIGNMENT :]
        return {
            name: block[at : at + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, (at, shape, dtype) in self._plan.items()
        }
