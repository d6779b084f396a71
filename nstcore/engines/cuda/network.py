"""The network of the `cuda` engine: features (H, W, C), computed by the kernels of kernels/cuda.

Beside each launch stands the name of the function in the book that it computes. Every buffer is planned before the
first pass; on the way back gradients are written where features lie that nobody needs any more, so `backward` uses up
the features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from ... import vgg
from ...errors import LayerError, ShapeError
from ...pretrained.weights import Weights
from ...vgg import Step
from ..asked import TapGradient
from ..base import BACKWARD, EVERYWHERE, FORWARD, PIXELS
from ..gates import GatedNetwork
from . import features, filters, pool
from . import gates as words
from .conv import RUNGS, Convolution, scratch_floats
from .device import Array, Device
from .gram import Grams
from .later import Check
from .loss_scale import LossScale, Scales
from .losses import Losses
from .moments import Moments
from .pixels import backward as pixels_backward
from .pixels import prepare
from .plan import Plan, Pooled, Sizes, gone, network_plan
from .poolings import poolings
from .precision import FLOAT16, Precision
from .statistics import CudaStatistics, Traces
from .tap_gradients import TapGradients


class CudaNetwork(CudaStatistics, GatedNetwork):
    """VGG in CUDA kernels, or a part of it.

    The gradient of a part lies where the next call, forward or backward, writes.

    Parameters
    ----------
    weights, taps, pooling, part
        See `Network`.
    device : Device
    precision : Precision
    rung : str
        Of the convolution: a short name in `conv.RUNGS`.
    losses : Losses

    Attributes
    ----------
    generation : int
        Of the buffers: another one, and what was recorded of them is void.
    """

    generation = 0

    def __init__(
        self,
        weights: Weights,
        taps: Iterable[str],
        pooling: str,
        device: Device,
        precision: Precision,
        rung: str,
        losses: Losses,
        part: vgg.Part = vgg.WHOLE,
    ) -> None:
        super().__init__(weights, taps, pooling, part)
        self.device, self.precision, self.losses = device, precision, losses
        self.itemsize = precision.dtype.itemsize
        self.apart = device.kind == "cuda"
        self.moments = Moments(device, precision)
        self.rung = RUNGS[rung]
        self.filters = filters.pack(self.steps, weights, self.rung, precision, device)
        self._choosing = pool.PRODUCTION[pooling] == pool.CHOICES
        self._gone = gone(self.steps, self.taps, self._choosing)
        self._empty()

    def _empty(self) -> None:
        self.size = (0, 0)
        self.buffers: dict[str, Array] = {}
        self._convolutions: dict[str, Convolution] = {}
        self._grams: dict[tuple[str | int, ...], Grams] = {}
        self._sums: dict[str, Array] = {}
        self._scratch: Array = None
        self._pixels: Array = None  # of the last forward
        self._gates: Mapping[str, np.ndarray] | None = None  # of the last `reopen`, where that came last
        self._above: Array = None  # of the backward that is under way
        self._there = False  # whether the features are those of the last forward
        self._loss_scale = LossScale(self.losses) if self.precision is FLOAT16 else None
        self._void()

    def _replicates(self, step: Step) -> bool:
        return self.weights.padding_of(step.name) == "replicate"

    @property
    def filter_bytes(self) -> int:
        """Of the packed filters."""
        return filters.size(self.filters)

    # -- memory ---------------------------------------------------------------------------------------------------

    def _plan(self, height: int, width: int) -> Plan:
        """Every buffer for one size of input, with its life."""
        shapes = self.shapes(height, width)
        matrices = [self._matrix(shapes, tap) for tap in self.taps]
        partials = Grams(self.device, self.precision, matrices).partial_floats if matrices else 0
        layers = [(filters.inputs(step), *shapes[step.output]) for step in self.steps if step.kind == "conv"]
        sums = max(scratch_floats(self.rung, self.precision, self.device.architecture, *layer) for layer in layers)
        pooled = self._poolings(shapes)
        sizes = Sizes(self.taps, self.part, height, width, shapes, self.precision.dtype, partials, sums, pooled)
        return network_plan(self.steps, sizes)

    def _poolings(self, shapes: Mapping[str, tuple[int, int, int]]) -> Pooled:
        """How they are done, and by which convolutions."""
        asked = self.rung, self.precision, self.device.architecture
        return poolings(self.steps, shapes, *asked, self._choosing, self._replicates)

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
        self._void()
        self.buffers = plan.allocate(self.device)
        pooled = self._poolings(shapes)
        self._convolutions = {
            step.name: Convolution(
                *(self.device, self.precision, self.rung, filters.inputs(step), *shapes[step.output]),
                self._replicates(step),
                self.buffers.get("parts of sums"),
                self.pooling if step.name in pooled.fused else None,
                self.pooling if step.name in pooled.unpooling else None,
            )
            for step in self.steps
            if step.kind == "conv"
        }
        self.size = (height, width)

    def _void(self) -> None:
        """Forget what was recorded of buffers that go."""
        self.generation += 1

    def _scratch_like(self, F: Array) -> Array:
        """Room for what a guide makes of F: not in the plan, and made when a guide is first used."""
        if self._scratch is None or self._scratch.size < F.size:
            if not self.device.capturing:  # else there will be none, and what was recorded still needs the old one
                self._scratch = None
                self._void()
            self._scratch = self.device.empty(F.size, F.dtype)
        return self._scratch[: F.size].reshape(F.shape)

    # -- forward --------------------------------------------------------------------------------------------------

    def forward(self, pixels: Array) -> None:
        self._forward(pixels)

    def _forward(self, pixels: Array, gates: Mapping[str, np.ndarray] | None = None) -> None:
        """All steps; with gates, those that `reopen` computes, and the gates in the place of the others' features."""
        if self.part.first > 1 and pixels.shape[0] != self.steps[0].in_channels:
            raise ShapeError(
                f"features: expected ({self.steps[0].in_channels}, H, W), the input of block {self.part.first}, "
                f"got {pixels.shape}"
            )
        self._resize(*pixels.shape[1:])
        self._pixels, self._gates, self.traced = pixels, gates, {}
        x = self.buffers[self._first]
        if self.part.first == 1:
            with self._timed(PIXELS, FORWARD):
                self._enter(x)
        for i, step in enumerate(self.steps if gates is None else self.steps[: self.again]):
            done = step.kind == "pool" and self._convolutions[self.steps[i - 1].name].pooling is not None
            if not done:
                with self._timed(step.name, FORWARD):
                    if i == 0 and self.part.first > 1:
                        self._enter(x)
                    self._step_forward(i, x, self.buffers)
            x = self.buffers.get(step.output)
        if gates is not None:
            for step in self.gated:
                self._open(step, gates[step.name])
        self._there = True

    @property
    def _first(self) -> str:
        """The buffer that the first step reads."""
        return "prepared" if self.part.first == 1 else "input"

    def _enter(self, x: Array) -> None:
        """The last forward's pixels, or a part's features, as the first step reads them."""
        if self.part.first == 1:
            # ops.preprocess_forward
            prepare(self.device, self.precision, self._pixels, x, self.weights.preprocessing)
        else:
            features.enter(self.device, self.precision, self._pixels, x)

    def _layer(self, layer: str) -> Array:
        """Features (H, W, N) of a layer; those that no buffer keeps are computed again from the nearest below.

        Raises
        ------
        LayerError
            For one that the network does not have, or does not compute.
        """
        if not any(layer in step.layers for step in self.steps):
            vgg.find(self.weights.architecture, layer)
            raise LayerError(
                f"{layer}: expected a layer from {self.steps[0].name} to {self.steps[-1].output}, which are computed; "
                "name it among the taps"
            )
        if layer in self.buffers and layer not in self._gone:
            return self.buffers[layer]
        i = next(i for i, step in enumerate(self.steps) if layer in step.layers)
        step, device, element = self.steps[i], self.device, self.precision.dtype
        if i:
            x = self._layer(self.steps[i - 1].output)
        else:
            x = device.empty(self.buffers[self._first].shape, element)
            self._enter(x)
        N, H, W = self.shapes(*self.size)[step.output]
        to = {name: device.empty((H, W, N), element) for name in {layer, step.output}}
        if step.kind == "pool" and self._choosing:
            to[f"{layer}:choices"] = device.empty(pool.choices_size(N, *x.shape[:2]), np.uint8)
        self._step_forward(i, x, to)
        return to[layer]

    def _step_forward(self, i: int, x: Array, buffers: Mapping[str, Array]) -> None:
        """Step i into those of the buffers that there are, and where its convolution pools, that too."""
        step = self.steps[i]
        if step.kind == "conv":
            layer = self._convolutions[step.name]
            pooled = self.steps[i + 1].name if layer.pooling else ""
            w, bias = self.filters[f"{step.name}:forward"], self.filters[f"{step.name}:bias"]
            outputs = (buffers.get(name) for name in (step.name, step.output, pooled, f"{pooled}:choices"))
            # ops.conv_forward, ops.bias_forward, ops.relu_forward; ops.pool_forward
            layer.forward(x, w, bias, *outputs)
        else:
            # ops.pool_forward
            H, W, C = x.shape
            y, choices = buffers[step.output], buffers.get(f"{step.name}:choices")
            pool.forward(self.device, self.precision, x, y, C, H, W, self.pooling, True, choices)

    def decisions(self) -> dict[str, np.ndarray]:
        self._need_features()
        found, shapes = {}, self.shapes(*self.size)
        chosen = {below.name: above.name for below, above in pairwise(self.steps) if above.kind == "pool"}
        for step in self.steps:
            above = chosen.get(step.name, "") if self._choosing else ""
            if above:
                bits, (_, H, W) = self.device.to_host(self.buffers[f"{above}:choices"]), shapes[step.output]
                found[step.output] = pool.passed(bits, H, W)
                if self.pooling == "max":
                    found[above] = pool.largest(bits, H, W)
            elif step.kind == "conv":
                found[step.output] = self.features(step.output) > 0
        return found

    def _wait(self) -> None:
        self.device.synchronize()

    # -- backward -------------------------------------------------------------------------------------------------

    def gates(self, step: Step, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        self._need_features()
        choices, (_, H, W) = self._choices_of(step), self.shapes(*self.size)[step.output]
        if choices is None:
            return words.of_features(self.device, self.precision, self.buffers[step.output], window)
        return words.of_choices(self.device, self.precision, choices, H, W, self.pooling, window)

    def reopen(self, pixels: Array, gates: dict[str, np.ndarray]) -> None:
        self._forward(pixels, gates)

    def _open(self, step: Step, gates: np.ndarray) -> None:
        """Gates in the place of what the backward pass reads of a convolution's features."""
        choices = self._choices_of(step)
        if choices is None:
            words.open_features(self.device, self.precision, gates, self.buffers[step.output])
        else:
            words.open_choices(self.device, self.precision, gates, choices)

    def _choices_of(self, step: Step) -> Array:
        """What the pooling right above a convolution leaves for the way back; None where the features are read."""
        above = self.steps[self.steps.index(step) + 1 :][:1]
        return self.buffers.get(f"{above[0].name}:choices") if above else None

    def backward(self, gradients: Mapping[str, Sequence[TapGradient]], above: Array = None) -> Array:
        self._need_features()
        self._take(above)
        if self._loss_scale is None:
            gradient = self._backward(gradients, Scales())
        else:
            gradient = self._scaled(gradients, self._loss_scale, self.traced)
        self._there, self._above, self._gates = False, None, None
        return gradient

    def _scaled(self, gradients: Mapping[str, Sequence[TapGradient]], scale: LossScale, traced: Traces) -> Array:
        """With loss scales, the first that do not overflow; while launches are recorded, the first, and a `Check`."""
        while True:
            scales = scale.measure(gradients, self.buffers, self._above, traced)
            gradient = self._backward(gradients, scales)
            if self.device.capturing:
                squares = self.losses.squared_sum(gradient)
                self.losses.checks.append(Check(scale, squares, scale.arrays))
                return gradient
            with self.losses.at_once():
                finite = math.isfinite(self.losses.squared_sum(gradient))
            if finite or not scale.lower():
                scale.restore()
                return gradient
            self._forward(self._pixels, self._gates)  # a gradient was beyond float16; backward has used up the features

    def _take(self, above: Array) -> None:
        """What the next part sends back, for as long as the backward pass takes."""
        top = self.steps[-1]
        H, W, K = self.buffers[top.output].shape
        if above is not None and (top.kind != "pool" or above.shape != (K, H, W)):
            raise ShapeError(
                f"above: expected a gradient ({K}, {H}, {W}) for a part that ends in a pooling, got {above.shape} for "
                f"one that ends in {top.output}"
            )
        self._above = above

    def _backward(self, gradients: Mapping[str, Sequence[TapGradient]], scales: Scales) -> Array:
        """Every gradient on the way is multiplied by the loss scale; the input's is not."""
        top = self.steps[-1]
        sent = TapGradients(gradients, scales, self.losses, self.moments, self.buffers, self._scratch_like)
        for i in range(len(self.steps) - 1, -1, -1):
            with self._timed(self.steps[i].name, BACKWARD):
                if self.steps[i] is top:
                    self._losses_at_the_top(top, sent)
                if i > 0:
                    self._step_backward(i, sent)
                else:
                    self._first_backward(self.steps[0], sent)
        return self.buffers["gradient"]

    def _losses_at_the_top(self, top: Step, sent: TapGradients) -> None:
        """Where the gradient begins."""
        dy = self.buffers[f"{top.output}:gradient"]
        if self._above is None:
            sent.begin(top.output, top.kind == "conv", dy)
        else:
            features.enter(self.device, self.precision, self._above, dy, scales=sent.scales.of())
            sent.add_all(top.output, top.kind == "conv", dy)
        if top.kind == "conv":  # before the ReLU
            sent.add_all(top.name, False, dy)

    def _step_backward(self, i: int, sent: TapGradients) -> None:
        """Step i, and what the losses add at the layer below."""
        step, below, buffers = self.steps[i], self.steps[i - 1], self.buffers
        if step.kind == "pool" and self._unpools(below, sent):
            return  # with the convolution below
        dx = buffers[f"{below.output}:gradient"]
        x, mask = buffers.get(below.output), below.kind == "conv"
        if step.kind == "conv":
            # ops.conv_backward, the first loss at the layer below, ops.relu_backward
            w, plain = self.filters[f"{step.name}:backward"], self.filters.get(f"{step.name}:plain")
            fused, others = sent.split(below.output)
            F, scales = x if mask or fused is not None else None, sent.scales_of(fused)
            above = self.steps[i + 1].name if self._unpools(step, sent) else ""
            dy, choices = buffers[f"{above or step.output}:gradient"], buffers.get(f"{above}:choices")
            losses = sent.factors(fused)
            self._convolutions[step.name].backward(dy, w, plain, F, *losses, mask, dx, scales, choices)
            sent.add(below.output, others, mask, dx)
        else:
            # ops.pool_backward, ops.relu_backward; then the losses at the layer below
            H, W, C = dx.shape
            dy, choices = buffers[f"{step.output}:gradient"], buffers.get(f"{step.name}:choices")
            pool.backward(self.device, self.precision, dy, x, dx, C, H, W, self.pooling, mask, choices)
            sent.add_all(below.output, mask, dx)
        if mask:  # before the ReLU
            sent.add_all(below.name, False, dx)

    def _unpools(self, step: Step, sent: TapGradients) -> bool:
        """Whether a convolution's backward pass begins with that of the pooling above: nothing is added in between."""
        layer = self._convolutions.get(step.name)
        return layer is not None and layer.unpooling is not None and not any(map(sent.gradients.get, step.layers))

    def _first_backward(self, first: Step, sent: TapGradients) -> None:
        """The first convolution, and the way from there to the input."""
        dy, w = self.buffers[f"{first.output}:gradient"], self.filters[f"{first.name}:backward"]
        gradient, scales = self.buffers["gradient"], sent.scales.of()
        if self.part.first == 1:
            # ops.conv_backward, ops.preprocess_backward
            facts, replicate = self.weights.preprocessing, self._replicates(first)
            pixels_backward(self.device, self.precision, dy, w, gradient, facts, 1.0, replicate, scales)
        else:
            # ops.conv_backward
            plain, dx = self.filters.get(f"{first.name}:plain"), self.buffers["input:gradient"]
            self._convolutions[first.name].backward(dy, w, plain, None, *sent.factors(None), False, dx)
            features.leave(self.device, self.precision, dx, gradient, scales=scales)
