"""float16's powers of two: gradients that are too small for it are multiplied by one on their way back, and so is S.

All sums that they follow from are read in one copy: a number that is read alone makes the host wait for the GPU, and
the GPU then for the next launch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..base import TapGradient
from .device import Array
from .later import known
from .losses import Losses

LARGEST_STYLE = 2.0**11  # where the largest element of dG is brought: S keeps its small ones, and is below 2^13


@dataclass(frozen=True)
class Scales:
    """Powers of two for one backward pass.

    Attributes
    ----------
    loss : float
        By which every gradient between the losses and the input is multiplied.
    style : dict
        What each dG is multiplied by where it becomes S, by the dG's address.
    """

    loss: float = 1.0
    style: Mapping[int, float] = field(default_factory=dict)

    def __mul__(self, factor: float) -> Scales:
        """The same with another loss scale."""
        return replace(self, loss=self.loss * factor)


@dataclass(frozen=True)
class Measured:
    """What scales follow from: numbers that are known once the device's results have been read.

    Attributes
    ----------
    squares : list
        About the mean square of what each tap's losses send back, and of what comes from above.
    style : dict
        The largest |dG|, by the dG's address.
    """

    squares: list[Any]
    style: Mapping[int, Any]

    def scales(self, results: np.ndarray) -> Scales:
        """Powers of two that bring the largest gradients to about 1: float16 reaches 5 digits up from there, 7 down."""
        largest = max([0.0, *(known(square, results) for square in self.squares)])
        style = {dG: power_of_two(LARGEST_STYLE, known(size, results)) for dG, size in self.style.items()}
        return Scales(power_of_two(1.0, math.sqrt(largest)), style)


def measure(
    gradients: Mapping[str, Sequence[TapGradient]], features: Mapping[str, Array], losses: Losses, above: Array = None
) -> Measured:
    """Measure what the losses send back; nothing is read.

    The scales follow from the features and the gradients alone, never from earlier steps: an evaluation can be
    repeated. |S F| is taken as |S| |F|, and sum w^2 x as max w sum w x, which they do not exceed. What comes from
    `above`, the next part's gradient, counts as a loss's gradient does.
    """
    with losses.together():
        squares = [_squares(features[tap], terms, losses) / features[tap].size for tap, terms in gradients.items()]
        if above is not None:
            squares.append(losses.squared_sum(above) / above.size)
        every = [t.dG for terms in gradients.values() for t in terms if t.dG is not None]
        style = {losses.device.address(dG): losses.max_abs(dG) for dG in every}
    return Measured(squares, style)


def _squares(F: Array, terms: Sequence[TapGradient], losses: Losses) -> Any:
    """About the sum of the squares that a tap's losses send back; known later."""
    squares: Any = 0.0
    for term in terms:
        guide = term.guide
        w, most = (None, 1.0) if guide is None else (guide.w, guide.most)
        if term.dG is not None:
            squares += 4 * most**2 * losses.squared_sum(term.dG) * losses.squared_distance(F, None, w)
        if term.ds is not None:
            squares += float(term.ds @ term.ds) * (F.size / F.shape[2] if guide is None else guide.squares)
        if term.target is not None:
            squares += (2 * most * term.scale) ** 2 * losses.squared_distance(F, term.target.P, w)
    return squares


def power_of_two(wanted: float, value: float) -> float:
    """The power of two that brings `value` just below `wanted`; 1 where there is nothing to bring."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    return 2.0 ** max(-100, min(100, math.floor(math.log2(wanted) - math.log2(value))))
