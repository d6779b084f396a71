"""Layers of feed-forward networks by kernels/cpu: maps are float32 arrays (C, H, W), as they come and go."""

from __future__ import annotations

import math
from ctypes import POINTER, c_double, c_void_p, cast

import numpy as np

from ...errors import OptionError, ShapeError
from ...ops.conv import PADDINGS, Amounts, centred_amounts, positions
from ..operations import ACTIVATIONS, Operations
from .arena import Arena
from .library import Crew, Layer, Library


class Filters:
    """Filters and bias; packed when it is known what they are for.

    Parameters
    ----------
    w : ndarray of shape (K, C, R, S), or depthwise (C, R, S), float32
    b : ndarray of shape (K,) or (C,), float32, optional
    """

    def __init__(self, w: np.ndarray, b: np.ndarray | None) -> None:
        self.w, self.b = w, b
        self.depthwise = w.ndim == 3
        self.packed: dict[tuple, np.ndarray] = {}


class NativeOperations(Operations):
    """Single layers in threads; results do not depend on their number, to the last bit.

    Scratch is kept from layer to layer: for one caller at a time.

    Parameters
    ----------
    library : Library
    crew : Crew
        The threads; those of the engine.
    """

    def __init__(self, library: Library, crew: Crew) -> None:
        self._library, self._crew = library, crew
        self._scratch = np.empty(0, np.float32)

    # -- in and out -----------------------------------------------------------------------------------------------

    def maps(self, x: np.ndarray) -> np.ndarray:
        return np.array(x, np.float32, order="C")

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.array(x, order="C")

    def shape(self, x: np.ndarray) -> tuple[int, int, int]:
        C, H, W = x.shape
        return C, H, W

    def filters(self, w: np.ndarray, b: np.ndarray | None = None) -> Filters:
        return _filters(w, b, "(K, C, R, S)")

    def depthwise_filters(self, w: np.ndarray, b: np.ndarray | None = None) -> Filters:
        return _filters(w, b, "(C, R, S)")

    # -- convolutions ---------------------------------------------------------------------------------------------

    def conv(
        self,
        x: np.ndarray,
        filters: Filters,
        *,
        stride: int = 1,
        padding: str = "zero",
        amounts: Amounts | None = None,
        upsample: int = 1,
        activation: str = "none",
    ) -> np.ndarray:
        return self._convolve(x, filters, stride, padding, amounts, upsample, activation)

    def depthwise(
        self,
        x: np.ndarray,
        filters: Filters,
        *,
        stride: int = 1,
        padding: str = "zero",
        amounts: Amounts | None = None,
        activation: str = "none",
    ) -> np.ndarray:
        return self._convolve(x, filters, stride, padding, amounts, 1, activation)

    def _convolve(
        self,
        x: np.ndarray,
        filters: Filters,
        stride: int,
        padding: str,
        amounts: Amounts | None,
        upsample: int,
        activation: str,
    ) -> np.ndarray:
        _maps("x", x)
        C, H, W = x.shape
        K, *into, R, S = filters.w.shape
        if (into or [K]) != [C]:
            raise ShapeError(f"x: expected {(into or [K])[0]} channels for filters {filters.w.shape}, got {x.shape}")
        if padding not in PADDINGS:
            raise OptionError(f"padding: expected one of {', '.join(PADDINGS)}, got {padding!r}")
        if upsample < 1:
            raise OptionError(f"upsample: expected 1 or more, got {upsample}")
        amounts = amounts or centred_amounts(R, S)
        P, Q = positions((H * upsample, W * upsample), (R, S), stride, amounts)
        (top, _), (left, _) = amounts
        layer = Layer(C, K, H, W, R, S, P, Q, stride, top, left, upsample)
        layer.padding, layer.activation = PADDINGS.index(padding), _activation(activation)
        layer.depthwise = filters.depthwise
        # Without an enlargement the order of the filters does not depend on what they meet
        key = (upsample, padding, stride, amounts) if upsample > 1 else ()
        packed = filters.packed.get(key)
        if packed is None:
            packed = filters.packed[key] = _empty((self._library.layer_filters(layer),), "layer:filters")
            self._library.pack_layer(layer, filters.w, filters.b, packed)
        y = _empty((K, P, Q))
        work = self._work(self._library.layer_work(layer, self._crew.threads))
        self._library.layer_forward(self._crew.pointer, layer, x, packed, y, work)
        return y

    # -- statistics -----------------------------------------------------------------------------------------------

    def instance_norm(
        self,
        x: np.ndarray,
        scale: np.ndarray,
        shift: np.ndarray,
        epsilon: float,
        *,
        activation: str = "none",
        plus: np.ndarray | None = None,
    ) -> np.ndarray:
        number = _activation(activation)
        _maps("x", x)
        C, H, W = x.shape
        for name, vector in (("scale", scale), ("shift", shift)):
            _equal(name, vector, (C, 1, 1), x)
        if plus is not None:
            _equal("plus", plus, x.shape, x)
        mean, variance = self._moments(x)
        factor = scale.reshape(-1) / np.sqrt(variance + epsilon)
        self._library.normalise(
            self._crew.pointer, x, C, H * W, _float32(mean), _float32(factor), shift, number, plus, x
        )
        return x

    def statistics(self, x: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        _maps("x", x)
        mean, variance = self._moments(x)
        return _vector(mean), _vector(np.sqrt(variance + epsilon))

    def global_average(self, x: np.ndarray) -> np.ndarray:
        _maps("x", x)
        return _vector(self._moments(x, variance=False)[0])

    def _moments(self, x: np.ndarray, variance: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (C,), float64."""
        C, M = len(x), math.prod(x.shape[1:])
        found = np.zeros((2, C))
        mean, around = (cast(a.ctypes.data, POINTER(c_double)) for a in found)
        work = self._work(self._library.moments_work(C, M))
        self._library.moments(self._crew.pointer, x, C, M, mean, around if variance else None, work)
        return found[0], found[1]

    # -- the rest -------------------------------------------------------------------------------------------------

    def max_pool(self, x: np.ndarray) -> np.ndarray:
        _maps("x", x)
        C, H, W = x.shape
        y = _empty((C, -(-H // 2), -(-W // 2)))
        self._library.max_pool(self._crew.pointer, x, C, H, W, y)
        return y

    def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        _maps("x", x)
        _equal("y", y, x.shape, x)
        arrays = (c_void_p * 1)(y.ctypes.data)
        self._library.combine(self._crew.pointer, 1.0, x, None, (c_double * 1)(1.0), arrays, 1, x, x.size)
        return x

    def resize_nearest(self, x: np.ndarray, height: int, width: int) -> np.ndarray:
        return self._resize(x, height, width, bilinear=False)

    def resize_bilinear(self, x: np.ndarray, height: int, width: int) -> np.ndarray:
        return self._resize(x, height, width, bilinear=True)

    def _resize(self, x: np.ndarray, height: int, width: int, bilinear: bool) -> np.ndarray:
        _maps("x", x)
        if min(height, width) < 1:
            raise OptionError(f"height, width: expected 1 or more, got {height}, {width}")
        C, H, W = x.shape
        y = _empty((C, height, width))
        work = self._work(self._library.resize_work(W, width, self._crew.threads))
        self._library.resize(self._crew.pointer, x, C, H, W, height, width, bilinear, y, work)
        return y

    def _work(self, count: int) -> np.ndarray:
        """Scratch, kept for the next layer."""
        if self._scratch.size < count:
            self._scratch = _empty((count,), "layer:work")
        return self._scratch


def _empty(shape: tuple[int, ...], name: str = "layer:maps") -> np.ndarray:
    """New memory, aligned for the kernels."""
    arena = Arena()
    arena.add(name, shape, np.float32)
    return arena.allocate()[name]


def _filters(w: np.ndarray, b: np.ndarray | None, layout: str) -> Filters:
    if w.ndim != layout.count(",") + 1:
        raise ShapeError(f"w: expected {layout}, got shape {w.shape}")
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(f"b: expected {w.shape[:1]} for w {w.shape}, got {b.shape}")
    return Filters(_float32(w), None if b is None else _float32(b))


def _maps(name: str, x: np.ndarray) -> None:
    if x.ndim != 3:
        raise ShapeError(f"{name}: expected (C, H, W), got shape {x.shape}")
    if not min(x.shape):
        raise ShapeError(f"{name}: expected at least 1 channel, 1 row and 1 column, got shape {x.shape}")


def _equal(name: str, a: np.ndarray, expected: tuple[int, ...], x: np.ndarray) -> None:
    if a.shape != expected:
        raise ShapeError(f"{name}: expected {expected} for x {x.shape}, got {a.shape}")


def _activation(name: str) -> int:
    if name not in ACTIVATIONS:
        raise OptionError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS.index(name)


def _float32(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a, np.float32)


def _vector(a: np.ndarray) -> np.ndarray:
    """(C,) to maps of one position."""
    return a.astype(np.float32).reshape(-1, 1, 1)
