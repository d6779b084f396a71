"""The network of the `cpu` engine in its NumPy form: features (H, W, C), every buffer planned before the first pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import ops
from ...pretrained.weights import Weights
from ...vgg import WHOLE, Part, Step
from ..asked import TapGradient
from ..base import BACKWARD, EVERYWHERE, FORWARD, PIXELS
from ..gates import GatedNetwork, bits, choice_of, winners, words
from . import layers, statistics
from .arena import Arena
from .team import Team
from .winograd import WinogradConv, plan_scratch, rotate_filters, transform_filters

Gradients = Mapping[str, Sequence[TapGradient]]


@dataclass(frozen=True)
class Kept:
    """A content target: P (M, N), and the guide that its distances take."""

    P: np.ndarray
    guide: statistics.Guide | None


class NumpyNetwork(GatedNetwork):
    """VGG in NumPy, one `Team` of threads.

    conv1_1 goes by im2col, every other convolution by Winograd. Each step keeps its output; a gradient lives in one of
    two buffers that take turns on the way back.
    """

    def __init__(
        self, weights: Weights, taps: Iterable[str], pooling: str, dtype: np.dtype, team: Team, part: Part = WHOLE
    ) -> None:
        super().__init__(weights, taps, pooling, part)
        self.dtype, self.team = dtype, team
        self.itemsize = dtype.itemsize
        self.filters = {s.name: self._pack(s) for s in self.steps if s.kind == "conv"}
        p = weights.preprocessing
        self._order = list(ops.ORDERS[p.channel_order])
        self._mean, self._std = (np.asarray(v, dtype) for v in (p.mean, p.std))
        self._empty()

    def _empty(self) -> None:
        self.size = (0, 0)
        self.buffers: dict[str, np.ndarray] = {}
        self.convolutions: dict[str, tuple[WinogradConv, WinogradConv]] = {}

    def _pack(self, step: Step) -> dict[str, np.ndarray]:
        """Filters as each pass wants them: forward, backward, and plain for a replicated border."""
        w, b = self.weights.filters[step.name]
        packed = {"bias": b.astype(self.dtype)}
        if step.in_channels == 3:
            packed["rows"] = np.ascontiguousarray(w.transpose(2, 3, 1, 0).reshape(27, -1), self.dtype)
        else:
            packed["forward"] = transform_filters(w, self.dtype)
            packed["backward"] = transform_filters(rotate_filters(w), self.dtype)
            if self.weights.padding_of(step.name) == "replicate":
                packed["plain"] = w.astype(self.dtype)
        return packed

    # -- memory ---------------------------------------------------------------------------------------------------

    def _plan(self, height: int, width: int) -> tuple[Arena, dict[str, tuple[WinogradConv, WinogradConv]]]:
        """Every buffer for one size of picture."""
        shapes = {name: (h, w, n) for name, (n, h, w) in self.shapes(height, width).items()}
        arena, dtype = Arena(), self.dtype
        channels = self.steps[0].in_channels
        if self.part.first == 1:
            arena.add("picture", (height + 2, width + 2, 3), dtype)  # prepared, with a border for conv1_1
            arena.add("dpicture", (height + 2, width + 2, 3), dtype)
            arena.add("columns", (height, width, 27), dtype)
        else:
            arena.add("input", (height, width, channels), dtype)
        arena.add("gradient", (channels, height, width), dtype)
        convolutions = {}
        largest, widest = channels * height * width, 0
        for step in self.steps:
            shape = shapes[step.output]
            largest, widest = max(largest, int(np.prod(shape))), max(widest, step.out_channels)
            arena.add(step.output, shape, dtype)
            if step.kind == "pool" and self.pooling == "max":
                arena.add(f"{step.name}:choice", shape, np.uint8)
            if step.name in self.taps and step.kind == "conv":
                arena.add(step.name, shape, dtype)  # before the ReLU
            if step.kind == "conv" and step.in_channels != 3:
                size = (shape[0], shape[1], dtype, self.team)
                convolutions[step.name] = (
                    WinogradConv(step.in_channels, step.out_channels, *size),
                    WinogradConv(step.out_channels, step.in_channels, *size),
                )
        arena.add("even", (largest,), dtype)
        arena.add("odd", (largest,), dtype)
        arena.add("mask", (largest,), np.bool_)
        arena.add("work", (max(largest // 4, self.team.threads * layers.BLOCK),), dtype)
        arena.add("grams", (self.team.threads * widest**2,), dtype)
        plan_scratch([c for pair in convolutions.values() for c in pair], arena, dtype)
        return arena, convolutions

    @property
    def filter_bytes(self) -> int:
        """Of the packed filters."""
        return sum(a.nbytes for packed in self.filters.values() for a in packed.values())

    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        return {"filters": self.filter_bytes, **self._plan(height, width)[0].sizes}

    def _resize(self, height: int, width: int) -> None:
        if (height, width) != self.size:
            arena, self.convolutions = self._plan(height, width)
            self.buffers = {}  # before the new ones are made: never two sets at once
            self.buffers = arena.allocate()
            self.size = (height, width)

    # -- forward --------------------------------------------------------------------------------------------------

    def forward(self, pixels: np.ndarray) -> None:
        self._forward(pixels, self.steps)

    def _forward(self, pixels: np.ndarray, steps: Sequence[Step]) -> None:
        self._resize(*pixels.shape[1:])
        with self.team.at_work():
            if self.part.first == 1:
                with self._timed(PIXELS, FORWARD):
                    self._prepare(pixels)
                x = self.buffers["picture"]
            else:
                x = self.buffers["input"]
                np.copyto(x, pixels.transpose(1, 2, 0))
            for step in steps:
                with self._timed(step.name, FORWARD):
                    x = self._conv(step, x) if step.kind == "conv" else self._pool(step, x)

    def _prepare(self, pixels: np.ndarray) -> None:
        """`ops.preprocess_forward` into the inner part of the picture's buffer."""
        inside = self.buffers["picture"][1:-1, 1:-1]
        np.multiply(pixels[self._order].transpose(1, 2, 0), self.weights.preprocessing.range, out=inside)
        np.subtract(inside, self._mean, out=inside)
        np.divide(inside, self._std, out=inside)

    def _conv(self, step: Step, x: np.ndarray) -> np.ndarray:
        """Convolution, bias and ReLU: `ops.conv_forward`, `ops.relu_forward`."""
        packed, padding = self.filters[step.name], self.weights.padding_of(step.name)
        y = self.buffers[step.output]
        linear = self.buffers.get(
            step.name, y
        )  # a buffer of its own where conv is tapped: the ReLU must not overwrite it
        if "rows" in packed:
            columns = self.buffers["columns"]
            layers.first_conv_forward(x, packed["rows"], packed["bias"], linear, columns, self.team, padding)
        else:
            forward, _ = self.convolutions[step.name]
            forward(x, packed["forward"], linear, self.buffers, packed["bias"], padding)
        layers.relu_forward(linear, y, self.team)
        return y

    def _pool(self, step: Step, x: np.ndarray) -> np.ndarray:
        y, choice = self.buffers[step.name], self.buffers.get(f"{step.name}:choice")
        layers.pool_forward(x, y, self.pooling, choice, self.buffers["work"], self.buffers["mask"], self.team)
        return y

    # -- backward -------------------------------------------------------------------------------------------------

    def gates(self, step: Step, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        passed = self.features(step.output) > 0
        if self.pooled(step):
            passed &= winners(self.features(f"pool{step.block}:choice"), *passed.shape[1:])
        return words(passed[:, *window])

    def reopen(self, pixels: np.ndarray, gates: dict[str, np.ndarray]) -> None:
        self._forward(pixels, self.steps[: self.again])
        for step in self.gated:
            passed = bits(gates[step.name], step.out_channels)
            np.copyto(self.buffers[step.output], passed.transpose(1, 2, 0))
            if self.pooled(step):
                np.copyto(self.buffers[f"pool{step.block}:choice"], choice_of(passed).transpose(1, 2, 0))

    def backward(self, gradients: Gradients, above: np.ndarray | None = None) -> np.ndarray:
        last = 1 if self.part.first == 1 else 0  # conv1_1 has a way of its own
        with self.team.at_work():
            dy = self._like("even", self.steps[-1].output)
            dy[...] = 0 if above is None else above.transpose(1, 2, 0)
            for i in range(len(self.steps) - 1, last - 1, -1):
                below = self._like("odd" if (len(self.steps) - i) % 2 else "even", self._input_of(i))
                with self._timed(self.steps[i].name, BACKWARD):
                    if self.steps[i].kind == "conv":
                        self._conv_backward(self.steps[i], dy, below, gradients)
                    else:
                        self._pool_backward(i, dy, below, gradients)
                dy = below
            if self.part.first > 1:
                np.copyto(self.buffers["gradient"], dy.transpose(2, 0, 1))
                return self.buffers["gradient"]
            with self._timed(self.steps[0].name, BACKWARD):
                return self._first_backward(dy, gradients)

    def _input_of(self, i: int) -> str:
        """The layer that step i reads."""
        return self.steps[i - 1].output if i else "input"

    def _like(self, buffer: str, layer: str) -> np.ndarray:
        """One of the two gradient buffers, in the shape of a layer."""
        shape = self.buffers[layer].shape
        return self.buffers[buffer][: self.buffers[layer].size].reshape(shape)

    def _conv_backward(self, step: Step, dy: np.ndarray, dx: np.ndarray, gradients: Gradients) -> None:
        """ReLU and convolution: `ops.relu_backward`, `ops.conv_backward`."""
        self._through_relu(step, dy, gradients)
        packed = self.filters[step.name]
        _, backward = self.convolutions[step.name]
        backward(dy, packed["backward"], dx, self.buffers)
        if "plain" in packed:
            layers.add_replicated_border(dx, dy, packed["plain"])

    def _through_relu(self, step: Step, dy: np.ndarray, gradients: Gradients) -> None:
        """dy from after the ReLU to before it, with what the losses add at both places."""
        self._add(step.output, dy, gradients)
        layers.relu_backward(dy, self.buffers[step.output], self.buffers["mask"], self.team)
        self._add(step.name, dy, gradients)

    def _pool_backward(self, i: int, dy: np.ndarray, dx: np.ndarray, gradients: Gradients) -> None:
        name = self.steps[i].name
        self._add(name, dy, gradients)
        x, choice = self.buffers[self.steps[i - 1].output], self.buffers.get(f"{name}:choice")
        layers.pool_backward(dy, x, self.buffers[name], dx, self.pooling, choice, self.buffers["mask"], self.team)

    def _first_backward(self, dy: np.ndarray, gradients: Gradients) -> np.ndarray:
        """conv1_1 and the pre-processing: `ops.conv_backward`, `ops.preprocess_backward`."""
        first, dpicture, out = self.steps[0], self.buffers["dpicture"], self.buffers["gradient"]
        self._through_relu(first, dy, gradients)
        rows, columns = self.filters[first.name]["rows"], self.buffers["columns"]
        layers.first_conv_backward(dy, rows, dpicture, columns, self.team, self.weights.padding_of(first.name))
        for c, channel in enumerate(self._order):
            np.multiply(dpicture[1:-1, 1:-1, c], self.weights.preprocessing.range / self._std[c], out=out[channel])
        return out

    def _add(self, tap: str, dy: np.ndarray, gradients: Gradients) -> None:
        dF, work, team = dy.reshape(-1, dy.shape[-1]), self.buffers["work"], self.team
        for g in gradients.get(tap, ()):
            F = self._matrix(tap)
            if g.dG is not None or g.ds is not None:
                statistics.moments_backward(g.dG, g.ds, F, g.guide, dF, work, team)
            if g.target is not None:
                statistics.content_backward(F, g.target.P, g.scale, g.guide, dF, work, team)

    # -- statistics -----------------------------------------------------------------------------------------------

    def _matrix(self, tap: str) -> np.ndarray:
        """Features of a tap as (M, N): the papers' F, transposed."""
        values = self.buffers[tap]
        return values.reshape(-1, values.shape[-1])

    def positions(self, tap: str) -> int:
        return len(self._matrix(tap))

    def guide(self, tap: str, weights: np.ndarray) -> statistics.Guide:
        w = weights.reshape(-1, 1).astype(self.dtype)
        return statistics.Guide(w, np.sqrt(w))

    def gram(self, tap: str, guide: Any = None) -> np.ndarray:
        with self.team.at_work():
            # "even" waits for the backward pass
            return statistics.gram(self._matrix(tap), guide, self.buffers["grams"], self.buffers["even"], self.team)

    def sums(self, tap: str, guide: Any = None) -> np.ndarray:
        with self.team.at_work():
            return statistics.sums(self._matrix(tap), guide, self.buffers["work"], self.team)

    def keep(self, tap: str, guide: Any = None) -> Kept:
        return Kept(self._matrix(tap).copy(), guide)

    def hold(self, tap: str, P: np.ndarray, guide: Any = None) -> Kept:
        return Kept(np.array(P.reshape(len(P), -1).T, self.dtype, order="C"), guide)

    def squared_norm(self, target: Any) -> float:
        with self.team.at_work():
            return statistics.squared_distance(target.P, None, target.guide, self.buffers["work"], self.team)

    def squared_distance(self, tap: str, target: Any) -> float:
        with self.team.at_work():
            return statistics.squared_distance(
                self._matrix(tap), target.P, target.guide, self.buffers["work"], self.team
            )

    def features(self, tap: str, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        # a copy even where it is contiguous already
        return np.array(self.buffers[tap][*window].transpose(2, 0, 1), order="C")

    def decisions(self) -> dict[str, np.ndarray]:
        found = {}
        for step in self.steps:
            if step.kind == "conv":
                found[step.output] = self.features(step.output) > 0
            elif self.pooling == "max":
                found[step.name] = self.features(f"{step.name}:choice")
        return found
