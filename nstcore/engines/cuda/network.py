"""The network of the `cuda` engine: features (H, W, C), computed by the kernels of kernels/cuda.

Beside each launch stands the name of the function in the book that it computes. Every buffer is planned before the
first pass; on the way back gradients are written where features lie that nobody needs any more, so `backward` uses up
the features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ... import vgg
from ...pretrained.weights import Weights
from ...vgg import Step
from ..base import BACKWARD, FORWARD, PIXELS, Network, TapGradient
from .conv import RUNGS, Convolution, scratch_floats
from .device import Array, Device
from .gram import Grams, gram_backward
from .loss_scale import loss_scale, power_of_two
from .losses import Losses
from .moments import Guide, Moments, make_guide
from .pixels import PREPARED, prepare, turned_filters
from .pixels import backward as pixels_backward
from .plan import Plan, lives, statistics
from .pool import backward as pool_backward
from .pool import forward as pool_forward
from .precision import FLOAT16, Precision, from_elements

ATTEMPTS = 4  # at a float16 loss scale that does not overflow
BACKED_OFF = 2.0**-6  # the next attempt's scale, relative to the last


@dataclass(frozen=True)
class Target:
    """A content target: P (H, W, N), and the guide that its distances take."""

    P: Array
    guide: Guide | None


class CudaNetwork(Network):
    """VGG in CUDA kernels.

    Parameters
    ----------
    weights, taps, pooling
        See `Network`.
    device : Device
    precision : Precision
    rung : str
        Of the convolution: a short name in `conv.RUNGS`.
    losses : Losses
    """

    def __init__(
        self,
        weights: Weights,
        taps: Iterable[str],
        pooling: str,
        device: Device,
        precision: Precision,
        rung: str,
        losses: Losses,
    ) -> None:
        super().__init__(weights, taps, pooling)
        self.device, self.precision, self.losses = device, precision, losses
        self.itemsize = precision.dtype.itemsize
        self.apart = device.kind == "cuda"
        self.moments = Moments(device, precision)
        self.rung = RUNGS[rung]
        self.filters = self._pack()
        self._empty()

    def _empty(self) -> None:
        self.size = (0, 0)
        self.buffers: dict[str, Array] = {}
        self._convolutions: dict[str, Convolution] = {}
        self._grams: dict[tuple[str | int, ...], Grams] = {}
        self._scratch: Array = None
        self._pixels: Array = None
        self._there = False  # whether the features are those of the last forward
        self.generation = 0  # of the buffers: another one, and what was recorded of them is void

    # -- filters --------------------------------------------------------------------------------------------------

    def _pack(self) -> dict[str, Array]:
        """Filters of every convolution on the device, each pass in its own order; biases."""
        packed: dict[str, Array] = {}
        for step in self.steps:
            if step.kind != "conv":
                continue
            w, b = (np.ascontiguousarray(a, np.float32) for a in self.weights.filters[step.name])
            packed[f"{step.name}:bias"] = self.device.to_device(b)
            if step.in_channels == 3:
                packed[f"{step.name}:backward"] = self.device.to_device(turned_filters(w))
                w = np.pad(w, ((0, 0), (0, PREPARED - 3), (0, 0), (0, 0)))
                packed[f"{step.name}:forward"] = self.device.to_device(self.rung.filters(w, self.precision))
                continue
            packed[f"{step.name}:forward"] = self.device.to_device(self.rung.filters(w, self.precision))
            turned = self.rung.turned(w, self.precision)
            backward = packed[f"{step.name}:backward"] = self.device.to_device(turned)
            if self._replicates(step):
                plain = RUNGS["01_naive"].turned(w, self.precision)
                same = np.array_equal(plain, turned)
                packed[f"{step.name}:plain"] = backward if same else self.device.to_device(plain)
        return packed

    def _replicates(self, step: Step) -> bool:
        return self.weights.padding_of(step.name) == "replicate"

    @property
    def filter_bytes(self) -> int:
        """Of the packed filters."""
        return sum(a.nbytes for name, a in self.filters.items() if not self._alias(name))

    def _alias(self, name: str) -> bool:
        return name.endswith(":plain") and self.filters[name] is self.filters[name.replace(":plain", ":backward")]

    # -- memory ---------------------------------------------------------------------------------------------------

    def _plan(self, height: int, width: int) -> Plan:
        """Every buffer for one size of picture, with its life."""
        plan, shapes, n = Plan(), self.shapes(height, width), len(self.steps)
        always = (0, 2 * n + 1)
        E = self.precision.dtype
        plan.add("prepared", (height, width, PREPARED), E, 0, 1)
        plan.add("input", (3, height, width), np.float32, *always)  # of a recorded evaluation
        plan.add("gradient", (3, height, width), np.float32, *always)
        for name, shape, first, last in lives(self.steps, self.taps, shapes):
            plan.add(name, shape, E, first, last)
        for tap in self.taps:
            N, _ = self._matrix(shapes, tap)
            plan.add(f"{tap}:gram", (N, N), np.float32, *always)
        every = Grams(self.device, self.precision, [self._matrix(shapes, tap) for tap in self.taps])
        plan.add("partials", (every.partial_floats,), np.float32, statistics(n), statistics(n))
        sizes = [(_inputs(step), *shapes[step.output]) for step in self.steps if step.kind == "conv"]
        if floats := max(scratch_floats(self.rung, self.precision, self.device.architecture, *s) for s in sizes):
            plan.add("parts of sums", (floats,), np.float32, *always)
        widest = max(step.out_channels for step in self.steps)
        plan.add("style", (widest * widest,), E, *always)
        return plan

    def _matrix(self, shapes: Mapping[str, tuple[int, int, int]], tap: str) -> tuple[int, int]:
        """(N, M) of a tap."""
        N, h, w = shapes[vgg.find(self.weights.architecture, tap).output]
        return N, h * w

    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        """As they lie when memory is fullest; buffers that share memory are counted once."""
        scratch = max((self.size_of(tap, height, width) for tap in guided), default=0) * self.itemsize
        found = {"filters": self.filter_bytes, **self._plan(height, width).fullest}
        return {**found, "extra": scratch} if scratch else found

    def _resize(self, height: int, width: int) -> None:
        if (height, width) == self.size:
            return
        plan, shapes = self._plan(height, width), self.shapes(height, width)
        # Before the new ones are made: never two sets at once
        self.size, self.buffers, self._grams, self._scratch = (0, 0), {}, {}, None
        self.buffers = plan.allocate(self.device)
        self.generation += 1
        self._convolutions = {
            step.name: Convolution(
                self.device,
                self.precision,
                self.rung,
                _inputs(step),
                *shapes[step.output],
                self._replicates(step),
                self.buffers.get("parts of sums"),
            )
            for step in self.steps
            if step.kind == "conv"
        }
        self.size = (height, width)

    def _scratch_like(self, F: Array) -> Array:
        """Room for what a guide makes of F: not in the plan, and made when a guide is first used."""
        if self._scratch is None or self._scratch.size < F.size:
            self._scratch = None
            self._scratch = self.device.empty(F.size, F.dtype)
        return self._scratch[: F.size].reshape(F.shape)

    # -- forward --------------------------------------------------------------------------------------------------

    def forward(self, pixels: Array) -> None:
        self._resize(*pixels.shape[1:])
        self._pixels = pixels
        x = self.buffers["prepared"]
        with self._timed(PIXELS, FORWARD):
            # ops.preprocess_forward
            prepare(self.device, self.precision, pixels, x, self.weights.preprocessing)
        for step in self.steps:
            y = self.buffers[step.output]
            with self._timed(step.name, FORWARD):
                self._step_forward(step, x, y)
            x = y
        self._there = True

    def _step_forward(self, step: Step, x: Array, y: Array) -> None:
        if step.kind == "conv":
            # ops.conv_forward, ops.bias_forward, ops.relu_forward
            filters, bias = self.filters[f"{step.name}:forward"], self.filters[f"{step.name}:bias"]
            self._convolutions[step.name].forward(x, filters, bias, self.buffers.get(step.name), y)
        else:
            # ops.pool_forward
            H, W, C = x.shape
            pool_forward(self.device, self.precision, x, y, C, H, W, self.pooling)

    def _wait(self) -> None:
        self.device.synchronize()

    # -- backward -------------------------------------------------------------------------------------------------

    def backward(self, gradients: Mapping[str, Sequence[TapGradient]]) -> Array:
        self._need_features()
        scale = self._loss_scale(gradients) if self.precision is FLOAT16 else 1.0
        gradient = self._backward(gradients, scale)
        if self.precision is FLOAT16:
            for _ in range(ATTEMPTS - 1):
                if not self._overflowed(gradient):
                    break
                self.forward(self._pixels)  # a gradient was beyond float16; backward has used up the features
                scale *= BACKED_OFF
                gradient = self._backward(gradients, scale)
        self._there = False
        return gradient

    def _backward(self, gradients: Mapping[str, Sequence[TapGradient]], scale: float) -> Array:
        """Every gradient on the way is multiplied by `scale`, a power of two; the pixels' is not."""
        top = self.steps[-1]
        for i in range(len(self.steps) - 1, -1, -1):
            with self._timed(self.steps[i].name, BACKWARD):
                if self.steps[i] is top:
                    self._losses_at_the_top(top, gradients, scale)
                if i > 0:
                    self._step_backward(i, gradients, scale)
                else:
                    self._first_backward(scale)
        return self.buffers["gradient"]

    def _losses_at_the_top(self, top: Step, gradients: Mapping[str, Sequence[TapGradient]], scale: float) -> None:
        """Where the gradient begins."""
        dy = self.buffers[f"{top.output}:gradient"]
        self.device.fill_bytes(dy, 0)
        self._add(top.output, gradients.get(top.output, ()), scale, top.kind == "conv", dy)
        self._add_before_relu(top, gradients, scale, dy)

    def _step_backward(self, i: int, gradients: Mapping[str, Sequence[TapGradient]], scale: float) -> None:
        """Step i, and what the losses add at the layer below."""
        step, below, buffers = self.steps[i], self.steps[i - 1], self.buffers
        dy, x, dx = buffers[f"{step.output}:gradient"], buffers[below.output], buffers[f"{below.output}:gradient"]
        terms, mask = gradients.get(below.output, ()), below.kind == "conv"
        if step.kind == "conv":
            # ops.conv_backward, the first loss at the layer below, ops.relu_backward
            filters, plain = self.filters[f"{step.name}:backward"], self.filters.get(f"{step.name}:plain")
            fused, others = _split(terms)
            F = x if mask or fused is not None else None
            factors = self._factors(fused, scale)
            self._convolutions[step.name].backward(dy, filters, plain, F, *factors, mask, dx)
            self._add(below.output, others, scale, mask, dx)
        else:
            # ops.pool_backward, ops.relu_backward; then the losses at the layer below
            H, W, C = x.shape
            pool_backward(self.device, self.precision, dy, x, dx, C, H, W, self.pooling, mask)
            self._add(below.output, terms, scale, mask, dx)
        self._add_before_relu(below, gradients, scale, dx)

    def _first_backward(self, scale: float) -> None:
        """conv1_1 and the pre-processing: `ops.conv_backward`, `ops.preprocess_backward`."""
        first, p = self.steps[0], self.weights.preprocessing
        dy, gradient = self.buffers[f"{first.output}:gradient"], self.buffers["gradient"]
        filters, replicate = self.filters[f"{first.name}:backward"], self._replicates(first)
        pixels_backward(self.device, self.precision, dy, filters, gradient, p, 1 / scale, replicate)

    def _factors(self, term: TapGradient | None, scale: float) -> tuple[Array, float, Array, float]:
        """What a loss without sums sends back, for the kernels: S, its factor, P, its factor."""
        if term is None:
            return None, 1.0, None, 0.0
        S, factor = None, 1.0
        if term.dG is not None:
            N = len(term.dG)
            S = self.buffers["style"][: N * N].reshape(N, N)
            if self.precision is FLOAT16:  # S is brought to the upper end of the range, so that it keeps its small ones
                factor = power_of_two(2.0**11, self.losses.max_abs(term.dG))
            # S = dG + dG^T
            self.losses.pack_style(term.dG, factor, S)
        P = None if term.target is None else term.target.P
        return S, scale / factor, P, 2 * scale * term.scale

    def _add(self, tap: str, terms: Sequence[TapGradient], scale: float, mask: bool, g: Array) -> None:
        """Add to g what losses send back from a tap, one after the other."""
        for term in terms:
            F, guide, factor, T = self.buffers[tap], term.guide, scale, None
            if guide is not None:
                factor *= guide.most
            if term.dG is not None or term.target is not None:
                # ops.gram_backward, ops.content_backward, ops.relu_backward
                out = g if guide is None else self._scratch_like(F)
                gram_backward(self.device, self.precision, F, *self._factors(term, factor), mask, out is g, out)
                T = None if out is g else out
            if T is not None or term.ds is not None:
                # ops.moments_backward, ops.relu_backward
                ds = None if term.ds is None else factor * term.ds
                self.moments.backward(T, ds, F, guide, mask, g)

    def _add_before_relu(
        self, step: Step, gradients: Mapping[str, Sequence[TapGradient]], scale: float, g: Array
    ) -> None:
        """Add to g what the losses send back from a convolution before its ReLU."""
        if step.kind == "conv":
            self._add(step.name, gradients.get(step.name, ()), scale, False, g)

    def _loss_scale(self, gradients: Mapping[str, Sequence[TapGradient]]) -> float:
        with self.losses.at_once():
            return loss_scale(gradients, self.buffers, self.losses)

    def _overflowed(self, gradient: Array) -> bool:
        with self.losses.at_once():
            return not math.isfinite(self.losses.squared_sum(gradient))

    # -- statistics -----------------------------------------------------------------------------------------------

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
        return make_guide(self.device, tap, weights, channels)

    def gram(self, tap: str, guide: Guide | None = None) -> Array:
        """Under a guide, an array that only this guide's next one reuses."""
        if guide is None:
            return self.grams([tap])[tap]
        F = self._tapped(tap)
        Y = self._scratch_like(F)
        # ops.moments_forward
        self.moments.weigh(F, guide, Y)
        self._compute_grams((tap, self.device.address(guide.G)), [Y], [guide.G])
        if guide.most != 1:
            self.losses.multiply(guide.G, guide.most)
        return guide.G

    def grams(self, taps: Iterable[str]) -> dict[str, Array]:
        taps = tuple(taps)
        found = {tap: self.buffers[f"{tap}:gram"] for tap in taps}
        # ops.gram_forward
        self._compute_grams(taps, [self._tapped(tap) for tap in taps], list(found.values()))
        return found

    def _compute_grams(self, key: tuple[str | int, ...], features: Sequence[Array], out: Sequence[Array]) -> None:
        matrices = [F.reshape(-1, F.shape[2]) for F in features]
        if key not in self._grams:
            self._grams[key] = Grams(self.device, self.precision, [F.shape[::-1] for F in matrices])
        self._grams[key](matrices, self.buffers["partials"], out)

    def sums(self, tap: str, guide: Guide | None = None) -> np.ndarray:
        # ops.moments_forward
        return self.moments.sums(self._tapped(tap), guide)

    def keep(self, tap: str, guide: Guide | None = None) -> Target:
        F = self._tapped(tap)
        P = self.device.empty(F.shape, F.dtype)
        self.device.copy(F, P)
        return Target(P, guide)

    def squared_norm(self, target: Target) -> float:
        return self._distance(target.P, None, target.guide)

    def squared_distance(self, tap: str, target: Target) -> float:
        return self._distance(self._tapped(tap), target.P, target.guide)

    def _distance(self, F: Array, P: Array | None, guide: Guide | None) -> float:
        # ops.content_forward
        if guide is None:
            return self.losses.squared_distance(F, P)
        return guide.most * self.losses.squared_distance(F, P, guide.w)

    def features(self, tap: str) -> np.ndarray:
        values = from_elements(self.device.to_host(self._tapped(tap)), self.precision)
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def _inputs(step: Step) -> int:
    """Channels of what a convolution reads."""
    return PREPARED if step.in_channels == 3 else step.in_channels


def _split(terms: Sequence[TapGradient]) -> tuple[TapGradient | None, list[TapGradient]]:
    """What a convolution takes along of the first loss without a guide; and all the rest, that one's sums among it."""
    for i, term in enumerate(terms):
        if term.guide is None:
            sums = [] if term.ds is None else [TapGradient(ds=term.ds)]
            return term, [*terms[:i], *sums, *terms[i + 1 :]]
    return None, list(terms)
