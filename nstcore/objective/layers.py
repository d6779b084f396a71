"""Weights: of the layers that the losses look at, and of the styles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..errors import LayerError, OptionError

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")

Layers = Mapping[str, float] | Sequence[str]


def layer_weights(name: str, given: Layers | None, default: tuple[str, ...], weight: float) -> dict[str, float]:
    """Layer weights above zero; a layer of weight 0 is not computed.

    Parameters
    ----------
    name : str
        Of the option, for messages.
    given : mapping of layer name to weight, names alone, or None
    default : tuple of str
        In place of None.
    weight : float
        Of every layer that is named alone.
    """
    if given is None:
        given = default
    if isinstance(given, str):
        raise OptionError(f"{name}: expected a mapping of layers to weights or a sequence of names, got {given!r}")
    table = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, weight)
    for layer, value in table.items():
        if not isinstance(layer, str):
            raise LayerError(f"{name}: expected layer names such as relu4_2, got {layer!r}")
        weight_of(f"{name} {layer}", value, weight)
    return {layer: float(value) for layer, value in table.items() if float(value) > 0}


def falling(weights: dict[str, float], ratio: float, order: Sequence[str]) -> dict[str, float]:
    """Each deeper layer weighs 1/ratio of what it would; all together as much as before."""
    if ratio == 1:
        return weights
    deep_last = [layer for layer in order if layer in weights]
    fallen = {layer: weights[layer] / ratio**i for i, layer in enumerate(deep_last)}
    total = sum(fallen.values())
    return {layer: fallen[layer] * sum(weights.values()) / total for layer in weights}


def weight_of(name: str, value: float | None, default: float) -> float:
    """A weight of 0 or more, or the default."""
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise OptionError(f"{name}: expected a number of 0 or more, got {value!r}") from None
    if not (math.isfinite(number) and number >= 0):
        raise OptionError(f"{name}: expected a finite number of 0 or more, got {value!r}")
    return number


def ratio_of(name: str, value: float | None, default: float) -> float:
    """A ratio above 0, or the default."""
    number = weight_of(name, value, default)
    if number == 0:
        raise OptionError(f"{name}: expected a number above 0, got {value!r}")
    return number


def blend_weights(given: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """How much each style counts, adding up to 1."""
    if given is None:
        return (1 / count,) * count
    weights = [weight_of(f"style_blend {i + 1}", value, 0.0) for i, value in enumerate(given)]
    if len(weights) != count:
        raise OptionError(f"style_blend: expected {count} weights, one per style, got {len(weights)}")
    if not any(weights):
        raise OptionError("style_blend: expected at least one weight above 0, got none")
    total = sum(weights)
    return tuple(weights) if math.isclose(total, 1, rel_tol=1e-12) else tuple(w / total for w in weights)
