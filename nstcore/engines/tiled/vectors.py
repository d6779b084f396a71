"""The optimizers' vector operations on arrays that may lie on disk: block by block, each read once and dropped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ...disk import on_disk, release
from ...optim import Vectors

Array = Any
BLOCK = 1 << 19  # elements that are worked on at once
# How the answers for parts of the arrays, in their order, become that for the whole
JOINED: dict[str, Callable[[Sequence[Any]], Any]] = {
    "dot": math.fsum,
    "max_abs": lambda found: float(np.max(found)),
    "free_elements": lambda found: (sum(held for held, _ in found), float(np.max([norm for _, norm in found]))),
    "shorten": lambda found: (min(longest for longest, _ in found), math.fsum(slope for _, slope in found)),
    "pair": lambda found: tuple(math.fsum(column) for column in zip(*found, strict=True)),
    "pair_products": lambda found: np.sum(found, axis=0),
}


class StripVectors(Vectors):
    """Another engine's `Vectors`, block by block where an array lies on disk.

    Parameters
    ----------
    inner : Vectors
        For NumPy arrays.
    new : callable (shape, dtype) -> ndarray
        Makes an array, on disk where it is large.
    """

    def __init__(self, inner: Vectors, new: Callable[..., np.ndarray]) -> None:
        super().__init__()
        self.inner, self._new = inner, new

    def empty_like(self, x: Array) -> Array:
        return self._new(x.shape, x.dtype)

    def copy(self, x: Array, out: Array) -> None:
        for a, b in _blocks(x, out):
            self.inner.copy(a, out=b)

    def fill(self, x: Array, a: float) -> None:
        for (b,) in _blocks(x):
            self.inner.fill(b, a)

    def dot(self, x: Array, y: Array) -> float:
        return JOINED["dot"]([self.inner.dot(a, b) for a, b in _blocks(x, y)])

    def max_abs(self, x: Array) -> float:
        return JOINED["max_abs"]([self.inner.max_abs(a) for (a,) in _blocks(x)])

    def clip(self, x: Array, lo: float, hi: float) -> None:
        for (a,) in _blocks(x):
            self.inner.clip(a, lo, hi)

    def free_elements(self, x: Array, g: Array, lo: float, hi: float, out: Array) -> tuple[int, float]:
        found = [self.inner.free_elements(a, b, lo, hi, out=c) for a, b, c in _blocks(x, g, out)]
        return JOINED["free_elements"](found)

    def step(self, x: Array, a: float, d: Array, lo: float, hi: float, out: Array) -> None:
        for b, c, e in _blocks(x, d, out):
            self.inner.step(b, a, c, lo, hi, out=e)

    def shorten(self, d: Array, x: Array, g: Array, lo: float, hi: float) -> tuple[float, float]:
        found = [self.inner.shorten(a, b, c, lo, hi) for a, b, c in _blocks(d, x, g)]
        return JOINED["shorten"](found)

    def pair(self, x: Array, g: Array, x_next: Array, g_next: Array, s: Array, y: Array) -> tuple[float, float, float]:
        found = [self.inner.pair(*blocks) for blocks in _blocks(x, g, x_next, g_next, s, y)]
        return JOINED["pair"](found)

    def pair_products(self, q: Array, free: Array | None, *arrays: Array) -> np.ndarray:
        found = [self.inner.pair_products(*blocks) for blocks in _blocks(q, free, *arrays)]
        return JOINED["pair_products"](found)

    def combine(
        self, a: float, q: Array, free: Array | None, coefficients: Sequence[float], *arrays: Array, out: Array
    ) -> None:
        for b, c, *others, e in _blocks(q, free, *arrays, out):
            self.inner.combine(a, b, c, coefficients, *others, out=e)

    def adam(self, x: Array, g: Array, m: Array, v: Array, **options: Any) -> None:
        for blocks in _blocks(x, g, m, v):
            self.inner.adam(*blocks, **options)


def _blocks(*arrays: Array | None) -> Iterator[list[Any]]:
    """The same block of each array (None stays None); all of them at once where none lies on disk."""
    there = [a for a in arrays if a is not None]
    if not any(on_disk(a) for a in there):
        yield list(arrays)
        return
    flat = [None if a is None else a.reshape(-1) for a in arrays]
    for start in range(0, there[0].size, BLOCK):
        yield [None if a is None else a[start : start + BLOCK] for a in flat]
        release(*there)
