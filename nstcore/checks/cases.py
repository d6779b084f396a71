"""What the cases of operations are made of: a loss of one array x, and the gradient that a backward says it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Rng = np.random.Generator
Size = tuple[int, int, int]  # (C, H, W); as features F (N, M): N = C, M = H*W

SMALL: Size = (3, 5, 6)
LARGE: Size = (16, 21, 26)
FILTERS = {SMALL: 4, LARGE: 24}


class Case(NamedTuple):
    """f(x) -> loss, backward() -> its gradient at x, and x."""

    f: Callable[[np.ndarray], float]
    backward: Callable[[], np.ndarray]
    x: np.ndarray


Cases = dict[str, Case]


def upstream(y: np.ndarray) -> np.ndarray:
    """A gradient dy that weighs every element differently: that of the loss sum dy y."""
    return np.cos(np.arange(y.size)).reshape(y.shape)


def through(
    forward: Callable[[np.ndarray], np.ndarray],
    backward: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
) -> Case:
    """The loss sum dy forward(x), whose gradient is backward(dy)."""
    dy = upstream(forward(x))
    return Case(lambda x: float(np.vdot(dy, forward(x))), lambda: backward(dy), x)
