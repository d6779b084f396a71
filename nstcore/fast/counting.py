"""Layers without numbers: what a network takes is counted by the same code that computes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engines.operations import Operations
from ..ops.conv import Amounts, centred_amounts, outputs


@dataclass
class Usage:
    """What one pass takes.

    Attributes
    ----------
    multiplications : list of int
        Of every convolution and fully connected layer, in order.
    numbers : int
        Most numbers that maps hold at any one time.
    """

    multiplications: list[int] = field(default_factory=list)
    numbers: int = 0


class _Shape:
    """Maps of which only the shape is there; they count as long as something refers to them."""

    def __init__(self, owner: Counting, *shape: int) -> None:
        self.shape = shape
        self._owner = owner
        owner.hold(self.size)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def __del__(self) -> None:
        self._owner.hold(-self.size)


class Counting(Operations):
    """`Operations` that compute nothing; `usage` is what those that compute would take."""

    def __init__(self) -> None:
        self.usage = Usage()
        self._held = 0

    def hold(self, numbers: int) -> None:
        """So many more are held, or fewer."""
        self._held += numbers
        self.usage.numbers = max(self.usage.numbers, self._held)

    def picture(self, height: int, width: int) -> _Shape:
        """A picture of that size."""
        return _Shape(self, 3, height, width)

    def vector(self, length: int) -> _Shape:
        """A vector."""
        return _Shape(self, length, 1, 1)

    def maps(self, x: np.ndarray) -> _Shape:
        return _Shape(self, *x.shape)

    def numpy(self, x: Any) -> np.ndarray:
        raise TypeError("there are no numbers here")

    def shape(self, x: _Shape) -> tuple[int, int, int]:
        C, H, W = x.shape
        return C, H, W

    def filters(self, w: np.ndarray, b: np.ndarray | None = None) -> tuple[int, ...]:
        return w.shape

    depthwise_filters = filters

    def conv(
        self,
        x: _Shape,
        filters: tuple[int, ...],
        *,
        stride: int = 1,
        padding: str = "zero",
        amounts: Amounts | None = None,
        upsample: int = 1,
        activation: str = "none",
    ) -> _Shape:
        K, C, R, S = filters
        return self._convolved(x, K, C, R, S, stride, amounts, upsample)

    def depthwise(
        self,
        x: _Shape,
        filters: tuple[int, ...],
        *,
        stride: int = 1,
        padding: str = "zero",
        amounts: Amounts | None = None,
        activation: str = "none",
    ) -> _Shape:
        C, R, S = filters
        return self._convolved(x, C, 1, R, S, stride, amounts, 1)

    def _convolved(
        self, x: _Shape, K: int, C: int, R: int, S: int, stride: int, amounts: Amounts | None, upsample: int
    ) -> _Shape:
        sides = zip(x.shape[1:], (R, S), amounts or centred_amounts(R, S), strict=True)
        P, Q = (outputs(n * upsample, k, stride, a) for n, k, a in sides)
        self.usage.multiplications.append(K * C * R * S * P * Q)
        return _Shape(self, K, P, Q)

    def instance_norm(
        self, x: _Shape, scale: Any, shift: Any, epsilon: float, *, activation: str = "none", plus: Any = None
    ) -> _Shape:
        return x

    def statistics(self, x: _Shape, epsilon: float) -> tuple[_Shape, _Shape]:
        return self.vector(x.shape[0]), self.vector(x.shape[0])

    def global_average(self, x: _Shape) -> _Shape:
        return self.vector(x.shape[0])

    def max_pool(self, x: _Shape) -> _Shape:
        C, H, W = x.shape
        return _Shape(self, C, -(-H // 2), -(-W // 2))

    def add(self, x: _Shape, y: _Shape) -> _Shape:
        return x

    def resize_nearest(self, x: _Shape, height: int, width: int) -> _Shape:
        return _Shape(self, x.shape[0], height, width)

    resize_bilinear = resize_nearest
