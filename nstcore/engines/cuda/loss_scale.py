"""float16's loss scale: gradients that are too small for it are multiplied by a power of two on their way back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..base import TapGradient
from .device import Array
from .losses import Losses


def loss_scale(gradients: Mapping[str, Sequence[TapGradient]], features: Mapping[str, Array], losses: Losses) -> float:
    """A power of two that brings the losses' gradients to about 1, from where float16 reaches 5 digits up, 7 down.

    It follows from the features and the gradients alone, never from earlier steps: an evaluation can be repeated.
    |S F| is taken as |S| |F|, and sum w^2 x as max w sum w x, which they do not exceed.
    """
    largest = 0.0
    for tap, terms in gradients.items():
        F, squares = features[tap], 0.0
        for term in terms:
            guide = term.guide
            w, most = (None, 1.0) if guide is None else (guide.w, guide.most)
            if term.dG is not None:
                dG = 2 * most * math.sqrt(losses.squared_sum(term.dG))
                squares += dG**2 * losses.squared_distance(F, None, w)
            if term.ds is not None:
                squares += float(term.ds @ term.ds) * (F.size / F.shape[2] if guide is None else guide.squares)
            if term.target is not None:
                content = 2 * most * term.scale
                squares += content**2 * losses.squared_distance(F, term.target.P, w)
        largest = max(largest, squares / F.size)
    return power_of_two(1.0, math.sqrt(largest))


def power_of_two(wanted: float, value: float) -> float:
    """The power of two that brings `value` just below `wanted`; 1 where there is nothing to bring."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    return 2.0 ** max(-100, min(100, math.floor(math.log2(wanted) - math.log2(value))))
