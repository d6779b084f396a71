"""The reference engine: the network as the book writes it, one call of `nstcore.ops` after another.

It is the slowest engine and the one that the others must equal. float64 is its natural type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops, vgg
from ..optim import Vectors
from ..pretrained.weights import Weights
from ..vgg import Step
from .asked import TapGradient
from .base import BACKWARD, EVERYWHERE, FORWARD, PIXELS, Engine
from .gates import GatedNetwork, bits, choice_of, winners, words


class ReferenceEngine(Engine):
    """Calls the book. Any NumPy float type."""

    name = "reference"

    def __init__(self, dtype: str = "float64") -> None:
        self.dtype = np.dtype(dtype)
        self.precision = self.dtype.name
        self.vectors = Vectors()

    def describe(self) -> str:
        return f"reference (the book in NumPy, {self.dtype})"

    def network(
        self, weights: Weights, taps: Iterable[str], pooling: str, part: vgg.Part = vgg.WHOLE
    ) -> ReferenceNetwork:
        return ReferenceNetwork(weights, taps, pooling, self.dtype, part)


@dataclass(frozen=True)
class Kept:
    """A content target: P (N, M), and the w (M,) that its distances take, or None."""

    P: np.ndarray
    w: np.ndarray | None


class ReferenceNetwork(GatedNetwork):
    """Features are kept as (N, H, W), by layer name."""

    def __init__(
        self, weights: Weights, taps: Iterable[str], pooling: str, dtype: np.dtype, part: vgg.Part = vgg.WHOLE
    ) -> None:
        super().__init__(weights, taps, pooling, part)
        self.dtype = dtype
        self.itemsize = dtype.itemsize
        self.filters = {}
        for step in self.steps:
            if step.kind == "conv":
                w, b = weights.filters[step.name]
                # In memory (3, 3, K, C): the book multiplies with one w[:, :, r, s] at a time, here without copying it
                by_tap = np.ascontiguousarray(w.transpose(2, 3, 0, 1), dtype)
                self.filters[step.name] = by_tap.transpose(2, 3, 0, 1), b.astype(dtype)
        p = weights.preprocessing
        self.preprocessing = (p.channel_order, p.range, p.mean, p.std)
        self._empty()

    def _empty(self) -> None:
        self.values: dict[str, np.ndarray] = {}
        self.choices: dict[str, np.ndarray] = {}
        self._mask: dict[str, np.ndarray] = {}

    def forward(self, pixels: np.ndarray, decisions: Mapping[str, np.ndarray] | None = None) -> None:
        """As `Network.forward`; with another engine's `decisions`, its ReLUs and poolings are followed, not made."""
        self._forward(pixels, self.steps, decisions)
        if decisions is not None:
            self._mask = {n: decisions[n] for n in self._mask}

    def _forward(
        self, pixels: np.ndarray, steps: Sequence[Step], decisions: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.shapes(*pixels.shape[1:])
        self.values = {}
        self.choices = {}
        x = pixels.astype(self.dtype)
        if self.part.first == 1:
            with self._timed(PIXELS, FORWARD):
                x = ops.preprocess_forward(x, *self.preprocessing)
        for step in steps:
            with self._timed(step.name, FORWARD):
                x = self.values[step.output] = self._step_forward(step, x, decisions)
        self._mask = {n: v > 0 for n, v in self.values.items() if n.startswith("relu")}

    def _step_forward(self, step: Step, x: np.ndarray, decisions: Mapping[str, np.ndarray] | None) -> np.ndarray:
        if step.kind == "conv":
            w, b = self.filters[step.name]
            y = self.values[step.name] = ops.conv_forward(x, w, b, self.weights.padding_of(step.name))
            return ops.relu_forward(y) if decisions is None else np.where(decisions[step.output], y, 0)
        y, choice = ops.pool_forward(x, self.pooling)
        if choice is not None:
            if decisions is not None:
                choice = decisions[step.name]
                y = _chosen(x, choice)
            self.choices[step.name] = choice
        return y

    def gates(self, step: Step, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        passed = self._mask[step.output]
        if self.pooled(step):
            passed = passed & winners(self.choices[f"pool{step.block}"], *passed.shape[1:])
        return words(passed[:, *window])

    def reopen(self, pixels: np.ndarray, gates: dict[str, np.ndarray]) -> None:
        self._forward(pixels, self.steps[: self.again])
        for name, shape in self.shapes(*pixels.shape[1:]).items():
            self.values.setdefault(name, np.zeros(shape, self.dtype))  # of which only the shape is asked
        for step in self.gated:
            passed = self._mask[step.output] = bits(gates[step.name], step.out_channels)
            if self.pooled(step):
                self.choices[f"pool{step.block}"] = choice_of(passed)

    def backward(self, gradients: Mapping[str, Sequence[TapGradient]], above: np.ndarray | None = None) -> np.ndarray:
        top = self.values[self.steps[-1].output]
        dy = np.zeros_like(top) if above is None else above.astype(self.dtype).reshape(top.shape)
        for step in reversed(self.steps):
            with self._timed(step.name, BACKWARD):
                dy = self._step_backward(step, dy, gradients)
        if self.part.first > 1:
            return dy
        with self._timed(PIXELS, BACKWARD):
            return ops.preprocess_backward(dy, *self.preprocessing)

    def _step_backward(self, step: Step, dy: np.ndarray, gradients: Mapping[str, Sequence[TapGradient]]) -> np.ndarray:
        dy = self._add(dy, step.output, gradients)
        if step.kind == "conv":
            # forward: y = relu(x), whose derivative is 1 where the mask (y > 0) is
            dy = ops.relu_backward(dy, self._mask[step.output].astype(self.dtype))
            dy = self._add(dy, step.name, gradients)
            return ops.conv_backward(dy, self.filters[step.name][0], self.weights.padding_of(step.name))
        x, y = self.values[self._below(step.name)], self.values[step.name]
        return ops.pool_backward(dy, x, y, self.choices.get(step.name), self.pooling)

    def _add(self, dy: np.ndarray, tap: str, gradients: Mapping[str, Sequence[TapGradient]]) -> np.ndarray:
        """dy plus what the losses send back from this tap."""
        for gradient in gradients.get(tap, ()):
            F = _matrix(self.values[tap])
            N = len(F)
            if gradient.dG is not None or gradient.ds is not None:
                dG = np.zeros((N, N), self.dtype) if gradient.dG is None else gradient.dG
                ds = np.zeros(N, self.dtype) if gradient.ds is None else gradient.ds.astype(self.dtype)
                dy = dy + ops.moments_backward(dG, ds, F, gradient.guide).reshape(dy.shape)
            if gradient.target is not None:
                P = gradient.target.P
                dy = dy + ops.content_backward(F, P, gradient.scale, gradient.guide).reshape(dy.shape)
        return dy

    def _below(self, pool: str) -> str:
        names = [step.output for step in self.steps]
        return names[names.index(pool) - 1]

    def positions(self, tap: str) -> int:
        return self.values[tap][0].size

    def guide(self, tap: str, weights: np.ndarray) -> np.ndarray:
        """w (M,)."""
        return weights.reshape(-1).astype(self.dtype)

    def gram(self, tap: str, guide: Any = None) -> np.ndarray:
        F = _matrix(self.values[tap])
        return ops.gram_forward(F) if guide is None else ops.moments_forward(F, guide)[0]

    def sums(self, tap: str, guide: Any = None) -> np.ndarray:
        return ops.moments_forward(_matrix(self.values[tap]).astype(np.float64), guide)[1]

    def keep(self, tap: str, guide: Any = None) -> Kept:
        return Kept(_matrix(self.values[tap]).copy(), guide)

    def hold(self, tap: str, P: np.ndarray, guide: Any = None) -> Kept:
        return Kept(_matrix(P).astype(self.dtype), guide)

    def squared_norm(self, target: Any) -> float:
        return ops.content_forward(target.P, np.zeros_like(target.P), 1.0, target.w)

    def squared_distance(self, tap: str, target: Any) -> float:
        return ops.content_forward(_matrix(self.values[tap]), target.P, 1.0, target.w)

    def features(self, tap: str, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        return self.values[tap][:, *window].copy()

    def decisions(self) -> dict[str, np.ndarray]:
        return {**{n: m.copy() for n, m in self._mask.items()}, **{n: c.copy() for n, c in self.choices.items()}}

    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        """Arrays that stay between forward and backward, and the most that the book's temporary ones take."""
        found = {"filters": sum(w.nbytes + b.nbytes for w, b in self.filters.values())}
        shapes, largest = self.shapes(height, width), 0
        for step in self.steps:
            K, h, w = shapes[step.output]
            found[step.output] = K * h * w * self.itemsize
            if step.kind == "conv":
                found[step.name] = found[step.output]
                found[f"{step.output}:mask"] = K * h * w
                # conv_backward: dy, dx with its border and without; of one tap (r, s), the product
                largest = max(largest, (K + 3 * step.in_channels) * h * w)
        channels = self.steps[0].in_channels
        return {**found, "gradient": channels * height * width * self.itemsize, "temporary": largest * self.itemsize}


def _matrix(values: np.ndarray) -> np.ndarray:
    """Features (N, H, W) as the papers' F (N, M)."""
    return values.reshape(values.shape[0], -1)


def _chosen(x: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """The value of each 2x2 window that `choice` names: max pooling with the decision taken elsewhere."""
    _, h, w = choice.shape
    windows = np.stack([x[:, r : 2 * h : 2, s : 2 * w : 2] for r in (0, 1) for s in (0, 1)])
    return np.take_along_axis(windows, choice[None].astype(np.intp), axis=0)[0]
