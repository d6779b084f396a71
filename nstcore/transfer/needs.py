"""What a transfer needs: the plans of a size, and what fits the memory at hand.

Nothing is computed and nothing large is allocated to know it: every engine plans its buffers before it makes them, and
what a transfer holds besides follows from the sizes. `Needs.plan` follows what `run`, `rung` and the objective hold at
the same time:

        content    the network's buffers at the size of the picture, the content's features; pictures at their new size
        styles     the network's buffers at the size of the largest style, which may be the peak
        start      the same, and the copies from which the starting picture is mixed
        steps      the network's buffers at the size of the picture, targets, the optimizer's arrays, the best pictures
        output     the same without the optimizer's, and the copies on the way to the file

for every size of the ladder; while the targets of one are made, what the size before has left is still there. The
process itself (interpreter, libraries, weights, pictures as loaded) is measured, not predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from .. import images, vgg
from ..engines import Engine, Network
from ..engines.memory import free_memory, held_memory
from ..engines.tiled import TiledEngine, TiledNetwork
from ..errors import TooLarge
from ..objective import Objective
from ..objective.statistics import REMEMBERED
from ..pretrained import Weights
from .ladder import Rung
from .pictures import Pictures
from .plan import USABLE, Bytes, Phase, Plan, Size
from .rung import Optimizer

LEAST_HISTORY = 5  # to which `largest` shortens L-BFGS's memory before it takes a smaller picture
SMALLEST_TILE, TILE_STEP = 128, 32  # pixels
_PROBE = (2 * vgg.SMALLEST_SIDE, 2 * vgg.SMALLEST_SIDE)  # a picture that reaches every layer
_PIXEL = 12  # bytes: RGB, float32
_DOUBLE = 8
# Square matrices of float64 that a style loss computes with, as large as the widest layer's Gram matrix
_MATRICES = {"gram": 3, "centred": 6, "mean-std": 6, "w2": 14}
# What the driver of a cluster has itself; all other arrays of a picture's size lie with the workers
_OF_A_DRIVER = ("content targets", "style targets", "gradients of Gram matrices", "guides", "level")
_MATRICES_OF_TARGETS = ("style targets", "gradients of Gram matrices")  # never on disk
_NEW = 4  # arrays of a picture's size that a worker makes at once: x, m, v and the average
_COPIES = {"targets": 2, "start": 5, "output": 6, "luminance": 10}  # of a picture, on the host, at the same time


class Needs:
    """What a transfer takes, whatever its size.

    Parameters
    ----------
    pictures : Pictures
    weights : Weights
    engine : Engine
    options : mapping
        Of the `Objective`; masks as arrays.
    optimizer : Optimizer
    rungs : callable (size) -> list of Rung
        The sizes on the way to (height, width).

    Attributes
    ----------
    network : Network
        Prepared for the transfer; its first objective may take it.
    """

    def __init__(
        self,
        pictures: Pictures,
        weights: Weights,
        engine: Engine,
        options: dict[str, Any],
        optimizer: Optimizer,
        rungs: Callable[[Size], list[Rung]],
    ) -> None:
        self.pictures, self.engine, self.optimizer, self._rungs = pictures, engine, optimizer, rungs
        # Before the network is made: its filters are part of what is needed, not of what is held
        self._held, self._free, self._host_free = held_memory() or (0, 0), engine.memory(), free_memory()
        # Neither styles nor masks make a difference to the network; masks might leave nothing of so small a picture
        plain = {name: value for name, value in options.items() if name not in ("regions", "protect", "statistics")}
        content, styles = pictures.content(_PROBE), pictures.styles(max(_PROBE))
        stand_ins = [content[..., :3]] * len(styles)
        probe = Objective(weights, stand_ins[0], stand_ins, engine=engine, statistics={}, **plain)
        self.network: Network = probe.network
        self._content_layers, self._style_layers = tuple(probe.content_layers), tuple(probe.style_layers)
        self._style_loss, self._blend = probe.style_loss, probe.style_blend
        self._protect = options.get("protect") is not None
        regions = options.get("regions") or ()
        self._regions = max(1, len(regions))
        outside = content.shape[2] == 4 or self._protect
        self._content_guided = self._content_layers if content.shape[2] == 4 else ()
        self._style_guided = self._style_layers if outside or regions else ()
        self._architecture = weights.architecture
        strides = [vgg.find(weights.architecture, tap).stride for tap in self.network.taps]
        self._shortest = max(vgg.SMALLEST_SIDE, *strides)
        self._styles_guided = [bool(regions) or style.shape[2] == 4 for style in styles]

    # -- what fits ------------------------------------------------------------------------------------------------

    def plan(self, size: Size, history: int | None = None) -> Plan:
        """For a picture of (height, width); with another `history` than the optimizer's, if given.

        Raises
        ------
        ShapeError
            If the picture, or a style that counts, is too small for a layer.
        """
        for tap in self.network.taps:
            vgg.shape(self._architecture, tap, *size)
        for number, style in enumerate(self.pictures.style_sizes(max(size))):
            if self._blend[number] > 0:
                for tap in self._style_layers:
                    vgg.shape(self._architecture, tap, *style, what=f"style {number + 1}")
        rungs = self._rungs(size)
        history = self.optimizer.history if history is None else history
        phases = [phase for i in range(len(rungs)) for phase in self._phases(rungs, i, history)]
        host_free = self._host_free if self.network.apart else self._free
        return Plan(rungs, history, tuple(phases), self.network.apart, *self._held, self._free, host_free)

    def shortened(self, wanted: Size) -> Plan | None:
        """The plan with the longest history of L-BFGS, down to 5, that the memory at hand holds; None where none is."""
        plans = (self.plan(wanted, history) for history in self._histories())
        return next((plan for plan in plans if plan.fits), None)

    def _histories(self) -> range:
        history = self.optimizer.history
        least = min(history, LEAST_HISTORY) if self.optimizer.name == "lbfgs" else history
        return range(history, least - 1, -1)

    def largest(self, wanted: Size) -> Plan:
        """The largest plan up to that size, with its proportions, that the memory at hand holds.

        L-BFGS remembers fewer pairs first, down to 5, where that is enough: a shorter history costs it a little speed,
        a smaller picture costs the picture.

        Raises
        ------
        TooLarge
            If not even the smallest picture fits.
        """
        if (plan := self.shortened(wanted)) is not None:
            return plan
        history = self._histories()[-1]
        high = max(wanted)
        low = min(high, math.ceil(self._shortest * high / min(wanted)))
        best = self.plan(images.fit(self.pictures.size, low), history)
        if not best.fits:
            raise TooLarge(
                f"fit: expected {_gigabytes(best.needed / USABLE)} of memory for a picture of {low} pixels, found "
                f"{_gigabytes(best.free or 0)} free; free some"
            )
        while high - low > 1:
            middle = (low + high) // 2
            plan = self.plan(images.fit(self.pictures.size, middle), history)
            low, high, best = (middle, high, plan) if plan.fits else (low, middle, best)
        return best

    def in_tiles(self, wanted: Size) -> Plan | None:
        """The plan with the tiles that lose least, of those that the memory at hand holds; the engine has these then.
        None where not even the smallest fit."""
        assert isinstance(self.network, TiledNetwork)
        found = []
        for whole in range(len(self.network.networks)):
            largest = self._largest_tile(wanted, whole)
            if largest is not None:  # somewhat smaller ones may divide the picture with less left over
                for side in range(largest, max(SMALLEST_TILE, largest // 2) - 1, -TILE_STEP):
                    self._retile(side, whole)
                    found.append((self.network.work(*wanted), whole, -side))
        if not found:
            self._retile(SMALLEST_TILE, 0)
            return None
        _, whole, side = min(found)
        self._retile(-side, whole)
        return self.plan(wanted)

    def _largest_tile(self, wanted: Size, whole: int) -> int | None:
        low, high = SMALLEST_TILE // TILE_STEP, -(-max(wanted) // TILE_STEP)
        best = None
        while low <= high:
            middle = (low + high) // 2
            self._retile(middle * TILE_STEP, whole)
            if self.plan(wanted).fits:
                low, best = middle + 1, middle * TILE_STEP
            else:
                high = middle - 1
        return best

    def _retile(self, side: int, whole: int) -> None:
        assert isinstance(self.engine, TiledEngine)
        assert isinstance(self.network, TiledNetwork)
        self.engine.tiling = replace(self.engine.tiling, side=side, whole=whole)
        self.network.retiled(self.engine.tiling)

    def refusal(self, plan: Plan) -> str | None:
        """Why a plan does not fit, and what would; None where it does."""
        if plan.fits:
            return None
        device = plan.free is not None and plan.needed > USABLE * plan.free
        needed, free = (plan.needed, plan.free) if device else (plan.host_needed, plan.host_free)
        try:
            found = self.largest(plan.size)
            shorter = f" and a history of {found.history}" if found.history < plan.history else ""
            way_out = f"take a long side of {max(found.size)} pixels{shorter}, or let --fit do so"
        except TooLarge:
            way_out = "no size would fit: free some"
        height, width = plan.size
        return (
            f"size: expected a picture that fits the memory, got {width}x{height}, which takes {_gigabytes(needed)} of "
            f"the {_gigabytes(free or 0)} that are free, where {USABLE:.0%} may be planned for; {way_out}"
        )

    def check(self, plan: Plan) -> None:
        """Refuse a plan that does not fit.

        Raises
        ------
        TooLarge
            With what would fit.
        """
        refusal = self.refusal(plan)
        if refusal is not None:
            raise TooLarge(refusal)

    # -- phases ---------------------------------------------------------------------------------------------------

    def _phases(self, rungs: Sequence[Rung], i: int, history: int) -> Iterable[Phase]:
        rung, size, last = rungs[i], rungs[i].size, i == len(rungs) - 1
        styles = [self._large_enough(s) for s in self.pictures.style_sizes(max(size))]
        picture, host = self._picture(size), _PIXEL * math.prod(size)
        small = sum(_PIXEL * math.prod(s) for s in styles)
        kept = self._targets(size)
        levels = self._levels(rung)
        lasting = {"statistics of styles": self._statistics(rungs[: i + 1]), "masks": self._masks(size)}
        left = self._left(rungs, i, history)

        copies = {"pictures at this size": _COPIES["targets"] * (host + small)}
        style_loss = {"style loss": self._matrices()}
        network = self._network(rung)
        yield self._phase("content", size, network, {**levels, **kept, "input": picture, **left}, copies, lasting)
        measuring, style = max(
            (
                (
                    self.network.memory(*s, self._style_layers if guided else ()),
                    {"input": self._picture(s), "guides": self._guide_bytes(s, self._style_layers if guided else ())},
                )
                for s, guided in zip(styles, self._styles_guided, strict=True)
            ),
            key=lambda found: sum(found[0].values()) + sum(found[1].values()),
        )
        if self._style_layers:
            arrays = {**levels, **kept, **style, **left}
            yield self._phase("styles", size, measuring, arrays, copies, {**lasting, **style_loss})
            mixing = {"copies": _COPIES["start"] * host + (0 if i else small)}
            yield self._phase("start", size, measuring, arrays, mixing, lasting)

        best = {"best pictures": 2 * picture}
        if self.optimizer.name == "adam" and self.optimizer.average > 0:
            best["average"] = picture
        working = {**levels, **kept, **best, **self._optimizing(rung, history)}
        copies = {"start": host, "snapshot": host}
        yield self._phase("steps", size, network, working, copies, {**lasting, **style_loss})
        if last:
            copies = {
                "copies": (_COPIES["output"] + _COPIES["luminance"] * (self.pictures.colors == "luminance")) * host
            }
            yield self._phase("output", size, network, {**levels, **kept, **best}, copies, lasting)

    def _phase(self, name: str, size: Size, network: Bytes, arrays: Bytes, copies: Bytes, host: Bytes) -> Phase:
        """Arrays of the engine, and copies on the host, of a picture's size; a tiled engine has them on disk, and what
        is small enough for memory in that of the host."""
        in_memory, on_disk = self.engine.in_memory, not self.engine.in_memory(self._picture(size))
        workers = 0
        if self.engine.elsewhere:
            from ..engines.cluster import ClusterNetwork

            every, arrays = arrays, {name: count for name, count in arrays.items() if name.startswith(_OF_A_DRIVER)}
            workers = sum(every.values()) - sum(arrays.values())
            assert isinstance(self.network, ClusterNetwork)
            host = {**host, "copies of the only worker's arrays": self.network.copied(workers)}

        def held(buffer: str, count: int) -> int:
            if buffer in _MATRICES_OF_TARGETS:
                return count
            if buffer.startswith(("content targets", "level")):
                return in_memory(count)
            return 0 if on_disk else count

        found, copied = ({k: held(k, n) for k, n in given.items()} for given in (arrays, copies))
        disk = sum(arrays.values()) + sum(copies.values()) - sum(found.values()) - sum(copied.values())
        if isinstance(self.network, TiledNetwork):
            disk += self.network.on_disk(*size)
        if isinstance(self.engine, TiledEngine) and self.network.apart:
            return Phase(name, size, network, {**found, **copied, **host}, disk, workers)
        return Phase(name, size, {**network, **found}, {**copied, **host}, disk, workers)

    def _large_enough(self, size: Size) -> Size:
        """For a style that is too small for the network, which the objective will refuse in its own words."""
        return max(size[0], self._shortest), max(size[1], self._shortest)

    def _picture(self, size: Size) -> int:
        """Bytes of a picture in the engine's float type."""
        return 3 * math.prod(size) * self.engine.dtype.itemsize

    def _guided(self) -> tuple[str, ...]:
        return tuple({*self._content_guided, *self._style_guided})

    def _network(self, rung: Rung) -> Bytes:
        """Buffers of the network; of a tiled one, which the levels share, at the size that takes most."""
        if not isinstance(self.network, TiledNetwork):
            return self.network.memory(*rung.size, self._guided())
        sizes = [rung.size, *((-(-rung.height // k), -(-rung.width // k)) for k in rung.blocks)]
        found = [self.network.memory(*size, self._guided()) for size in sizes]
        largest = max(found, key=lambda buffers: sum(buffers.values()))
        return {**largest, "copies of windows": self.network.copies(*rung.size, self._content_layers)}

    def _levels(self, rung: Rung) -> Bytes:
        """Networks of the pyramid's levels, which share the filters, and what the levels are held against."""
        found = {}
        for k in rung.blocks:
            size = -(-rung.height // k), -(-rung.width // k)
            own = self.network.bytes_of_twin(*size, self._guided())
            found[f"level 1/{k}"] = own + sum(self._targets(size).values())
        return found

    def _targets(self, size: Size) -> Bytes:
        """What one size is held against, its masks included."""
        itemsize, every = self.engine.dtype.itemsize, self._channels(self._style_layers)
        features = sum(self.network.size_of(tap, *size) for tap in self._content_layers)
        square = max(itemsize, _DOUBLE * (self._style_loss != "gram"))
        regions = self._regions * sum(N * N for N in every)
        found = {"content targets": features * self.network.itemsize, "style targets": square * regions}
        if self._regions > 1:
            found["gradients of Gram matrices"] = itemsize * regions
        guides = self._guide_bytes(size, self._content_guided)
        guides += self._regions * self._guide_bytes(size, self._style_guided)
        if guides:
            found["guides"] = guides
        if self._protect:
            found["protected part"] = 3 * self._picture(size)
        return found

    def _guide_bytes(self, size: Size, taps: Iterable[str]) -> int:
        """Weights of a guide and their roots at every position of these taps."""
        steps = (vgg.find(self.network.weights.architecture, tap) for tap in taps)
        return sum(2 * 4 * (size[0] // s.stride) * (size[1] // s.stride) for s in steps)

    def _optimizing(self, rung: Rung, history: int) -> Bytes:
        """The picture, the one that it started from, and the optimizer's arrays."""
        picture = self._picture(rung.size)
        found = {"picture": 2 * picture}
        if self.engine.elsewhere:  # what an operation makes lies beside what it reads
            found |= {"gradient": picture, "new arrays": _NEW * picture}
        if self.optimizer.name == "adam":
            ahead = self.engine.vectors.adam_spares(3 * math.prod(rung.size)) * picture
            return found | {"Adam's m and v": 2 * picture} | ({"a step ahead": ahead} if ahead else {})
        pairs = self._pairs(rung, history)
        return found | {"line search": 6 * picture, f"{pairs} pairs of L-BFGS": 2 * pairs * picture}

    def _pairs(self, rung: Rung, history: int) -> int:
        """Pairs whose memory is in use: on the host, one has none before it is first written."""
        return history if self.network.apart else min(history, rung.iterations)

    def _left(self, rungs: Sequence[Rung], i: int, history: int) -> Bytes:
        """What the size before has left while the targets of this one are made: its picture, its targets, and the
        optimizer's state, at both sizes."""
        if not i:
            return {}
        before = rungs[i - 1]
        picture, now = self._picture(before.size), self._picture(rungs[i].size)
        state = 2 if self.optimizer.name == "adam" else 2 * self._pairs(before, history)
        own = sum(self._targets(before.size).values()) + sum(self._levels(before).values())
        return {"of the size before": own + (6 + state) * picture, "state carried on": state * now}

    def _statistics(self, rungs: Sequence[Rung]) -> int:
        """Moments of every style, measured at these sizes and kept."""
        one = sum(N * (N + 1) for N in self._channels(self._style_layers)) * _DOUBLE
        measured = sum(1 + len(rung.blocks) for rung in rungs) * self._regions * len(self._styles_guided)
        return min(REMEMBERED, measured) * one

    def _matrices(self) -> int:
        widest = max(self._channels(self._style_layers), default=0)
        return _MATRICES[self._style_loss] * widest**2 * _DOUBLE

    def _masks(self, size: Size) -> int:
        masks = self._regions * bool(self._style_guided) + self._protect
        return 4 * masks * math.prod(size)

    def _channels(self, taps: Iterable[str]) -> list[int]:
        return [vgg.find(self.network.weights.architecture, tap).out_channels for tap in taps]


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
