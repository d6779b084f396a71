"""What a transfer takes: every buffer by name, the peak over the phases of a run, and what fits the memory at hand.

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
from dataclasses import dataclass, field
from typing import Any

from .. import images, vgg
from ..engines import Engine, Network
from ..engines.memory import free_memory, held_memory
from ..errors import OptionError
from ..objective import Objective
from ..objective.statistics import REMEMBERED
from ..pretrained import Weights
from .ladder import Rung
from .pictures import Pictures
from .rung import Optimizer

USABLE = 0.9  # of the memory at hand: predictions are within a tenth of the measured peak
LEAST_HISTORY = 5  # to which `largest` shortens L-BFGS's memory before it takes a smaller picture
_PROBE = (2 * vgg.SMALLEST_SIDE, 2 * vgg.SMALLEST_SIDE)  # a picture that reaches every layer
_PIXEL = 12  # bytes: RGB, float32
_DOUBLE = 8
# Square matrices of float64 that a style loss computes with, as large as the widest layer's Gram matrix
_MATRICES = {"gram": 3, "centred": 6, "mean-std": 6, "w2": 14}
_COPIES = {"targets": 2, "start": 5, "output": 6, "luminance": 10}  # of a picture, on the host, at the same time

Size = tuple[int, int]
Bytes = dict[str, int]


@dataclass(frozen=True)
class Phase:
    """A part of the work.

    Attributes
    ----------
    name : str
        "content", "styles", "start", "steps" or "output".
    size : (height, width)
        Of the picture meanwhile.
    engine, host : dict of str to int
        Bytes of every buffer that is alive, by name, in the engine's memory and in the host's; which are one, unless
        the engine's is `apart`.
    """

    name: str
    size: Size
    engine: Bytes = field(repr=False)
    host: Bytes = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """What a transfer will take.

    Attributes
    ----------
    rungs : list of Rung
        Sizes and iterations.
    history : int
        Of L-BFGS.
    phases : tuple of Phase
        In their order.
    apart : bool
        Whether the engine has a memory of its own.
    held, most : int
        Bytes of the host's memory that the process holds already, and the most that it has held.
    free : int or None
        Bytes free in the engine's memory; None where nobody knows.
    host_free : int or None
        The same of the host; the same number, unless the engine's memory is apart.
    """

    rungs: list[Rung]
    history: int
    phases: tuple[Phase, ...]
    apart: bool
    held: int
    most: int
    free: int | None
    host_free: int | None

    @property
    def size(self) -> Size:
        """(height, width) of the result."""
        return self.rungs[-1].size

    def bytes_of(self, phase: Phase) -> int:
        """What a phase takes in the engine's memory."""
        return sum(phase.engine.values()) + (0 if self.apart else sum(phase.host.values()))

    @property
    def needed(self) -> int:
        """Bytes that will be taken of the engine's memory, at most, besides what the process holds already."""
        return max(map(self.bytes_of, self.phases))

    @property
    def host_needed(self) -> int:
        """The same of the host's memory."""
        return max(sum(phase.host.values()) for phase in self.phases) if self.apart else self.needed

    @property
    def peak(self) -> int:
        """Bytes of the host's memory that the process will have held, at most."""
        return max(self.most, self.held + self.host_needed)

    @property
    def fits(self) -> bool:
        """Whether the memory at hand holds it."""
        needs = ((self.needed, self.free), (self.host_needed, self.host_free))
        return all(free is None or needed <= USABLE * free for needed, free in needs)


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
        self._style_loss = probe.style_loss
        self._protect = options.get("protect") is not None
        regions = options.get("regions") or ()
        self._regions = max(1, len(regions))
        outside = content.shape[2] == 4 or self._protect
        self._content_guided = self._content_layers if content.shape[2] == 4 else ()
        self._style_guided = self._style_layers if outside or regions else ()
        strides = [vgg.find(weights.architecture, tap).stride for tap in self.network.taps]
        self._shortest = max(vgg.SMALLEST_SIDE, *strides)
        self._styles_guided = [bool(regions) or style.shape[2] == 4 for style in styles]

    # -- what fits ------------------------------------------------------------------------------------------------

    def plan(self, size: Size, history: int | None = None) -> Plan:
        """For a picture of (height, width); with another `history` than the optimizer's, if given."""
        rungs = self._rungs(size)
        history = self.optimizer.history if history is None else history
        phases = [phase for i in range(len(rungs)) for phase in self._phases(rungs, i, history)]
        host_free = self._host_free if self.network.apart else self._free
        return Plan(rungs, history, tuple(phases), self.network.apart, *self._held, self._free, host_free)

    def largest(self, wanted: Size) -> Plan:
        """The largest plan up to that size, with its proportions, that the memory at hand holds.

        L-BFGS remembers fewer pairs first, down to 5, where that is enough: a shorter history costs it a little speed,
        a smaller picture costs the picture.

        Raises
        ------
        OptionError
            If not even the smallest picture fits.
        """
        history = self.optimizer.history
        histories = range(history, min(history, LEAST_HISTORY) - 1, -1) if self.optimizer.name == "lbfgs" else [history]
        for history in histories:
            plan = self.plan(wanted, history)
            if plan.fits:
                return plan
        high = max(wanted)
        low = min(high, math.ceil(self._shortest * high / min(wanted)))
        best = self.plan(images.fit(self.pictures.size, low), history)
        if not best.fits:
            raise OptionError(
                f"fit: expected {_gigabytes(best.needed / USABLE)} of memory for a picture of {low} pixels, found "
                f"{_gigabytes(best.free or 0)} free; free some"
            )
        while high - low > 1:
            middle = (low + high) // 2
            plan = self.plan(images.fit(self.pictures.size, middle), history)
            low, high, best = (middle, high, plan) if plan.fits else (low, middle, best)
        return best

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
        except OptionError:
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
        OptionError
            With what would fit.
        """
        refusal = self.refusal(plan)
        if refusal is not None:
            raise OptionError(refusal)

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
        network = self.network.memory(*size, self._guided())
        yield Phase("content", size, {**network, **levels, **kept, "input": picture, **left}, {**copies, **lasting})
        measuring = max(
            (
                self.network.memory(*s, self._style_layers if guided else ())
                | {"input": self._picture(s), "guides": self._guide_bytes(s, self._style_layers if guided else ())}
                for s, guided in zip(styles, self._styles_guided, strict=True)
            ),
            key=lambda found: sum(found.values()),
        )
        if self._style_layers:
            engine = {**levels, **kept, **measuring, **left}
            yield Phase("styles", size, engine, {**copies, **lasting, **style_loss})
            mixing = {"copies": _COPIES["start"] * host + (0 if i else small)}
            yield Phase("start", size, engine, {**mixing, **lasting})

        best = {"best pictures": 2 * picture}
        if self.optimizer.name == "adam" and self.optimizer.average > 0:
            best["average"] = picture
        working = {**network, **levels, **kept, **best, **self._optimizing(rung, history)}
        yield Phase("steps", size, working, {"start": host, "snapshot": host, **lasting, **style_loss})
        if last:
            copies = {
                "copies": (_COPIES["output"] + _COPIES["luminance"] * (self.pictures.colors == "luminance")) * host
            }
            yield Phase("output", size, {**network, **levels, **kept, **best}, {**copies, **lasting})

    def _large_enough(self, size: Size) -> Size:
        """For a style that is too small for the network, which the objective will refuse in its own words."""
        return max(size[0], self._shortest), max(size[1], self._shortest)

    def _picture(self, size: Size) -> int:
        """Bytes of a picture in the engine's float type."""
        return 3 * math.prod(size) * self.engine.dtype.itemsize

    def _guided(self) -> tuple[str, ...]:
        return tuple({*self._content_guided, *self._style_guided})

    def _levels(self, rung: Rung) -> Bytes:
        """Networks of the pyramid's levels, which share the filters, and what the levels are held against."""
        found = {}
        for k in rung.blocks:
            size = -(-rung.height // k), -(-rung.width // k)
            buffers = {**self.network.memory(*size, self._guided()), **self._targets(size)}
            found[f"level 1/{k}"] = sum(buffers.values()) - buffers["filters"]
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
        if self.optimizer.name == "adam":
            return {"picture": 2 * picture, "Adam's m and v": 2 * picture}
        pairs = self._pairs(rung, history)
        return {"picture": 2 * picture, "line search": 6 * picture, f"{pairs} pairs of L-BFGS": 2 * pairs * picture}

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
