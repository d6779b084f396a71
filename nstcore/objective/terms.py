"""The loss at one point, term by term."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    """

    total: float
    content: float
    style: float
    tv: float
    content_layers: dict[str, float] = field(default_factory=dict)
    style_layers: dict[str, float] = field(default_factory=dict)
