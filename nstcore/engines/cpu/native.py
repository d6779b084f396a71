"""The network of the `cpu` engine in its native form: features (C/16, H, W, 16), computed by kernels/cpu.

Every buffer is planned before the first pass. A gradient has no memory of its own: on the way back it overwrites the
features that it belongs to, after their last use. So the features are gone after `backward`.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ... import ops, vgg
from ...pretrained.weights import Weights
from ...vgg import WHOLE, Part, Step
from ..asked import TapGradient
from ..base import BACKWARD, EVERYWHERE, FORWARD, PIXELS
from ..gates import GatedNetwork
from .arena import Arena, Spare
from .blocks import CB, Guide, Kept, added, address, aligned, counted, extent, fitting
from .filters import pack_filters, plan_filters
from .library import POOLINGS, Convolution, Crew, First, Library, Tap, Window
from .statistics import rectangle_of

CHANNELS = 32  # every layer has a multiple of these

Gradients = Mapping[str, Sequence[TapGradient]]


class NativeNetwork(GatedNetwork):
    """VGG in the native kernels of one library, one crew of threads. float32."""

    itemsize = 4
    crops = True

    def __init__(
        self,
        weights: Weights,
        taps: Iterable[str],
        pooling: str,
        library: Library,
        crew: Crew,
        part: Part = WHOLE,
        spare: Spare | None = None,
    ) -> None:
        super().__init__(weights, taps, pooling, part)
        self.library, self.crew, self._spare = library, crew, spare
        self.lends = part.first > 1
        self.filters = pack_filters(library, crew, weights, self.steps)
        self._empty()

    def _empty(self) -> None:
        self.size = (0, 0)
        self.buffers: dict[str, np.ndarray] = {}
        self._first = First()
        self._convolutions: dict[str, tuple[Convolution, Convolution]] = {}
        self._there = False  # whether the features are those of the last forward
        self._guided: set[str] = set()
        self._extra: np.ndarray | None = None  # as large as the largest guided tap, made when it is first wanted

    # -- convolutions ---------------------------------------------------------------------------------------------

    def _replicate(self, step: Step) -> bool:
        return self.weights.padding_of(step.name) == "replicate"

    def _convolution(self, step: Step, height: int, width: int, back: bool) -> Convolution:
        C, K, name = step.in_channels, step.out_channels, step.name
        filters = self.filters[f"{name}:backward" if back else f"{name}:forward"]
        plain = None
        if back and self._replicate(step):
            plain = self.filters.get(f"{name}:plain", filters).ctypes.data
        channels = (K, C) if back else (C, K)
        return Convolution(*channels, height, width, self._replicate(step), filters.ctypes.data, plain)

    # -- memory ---------------------------------------------------------------------------------------------------

    def _plan(self, height: int, width: int) -> tuple[Arena, First, dict[str, tuple[Convolution, Convolution]]]:
        """Every buffer for one size of picture."""
        library, threads = self.library, self.crew.threads
        arena, convolutions, shapes = Arena(), {}, self.shapes(height, width)
        prepared, channels, work = self._prepared(height, width), self.steps[0].in_channels, 0
        if self.part.first == 1:
            arena.add("planes", (library.first_planes(prepared),), np.float32)
            work = library.first_work(prepared, threads)
        else:
            arena.add("input", (channels // CB, height, width, CB), np.float32)
        arena.add("gradient", (channels, height, width), np.float32)
        for step in self.steps:
            K, h, w = shapes[step.output]
            arena.add(step.output, (K // CB, h, w, CB), np.float32)
            work = max(work, library.tap_work(K, threads), library.gram_work(K))
            if step.name in self.taps and step.kind == "conv":
                arena.add(step.name, (K // CB, h, w, CB), np.float32)  # before the ReLU
            if step.kind == "pool":
                _, _, below = shapes[self._below(step).output]
                work = max(work, library.pool_work(K, below, threads))
            elif step.in_channels != 3:
                pair = self._convolution(step, h, w, False), self._convolution(step, h, w, True)
                convolutions[step.name] = pair
                work = max(work, *(library.conv_work(c, back, threads) for back, c in enumerate(pair)))
        for tap in self.taps:
            N, _, _ = shapes[vgg.find(self.weights.architecture, tap).output]
            arena.add(f"{tap}:gram", (N, N), np.float32)
        widest = max(step.out_channels for step in self.steps)
        arena.add("style", (widest, widest), np.float32)
        arena.add("work", (work,), np.float32)
        arena.add("ds", (widest,), np.float32)
        return arena, prepared, convolutions

    def _prepared(self, height: int, width: int) -> First:
        """The first convolution of a picture of that size, its pre-processing included."""
        p, first = self.weights.preprocessing, self.steps[0]
        order, mean, std = (ctypes.c_int * 3)(*ops.ORDERS[p.channel_order]), (ctypes.c_float * 3)(*p.mean), p.std
        size = first.out_channels, height, width
        return First(*size, self._replicate(first), order, p.range, mean, (ctypes.c_float * 3)(*std))

    @property
    def filter_bytes(self) -> int:
        """Of the packed filters."""
        return plan_filters(self.library, self.weights, self.steps).bytes

    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        extra = self._plan_extra(height, width, guided)
        return {"filters": self.filter_bytes, **self._plan(height, width)[0].sizes, **extra.sizes}

    def _resize(self, height: int, width: int) -> None:
        if (height, width) != self.size:
            guided = self._guided
            self.free()  # before the new ones are made: never two sets at once
            self._guided = guided
            arena, self._first, self._convolutions = self._plan(height, width)
            self.buffers = arena.allocate(self._spare)
            self.size = (height, width)

    def free(self) -> None:
        if self._spare is not None:
            self._spare.give(self.buffers)
        self._empty()

    def _plan_extra(self, height: int, width: int, guided: Iterable[str]) -> Arena:
        """Guides need one buffer more, as large as the largest tap that has any."""
        arena = Arena()
        largest = max((self.size_of(tap, height, width) for tap in guided), default=0)
        arena.add("extra", (largest,), np.float32)
        return arena

    def _extra_for(self, tap: str) -> np.ndarray:
        """That buffer, in the shape of a tap."""
        F = self.buffers[tap]
        self._guided.add(tap)
        if self._extra is None or self._extra.size < F.size:
            self._extra = None  # before a new one is made
            self._extra = self._plan_extra(*self.size, self._guided).allocate()["extra"]
        return self._extra[: F.size].reshape(F.shape)

    def _below(self, step: Step) -> Step:
        return self.steps[self.steps.index(step) - 1]

    def entrance(self, height: int, width: int) -> np.ndarray:
        self._resize(height, width)
        return self.buffers["gradient"]

    # -- forward --------------------------------------------------------------------------------------------------

    def forward(self, pixels: np.ndarray) -> None:
        self._forward(pixels, self.steps)

    def _forward(self, pixels: np.ndarray, steps: Sequence[Step]) -> None:
        self._resize(*pixels.shape[1:])
        if self.part.first == 1:
            x = self.buffers["planes"]
            with self._timed(PIXELS, FORWARD):
                # ops.preprocess_forward
                self.library.prepare(self.crew.pointer, self._first, pixels, x)
        else:
            x = self.buffers["input"]
            self.library.to_blocks(self.crew.pointer, pixels, x)
        for i, step in enumerate(steps):
            if step.kind == "conv":  # a pooling came with the convolution before it
                with self._timed(step.name, FORWARD):
                    self._conv_forward(i, x)
            x = self.buffers[step.output]
        self._there = True

    def _conv_forward(self, i: int, x: np.ndarray) -> None:
        """Step i and, where a pooling follows, that too."""
        step, buffers, team = self.steps[i], self.buffers, self.crew.pointer
        y, linear = buffers[step.output], buffers.get(step.name)
        filters, bias = self.filters[f"{step.name}:forward"], self.filters[f"{step.name}:bias"]
        above = self.steps[i + 1] if i + 1 < len(self.steps) else None
        pooled = buffers[above.name] if above is not None and above.kind == "pool" else None
        # ops.conv_forward, ops.bias_forward, ops.relu_forward; ops.pool_forward
        if step.in_channels == 3:
            self.library.first_forward(team, self._first, x, filters, bias, linear, y)
        else:
            convolution, _ = self._convolutions[step.name]
            pooling, work = POOLINGS[self.pooling], buffers["work"]
            self.library.conv_forward(team, convolution, x, bias, linear, y, pooled, pooling, work)

    # -- backward -------------------------------------------------------------------------------------------------

    def gates(self, step: Step, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        F = self._tapped(step.output)
        blocks, H, W, _ = F.shape
        rows, columns = (range(n)[s] for n, s in zip((H, W), window, strict=True))
        found = np.empty((blocks, len(rows), len(columns)), np.uint16)
        within = Window(rows.start, columns.start, len(rows), len(columns), W)
        self.library.gates(self.crew.pointer, F, blocks * CB, H, W, self.pooled(step), within, found)
        return found

    def reopen(self, pixels: np.ndarray, gates: dict[str, np.ndarray]) -> None:
        """See `GatedNetwork.reopen`. Where the gradient passes, features are 1: the first of the largest."""
        self._forward(pixels, self.steps[: self.again])
        for step in self.gated:
            F, given = self.buffers[step.output], gates[step.name]
            if given.shape != F.shape[:3]:
                raise ValueError(f"gates: expected (C/16, H, W) of shape {F.shape[:3]}, got {given.shape}")
            self.library.open(self.crew.pointer, given, *extent(F), F)

    def backward(self, gradients: Gradients, above: np.ndarray | None = None) -> np.ndarray:
        self._need_features()
        if above is not None and self.steps[-1].kind != "pool":
            raise ValueError(f"above: expected a part that ends in a pooling, got one up to {self.steps[-1].name}")
        self._there = False
        top = self.steps[-1]
        for i in range(len(self.steps) - 1, -1, -1):
            with self._timed(self.steps[i].name, BACKWARD):
                if self.steps[i] is top:
                    self._losses_at_the_top(top, gradients)
                    if above is not None:
                        self.library.to_blocks(self.crew.pointer, above, self.buffers[top.output], add=True)
                if i > 0:
                    self._step_backward(i, gradients)
                else:
                    self._first_backward()
        return self.buffers["gradient"]

    def _losses_at_the_top(self, top: Step, gradients: Gradients) -> None:
        """Where the gradient begins: `ops.moments_backward`, `ops.content_backward`, `ops.relu_backward`."""
        team, dy, tap = self.crew.pointer, self.buffers[top.output], self._tap(top.output, gradients)
        work = self.buffers["work"]
        self.library.tap_gradient(team, dy, None, dy, False, top.kind == "conv", *extent(dy), tap, work)
        self._before_relu(top, dy, gradients)

    def _step_backward(self, i: int, gradients: Gradients) -> None:
        """Step i, and what the losses add at the layer below, whose features the gradient overwrites."""
        step, below, team, work = self.steps[i], self.steps[i - 1], self.crew.pointer, self.buffers["work"]
        dy, x, tap = self.buffers[step.output], self.buffers[below.output], self._tap(below.output, gradients)
        if step.kind == "conv":
            # ops.conv_backward, the losses at the layer below, ops.relu_backward
            _, turned = self._convolutions[step.name]
            self.library.conv_backward(team, turned, dy, x, below.kind == "conv", tap, work)
        else:
            # ops.pool_backward, the losses at the layer below, ops.relu_backward
            K, H, W, _ = x.shape
            self.library.pool_backward(team, POOLINGS[self.pooling], dy, x, K * CB, H, W, tap, work)
        self._before_relu(below, x, gradients)

    def _first_backward(self) -> None:
        """The first convolution, and the pre-processing: `ops.conv_backward`, `ops.preprocess_backward`."""
        first, buffers, team = self.steps[0], self.buffers, self.crew.pointer
        dy, gradient, work = buffers[first.output], buffers["gradient"], buffers["work"]
        if self.part.first == 1:
            filters = self.filters[f"{first.name}:backward"]
            self.library.first_backward(team, self._first, dy, filters, gradient, work)
        else:
            _, turned = self._convolutions[first.name]
            self.library.conv_backward(team, turned, dy, buffers["input"], False, None, work)
            self.library.to_book(team, buffers["input"], gradient)

    def _tap(self, tap: str, gradients: Gradients) -> Tap | None:
        """What the losses send back from a tap, for the kernel that finishes its gradient.

        Without guides they are one loss: dG and ds are added up. What has a guide, or is a second content loss, is
        computed here from the features, which that kernel will overwrite.
        """
        given = gradients.get(tap, ())
        if not given:
            return None
        plain = [g for g in given if g.guide is None]
        first, *others = [g for g in plain if g.target is not None] or [TapGradient()]
        apart = [g for g in given if g.guide is not None] + [replace(g, dG=None, ds=None) for g in others]
        extra, F = None, self.buffers[tap]
        for gradient in apart:
            add, extra = extra is not None, self._extra_for(tap)
            self._add_alone(F, gradient, extra, add)
        dG, ds = added(g.dG for g in plain), added(g.ds for g in plain)
        return self._packed(F, TapGradient(dG, ds, first.target, first.scale), extra)

    def _packed(self, F: np.ndarray, gradient: TapGradient, extra: np.ndarray | None = None) -> Tap:
        """S = dG + dG^T and ds as the kernels read them; good until the next one is packed."""
        S = ds = None
        if gradient.dG is not None:
            S = self.buffers["style"]
            self.library.pack_style(self.crew.pointer, gradient.dG, len(gradient.dG), S)
        if gradient.ds is not None:
            ds = self.buffers["ds"]
            ds[: len(gradient.ds)] = gradient.ds
        P = None if gradient.target is None else fitting(gradient.target.P, F)
        return Tap(address(S), address(P), gradient.scale, address(ds), address(extra))

    def _before_relu(self, step: Step, g: np.ndarray, gradients: Gradients) -> None:
        """g += what the losses send back from a convolution before its ReLU."""
        if step.kind == "conv":
            for gradient in gradients.get(step.name, ()):
                self._add_alone(self.buffers[step.name], gradient, g, add=True)

    def _add_alone(self, F: np.ndarray, gradient: TapGradient, g: np.ndarray, add: bool) -> None:
        """g = [g +] the gradient of one loss: `ops.moments_backward`, `ops.content_backward`."""
        w = None if gradient.guide is None else gradient.guide.w
        tap, work = self._packed(F, gradient), self.buffers["work"]
        self.library.tap_gradient(self.crew.pointer, F, w, g, add, False, *extent(F), tap, work)

    # -- statistics -----------------------------------------------------------------------------------------------

    def _need_features(self) -> None:
        if not self._there:
            raise RuntimeError("the features are gone: backward overwrites them; call forward first")

    def _tapped(self, tap: str) -> np.ndarray:
        self._need_features()
        return self.buffers[tap]

    def positions(self, tap: str) -> int:
        return math.prod(self.buffers[tap].shape[1:3])

    def guide(self, tap: str, weights: np.ndarray) -> Guide:
        rectangle, w = rectangle_of(weights), weights.reshape(-1)
        if rectangle is None:
            self._guided.add(tap)
            return Guide(np.array(w, np.float32), np.sqrt(w).astype(np.float32), None)
        ones = np.array(w, np.float32)
        return Guide(ones, ones, Window(*rectangle, weights.shape[1]))

    def gram(self, tap: str, guide: Any = None) -> np.ndarray:
        F, G, team = self._tapped(tap), self.buffers[f"{tap}:gram"], self.crew.pointer
        C, M = extent(F)
        w, window = counted(guide)
        if w is not None:
            weighted = self._extra_for(tap)
            self.library.weigh(team, F, guide.root, C, M, weighted)
            F = weighted
        self.library.gram_within(team, F, C, M, window, G, self.buffers["work"])
        return G

    def sums(self, tap: str, guide: Any = None) -> np.ndarray:
        F = self._tapped(tap)
        C, M = extent(F)
        s = (ctypes.c_double * C)()
        w, window = counted(guide)
        self.library.sums_within(self.crew.pointer, F, w, C, M, window, s)
        return np.array(s)

    def keep(self, tap: str, guide: Any = None) -> Kept:
        F = self._tapped(tap)
        P = aligned(F.shape)
        np.copyto(P, F)
        return Kept(P, guide)

    def hold(self, tap: str, P: np.ndarray, guide: Any = None) -> Kept:
        C, H, W = P.shape
        blocks = aligned((C // CB, H, W, CB))
        self.library.to_blocks(self.crew.pointer, P, blocks)
        return Kept(blocks, guide)

    def squared_norm(self, target: Any) -> float:
        return self._distance(target.P, None, target.guide)

    def squared_distance(self, tap: str, target: Any) -> float:
        F = self._tapped(tap)
        return self._distance(F, fitting(target.P, F), target.guide)

    def _distance(self, F: np.ndarray, P: np.ndarray | None, guide: Guide | None) -> float:
        w, window = counted(guide)
        return self.library.squared_distance_within(self.crew.pointer, F, P, w, *extent(F), window)

    def features(self, tap: str, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        blocks = self._tapped(tap)[:, *window]
        C, H, W = len(blocks) * CB, *blocks.shape[1:3]
        return self.library.to_book(self.crew.pointer, blocks, np.empty((C, H, W), np.float32))
