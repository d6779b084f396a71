"""The loss at one point, term by term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Terms:
    """The loss at one point.

    Attributes
    ----------
    total : float
        What is minimised.
    content, style, tv : float
        The three sums *before* content_weight, style_weight and tv_weight.
    content_layers, style_layers : dict of float
        Each layer's term before its weight w_l.
    levels : dict of Terms
        Those of the pyramid's levels, by the side of their blocks; their totals are part of `total`.
    """

    total: float
    content: float
    style: float
    tv: float
    content_layers: dict[str, float] = field(default_factory=dict)
    style_layers: dict[str, float] = field(default_factory=dict)
    levels: dict[int, Terms] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Terms:
        """From what `dataclasses.asdict` made of one, through JSON or not."""
        levels = {int(k): cls.from_dict(level) for k, level in values["levels"].items()}
        return cls(**{**values, "levels": levels})
