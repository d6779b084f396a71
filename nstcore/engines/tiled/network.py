"""A network that is computed tile by tile, exactly.

Statistics are sums over positions, and every other number of the objective follows from them. So a picture is gone over
twice: the forward sweep counts each tile's own part of the features into the statistics, and keeps no features but one
bit of each, its gate (`nstcore.engines.gates`); the backward sweep carries back what the losses send, tile by tile,
through these bits, and computes again the features alone that the losses ask for; with L2 pooling, which has no gates,
all of them.

A tile needs a halo as wide as the network sees, 160 pixels to relu5_1: much work for nothing. So the network is cut at
poolings into parts, each with a halo of its own that is a few positions wide. What a part ends with is stored for
the next one (a pooling leaves little: 32 bytes for each pixel of the picture after pool2, half of it after each that
follows), and so is the gradient on its way back. A part whose tile is the whole picture may keep its features.

        forward     for each part, for each tile:
                        window of what was stored -> features -> statistics, gates, what the next part begins with
        backward    for each part, the deepest first, for each tile:
                        windows of what was stored, of gates -> taps again -> gradient of the window -> the tile's own
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ... import vgg
from ...disk import release, strips
from ...pretrained.weights import Weights
from ..asked import Asked, TapGradient
from ..base import EVERYWHERE
from ..gates import GATES
from . import work
from .geometry import Tile
from .parts import Guide, Kept, Measured, PartPlan
from .planned import PlannedNetwork
from .tiling import Tiling
from .windows import ALL, New, Room, cut, paste
from .work import Ending, Question, Share, Tree

if TYPE_CHECKING:
    from . import TiledEngine

Gradients = Mapping[str, Sequence[TapGradient]]


class TiledNetwork(PlannedNetwork):
    """VGG over an engine's parts.

    Parameters
    ----------
    engine : TiledEngine
    weights, taps, pooling
        See `Network`.
    tiling : Tiling
    """

    def __init__(
        self, engine: TiledEngine, weights: Weights, taps: Iterable[str], pooling: str, tiling: Tiling
    ) -> None:
        super().__init__(engine, weights, taps, pooling, tiling)
        self._room = Room()
        self._empty()

    def twin(self) -> Self:
        """See `Network.twin`. The buffers of the windows are shared: neither may be forwarded between the other's
        forward and backward."""
        return super().twin()

    def free(self) -> None:
        super().free()
        self._room.clear()
        for network in self.networks:
            network.free()

    def _empty(self) -> None:
        self.size = (0, 0)
        self.plans: list[PartPlan] = []
        self._asked: tuple[Asked, ...] = ()
        self._measured: Measured | None = None
        self._pixels: Any = None
        self._gradient: Any = None

    # -- size ------------------------------------------------------------------------------------------------------

    def _resize(self, height: int, width: int) -> None:
        if (height, width) == self.size:
            return
        self.shapes(height, width)
        self.plans, self._gradient = [], None
        new = self.engine.new
        self.plans = self._parts(height, width)
        for plan in self.plans:
            if plan.network.part.last is not None:
                plan.output = new(self._output_shape(plan.network, height, width))
                plan.gradient = new(plan.output.shape)
            plan.gates = {name: new(shape, GATES) for name, shape in plan.gate_shapes(height, width).items()}
        self._gradient = new((3, height, width))
        self.size = (height, width)

    # -- forward --------------------------------------------------------------------------------------------------

    def ask(self, asked: Sequence[Asked]) -> None:
        self._asked = tuple(asked)

    def forward(self, pixels: Any) -> None:
        self._resize(*pixels.shape[1:])
        self._pixels = pixels
        found = self._measured = Measured()
        self._let_watch()
        for a in self._asked:
            if a.what == "keep" and a.tap not in found.kept:
                shape = self._shape(vgg.find(self.weights.architecture, a.tap), *self.size)
                found.kept[a.tap] = self.engine.new(shape)
        for plan, source in self._with_sources():
            self._make_room(plan)
            for tile in plan.forward:
                window = cut(source, tile.window, self._place("input", plan))
                asked = self._asked_of(plan, tile)
                targets = [a.target for a in asked if a.what == "distance"]
                questions = [self._question(plan, tile, a, targets) for a in asked]
                answers, output = work.forward(plan.network, self.engine.base, window, questions, plan.ending(tile))
                for a, answer in zip(asked, answers, strict=True):
                    self._count(plan, tile, a, answer, found)
                if plan.output is not None and output is not None:
                    paste(plan.output, tile.own_of_all(plan.ending_stride), output)
                for name, gates in plan.gates.items():
                    assert plan.gated is not None
                    step = vgg.find(self.weights.architecture, name)
                    stride = step.stride // plan.stride
                    paste(gates, tile.own_of_all(stride), plan.gated.gates(step, tile.own_at(stride)))

    def _let_watch(self) -> None:
        """A step is reported once for every tile, and again where it is computed again."""
        for network in self.networks:
            network.watch(self._watcher)

    def _make_room(self, plan: PartPlan) -> None:
        """The parts take turns in memory, buffers and windows; only the buffers of a resident part stay."""
        self._room.clear()
        for other in self.plans:
            if not (other is plan or other.resident):
                other.network.free()

    def _place(self, name: str, plan: PartPlan) -> New:
        """Where a window goes that is done with when the tile is; a resident part's has to last."""
        return np.empty if plan.resident else self._room.named(name)

    def _target(self, plan: PartPlan, tile: Tile, target: Kept, targets: Sequence[Kept]) -> np.ndarray:
        """The window of a content target, one of those that are compared with at once."""
        same = [t for t in targets if t is not None and t.tap == target.tap]
        name = f"target {same.index(target)} of {target.tap}"
        return cut(target.P, tile.window_at(self._stride(plan, target.tap)), self._place(name, plan))

    def _with_sources(self) -> Iterator[tuple[PartPlan, Any]]:
        """Every part, and what it begins with."""
        source = self._pixels
        for plan in self.plans:
            yield plan, source
            source = plan.output

    def _asked_of(self, plan: PartPlan, tile: Tile) -> list[Asked]:
        """What is asked of a part, as far as a position of the tap is left of the tile."""
        found = []
        for a in self._asked:
            if a.tap in plan.network.taps:
                rows, columns = tile.own_at(self._stride(plan, a.tap))
                if rows.start < rows.stop and columns.start < columns.stop:
                    found.append(a)
        return found

    def _question(self, plan: PartPlan, tile: Tile, a: Asked, targets: Sequence[Kept]) -> Question:
        stride = self._stride(plan, a.tap)
        own = tile.own_at(stride)
        if a.what == "keep":
            return Question(a.what, a.tap, own)
        P = self._target(plan, tile, a.target, targets) if a.what == "distance" else None
        return Question(a.what, a.tap, own, self._own(plan, tile, a.tap, a.target.guide if a.target else a.guide), P)

    def _own(self, plan: PartPlan, tile: Tile, tap: str, guide: Guide | None) -> np.ndarray | None:
        """A guide that is 0 outside the tile's own part; None where that is everything and weighs 1."""
        if plan.single:
            return None if guide is None else guide.w
        stride = self._stride(plan, tap)
        height, width = (s.stop - s.start for s in tile.window_at(stride))
        w = np.zeros((height, width), self.engine.dtype)
        w[tile.own_at(stride)] = 1 if guide is None else guide.w[tile.own_of_all(stride)]
        return w

    def _count(self, plan: PartPlan, tile: Tile, a: Asked, answer: Any, found: Measured) -> None:
        if a.what == "keep":
            paste(found.kept[a.tap], tile.own_of_all(self._stride(plan, a.tap)), answer)
            return
        key = a.what, a.tap, id(a.target if a.what == "distance" else a.guide)
        found.sums.setdefault(key, Tree(np.add)).add(answer)

    # -- backward -------------------------------------------------------------------------------------------------

    def backward(self, gradients: Gradients, above: Any = None) -> Any:
        self._there()
        self._measured = None
        self._let_watch()
        sources = list(self._with_sources())
        for i, (plan, source) in reversed(list(enumerate(sources))):
            out = self._gradient if i == 0 else self.plans[i - 1].gradient
            self._make_room(plan)
            for tile in plan.backward:
                window = None if plan.resident else cut(source, tile.window, self._place("input", plan))
                shares = list(self._shares(plan, tile, gradients))
                back = None
                if plan.gradient is not None:
                    back = cut(plan.gradient, tile.window_at(plan.ending_stride), self._place("gradient", plan))
                given = window, shares, back, tile.own_at(1), self._gates(plan, tile)
                # Without a name: what it is a view of has to go before the next part's buffers come
                paste(out, tile.own_of_all(1), work.backward(plan.network, self.engine.base, *given))
        return self._gradient

    def _gates(self, plan: PartPlan, tile: Tile) -> dict[str, np.ndarray]:
        """In the window of a tile."""
        found = {}
        for i, (name, gates) in enumerate(plan.gates.items()):
            window = tile.window_at(self._stride(plan, name))
            found[name] = np.ascontiguousarray(cut(gates, window, self._place(f"gates {i}", plan)))
        return found

    def _shares(self, plan: PartPlan, tile: Tile, gradients: Gradients) -> Iterator[Share]:
        """What the losses send back, in the window of a tile."""
        for tap in plan.network.taps:
            window, targets = tile.window_at(self._stride(plan, tap)), [g.target for g in gradients.get(tap, ())]
            for g in gradients.get(tap, ()):
                w = None if g.guide is None else g.guide.w[window]
                P = None if g.target is None else self._target(plan, tile, g.target, targets)
                yield Share(tap, g.dG, g.ds, P, g.scale, w)

    # -- statistics -----------------------------------------------------------------------------------------------

    def _there(self) -> Measured:
        if self._measured is None:
            raise RuntimeError("nothing is measured: call forward first")
        return self._measured

    def _found(self, what: str, tap: str, by: Any) -> Any:
        found = self._there().sums
        if (what, tap, id(by)) not in found:
            raise RuntimeError(f"{what} of {tap}: not measured; say so with `ask` before forward")
        return found[what, tap, id(by)].total()

    def positions(self, tap: str) -> int:
        _, height, width = self._shape(vgg.find(self.weights.architecture, tap), *self.size)
        return height * width

    def guide(self, tap: str, weights: np.ndarray) -> Guide:
        return Guide(self.engine.array(weights))

    def gram(self, tap: str, guide: Any = None) -> np.ndarray:
        return self._found("gram", tap, guide).astype(self.engine.dtype)

    def sums(self, tap: str, guide: Any = None) -> np.ndarray:
        return self._found("sums", tap, guide)

    def keep(self, tap: str, guide: Any = None) -> Kept:
        found = self._there().kept
        if tap not in found:
            raise RuntimeError(f"features of {tap}: not kept; say so with `ask` before forward")
        return Kept(tap, found.pop(tap), guide)

    def hold(self, tap: str, P: np.ndarray, guide: Any = None) -> Kept:
        held = self.engine.new(P.shape)
        held[...] = P
        return Kept(tap, held, guide)

    def squared_norm(self, target: Any) -> float:
        w, total = None if target.guide is None else target.guide.w, 0.0
        for rows in strips(target.P[0]):
            for plane in target.P:
                squares = np.square(plane[rows], dtype=np.float64)
                total += float(squares.sum() if w is None else (squares * w[rows]).sum())
                release(target.P)
        return total

    def squared_distance(self, tap: str, target: Any) -> float:
        return float(self._found("distance", tap, target))

    def features(self, tap: str, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        """See `Network.features`; they are computed again, all of them."""
        self._there()
        step = vgg.find(self.weights.architecture, tap)
        found = np.empty(self._shape(step, *self.size), self.engine.dtype)
        for plan, source in self._with_sources():
            if plan.network.part.first <= step.block <= (plan.network.part.last or step.block):
                stride = step.stride // plan.stride
                for tile in plan.forward:
                    ending = Ending(tap, tile.own_at(stride))
                    pixels = cut(source, tile.window)
                    _, own = work.forward(plan.network, self.engine.base, pixels, (), ending)
                    found[ALL + tile.own_of_all(stride)] = own
                return np.ascontiguousarray(cut(found, window))
        raise AssertionError(f"{tap} is in no part")
