"""The optimizers' vector operations in native code: each reads its arrays once, in all threads."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_double, c_void_p
from typing import Any

import numpy as np

from ...optim import Vectors
from .arena import Arena
from .library import Crew, Library

Array = Any


class NativeVectors(Vectors):
    """`Vectors` for float32 arrays, by kernels/cpu/vectors.c; what the kernels cannot take is left to NumPy.

    The results do not depend on the number of threads, to the last bit.

    Parameters
    ----------
    library : Library
    crew : Crew
        The threads; the one of the engine.
    """

    def __init__(self, library: Library, crew: Crew) -> None:
        super().__init__()
        self._library, self._crew = library, crew
        self._work: tuple[int, np.ndarray] | None = None  # of pair_products: the number of pairs, and its scratch

    # -- memory ---------------------------------------------------------------------------------------------------

    def copy(self, x: Array, out: Array) -> None:
        if not _native([out], [x]):
            super().copy(x, out)
            return
        self._library.copy(self._crew.pointer, _plain(x), out, out.size)

    def fill(self, x: Array, a: float) -> None:
        if not _native([x]):
            super().fill(x, a)
            return
        self._library.fill(self._crew.pointer, x, a, x.size)

    # -- sums and extremes ----------------------------------------------------------------------------------------

    def dot(self, x: Array, y: Array) -> float:
        if not _native([], [x, y]):
            return super().dot(x, y)
        return self._library.dot(self._crew.pointer, _plain(x), _plain(y), x.size)

    def max_abs(self, x: Array) -> float:
        if not _native([], [x]):
            return super().max_abs(x)
        return self._library.max_abs(self._crew.pointer, _plain(x), x.size)

    # -- bounds ---------------------------------------------------------------------------------------------------

    def clip(self, x: Array, lo: float, hi: float) -> None:
        if not _native([x]):
            super().clip(x, lo, hi)
            return
        self._library.clip(self._crew.pointer, x, lo, hi, x.size)

    def free_elements(self, x: Array, g: Array, lo: float, hi: float, out: Array) -> tuple[int, float]:
        if not _native([out], [x, g]):
            return super().free_elements(x, g, lo, hi, out)
        norm = c_double()
        held = self._library.free_elements(self._crew.pointer, _plain(x), _plain(g), lo, hi, out, byref(norm), out.size)
        return held, norm.value

    # -- steps of L-BFGS ------------------------------------------------------------------------------------------

    def step(self, x: Array, a: float, d: Array, lo: float, hi: float, out: Array) -> None:
        if not _native([out], [x, d]):
            super().step(x, a, d, lo, hi, out)
            return
        self._library.step(self._crew.pointer, _plain(x), a, _plain(d), lo, hi, out, out.size)

    def shorten(self, d: Array, x: Array, g: Array, lo: float, hi: float) -> tuple[float, float]:
        if not _native([d], [x, g]):
            return super().shorten(d, x, g, lo, hi)
        slope = c_double()
        longest = self._library.shorten(self._crew.pointer, d, _plain(x), _plain(g), lo, hi, byref(slope), d.size)
        return longest, slope.value

    def pair(self, x: Array, g: Array, x_next: Array, g_next: Array, s: Array, y: Array) -> tuple[float, float, float]:
        read = [x, g, x_next, g_next]
        if not _native([s, y], read):
            return super().pair(x, g, x_next, g_next, s, y)
        products = (c_double * 3)()
        self._library.pair(self._crew.pointer, *map(_plain, read), s, y, products, s.size)
        return products[0], products[1], products[2]

    def pair_products(self, q: Array, free: Array | None, *arrays: Array) -> np.ndarray:
        if not _native([], [q, *_given(free), *arrays]):
            return super().pair_products(q, free, *arrays)
        m = len(arrays) // 2
        if self._work is None or self._work[0] != m:
            arena = Arena()
            arena.add("work", (self._library.pair_products_work(m, self._crew.threads),), np.float32)
            self._work = m, arena.allocate()["work"]
        read = [_plain(a) for a in arrays]  # alive until the call returns
        products = (c_double * (2 * m * (m + 1)))()
        self._library.pair_products(
            self._crew.pointer, _plain(q), _optional(free), _addresses(read), m, products, self._work[1], q.size
        )
        return np.array(products).reshape(2 * m, m + 1)

    def combine(
        self, a: float, q: Array, free: Array | None, coefficients: Sequence[float], *arrays: Array, out: Array
    ) -> None:
        if not _native([out], [q, *_given(free), *arrays]):
            super().combine(a, q, free, coefficients, *arrays, out=out)
            return
        read, count = [_plain(v) for v in arrays], len(arrays)
        c = (c_double * count)(*coefficients)
        self._library.combine(
            self._crew.pointer, a, _plain(q), _optional(free), c, _addresses(read), count, out, out.size
        )

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
        if not _native([x, m, v], [g]):
            super().adam(
                x,
                g,
                m,
                v,
                betas=betas,
                corrections=corrections,
                learning_rate=learning_rate,
                epsilon=epsilon,
                lo=lo,
                hi=hi,
            )
            return
        options = (*betas, *corrections, learning_rate, epsilon, lo, hi)
        self._library.adam(self._crew.pointer, x, _plain(g), m, v, *options, x.size)


def _native(written: list[Any], read: Sequence[Any] = ()) -> bool:
    """Whether the kernels can take these arrays; otherwise NumPy does the work, or says what is wrong."""
    every = [*written, *read]
    return all(
        isinstance(a, np.ndarray) and a.dtype == np.float32 and a.shape == every[0].shape for a in every
    ) and all(a.flags.carray for a in written)


def _plain(a: np.ndarray) -> np.ndarray:
    """The array as the kernels read it: a copy where it is strided."""
    return np.require(a, requirements=("C", "A"))


def _given(a: Array | None) -> list[Array]:
    return [] if a is None else [a]


def _optional(a: np.ndarray | None) -> np.ndarray | None:
    return None if a is None else _plain(a)


def _addresses(arrays: list[np.ndarray]) -> Any:
    return (c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
