"""What both optimizers ask of their input, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..errors import OptionError, ShapeError

Function = Callable[[Any], tuple[float, Any]]


def checked_count(name: str, value: int, least: int = 1) -> None:
    """Refuse a count below `least`."""
    if value < least:
        raise OptionError(f"{name}: expected at least {least}, got {value}; raise it")


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
