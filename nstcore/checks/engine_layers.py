"""The single layers of every engine, of which feed-forward networks are made, against the book in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ..engines import Engine
from ..engines.operations import BookOperations, Operations
from ..ops.conv import same_amounts
from .check import Proof
from .gradcheck import relative_error

CHANNELS, HEIGHT, WIDTH = 12, 19, 26
ROUNDINGS = 40  # of a sum of some hundred products, which partly cancel each other

Draw = Callable[..., np.ndarray]


def proofs(engine: Engine, seed: int) -> Iterator[tuple[str, Proof]]:
    """By topic; each layer is computed by the same lines twice: by the engine, and by the book."""
    mine, book = engine.operations(), BookOperations(np.dtype(np.float64))
    unit = float(np.finfo(mine.numpy(mine.maps(np.zeros((1, 1, 1)))).dtype).eps) / 2
    for topic, (what, layer) in LAYERS.items():
        yield topic, Proof(what, partial(_error, layer, mine, book, seed), ROUNDINGS * unit)


def _error(layer: Callable[[Operations, Any, Draw], Any], mine: Operations, book: Operations, seed: int) -> float:
    found = []
    for layers in (mine, book):
        rng = np.random.default_rng(seed)

        def draw(*shape: int, rng: np.random.Generator = rng) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)  # so that both see the same numbers

        found.append(layers.numpy(layer(layers, layers.maps(draw(CHANNELS, HEIGHT, WIDTH)), draw)))
    return relative_error(*found)


def _conv(layers: Operations, x: Any, draw: Draw) -> Any:
    """As they follow each other in a network that paints: large, with a stride, enlarged."""
    large, small = layers.filters(draw(16, CHANNELS, 9, 9), draw(16)), layers.filters(draw(3, 16, 3, 3), draw(3))
    y = layers.conv(x, large, stride=2, padding="reflect", activation="relu")
    return layers.conv(y, small, padding="reflect", upsample=2)


def _depthwise(layers: Operations, x: Any, draw: Draw) -> Any:
    filters = layers.depthwise_filters(draw(CHANNELS, 3, 3), draw(CHANNELS))
    return layers.depthwise(x, filters, stride=2, amounts=same_amounts(HEIGHT, WIDTH, 3, 3, 2))


def _activation(layers: Operations, x: Any, draw: Draw, name: str) -> Any:
    return layers.conv(x, layers.filters(draw(5, CHANNELS, 1, 1), draw(5)), activation=name)


def _linear(layers: Operations, x: Any, draw: Draw) -> Any:
    return layers.linear(layers.maps(draw(100, 1, 1)), layers.filters(draw(33, 100, 1, 1), draw(33)))


def _instance_norm(layers: Operations, x: Any, draw: Draw) -> Any:
    """As at the end of a residual block: x + norm(x)."""
    scale, shift = (layers.maps(draw(CHANNELS, 1, 1)) for _ in range(2))
    return layers.instance_norm(x, scale, shift, 1e-5, plus=layers.maps(draw(CHANNELS, HEIGHT, WIDTH)))


def _resize(layers: Operations, x: Any, draw: Draw) -> Any:
    """Nearest to larger, then bilinear to smaller."""
    return layers.resize_bilinear(layers.resize_nearest(x, 2 * HEIGHT, WIDTH + 5), HEIGHT - 6, WIDTH - 3)


LAYERS: dict[str, tuple[str, Callable[[Operations, Any, Draw], Any]]] = {
    "conv": ("9x9, enlarged", _conv),
    "depthwise": ("one layer", _depthwise),
    "relu6": ("one layer", partial(_activation, name="relu6")),
    "global-average": ("one layer", lambda layers, x, draw: layers.global_average(x)),
    "linear": ("one layer", _linear),
    "instance-norm": ("one layer", _instance_norm),
    "resize": ("one layer", _resize),
    "sigmoid": ("one layer", partial(_activation, name="sigmoid")),
}
