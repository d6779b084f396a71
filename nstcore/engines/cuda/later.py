"""Numbers, and arrays of them, that a GPU has computed and the host has not read yet.

Reading a number waits for everything that was launched before it. A loss is a sum of some ten of them, none of which
its gradient depends on: so they are left where they are, sums and products are noted down, and all are read at once.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

Numbers = np.ndarray


class Later:
    """A number that can be known once the device's results are on the host.

    Sums, products and quotients with other numbers are such numbers again, computed then in the order in which they
    were written down: the same bits as at once.

    Parameters
    ----------
    value : callable (results) -> float
        Results are float64, as `Losses` left them.
    """

    __array_ufunc__ = None  # NumPy's numbers leave the arithmetic to us

    def __init__(self, value: Callable[[Numbers], float]) -> None:
        self._value = value

    def known(self, results: Numbers) -> float:
        """The number."""
        return self._value(results)

    def _with(self, operation: Callable[[float, float], float], other: Any) -> Later:
        mine = self._value
        if isinstance(other, Later):
            its = other._value
            return Later(lambda results: operation(mine(results), its(results)))
        return Later(lambda results: operation(mine(results), other))

    def _after(self, operation: Callable[[float, float], float], other: float) -> Later:
        mine = self._value
        return Later(lambda results: operation(other, mine(results)))

    def __add__(self, other: Any) -> Later:
        return self._with(operator.add, other)

    def __radd__(self, other: float) -> Later:
        return self._after(operator.add, other)

    def __mul__(self, other: Any) -> Later:
        return self._with(operator.mul, other)

    def __rmul__(self, other: float) -> Later:
        return self._after(operator.mul, other)

    def __truediv__(self, other: Any) -> Later:
        return self._with(operator.truediv, other)

    def __float__(self) -> float:
        raise TypeError("a number that lies on the device: it is known once the results have been read")

    __bool__ = __float__  # type: ignore[assignment]


@dataclass(frozen=True)
class LaterArray:
    """A factor times an array that stays on the device: whoever reads the array multiplies.

    Attributes
    ----------
    array : array of the device
    factor : float
    """

    array: Any
    factor: float = 1.0

    __array_ufunc__ = None

    def __rmul__(self, factor: float) -> LaterArray:
        return replace(self, factor=factor * self.factor)


@dataclass(frozen=True)
class Unread:
    """What an evaluation tells that was recorded as a part of something larger.

    Attributes
    ----------
    numbers
        Such as `known` takes.
    results : array of the device
        What they are to be computed from, after every launch of the graph.
    valid : callable () -> bool
        Whether the graph may still be launched.
    checks : sequence of Check
        Of float16's gradients: where one is not finite, the evaluation is to be made again, outside the graph.
    """

    numbers: Any
    results: Any
    valid: Callable[[], bool]
    checks: Sequence[Any] = ()


def known(value: Any, results: Numbers) -> Any:
    """The same with every number in it known: of a number, a dict, or a dataclass of such."""
    if isinstance(value, Later):
        return value.known(results)
    if isinstance(value, dict):
        return {name: known(item, results) for name, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{f.name: known(getattr(value, f.name), results) for f in fields(value)})
    return value


@dataclass(frozen=True)
class Check:
    """Whether a gradient that was computed with loss scales is finite, known once the device's results are.

    Attributes
    ----------
    scale : LossScale
    squares : Later
        The sum of the gradient's squares.
    held
        Keeps arrays alive whose places the recorded launches know.
    """

    scale: Any
    squares: Any
    held: Any


def overflowed(checks: Iterable[Check], results: Numbers) -> list[Check]:
    """Those whose gradient was beyond float16."""
    return [check for check in checks if not math.isfinite(known(check.squares, results))]
