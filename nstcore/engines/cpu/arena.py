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

    def allocate(self, spare: Spare | None = None) -> dict[str, np.ndarray]:
        """Every buffer by name; in a block that was used before, if there is one."""
        count = self.bytes + ALIGNMENT
        block = np.empty(count, np.uint8) if spare is None else spare.take(count)
        block = block[-block.ctypes.data % ALIGNMENT :]
        return {
            name: block[at : at + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, (at, shape, dtype) in self._plan.items()
        }


class Spare:
    """A block that is used in turns, so that the system does not give and clear its memory anew at every turn."""

    def __init__(self) -> None:
        self._block: np.ndarray | None = None

    def take(self, count: int) -> np.ndarray:
        """The block if it is large enough; else it is let go, and there is a new one."""
        block, self._block = self._block, None
        if block is None or block.size < count:
            del block
            return np.empty(count, np.uint8)
        return block

    def give(self, buffers: dict[str, np.ndarray]) -> None:
        """Take back the block that these buffers are views of; nobody else may hold one."""
        if buffers:
            whole: np.ndarray = next(iter(buffers.values()))
            while isinstance(whole.base, np.ndarray):
                whole = whole.base
            if self._block is None or self._block.size < whole.size:
                self._block = whole
