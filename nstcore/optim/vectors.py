"""The few vector operations that the optimizers need, in NumPy.

The optimizers touch arrays only through an object like this one. An engine whose arrays live elsewhere passes its own
object with the same methods (`minimize_lbfgs(..., vectors=engine_vectors)`); scalars come and go as Python floats.

NumPy's `y += a * x` makes a temporary as large as x, and its float32 sums lose digits on millions of elements. Here
everything runs over blocks that stay in the cache: no full-size temporary, and sums that are the same whatever the
number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = Any  # an engine's own array type; ndarray for `Vectors`

# Elements of one block. OpenBLAS splits a dot product over its threads from 10 000 elements on, and the rounding then
# depends on their number; below that it does not.
_BLOCK = 8192


class Vectors:
    """Vector operations on NumPy arrays of any shape and one float dtype.

    Arrays that are written to must be C-contiguous, as those of `empty_like` are; arrays that are only read need not be
    (a strided one is copied on the way). All arrays of one call have the same shape.
    """

    def __init__(self) -> None:
        self._scratch: dict[np.dtype, np.ndarray] = {}

    # -- memory ---------------------------------------------------------------------------------------------------

    def empty_like(self, x: Array) -> Array:
        """A new C-contiguous array with the shape and dtype of `x`, its values unset."""
        return np.empty(x.shape, x.dtype)

    def copy(self, x: Array, out: Array) -> None:
        """out = x"""
        np.copyto(out, x)

    def fill(self, x: Array, a: float) -> None:
        """x = a everywhere"""
        x.fill(a)

    def epsilon(self, x: Array) -> float:
        """The rounding unit of the dtype of `x`: the gap between 1 and the next number."""
        return float(np.finfo(x.dtype).eps)

    # -- sums and extremes ----------------------------------------------------------------------------------------

    def dot(self, x: Array, y: Array) -> float:
        """sum(x * y), block by block; the blocks are summed in float64."""
        x, y = x.reshape(-1), y.reshape(-1)
        return math.fsum(float(np.dot(x[b], y[b])) for b in _blocks(x.size))

    def max_abs(self, x: Array) -> float:
        """max(abs(x)); NaN if there is one in `x`."""
        x = x.reshape(-1)
        return float(np.max([max(x[b].max(), -x[b].min()) for b in _blocks(x.size)]))

    def longest_step(self, x: Array, d: Array, lo: float, hi: float) -> float:
        """The largest a for which lo <= x + a d <= hi, given that it holds for a = 0; inf where nothing stops it."""
        x, d = x.reshape(-1), d.reshape(-1)
        longest = math.inf
        for b in _blocks(x.size):
            with np.errstate(divide="ignore", invalid="ignore"):  # d = 0: never stopped, inf or (on a bound) NaN
                room = np.where(d[b] > 0, hi - x[b], lo - x[b]) / d[b]
            longest = min(longest, float(np.min(room, where=d[b] != 0, initial=math.inf)))
        return longest

    # -- linear combinations --------------------------------------------------------------------------------------

    def scale(self, a: float, x: Array) -> None:
        """x *= a"""
        np.multiply(x, a, out=x)

    def axpy(self, a: float, x: Array, y: Array) -> None:
        """y += a * x"""
        self.add_scaled(y, a, x, out=y)

    def add_scaled(self, x: Array, a: float, d: Array, out: Array) -> None:
        """out = x + a * d; `out` may be `x` itself, not `d`."""
        x, d, out = x.reshape(-1), d.reshape(-1), _flat(out)
        for b, t in self._blocks_with_scratch(out):
            np.multiply(d[b], a, out=t)
            np.add(x[b], t, out=out[b])

    # -- bounds ---------------------------------------------------------------------------------------------------

    def clip(self, x: Array, lo: float, hi: float) -> None:
        """x = min(max(x, lo), hi); NaN stays NaN."""
        np.clip(x, lo, hi, out=x)

    def free_elements(self, x: Array, g: Array, lo: float, hi: float, out: Array) -> int:
        """out = 0 where `x` is on a bound and a step along -g would leave the box, else 1; returns the number of 0s."""
        x, g, out = x.reshape(-1), g.reshape(-1), _flat(out)
        held = 0
        for b in _blocks(out.size):
            stuck = ((x[b] <= lo) & (g[b] > 0)) | ((x[b] >= hi) & (g[b] < 0))
            np.logical_not(stuck, out=out[b], casting="unsafe")
            held += int(np.count_nonzero(stuck))
        return held

    def multiply(self, x: Array, y: Array, out: Array) -> None:
        """out = x * y, element by element; `out` may be `x` or `y`."""
        np.multiply(x, y, out=out)

    # -- what Adam needs beyond that ------------------------------------------------------------------------------

    def average(self, m: Array, beta: float, g: Array) -> None:
        """m = beta m + (1 - beta) g"""
        m, g = _flat(m), g.reshape(-1)
        for b, t in self._blocks_with_scratch(m):
            np.multiply(g[b], 1 - beta, out=t)
            m[b] *= beta
            m[b] += t

    def average_squares(self, v: Array, beta: float, g: Array) -> None:
        """v = beta v + (1 - beta) g^2, element by element"""
        v, g = _flat(v), g.reshape(-1)
        for b, t in self._blocks_with_scratch(v):
            np.multiply(g[b], g[b], out=t)
            t *= 1 - beta
            v[b] *= beta
            v[b] += t

    def subtract_ratio(self, x: Array, a: float, m: Array, c: float, v: Array, epsilon: float) -> None:
        """x -= a m / (sqrt(c v) + epsilon), element by element"""
        x, m, v = _flat(x), m.reshape(-1), v.reshape(-1)
        for b, t in self._blocks_with_scratch(x):
            np.multiply(v[b], c, out=t)
            np.sqrt(t, out=t)
            t += epsilon
            np.divide(m[b], t, out=t)
            t *= a
            x[b] -= t

    def _blocks_with_scratch(self, x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        scratch = self._scratch.setdefault(x.dtype, np.empty(_BLOCK, x.dtype))
        for b in _blocks(x.size):
            yield b, scratch[: b.stop - b.start]


def _blocks(size: int) -> Iterator[slice]:
    for start in range(0, size, _BLOCK):
        yield slice(start, min(start + _BLOCK, size))


def _flat(x: np.ndarray) -> np.ndarray:
    """A one-dimensional view of an array that is written to: never a copy, which the writes would be lost in."""
    flat = x.reshape(-1)
    if not np.may_share_memory(flat, x):
        raise ValueError("expected a C-contiguous array to write to, got a strided one; allocate it with empty_like")
    return flat
