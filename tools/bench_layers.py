"""Every layer, forward and backward, within real steps, beside PyTorch's time for the same layer."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bench_common import Report, about, median, milliseconds, pictures, planes, torch_for
from bench_flops import convolution

from nstcore import Objective, Weights, vgg
from nstcore.engines.base import BACKWARD, FORWARD, PIXELS
from nstcore.engines.cpu import CpuEngine
from nstcore.errors import DeviceError

PREPARATION, REST = "pre-processing", "Gram matrices, losses, Python"
FORMATS = {"NCHW": False, "channels_last": True}
HEADER = (
    "size",
    "layer",
    "pass",
    "ms",
    "GFLOP/s direct",
    "GFLOP/s Winograd",
    "PyTorch, ms",
    "its form",
    "relative to nstcore",
)


@dataclass
class Pass:
    """One row: a pass of a layer, and its seconds in every round."""

    step: vgg.Step
    layer: str
    name: str
    mine: list[float] = field(default_factory=list)
    peer: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class Layers:
    """The network at one size, timed step by step."""

    def __init__(self, weights: Weights, size: int, threads: int) -> None:
        engine = CpuEngine(threads=threads)
        if engine.library is None:
            raise DeviceError("layers: expected the native kernels, found none; build them, or take another command")
        content, style, start = pictures(size)
        self.objective = Objective(weights, content, style, engine=engine)
        self.pixels = planes(start)
        self.weights, self.size = weights, size
        self.network = self.objective.network
        self.steps = self.network.steps
        self.rows = {key: Pass(step, *key) for step, key in self._keys()}
        self.rest: dict[str, list[float]] = {PREPARATION: [], REST: []}
        self.step_seconds: list[float] = []

    def _keys(self) -> Iterator[tuple[vgg.Step, tuple[str, str]]]:
        for step in self.steps:
            yield step, (step.name, FORWARD)
        for step in reversed(self.steps):
            yield step, (step.name, BACKWARD)

    def measure(self) -> None:
        """One step, and how long each layer takes in it."""
        self.objective(self.pixels)
        found: dict[tuple[str, str], float] = {}
        self.network.watch(lambda layer, direction, seconds: found.update({(layer, direction): seconds}))
        start = time.perf_counter()
        self.objective(self.pixels)
        self.step_seconds.append(time.perf_counter() - start)
        self.network.watch(None)
        self.rest[REST].append(self.step_seconds[-1] - sum(found.values()))
        self.rest[PREPARATION].append(found.pop((PIXELS, FORWARD)))
        for key, seconds in found.items():
            self.rows[key].mine.append(seconds)

    def fused(self, row: Pass) -> str:
        """What a call does besides its layer."""
        i = self.steps.index(row.step)
        above = self.steps[i + 1] if i + 1 < len(self.steps) else None
        if row.name == FORWARD:
            return f" + {above.name}" if above is not None and above.kind == "pool" else ""
        places = [row.step.output] if above is None else []  # losses at the top come with the step below them
        places += [self.steps[i - 1].output] if i else []
        places = [place for place in places if place in self.network.taps]
        return f" + losses at {', '.join(places)}" if places else ""


def layers_report(weights: Weights, sizes: list[int], threads: int, rounds: int) -> Report:
    """Medians of every pass of every layer."""
    report = Report(HEADER, notes=about(weights))
    for size in sizes:
        mine = Layers(weights, size, threads)
        peers = torch_layers(weights, size, threads)
        for _ in range(rounds):
            mine.measure()
            for name, formats in peers.items():
                for form, run in formats.items():
                    run()
                    for which, seconds in zip((FORWARD, BACKWARD), run(), strict=True):
                        mine.rows[name, which].peer[form].append(seconds)
        report.rows += _rows(mine)
    report.notes.append(
        "Forward: convolution, bias, ReLU, and where it says so the pooling; backward: to the layer's input, with the "
        "ReLU mask of the layer below and where it says so the gradient of the losses there, whose operations are not "
        "in GFLOP/s. PyTorch: convolution, bias, ReLU, and by autograd back to the input, in the faster of NCHW and "
        "channels_last; its poolings have rows of their own, its losses none"
    )
    return report


def _rows(mine: Layers) -> list[tuple[str, ...]]:
    size = f"{mine.size}x{mine.size}"
    rows, own_sum, peer_sum = [], 0.0, 0.0
    for row in mine.rows.values():
        own = median(row.mine) if row.mine else None  # a pooling comes with the convolution before it
        form = min(row.peer, key=lambda f: median(row.peer[f]), default=None)
        peer = None if form is None else median(row.peer[form])
        own_sum, peer_sum = own_sum + (own or 0.0), peer_sum + (peer or 0.0)
        rates = ["", ""]
        if row.step.kind == "conv" and own is not None:
            rates = [f"{work / own / 1e9:.0f}" for work in convolution(row.step, mine.size, mine.size)]
        figures = "-" if own is None else milliseconds(own), *rates, *_beside(own, peer, form)
        rows.append((size, row.layer, row.name + mine.fused(row), *figures))
    peer = peer_sum or None
    rows.append(
        (size, "all of these", "both", milliseconds(own_sum), "", "", *_beside(own_sum, peer, "faster of each"))
    )
    for name, seconds in mine.rest.items():
        rows.append((size, name, "", milliseconds(median(seconds)), "", "", *_beside(None, None, None)))
    whole = milliseconds(median(mine.step_seconds))
    rows.append((size, "the whole step", "both", whole, "", "", *_beside(None, None, None)))
    return rows


def _beside(own: float | None, peer: float | None, form: str | None) -> tuple[str, str, str]:
    """The last three columns."""
    if peer is None or form is None:
        return "-", "-", "-"
    return milliseconds(peer), form, "-" if own is None else f"{peer / own:.2f}"


def torch_layers(weights: Weights, size: int, threads: int) -> dict[str, dict[str, Callable[[], tuple[float, float]]]]:
    """Layer -> memory format -> one pass each way: (forward seconds, backward seconds). Nothing without PyTorch."""
    torch = torch_for(weights, threads)
    if torch is None:
        return {}
    from torch_peer import POOLINGS, convolve

    pool, rng = POOLINGS[weights.pooling], np.random.default_rng(0)

    def layer(step: vgg.Step, channels_last: bool) -> Callable[[], tuple[float, float]]:
        form = torch.channels_last if channels_last else torch.contiguous_format
        h, w = size // step.stride, size // step.stride
        below = (h, w) if step.kind == "conv" else (2 * h, 2 * w)

        def tensor(shape: tuple[int, ...]) -> Any:
            return torch.from_numpy(rng.standard_normal(shape, np.float32)).contiguous(memory_format=form)

        x = tensor((1, step.in_channels, *below)).requires_grad_()
        dy = tensor((1, step.out_channels, h, w))
        if step.kind == "conv":
            filters, bias = map(torch.from_numpy, weights.filters[step.name])
            filters = filters.contiguous(memory_format=form)

        def run() -> tuple[float, float]:
            start = time.perf_counter()
            if step.kind == "conv":
                y = torch.relu_(convolve(x, filters, bias, weights.padding))
            else:
                y = pool(x, 2)
            middle = time.perf_counter()
            torch.autograd.grad(y, x, dy)
            return middle - start, time.perf_counter() - middle

        return run

    steps = vgg.steps_for(weights.architecture, ["relu5_1"])
    return {s.name: {name: layer(s, last) for name, last in FORMATS.items()} for s in steps}
