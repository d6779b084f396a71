"""A network that is computed tile by tile, exactly.

Statistics are sums over positions, and every other number of the objective follows from them. So a picture is gone over
twice: the forward sweep counts each tile's own part of the features into the statistics, and keeps no features; the
backward sweep computes them again, tile by tile, and carries back what the losses send.

A tile needs a halo as wide as the network sees, 160 pixels to relu5_1: much work for nothing. So the network is cut at
poolings into parts, each with a halo of its own that is a few positions wide. What a part ends with is stored for the
next one (a pooling leaves little: 32 bytes for each pixel of the picture after pool2, 16 after pool3), and so is the
gradient on its way back. A part whose tile is the whole picture is not computed again: its features stay.

        forward     for each part, for each tile:   window of what was stored -> features -> statistics, and store
        backward    for each part, the deepest first, for each tile:
                        window of what was stored -> features again -> gradient of the window -> store the tile's own
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ... import vgg
from ...disk import release, strips
from ...pretrained.weights import Weights
from ..base import EVERYWHERE, Asked, Network, TapGradient
from . import work
from .geometry import Tile, tiles
from .parts import Guide, Kept, Measured, PartPlan
from .tiling import Tiling
from .windows import ALL, New, Room, cut, paste
from .work import Ending, Question, Share, Tree

if TYPE_CHECKING:
    from . import TiledEngine

Gradients = Mapping[str, Sequence[TapGradient]]


class TiledNetwork(Network):
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
        super().__init__(weights, taps, pooling)
        self.engine, self.tiling = engine, tiling
        self.networks = [
            engine.base.network(weights, [t for t in self.taps if self._within(part, t)], pooling, part)
            for part in tiling.parts(self.steps[-1].block)
        ]
        self.sides = tiling.sides(self.networks)  # of each part's tiles, in pixels
        self._filter_bytes = sum(network.memory(64, 64)["filters"] for network in self.networks)
        self.itemsize = engine.dtype.itemsize  # of what is stored
        self.apart = self.networks[0].apart
        self._room = Room()
        self._empty()

    def _within(self, part: vgg.Part, tap: str) -> bool:
        block = vgg.find(self.weights.architecture, tap).block
        return part.first <= block <= (part.last or block)

    def twin(self) -> Self:
        """See `Network.twin`. The buffers of the windows are shared: neither may be forwarded between the other's
        forward and backward."""
        return super().twin()

    def retiled(self, tiling: Tiling) -> None:
        """From now on tiles of another size; the cuts stay."""
        if tiling.cuts != self.tiling.cuts:
            raise ValueError(f"cuts: expected {self.tiling.cuts}, got {tiling.cuts}")
        self.tiling, self.sides = tiling, tiling.sides(self.networks)
        self._empty()

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

    # -- memory ---------------------------------------------------------------------------------------------------

    def _tiles(self, network: Network, height: int, width: int, tile: int) -> tuple[list[Tile], list[Tile]]:
        """Of a part, for a picture of that size: those of the forward sweep, those of the backward sweep."""
        reach = self.tiling.reach(network)
        size = height // reach.stride, width // reach.stride
        side, grid = max(1, tile // reach.stride), max(reach.grid, self.tiling.grid // reach.stride)
        forward = tiles(*size, side, reach.gradient if self.tiling.keep else reach.features, grid)
        return forward, forward if len(forward) == 1 else tiles(*size, side, reach.gradient, grid)

    def _parts(self, height: int, width: int) -> list[PartPlan]:
        """Every part for a picture of that size.

        The features of a part that is in one piece stay where the tiling says so, or where those of all parts take no
        more together than the windows that take turns otherwise.
        """
        found = [
            PartPlan(network, *self._tiles(network, height, width, tile))
            for network, tile in zip(self.networks, self.sides, strict=True)
        ]
        small = all(plan.single for plan in found) and sum(self._buffers(plan) for plan in found) <= self.tiling.most(
            self.networks[0]
        )
        for plan in found if small else found[len(found) - self.tiling.in_one_piece(len(found)) :]:
            plan.resident = plan.single
        return found

    def _buffers(self, plan: PartPlan, guided: Iterable[str] = ()) -> int:
        """Bytes of a part's windows. A tile's own part is counted with a guide."""
        network = plan.network
        inner = tuple(guided) if plan.single or network.crops else network.taps
        of_part = network.memory(*plan.backward[0].shape, [t for t in network.taps if t in inner])
        return sum(of_part.values()) - of_part["filters"]

    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        """Bytes of the largest windows, which take turns; of parts that stay; of what is stored between the parts."""
        found, guided = {"filters": self._filter_bytes}, tuple(guided)
        for plan in self._parts(height, width):
            part, buffers = plan.network.part, self._buffers(plan, guided)
            if plan.resident:
                found[f"blocks {part.first} to {part.last or self.steps[-1].block}"] = buffers
            else:
                found["windows"] = max(found.get("windows", 0), buffers)
        return {**found, **self._stored(height, width)}

    def _stored(self, height: int, width: int) -> dict[str, int]:
        """Bytes of memory of what lies between the parts, and of the gradient."""
        sizes, in_memory = self._arrays(height, width), self.engine.in_memory
        return {name: sum(map(in_memory, counts)) for name, counts in sizes.items()}

    def on_disk(self, height: int, width: int) -> int:
        """Bytes on disk of the same."""
        every = sum(map(sum, self._arrays(height, width).values()))
        return every - sum(self._stored(height, width).values())

    def _arrays(self, height: int, width: int) -> dict[str, list[int]]:
        """Bytes of each of them."""
        shapes = {n.part.last: self._output_shape(n, height, width) for n in self.networks if n.part.last is not None}
        found = {f"after block {b}": [math.prod(s) * self.itemsize] * 2 for b, s in shapes.items()}
        return {**found, "gradient": [3 * height * width * self.itemsize]}

    def copies(self, height: int, width: int, kept: Iterable[str] = ()) -> int:
        """Bytes of the windows of what is stored that are in memory beside the buffers of a part, at most.

        `kept` are the taps that are compared with a target, whose windows are copied twice: into `Room`, where those of
        a name lie in one place whichever part they are of, and into the layout of the engine.
        """
        places: dict[str, float] = {}
        most = 0.0
        for plan in self._parts(height, width):
            steps, tile = plan.network.steps, plan.backward[0]
            own = tile.own_at(1)
            share = (own[0].stop - own[0].start) * (own[1].stop - own[1].start) / tile.area
            found = {"input": float(steps[0].in_channels * tile.area)}
            passing = found["input"] * share
            if plan.network.part.last is not None:
                found["gradient"] = steps[-1].out_channels * tile.area / plan.ending_stride**2
                passing = max(passing, found["gradient"] * share)
            for tap in set(kept) & set(plan.network.taps):
                channels = vgg.find(self.weights.architecture, tap).out_channels
                found[tap] = channels * tile.area / self._stride(plan, tap) ** 2
                passing += found[tap]
            places |= {name: max(count, places.get(name, 0.0)) for name, count in found.items()}
            most = max(most, passing)
        return int(most + sum(places.values())) * self.itemsize

    def bytes_of_twin(self, height: int, width: int, guided: Iterable[str] = ()) -> int:
        return sum(self._stored(height, width).values())

    def work(self, height: int, width: int) -> float:
        """Multiplications of all convolutions: those of all windows, against those of the picture, twice."""
        whole = done = 0.0
        for plan in self._parts(height, width):
            network, stride = plan.network, plan.stride
            forward, backward = (
                found[0].area * len(found) / (height // stride) / (width // stride)
                for found in (plan.forward, plan.backward)
            )
            convolutions = [step for step in network.steps if step.kind == "conv"]
            products = sum(step.in_channels * step.out_channels / step.stride**2 for step in convolutions)
            whole += 2 * products
            done += products * (forward + backward * (1 if plan.resident else 2))
        return done / whole

    def _output_shape(self, network: Network, height: int, width: int) -> tuple[int, int, int]:
        last = network.steps[-1]
        return last.out_channels, height // last.stride, width // last.stride

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

    def _let_watch(self) -> None:
        """A step is reported once for every tile, and again where it is computed again."""
        for network in self.networks:
            network.watch(self._watcher)

    def _make_room(self, plan: PartPlan) -> None:
        """The windows of the parts take turns in memory; a resident part stays, whose windows do, too."""
        if plan.resident:
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

    def _stride(self, plan: PartPlan, tap: str) -> int:
        """Of a tap, in positions of the part's input."""
        return vgg.find(self.weights.architecture, tap).stride // plan.stride

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
                own = work.backward(plan.network, self.engine.base, window, shares, back, tile.own_at(1))
                paste(out, tile.own_of_all(1), own)
        return self._gradient

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
