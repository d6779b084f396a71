"""A network whose first block is computed in bands, so that little of it stays: for `--memory low`.

The first block has the fewest multiplications, a tenth of VGG19's, and the most features, as many as all that follow.
So it is computed as `network` computes tiles, each band of rows with a halo of a few rows, once on the way forward and
again on the way back; on a CPU, from gates, only the features that the losses ask for. The other blocks are computed in
one piece, once, and hold all that they have.

        forward     for each band:   rows of the picture -> features -> statistics, gates, what pool1 gives to the rest
                    the rest, as any network
        backward    the rest, down to pool1
                    for each band:   rows of the picture, of gates -> taps again -> gradient of the band's own rows

Bands go across the whole picture, so that their rows lie together in each plane, and copying them is one operation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from ... import vgg
from ...pretrained.weights import Weights
from ..asked import Asked, TapGradient
from ..base import EVERYWHERE, Engine, Network
from ..gates import GATES, GatedNetwork
from .geometry import Tile
from .low_planned import PlannedInBands
from .windows import ALL
from .work import Tree

Gradients = Mapping[str, Sequence[TapGradient]]


@dataclass(eq=False)
class Guide:
    """Weights w (H, W) of a tap of the first block, and what is made of them for each band when it is first computed.

    Attributes
    ----------
    w : ndarray (H, W)
    own, seen : dict
        By the number of a band: the guide of its own rows, 0 in the rest of its window, and that of its whole window.
    """

    w: np.ndarray
    own: dict[Any, Any] = field(default_factory=dict)
    seen: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Kept:
    """A content target of a tap of the first block: for each band one that its network has made."""

    bands: list[Any]


class LowNetwork(PlannedInBands):
    """VGG of a first block that comes in bands, and the rest.

    Parameters
    ----------
    base : Engine
        What computes.
    weights, taps, pooling
        See `Network`.
    """

    def __init__(self, base: Engine, weights: Weights, taps: Iterable[str], pooling: str) -> None:
        super().__init__(base, weights, taps, pooling)
        self._empty()

    def twin(self) -> Self:
        """See `Network.twin`. The buffers of both parts are shared: neither may be forwarded between the other's
        forward and backward."""
        return super().twin()

    def free(self) -> None:
        super().free()
        for network in self._networks:
            network.free()

    def _empty(self) -> None:
        self.size = (0, 0)
        self.bands: list[Tile] = []
        self._asked: tuple[Asked, ...] = ()
        self._sums: dict[tuple[str, str, int], Tree] | None = None
        self._features: dict[str, list[np.ndarray]] = {}  # of each band, where they are to be kept
        self._whole: dict[Any, Any] = {}  # guides of own rows, by tap and where they lie in a window
        self._gates: dict[str, np.ndarray] = {}
        # Arrays of the engine, the picture's and those of `_arrays`
        self._pixels: Any = None
        self._window: Any = None
        self._above: Any = None
        self._output: Any = None
        self._gradient: Any = None

    # -- size -----------------------------------------------------------------------------------------------------

    def _resize(self, height: int, width: int) -> None:
        if (height, width) == self.size:
            return
        self.shapes(height, width)
        asked = self._asked
        self._empty()
        self._asked = asked
        self.bands = self._bands(height, width)
        shapes, empty = self._arrays(height, width), self.base.empty
        self._window, self._gradient = empty(shapes["window"]), empty(shapes["gradient"])
        self._above = None if self.rest is None else empty(shapes["window of pool1"])
        self._output = empty(shapes["pool1"]) if "pool1" in shapes else None
        self._gates = {name: np.empty(shape, GATES) for name, shape in self._gate_shapes(height, width).items()}
        self.size = (height, width)

    # -- forward --------------------------------------------------------------------------------------------------

    def ask(self, asked: Sequence[Asked]) -> None:
        self._asked = tuple(asked)

    def forward(self, pixels: Any) -> None:
        self._resize(*pixels.shape[1:])
        self._pixels, self._sums, self._features = pixels, {}, {}
        for network in self._networks:
            network.watch(self._watcher)
        output = self._output
        if self._lends:
            assert isinstance(self.rest, GatedNetwork)
            output = self.rest.entrance(*(n // 2 for n in self.size))
        asked = [a for a in self._asked if self._is_first(a.tap)]
        for n, band in enumerate(self.bands):
            self.first.forward(self._rows_of_picture(band))
            for a in asked:
                self._count(a, n)
            rows = band.rows.own_at(2)
            if self.rest is not None and rows.start < rows.stop:
                self.base.copy_rows(self.first.ending((rows, slice(None))), output[ALL + band.own_of_all(2)])
            for name, gates in self._gates.items():
                assert self._gated is not None
                step = vgg.find(self.weights.architecture, name)
                gates[ALL + band.own_of_all(1)] = self._gated.gates(step, band.own_at(1))
        if self.rest is not None:
            self.rest.ask([a for a in self._asked if not self._is_first(a.tap)])
            self.rest.forward(output)

    def _rows_of_picture(self, band: Tile) -> Any:
        """The window of a band."""
        self.base.copy_rows(self._pixels[ALL + band.window], self._window)
        return self._window

    def _count(self, a: Asked, n: int) -> None:
        """One band's share of what was asked."""
        if a.what == "keep":
            self._features.setdefault(a.tap, []).append(self.first.features(a.tap))
            return
        rows = self.bands[n].rows.own_at(self._stride(a.tap))
        if rows.start == rows.stop:
            return  # one row of the picture, which no window of the pooling holds
        guide = self._own_guide(a.tap, n, a.guide)
        if a.what == "gram":
            answer: Any = self.base.numpy(self.first.gram(a.tap, guide)).astype(np.float64)
        elif a.what == "sums":
            answer = self.first.sums(a.tap, guide)
        else:
            answer = self.first.squared_distance(a.tap, a.target.bands[n])
        assert self._sums is not None
        key = a.what, a.tap, id(a.target if a.what == "distance" else a.guide)
        self._sums.setdefault(key, Tree(np.add)).add(answer)

    def _own_guide(self, tap: str, n: int, guide: Guide | None) -> Any:
        """That of a band's own rows; None where that is everything and weighs 1."""
        if guide is None and len(self.bands) == 1:
            return None
        stride, band = self._stride(tap), self.bands[n]
        rows, shape = band.rows.own_at(stride), tuple(s.stop - s.start for s in band.window_at(stride))
        known = self._whole if guide is None else guide.own
        key: Any = (tap, rows.start, rows.stop) if guide is None else n
        if key not in known:
            w = np.zeros(shape, self.base.dtype)
            w[rows] = 1 if guide is None else guide.w[band.rows.own_of_all(stride)]
            known[key] = self.first.guide(tap, w)
        return known[key]

    def _seen_guide(self, tap: str, n: int, guide: Guide | None) -> Any:
        """That of a band's whole window."""
        if guide is not None and n not in guide.seen:
            guide.seen[n] = self.first.guide(tap, guide.w[self.bands[n].window_at(self._stride(tap))])
        return None if guide is None else guide.seen[n]

    # -- backward -------------------------------------------------------------------------------------------------

    def backward(self, gradients: Gradients, above: Any = None) -> Any:
        self._there()
        self._sums = None
        back = None
        if self.rest is not None:
            back = self.rest.backward({tap: gradients[tap] for tap in self.rest.taps if tap in gradients})
        for n, band in enumerate(self.bands):
            self._again(band)
            if back is not None:
                self.base.copy_rows(back[ALL + band.window_at(2)], self._above)
            sent = {tap: [self._share(g, tap, n) for g in gradients.get(tap, ())] for tap in self.first.taps}
            gradient = self.first.backward(sent, self._above)
            self.base.copy_rows(gradient[ALL + band.own_at(1)], self._gradient[ALL + band.own_of_all(1)])
        return self._gradient

    def _again(self, band: Tile) -> None:
        """The features of a band that its way back asks for; those of the only one are still there."""
        if self._gated is not None and self._gates:
            gates = {name: np.ascontiguousarray(g[ALL + band.window]) for name, g in self._gates.items()}
            self._gated.reopen(self._rows_of_picture(band), gates)
        elif len(self.bands) > 1:
            self.first.forward(self._rows_of_picture(band))

    def _share(self, g: TapGradient, tap: str, n: int) -> TapGradient:
        """What a loss sends back from a tap of the first block, for one band."""
        target = None if g.target is None else g.target.bands[n]
        return replace(g, target=target, guide=self._seen_guide(tap, n, g.guide))

    # -- statistics -----------------------------------------------------------------------------------------------

    def _there(self) -> dict[tuple[str, str, int], Tree]:
        if self._sums is None:
            raise RuntimeError("nothing is measured: call forward first")
        return self._sums

    def _found(self, what: str, tap: str, by: Any) -> Any:
        found = self._there()
        if (what, tap, id(by)) not in found:
            raise RuntimeError(f"{what} of {tap}: not measured; say so with `ask` before forward")
        return found[what, tap, id(by)].total()

    def _of(self, tap: str) -> Network | None:
        """The network that answers for a tap of the rest; None for one of the first block."""
        return None if self._is_first(tap) else self.rest

    def positions(self, tap: str) -> int:
        _, height, width = self._shape(vgg.find(self.weights.architecture, tap), *self.size)
        return height * width

    def guide(self, tap: str, weights: np.ndarray) -> Any:
        rest = self._of(tap)
        return Guide(np.array(weights, self.base.dtype)) if rest is None else rest.guide(tap, weights)

    def gram(self, tap: str, guide: Any = None) -> Any:
        rest = self._of(tap)
        return self.base.array(self._found("gram", tap, guide)) if rest is None else rest.gram(tap, guide)

    def grams(self, taps: Iterable[str]) -> dict[str, Any]:
        taps = tuple(taps)
        deeper = [tap for tap in taps if not self._is_first(tap)]
        found = self.rest.grams(deeper) if self.rest is not None and deeper else {}
        return {tap: found[tap] if tap in found else self.gram(tap) for tap in taps}

    def sums(self, tap: str, guide: Any = None) -> Any:
        rest = self._of(tap)
        return self._found("sums", tap, guide) if rest is None else rest.sums(tap, guide)

    def keep(self, tap: str, guide: Any = None) -> Any:
        rest = self._of(tap)
        if rest is not None:
            return rest.keep(tap, guide)
        if tap not in self._features:
            raise RuntimeError(f"features of {tap}: not kept; say so with `ask` before forward")
        return self._kept(tap, self._features.pop(tap), guide)

    def hold(self, tap: str, P: np.ndarray, guide: Any = None) -> Any:
        rest, stride = self._of(tap), self._stride(tap)
        if rest is not None:
            return rest.hold(tap, P, guide)
        return self._kept(tap, [np.ascontiguousarray(P[ALL + b.window_at(stride)]) for b in self.bands], guide)

    def _kept(self, tap: str, windows: list[np.ndarray], guide: Guide | None) -> Kept:
        """A target of the features of every band's window; `windows` is used up."""
        windows.reverse()
        held = [self.first.hold(tap, windows.pop(), self._own_guide(tap, n, guide)) for n in range(len(self.bands))]
        return Kept(held)

    def squared_norm(self, target: Any) -> float:
        if isinstance(target, Kept):
            return math.fsum(self.first.squared_norm(band) for band in target.bands)
        assert self.rest is not None
        return self.rest.squared_norm(target)

    def squared_distance(self, tap: str, target: Any) -> float:
        rest = self._of(tap)
        return float(self._found("distance", tap, target)) if rest is None else rest.squared_distance(tap, target)

    def features(self, tap: str, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        """See `Network.features`; those of the first block are computed again."""
        self._there()
        step = vgg.find(self.weights.architecture, tap)
        if step.block > 1 and self.rest is not None:
            return self.rest.features(tap, window)
        found = np.empty(self._shape(step, *self.size), self.base.dtype)
        for band in self.bands:
            self.first.forward(self._rows_of_picture(band))
            own, _ = band.own_at(step.stride)
            found[ALL + band.own_of_all(step.stride)] = self.first.features(tap, (own, slice(None)))
        return np.ascontiguousarray(found[ALL + window])
