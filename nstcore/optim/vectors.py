"""The few vector operations that the optimizers need, in NumPy.

The optimizers touch arrays only through an object like this one. An engine whose arrays live elsewhere passes its own
object with the same methods (`minimize_lbfgs(..., vectors=engine_vectors)`); scalars come and go as Python floats.

Pictures are large and the operations are simple: what they cost is the memory that they pass over. So a method does all
that an optimizer wants of its arrays at one point of the algorithm, and reads each of them once.

NumPy's `y += a * x` makes a temporary as large as x, and its float32 sums lose digits on millions of elements. Here
everything runs over blocks that stay in the cache: no full-size temporary, and sums that are the same whatever the
number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Array = Any  # an engine's own array type; ndarray for `Vectors`

# Elements of one block. OpenBLAS splits a dot product over its threads from 10 000 elements on, and the rounding then
# depends on their number; below that it does not.
_BLOCK = 8192
_SHORT = 1024  # of one block where many arrays are read together


class Vectors:
    """Vector operations on NumPy arrays of any shape and one float dtype.

    Arrays that are written to must be C-contiguous, as those of `empty_like` are; arrays that are only read need not be
    (a strided one is copied on the way). All arrays of one call have the same shape.
    """

    def __init__(self) -> None:
        self._scratch: dict[Any, np.ndarray] = {}

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

    # -- bounds ---------------------------------------------------------------------------------------------------

    def clip(self, x: Array, lo: float, hi: float) -> None:
        """x = min(max(x, lo), hi); NaN stays NaN."""
        np.clip(x, lo, hi, out=x)

    def free_elements(self, x: Array, g: Array, lo: float, hi: float, out: Array) -> tuple[int, float]:
        """out = 0 where `x` is on a bound and a step along -g would leave the box (the element is held), else 1.

        Returns
        -------
        held : int
            The number of 0s.
        norm : float
            max(abs(g)) over the free elements; 0 if there are none, NaN if `g` is NaN somewhere.
        """
        x, g, out = x.reshape(-1), g.reshape(-1), _flat(out)
        held, norms = 0, []
        for b in _blocks(out.size):
            stuck = ((x[b] <= lo) & (g[b] > 0)) | ((x[b] >= hi) & (g[b] < 0))
            np.logical_not(stuck, out=out[b], casting="unsafe")
            held += int(np.count_nonzero(stuck))
            norms.append(self.max_abs(np.where(stuck, 0, g[b])))
        return held, float(np.max(norms))

    # -- steps of L-BFGS ------------------------------------------------------------------------------------------

    def step(self, x: Array, a: float, d: Array, lo: float, hi: float, out: Array) -> None:
        """out = min(max(x + a d, lo), hi); NaN stays NaN."""
        x, d, out = x.reshape(-1), d.reshape(-1), _flat(out)
        for b in _blocks(out.size):
            np.multiply(d[b], a, out=out[b])
            np.add(x[b], out[b], out=out[b])
            np.clip(out[b], lo, hi, out=out[b])

    def shorten(self, d: Array, x: Array, g: Array, lo: float, hi: float) -> tuple[float, float]:
        """d = min(max(x + d, lo), hi) - x: where x + d is outside the box, the step ends on the bound.

        Returns
        -------
        longest : float
            The largest a for which lo <= x + a d <= hi, given that it holds for a = 0; inf where nothing stops it.
        slope : float
            sum(g * d); NaN if `d` or `g` is NaN somewhere, and `longest` then means nothing.
        """
        d, x, g = _flat(d), x.reshape(-1), g.reshape(-1)
        longest = math.inf
        for b in _blocks(d.size):
            d[b] += x[b]
            np.clip(d[b], lo, hi, out=d[b])
            d[b] -= x[b]
            with np.errstate(divide="ignore", invalid="ignore"):  # d = 0: never stopped, inf or (on a bound) NaN
                room = np.where(d[b] > 0, d.dtype.type(hi), d.dtype.type(lo))
                room -= x[b]
                room /= d[b]
            room[d[b] == 0] = math.inf
            longest = min(longest, float(np.min(room)))
        return longest, self.dot(g, d)

    def pair(self, x: Array, g: Array, x_next: Array, g_next: Array, s: Array, y: Array) -> tuple[float, float, float]:
        """s = x_next - x and y = g_next - g; returns s'y, s's and y'y."""
        np.subtract(x_next, x, out=s)
        np.subtract(g_next, g, out=y)
        return self.dot(s, y), self.dot(s, s), self.dot(y, y)

    def pair_products(self, q: Array, free: Array | None, *arrays: Array) -> np.ndarray:
        """The inner products of the two-loop recursion, all at once: each array is read once.

        Parameters
        ----------
        q : array
            What the recursion is applied to.
        free : array of 0 and 1, optional
            Only the elements that have a 1 are summed over.
        *arrays
            s_1, ..., s_m, then y_1, ..., y_m, at least one of each.

        Returns
        -------
        ndarray of shape (2 m, m + 1), float64
            [i, j] = s_i'y_j where i <= j, else 0 (the recursion has no use for it); [m + i, j] = y_i'y_j;
            [i, m] = s_i'q; [m + i, m] = y_i'q.
        """
        m = len(arrays) // 2
        flat = [a.reshape(-1) for a in (*arrays, q)]
        weights = None if free is None else free.reshape(-1)
        scratch = self._buffer("pairs", q.dtype, (2 * m + 1) * _SHORT)
        total = np.zeros((2 * m, m + 1))
        for b in _blocks(q.size, _SHORT):
            rows = scratch[: (2 * m + 1) * (b.stop - b.start)].reshape(2 * m + 1, -1)
            for row, a in zip(rows, flat, strict=True):
                row[:] = a[b]
            if weights is not None:
                rows[m:] *= weights[b]
            total += rows[: 2 * m] @ rows[m:].T
        total[:m, :m] = np.triu(total[:m, :m])
        return total

    def combine(
        self, a: float, q: Array, free: Array | None, coefficients: Sequence[float], *arrays: Array, out: Array
    ) -> None:
        """out = free * (a q + c_1 v_1 + ... + c_n v_n), for coefficients c and arrays v; `free` None: 1 everywhere.

        `out` may be `q`, but none of the others.
        """
        q, out, flat = q.reshape(-1), _flat(out), [v.reshape(-1) for v in arrays]
        weights = None if free is None else free.reshape(-1)
        for b, t in self._blocks_with_scratch(out):
            np.multiply(q[b], a, out=out[b])
            for c, v in zip(coefficients, flat, strict=True):
                np.multiply(v[b], c, out=t)
                out[b] += t
            if weights is not None:
                out[b] *= weights[b]

    # -- a step of Adam -------------------------------------------------------------------------------------------

    def adam(
        self,
        x: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        betas: tuple[float, float],
        corrections: tuple[float, float],
        learning_rate: float,
        epsilon: float,
        lo: float,
        hi: float,
    ) -> None:
        """One update of Adam, element by element.

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        x = x - learning_rate (m / correction1) / (sqrt(v / correction2) + epsilon)
        x = min(max(x, lo), hi)                                                              NaN stays NaN
        """
        beta1, beta2 = betas
        x, g, m, v = _flat(x), g.reshape(-1), _flat(m), _flat(v)
        for b, t in self._blocks_with_scratch(x):
            np.multiply(g[b], 1 - beta1, out=t)
            m[b] *= beta1
            m[b] += t
            np.multiply(g[b], g[b], out=t)
            t *= 1 - beta2
            v[b] *= beta2
            v[b] += t
            np.multiply(v[b], 1 / corrections[1], out=t)
            np.sqrt(t, out=t)
            t += epsilon
            np.divide(m[b], t, out=t)
            t *= learning_rate / corrections[0]
            x[b] -= t
            np.clip(x[b], lo, hi, out=x[b])

    def adam_spares(self, size: int) -> int:
        """How many arrays like x, of that size, Adam takes beside x, m and v: as many again, or none, on a machine that
        goes a step ahead of the host."""
        return 0

    def _blocks_with_scratch(self, x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        scratch = self._buffer("block", x.dtype, _BLOCK)
        for b in _blocks(x.size):
            yield b, scratch[: b.stop - b.start]

    def _buffer(self, name: str, dtype: np.dtype, size: int) -> np.ndarray:
        """Scratch that lasts, at least so large."""
        if (held := self._scratch.get((name, dtype))) is None or held.size < size:
            held = self._scratch[name, dtype] = np.empty(size, dtype)
        return held


def _blocks(size: int, block: int = _BLOCK) -> Iterator[slice]:
    for start in range(0, size, block):
        yield slice(start, min(start + block, size))


def _flat(x: np.ndarray) -> np.ndarray:
    """A one-dimensional view of an array that is written to: never a copy, which the writes would be lost in."""
    flat = x.reshape(-1)
    if not np.may_share_memory(flat, x):
        raise ValueError("expected a C-contiguous array to write to, got a strided one; allocate it with empty_like")
    return flat
