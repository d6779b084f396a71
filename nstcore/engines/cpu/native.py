"""The network of the `cpu` engine in its native form: features (C/16, H, W, 16), computed by kernels/cpu.

Every buffer is planned before the first pass. A gradient has no memory of its own: on the way back it overwrites the
features that it belongs to, after their last use. So the features are gone after `backward`.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ... import ops, vgg
from ...pretrained.weights import Weights
from ...vgg import Step
from ..base import BACKWARD, FORWARD, PIXELS, Network, TapGradient
from .arena import Arena
from .library import POOLINGS, Convolution, Crew, First, Library, Tap

CB = 16  # channels of a block
CHANNELS = 32  # every layer has a multiple of these


Gradients = Mapping[str, Sequence[TapGradient]]


@dataclass(frozen=True)
class Guide:
    """Weights w of the positions and their square roots, both (M,)."""

    w: np.ndarray
    root: np.ndarray


@dataclass(frozen=True)
class Kept:
    """A content target: P as features, and the guide that its distances take."""

    P: np.ndarray
    guide: Guide | None


class NativeNetwork(Network):
    """VGG in the native kernels of one library, one crew of threads. float32."""

    itemsize = 4

    def __init__(self, weights: Weights, taps: Iterable[str], pooling: str, library: Library, crew: Crew) -> None:
        super().__init__(weights, taps, pooling)
        self.library, self.crew = library, crew
        self.filters = self._pack()
        self._empty()

    def _empty(self) -> None:
        self.size = (0, 0)
        self.buffers: dict[str, np.ndarray] = {}
        self._first = First()
        self._convolutions: dict[str, tuple[Convolution, Convolution]] = {}
        self._there = False  # whether the features are those of the last forward
        self._guided: set[str] = set()
        self._extra: np.ndarray | None = None  # as large as the largest guided tap, made when it is first wanted

    # -- filters --------------------------------------------------------------------------------------------------

    def _filters(self) -> Arena:
        """Packed filters of every convolution, each pass in its own order."""
        arena = Arena()
        for step in self.steps:
            if step.kind != "conv":
                continue
            C, K = step.in_channels, step.out_channels
            arena.add(f"{step.name}:bias", (K,), np.float32)
            if C == 3:
                arena.add(f"{step.name}:forward", (27, K), np.float32)
                arena.add(f"{step.name}:backward", (K, 32), np.float32)
                continue
            transformed, turned = (36 if self.library.transformed(*pair) else 9 for pair in ((C, K), (K, C)))
            arena.add(f"{step.name}:forward", (transformed, C, K), np.float32)
            arena.add(f"{step.name}:backward", (turned, K, C), np.float32)
            if self._replicate(step) and turned == 36:
                arena.add(f"{step.name}:plain", (9, K, C), np.float32)
        return arena

    def _pack(self) -> dict[str, np.ndarray]:
        packed, library, team = self._filters().allocate(), self.library, self.crew.pointer
        for step in self.steps:
            if step.kind != "conv":
                continue
            w, b = (np.ascontiguousarray(a, np.float32) for a in self.weights.filters[step.name])
            C, K = step.in_channels, step.out_channels
            forward, backward = packed[f"{step.name}:forward"], packed[f"{step.name}:backward"]
            packed[f"{step.name}:bias"][...] = b
            if C == 3:
                rows = np.ascontiguousarray(w.transpose(1, 2, 3, 0).reshape(27, K))
                library.pack_first(rows, K, forward, backward)
                continue
            pack = {36: library.pack_transformed, 9: library.pack_plain}
            pack[len(forward)](team, w, K, C, 0, forward)
            pack[len(backward)](team, w, C, K, 1, backward)
            if f"{step.name}:plain" in packed:
                library.pack_plain(team, w, C, K, 1, packed[f"{step.name}:plain"])
        return packed

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
        p, first = self.weights.preprocessing, self.steps[0]
        prepared = First(
            first.out_channels,
            height,
            width,
            self._replicate(first),
            (ctypes.c_int * 3)(*ops.ORDERS[p.channel_order]),
            p.range,
            (ctypes.c_float * 3)(*p.mean),
            (ctypes.c_float * 3)(*p.std),
        )
        arena.add("planes", (library.first_planes(prepared),), np.float32)
        arena.add("gradient", (3, height, width), np.float32)
        work = library.first_work(prepared, threads)
        for step in self.steps:
            K, h, w = shapes[step.output]
            arena.add(step.output, (K // CB, h, w, CB), np.float32)
            work = max(work, library.tap_work(K, threads), library.gram_work(K))
            if step.name in self.taps and step.kind == "conv":
                arena.add(step.name, (K // CB, h, w, CB), np.float32)  # before the ReLU
            if step.kind == "pool":
                _, _, below = shapes[self._below(step).output]
                work = max(work, library.pool_work(K, below, threads))
            elif step is not first:
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

    @property
    def filter_bytes(self) -> int:
        """Of the packed filters."""
        return self._filters().bytes

    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        extra = self._plan_extra(height, width, guided)
        return {"filters": self.filter_bytes, **self._plan(height, width)[0].sizes, **extra.sizes}

    def _resize(self, height: int, width: int) -> None:
        if (height, width) != self.size:
            arena, self._first, self._convolutions = self._plan(height, width)
            self.buffers, self._extra = {}, None  # before the new ones are made: never two sets at once
            self.buffers = arena.allocate()
            self.size = (height, width)

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

    # -- forward --------------------------------------------------------------------------------------------------

    def forward(self, pixels: np.ndarray) -> None:
        self._resize(*pixels.shape[1:])
        x = self.buffers["planes"]
        with self._timed(PIXELS, FORWARD):
            # ops.preprocess_forward
            self.library.prepare(self.crew.pointer, self._first, pixels, x)
        for i, step in enumerate(self.steps):
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
        if i == 0:
            self.library.first_forward(team, self._first, x, filters, bias, linear, y)
        else:
            convolution, _ = self._convolutions[step.name]
            pooling, work = POOLINGS[self.pooling], buffers["work"]
            self.library.conv_forward(team, convolution, x, bias, linear, y, pooled, pooling, work)

    # -- backward -------------------------------------------------------------------------------------------------

    def backward(self, gradients: Gradients) -> np.ndarray:
        self._need_features()
        self._there = False
        top = self.steps[-1]
        for i in range(len(self.steps) - 1, -1, -1):
            with self._timed(self.steps[i].name, BACKWARD):
                if self.steps[i] is top:
                    self._losses_at_the_top(top, gradients)
                if i > 0:
                    self._step_backward(i, gradients)
                else:
                    self._first_backward()
        return self.buffers["gradient"]

    def _losses_at_the_top(self, top: Step, gradients: Gradients) -> None:
        """Where the gradient begins: `ops.moments_backward`, `ops.content_backward`, `ops.relu_backward`."""
        team, dy, tap = self.crew.pointer, self.buffers[top.output], self._tap(top.output, gradients)
        work = self.buffers["work"]
        self.library.tap_gradient(team, dy, None, dy, False, top.kind == "conv", *_extent(dy), tap, work)
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
        """conv1_1 and the pre-processing: `ops.conv_backward`, `ops.preprocess_backward`."""
        first, buffers = self.steps[0], self.buffers
        dy, filters = buffers[first.output], self.filters[f"{first.name}:backward"]
        team, gradient = self.crew.pointer, buffers["gradient"]
        self.library.first_backward(team, self._first, dy, filters, gradient, buffers["work"])

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
        extra = None
        for gradient in apart:
            add, extra = extra is not None, self._extra_for(tap)
            self._add_alone(self.buffers[tap], gradient, extra, add)
        dG, ds = _sum(g.dG for g in plain), _sum(g.ds for g in plain)
        return self._packed(TapGradient(dG, ds, first.target, first.scale), extra)

    def _packed(self, gradient: TapGradient, extra: np.ndarray | None = None) -> Tap:
        """S = dG + dG^T and ds as the kernels read them; good until the next one is packed."""
        S = ds = None
        if gradient.dG is not None:
            S = self.buffers["style"]
            self.library.pack_style(self.crew.pointer, gradient.dG, len(gradient.dG), S)
        if gradient.ds is not None:
            ds = self.buffers["ds"]
            ds[: len(gradient.ds)] = gradient.ds
        P = None if gradient.target is None else gradient.target.P
        return Tap(_address(S), _address(P), gradient.scale, _address(ds), _address(extra))

    def _before_relu(self, step: Step, g: np.ndarray, gradients: Gradients) -> None:
        """g += what the losses send back from a convolution before its ReLU."""
        if step.kind == "conv":
            for gradient in gradients.get(step.name, ()):
                self._add_alone(self.buffers[step.name], gradient, g, add=True)

    def _add_alone(self, F: np.ndarray, gradient: TapGradient, g: np.ndarray, add: bool) -> None:
        """g = [g +] the gradient of one loss: `ops.moments_backward`, `ops.content_backward`."""
        w = None if gradient.guide is None else gradient.guide.w
        tap, work = self._packed(gradient), self.buffers["work"]
        self.library.tap_gradient(self.crew.pointer, F, w, g, add, False, *_extent(F), tap, work)

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
        self._guided.add(tap)
        w = weights.reshape(-1)
        return Guide(np.array(w, np.float32), np.sqrt(w).astype(np.float32))

    def gram(self, tap: str, guide: Any = None) -> np.ndarray:
        F, G, team = self._tapped(tap), self.buffers[f"{tap}:gram"], self.crew.pointer
        C, M = _extent(F)
        if guide is not None:
            weighted = self._extra_for(tap)
            self.library.weigh(team, F, guide.root, C, M, weighted)
            F = weighted
        self.library.gram(team, F, C, M, G, self.buffers["work"])
        return G

    def sums(self, tap: str, guide: Any = None) -> np.ndarray:
        F = self._tapped(tap)
        C, M = _extent(F)
        s = (ctypes.c_double * C)()
        self.library.sums(self.crew.pointer, F, None if guide is None else guide.w, C, M, s)
        return np.array(s)

    def keep(self, tap: str, guide: Any = None) -> Kept:
        arena = Arena()
        arena.add(tap, self.buffers[tap].shape, np.float32)
        P = arena.allocate()[tap]
        np.copyto(P, self._tapped(tap))
        return Kept(P, guide)

    def squared_norm(self, target: Any) -> float:
        return self._distance(target.P, None, target.guide)

    def squared_distance(self, tap: str, target: Any) -> float:
        return self._distance(self._tapped(tap), target.P, target.guide)

    def _distance(self, F: np.ndarray, P: np.ndarray | None, guide: Guide | None) -> float:
        w = None if guide is None else guide.w
        return self.library.squared_distance(self.crew.pointer, F, P, w, *_extent(F))

    def features(self, tap: str) -> np.ndarray:
        return self._book_layout(self._tapped(tap))

    @staticmethod
    def _book_layout(blocked: np.ndarray) -> np.ndarray:
        blocks, height, width, _ = blocked.shape
        return np.array(blocked.transpose(0, 3, 1, 2), order="C").reshape(blocks * CB, height, width)


def _extent(F: np.ndarray) -> tuple[int, int]:
    """C channels, M positions of features (C/16, H, W, 16)."""
    blocks, height, width, _ = F.shape
    return blocks * CB, height * width


def _address(a: np.ndarray | None) -> int | None:
    return None if a is None else a.ctypes.data


def _sum(arrays: Iterable[np.ndarray | None]) -> np.ndarray | None:
    """Of those that are there; None where there is none."""
    there = [a for a in arrays if a is not None]
    return sum(there[1:], there[0]) if there else None
