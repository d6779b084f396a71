"""The optimizers' vector operations on arrays that lie with the workers: each computes with its own pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...optim import Vectors
from ..tiled.vectors import JOINED
from .arrays import Store
from .deferred import Changed, ClusterArray, Out

Array = Any


class ClusterVectors(Vectors):
    """`Vectors` on `ClusterArray`s; on NumPy arrays, another engine's.

    Sums are joined tile by tile in the order of the tiles, so that they do not depend on who computes which.

    Parameters
    ----------
    store : Store
    precision : str or None
        Of the workers' engines.
    host : Vectors
        For NumPy arrays.
    """

    def __init__(self, store: Store, precision: str | None, host: Vectors) -> None:
        super().__init__()
        self._store, self._precision, self._host = store, precision, host

    def _called(self, name: str, *arguments: Any, **options: Any) -> Any:
        """A method's answer, joined from those of the tiles."""
        given = [getattr(a, "array", a) for a in (*arguments, *options.values())]
        layouts = [a.layout for a in given if isinstance(a, ClusterArray)]
        if not layouts:
            plain = {key: getattr(a, "array", a) for key, a in options.items()}
            return getattr(self._host, name)(*given[: len(arguments)], **plain)
        if any(layout is not layouts[0] for layout in layouts):
            raise ValueError(f"{name}: expected arrays with one layout, got several")
        self._store.deferred.add(layouts[0], self._precision, name, *arguments, **options)
        return JOINED[name](self._store.deferred.flush()) if name in JOINED else None

    def empty_like(self, x: Array) -> Array:
        if isinstance(x, np.ndarray):
            return self._host.empty_like(x)
        return self._store.new(x.layout, x.dtype)

    def copy(self, x: Array, out: Array) -> None:
        if isinstance(x, np.ndarray):
            self._host.copy(x, out)
        else:
            self._store.copy(x, out)

    def fill(self, x: Array, a: float) -> None:
        self._called("fill", _out(x), a)

    def dot(self, x: Array, y: Array) -> float:
        return self._called("dot", x, y)

    def max_abs(self, x: Array) -> float:
        return self._called("max_abs", x)

    def clip(self, x: Array, lo: float, hi: float) -> None:
        self._called("clip", _changed(x), lo, hi)

    def free_elements(self, x: Array, g: Array, lo: float, hi: float, out: Array) -> tuple[int, float]:
        return self._called("free_elements", x, g, lo, hi, out=_out(out))

    def step(self, x: Array, a: float, d: Array, lo: float, hi: float, out: Array) -> None:
        self._called("step", x, a, d, lo, hi, out=_out(out))

    def shorten(self, d: Array, x: Array, g: Array, lo: float, hi: float) -> tuple[float, float]:
        return self._called("shorten", _changed(d), x, g, lo, hi)

    def pair(self, x: Array, g: Array, x_next: Array, g_next: Array, s: Array, y: Array) -> tuple[float, float, float]:
        return self._called("pair", x, g, x_next, g_next, _out(s), _out(y))

    def pair_products(self, q: Array, free: Array | None, *arrays: Array) -> np.ndarray:
        return self._called("pair_products", q, free, *arrays)

    def combine(
        self, a: float, q: Array, free: Array | None, coefficients: Sequence[float], *arrays: Array, out: Array
    ) -> None:
        self._called("combine", a, q, free, coefficients, *arrays, out=_out(out))

    def adam(self, x: Array, g: Array, m: Array, v: Array, **options: Any) -> None:
        self._called("adam", _changed(x), g, _changed(m), _changed(v), **options)


def _out(x: Array) -> Any:
    return Out(x) if isinstance(x, ClusterArray) else x


def _changed(x: Array) -> Any:
    return Changed(x) if isinstance(x, ClusterArray) else x
