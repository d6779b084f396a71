"""What both optimizers ask of their input, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np

from ..errors import OptionError, ShapeError

Function = Callable[[Any], tuple[float, Any]]


def checked_count(name: str, value: int, least: int = 1) -> None:
    """Refuse what is no whole number, or one below `least`."""
    if not isinstance(value, Integral) or value < least:
        raise OptionError(f"{name}: expected a whole number of {least} or more, got {value!r}")


def checked_start(x0: Any) -> None:
    """Refuse what is no floating-point ndarray: steps would be rounded away."""
    if not isinstance(x0, np.ndarray) or x0.dtype.kind != "f":
        got = x0.dtype if isinstance(x0, np.ndarray) else type(x0).__name__
        raise ShapeError(f"x0: expected a floating-point ndarray, got {got}; pass numpy.asarray(x0, float)")


def checked_bounds(bounds: tuple[float, float] | None) -> tuple[float, float]:
    """(lo, hi), infinite where there is no bound."""
    if bounds is None:
        return -math.inf, math.inf
    lo, hi = bounds
    if not lo < hi:
        raise OptionError(f"bounds: expected (lo, hi) with lo < hi, got ({lo}, {hi}); pixels use (0, 1)")
    return float(lo), float(hi)


def checked_gradient(gradient: Any, x: Any) -> Any:
    """The gradient, if it fits x."""
    if tuple(gradient.shape) != tuple(x.shape):
        raise ShapeError(
            f"gradient: expected the shape of x, {tuple(x.shape)}, got {tuple(gradient.shape)}; "
            "f must return one derivative for each element of x"
        )
    return gradient
