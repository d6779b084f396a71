"""What a pass of a one-pass network takes at least, layer by layer: arithmetic, and memory moved."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..fast import MODELS
from ..fast.counting import Counting
from ..pretrained import FastWeights

FLOAT = 4  # bytes


class _Traffic(Counting):
    """Layers without numbers, which note what each would take."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[tuple[int, int]] = []

    def _convolved(self, x: Any, K: int, C: int, R: int, S: int, *geometry: Any) -> Any:
        y = super()._convolved(x, K, C, R, S, *geometry)
        self._note(2 * self.usage.multiplications[-1], x.size + K * (C * R * S + 1) + y.size)
        return y

    def instance_norm(self, x: Any, *arguments: Any, plus: Any = None, **how: Any) -> Any:
        # As bench instance-norm counts them
        self._note(8 * x.size, (2 if plus is None else 3) * x.size + 2 * x.shape[0])
        return super().instance_norm(x, *arguments, plus=plus, **how)

    def max_pool(self, x: Any) -> Any:
        y = super().max_pool(x)
        self._note(3 * y.size, x.size + y.size)
        return y

    def _note(self, operations: int, numbers: int) -> None:
        self.layers.append((operations, FLOAT * numbers))


def traffic(weights: FastWeights, height: int, width: int) -> list[tuple[int, int]]:
    """(floating-point operations, bytes) of each layer that paints a picture of that size.

    Every map is read and written once by each layer, as if nothing stayed in a cache; an enlargement in front of a
    convolution moves nothing.

    Parameters
    ----------
    weights : FastWeights
    height, width : int
        Multiples of the network's `grid`.
    """
    layers = _Traffic()
    net = MODELS[weights.model](weights, layers)
    net._paint(layers.picture(height, width), np.zeros(net.look_length))
    return layers.layers
