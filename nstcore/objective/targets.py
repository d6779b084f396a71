"""What the losses compare with at each layer, measured once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..conventions import Convention
from .statistics import StyleLoss


@dataclass(frozen=True)
class ContentTarget:
    """Of one layer.

    Attributes
    ----------
    weight : float
        w_l.
    features : P, as `Network.keep` gave it
    norm : float
        sum P^2.
    scale : float
        The convention's, of sum (F - P)^2.
    M : float
        Positions, or the sum of the guide's weights.
    guide : as `Network.guide` gave it, or None
    """

    weight: float
    features: Any
    norm: float
    scale: float
    M: float
    guide: Any


@dataclass(frozen=True)
class StyleTarget:
    """Of one layer in one region.

    Attributes
    ----------
    weight : float
        w_l.
    share : float
        Of the region.
    loss : StyleLoss
    scale : float
        The convention's, of the loss.
    guide : as `Network.guide` gave it, or None
    """

    weight: float
    share: float
    loss: StyleLoss
    scale: float
    guide: Any


def equivalent_weights(
    content: Mapping[str, ContentTarget],
    style: Mapping[str, StyleTarget],
    other: Convention,
    content_weight: float,
    style_weight: float,
    channels: Callable[[str], int],
) -> dict[str, Any]:
    """The weights that make another convention compute the same content and style terms."""
    content_layers = {
        tap: content_weight * p.weight * p.scale / other.content_scale(channels(tap), p.M, p.norm)
        for tap, p in content.items()
    }
    style_layers = {
        tap: style_weight * a.weight * a.scale / other.style_scale(a.loss.N, a.loss.norm) for tap, a in style.items()
    }
    first_content = next(iter(content_layers.values()), 0.0)
    first_style = next(iter(style_layers.values()), 0.0) / other.style_layer_weight
    return {
        "convention": other.name,
        "content_weight": first_content,
        "style_weight": first_style,
        "content_layers": {tap: w / first_content for tap, w in content_layers.items()},
        "style_layers": {tap: w / first_style for tap, w in style_layers.items()},
    }
