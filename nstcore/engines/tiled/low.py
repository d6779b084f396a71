"""An engine for `--memory low`: the network's first block in bands, of which nothing stays, all others in one piece.

Every array lies where the engine underneath has it, nothing on disk, and nothing of a picture's size goes from a GPU to
the host. A step is not recorded there, as the Gram matrices of the bands are added up on the host. See `low_network`
for what is computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ... import vgg
from ...pretrained.weights import Weights
from ..base import Engine, MomentsLoss, Network
from ..operations import Operations
from .low_network import LowNetwork
from .vectors import StripVectors


class LowEngine(Engine):
    """An engine whose networks compute their first block in bands.

    Parameters
    ----------
    base : Engine
    """

    def __init__(self, base: Engine) -> None:
        self.base = base
        self.name, self.dtype, self.precision = base.name, base.dtype, base.precision
        self.threads, self.notice = base.threads, base.notice
        # These go through arrays in memory at once, and have no step of Adam that is recorded ahead
        self.vectors = StripVectors(base.vectors, lambda shape, dtype: base.empty(shape))

    def describe(self) -> str:
        return f"{self.base.describe()}, the first block in bands"

    def network(self, weights: Weights, taps: Iterable[str], pooling: str, part: vgg.Part = vgg.WHOLE) -> Network:
        if part != vgg.WHOLE:
            return self.base.network(weights, taps, pooling, part)
        return LowNetwork(self.base, weights, taps, pooling)

    def operations(self) -> Operations:
        return self.base.operations()

    def raised(self) -> Engine | None:
        higher = self.base.raised()
        return None if higher is None else LowEngine(higher)

    def memory(self) -> int | None:
        return self.base.memory()

    # -- arrays ---------------------------------------------------------------------------------------------------

    def array(self, a: np.ndarray) -> Any:
        return self.base.array(a)

    def asarray(self, a: Any) -> Any:
        return self.base.asarray(a)

    def numpy(self, a: Any) -> np.ndarray:
        return self.base.numpy(a)

    def empty(self, shape: tuple[int, ...]) -> Any:
        return self.base.empty(shape)

    def copy_rows(self, source: Any, out: Any) -> None:
        self.base.copy_rows(source, out)

    # -- the objective's ------------------------------------------------------------------------------------------

    def style_term(self, G: Any, M: int, A: Any, M_style: int, scale: float) -> tuple[float, Any]:
        return self.base.style_term(G, M, A, M_style, scale)

    def moments_loss(self, kind: str, M: float, *target: Any) -> MomentsLoss | None:
        return self.base.moments_loss(kind, M, *target)

    def total_variation(self, pixels: Any, scale: float, gradient: Any, diagonal: float = 0.0) -> float:
        return self.base.total_variation(pixels, scale, gradient, diagonal)

    def block_mean(self, pixels: Any, k: int) -> Any:
        return self.base.block_mean(pixels, k)

    def add_block_mean_gradient(self, dy: Any, k: int, gradient: Any) -> None:
        self.base.add_block_mean_gradient(dy, k, gradient)
