"""What the `cuda` engine's networks tell of their features: Gram matrices, sums, content targets, the features."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import vgg
from ...errors import ShapeError
from ..base import EVERYWHERE, Network
from . import features
from .device import Array, Device
from .gram import Grams
from .loss_scale import place_of
from .losses import Losses
from .moments import Guide, Moments
from .precision import FLOAT16, Precision, from_elements


@dataclass(frozen=True)
class Target:
    """A content target: P (H, W, N), and the guide that its distances take."""

    P: Array
    guide: Guide | None


Traces = dict[tuple[str, int], Array]  # numbers whose sum is sum w F^2, by `place_of` a tap and a guide


class CudaStatistics(Network):
    """The half of a network that comes after its forward pass.

    Attributes
    ----------
    buffers : dict
        Features (H, W, N) by layer, and what `plan.network_plan` says of the rest.
    traced : Traces
        In float16, for its loss scales: of those Gram matrices that were asked for since the last forward.
    """

    device: Device
    precision: Precision
    losses: Losses
    moments: Moments
    buffers: dict[str, Array]
    _grams: dict[tuple[str | int, ...], Grams]
    _sums: dict[str, Array]
    traced: Traces
    _there: bool

    def _scratch_like(self, F: Array) -> Array:
        raise NotImplementedError

    def _layer(self, layer: str) -> Array:
        raise NotImplementedError

    def _need_features(self) -> None:
        if not self._there:
            raise RuntimeError("the features are gone: backward overwrites them; call forward first")

    def _tapped(self, tap: str) -> Array:
        self._need_features()
        return self.buffers[tap]

    def positions(self, tap: str) -> int:
        return math.prod(self.buffers[tap].shape[:2])

    def guide(self, tap: str, weights: np.ndarray) -> Guide:
        channels = vgg.find(self.weights.architecture, tap).out_channels
        return self.moments.guide(tap, weights, channels)

    def gram(self, tap: str, guide: Guide | None = None) -> Array:
        """Under a guide, an array that only this guide's next one reuses."""
        if guide is None:
            return self.grams([tap])[tap]
        F = self._tapped(tap)
        Y = self._scratch_like(F)
        # ops.moments_forward
        self.moments.weigh(F, guide, Y)
        self._compute_grams([place_of(self.device, tap, guide)], [Y], [guide.G])
        if guide.most != 1:
            self.losses.multiply(guide.G, guide.most)
        return guide.G

    def grams(self, taps: Iterable[str]) -> dict[str, Array]:
        taps = tuple(taps)
        found = {tap: self.buffers[f"{tap}:gram"] for tap in taps}
        # ops.gram_forward
        places = [place_of(self.device, tap) for tap in taps]
        self._compute_grams(places, [self._tapped(tap) for tap in taps], list(found.values()))
        return found

    def _compute_grams(
        self, places: Sequence[tuple[str, int]], features: Sequence[Array], out: Sequence[Array]
    ) -> None:
        matrices = [F.reshape(-1, F.shape[2]) for F in features]
        key = tuple(part for place in places for part in place)
        if key not in self._grams:
            shapes, traced = [F.shape[::-1] for F in matrices], self.precision is FLOAT16
            self._grams[key] = Grams(self.device, self.precision, shapes, traced=traced)
        self._grams[key](matrices, self.buffers["partials"], out)
        self.traced |= zip(places, self._grams[key].traces, strict=False)

    def sums(self, tap: str, guide: Guide | None = None) -> Any:
        """Where losses are read later, an array that the next ones of this tap, or of this guide, reuse."""
        F = self._tapped(tap)
        if guide is None and tap not in self._sums:
            self._sums[tap] = self.device.empty(F.shape[2], np.float64)
        s = self._sums[tap] if guide is None else guide.s
        # ops.moments_forward
        self.moments.sums_into(F, guide, s)
        return s if self.losses.deferred else self.device.to_host(s)

    def keep(self, tap: str, guide: Guide | None = None) -> Target:
        F = self._tapped(tap)
        P = self.device.empty(F.shape, F.dtype)
        self.device.copy(F, P)
        return Target(P, guide)

    def hold(self, tap: str, P: np.ndarray, guide: Guide | None = None) -> Target:
        N = vgg.find(self.weights.architecture, tap).out_channels
        if P.ndim != 3 or P.shape[0] != N:
            raise ShapeError(f"P: expected features ({N}, H, W) of {tap}, got {P.shape}")
        kept = self.device.empty((*P.shape[1:], N), self.precision.dtype)
        planes = self.device.to_device(np.ascontiguousarray(P, np.float32))
        features.enter(self.device, self.precision, planes, kept)
        return Target(kept, guide)

    def squared_norm(self, target: Target) -> float:
        return self._distance(target.P, None, target.guide)

    def squared_distance(self, tap: str, target: Target) -> float:
        return self._distance(self._tapped(tap), target.P, target.guide)

    def _distance(self, F: Array, P: Array | None, guide: Guide | None) -> float:
        # ops.content_forward
        if guide is None:
            return self.losses.squared_distance(F, P)
        return guide.most * self.losses.squared_distance(F, P, guide.w)

    def ending(self, window: tuple[slice, slice] = EVERYWHERE) -> Array:
        """See `Network.ending`; of a part that ends in a pooling, and good until the next one."""
        F = self._tapped(self.steps[-1].output)
        rows, columns = (range(n)[s] for n, s in zip(F.shape, window, strict=False))
        shape = F.shape[2], len(rows), len(columns)
        y = self.buffers["output"].reshape(-1)[: math.prod(shape)].reshape(shape)
        features.leave(self.device, self.precision, F, y, rows.start, columns.start)
        return y

    def features(self, tap: str, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        self._need_features()
        F, (rows, columns) = self._layer(tap), window
        (top, bottom, _), (left, right, _) = rows.indices(F.shape[0]), columns.indices(F.shape[1])
        shape = F.shape[2], max(bottom - top, 0), max(right - left, 0)
        if not math.prod(shape):
            return np.empty(shape, np.float32)
        if "output" in self.buffers and tap == self.steps[-1].output:  # for the next part: turned on the device
            return self.device.to_host(self.ending(window))
        values = from_elements(self.device.to_host(F[top:bottom])[:, left:right], self.precision)
        return np.ascontiguousarray(values.transpose(2, 0, 1))
