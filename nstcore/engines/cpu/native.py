"""The network of the `cpu` engine in its native form: features (C/16, H, W, 16), computed by kernels/cpu.

Every buffer is planned before the first pass. A gradient has no memory of its own: on the way back it overwrites the
features that it belongs to, after their last use. So the features are gone after `backward`.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ... import ops, vgg
from ...pretrained.weights import Weights
from ...vgg import Step
from ..base import Network, TapGradient
from .arena import Arena
from .library import POOLINGS, Convolution, Crew, First, Library, Tap

CB = 16  # channels of a block
CHANNELS = 32  # every layer has a multiple of these


class NativeNetwork(Network):
    """VGG in the native kernels of one library, one crew of threads. float32."""

    def __init__(self, weights: Weights, taps: Iterable[str], pooling: str, library: Library, crew: Crew) -> None:
        super().__init__(weights, taps, pooling)
        self.library, self.crew = library, crew
        self.filters = self._pack()
        self.size = (0, 0)
        self.buffers: dict[str, np.ndarray] = {}
        self._first = First()
        self._convolutions: dict[str, tuple[Convolution, Convolution]] = {}
        self._there = False  # whether the features are those of the last forward

    # -- filters --------------------------------------------------------------------------------------------------

    def _filters(self) -> Arena:
        """Packed filters of every convolution, each pass in its own order."""
        arena, replicate = Arena(), self.weights.padding == "replicate"
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
            if replicate and turned == 36:
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

    def _convolution(self, step: Step, height: int, width: int, back: bool) -> Convolution:
        C, K, name = step.in_channels, step.out_channels, step.name
        filters = self.filters[f"{name}:backward" if back else f"{name}:forward"]
        plain = None
        if back and self.weights.padding == "replicate":
            plain = self.filters.get(f"{name}:plain", filters).ctypes.data
        channels = (K, C) if back else (C, K)
        return Convolution(*channels, height, width, self.weights.padding == "replicate", filters.ctypes.data, plain)

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
            self.weights.padding == "replicate",
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
        return arena, prepared, convolutions

    @property
    def filter_bytes(self) -> int:
        """Of the packed filters."""
        return self._filters().bytes

    def bytes(self, height: int, width: int) -> int:
        return self._plan(height, width)[0].bytes + self.filter_bytes

    def _resize(self, height: int, width: int) -> None:
        if (height, width) != self.size:
            arena, self._first, self._convolutions = self._plan(height, width)
            self.buffers = {}  # before the new ones are made: never two sets at once
            self.buffers = arena.allocate()
            self.size = (height, width)

    def _below(self, step: Step) -> Step:
        return self.steps[self.steps.index(step) - 1]

    # -- forward --------------------------------------------------------------------------------------------------

    def forward(self, pixels: np.ndarray) -> None:
        self._resize(*pixels.shape[1:])
        buffers, team, work = self.buffers, self.crew.pointer, self.buffers["work"]
        # ops.preprocess_forward
        self.library.prepare(team, self._first, pixels, buffers["planes"])
        x, pooling = buffers["planes"], POOLINGS[self.pooling]
        for i, step in enumerate(self.steps):
            if step.kind == "pool":  # came with the convolution before it
                x = buffers[step.name]
                continue
            y, linear = buffers[step.output], buffers.get(step.name)
            filters, bias = self.filters[f"{step.name}:forward"], self.filters[f"{step.name}:bias"]
            above = self.steps[i + 1] if i + 1 < len(self.steps) else None
            pooled = buffers[above.name] if above is not None and above.kind == "pool" else None
            # ops.conv_forward, ops.bias_forward, ops.relu_forward; ops.pool_forward
            if i == 0:
                self.library.first_forward(team, self._first, x, filters, bias, linear, y)
            else:
                convolution, _ = self._convolutions[step.name]
                self.library.conv_forward(team, convolution, x, bias, linear, y, pooled, pooling, work)
            x = y
        self._there = True

    # -- backward -------------------------------------------------------------------------------------------------

    def backward(self, gradients: Mapping[str, TapGradient]) -> np.ndarray:
        self._need_features()
        self._there = False
        library, buffers, team, work = self.library, self.buffers, self.crew.pointer, self.buffers["work"]
        top = self.steps[-1]
        dy = buffers[top.output]
        # ops.gram_backward, ops.content_backward, ops.relu_backward
        self._tap_gradient(dy, dy, top.kind == "conv", gradients.get(top.output))
        self._before_relu(top, dy, gradients)
        for i in range(len(self.steps) - 1, 0, -1):
            step, below = self.steps[i], self.steps[i - 1]
            x, tap = buffers[below.output], self._tap(gradients.get(below.output))
            if step.kind == "conv":
                # ops.conv_backward, the losses at the layer below, ops.relu_backward
                _, turned = self._convolutions[step.name]
                library.conv_backward(team, turned, dy, x, below.kind == "conv", tap, work)
            else:
                # ops.pool_backward, the losses at the layer below, ops.relu_backward
                K, H, W, _ = x.shape
                library.pool_backward(team, POOLINGS[self.pooling], dy, x, K * CB, H, W, tap, work)
            self._before_relu(below, x, gradients)
            dy = x
        # ops.conv_backward, ops.preprocess_backward
        filters = self.filters[f"{self.steps[0].name}:backward"]
        library.first_backward(team, self._first, dy, filters, buffers["gradient"], work)
        return buffers["gradient"]

    def _tap(self, gradient: TapGradient | None) -> Tap | None:
        """What the losses send back from a tap, for the kernels; S = dG + dG^T is packed on the way."""
        if gradient is None:
            return None
        S = None
        if gradient.dG is not None:
            S = self.buffers["style"]
            self.library.pack_style(self.crew.pointer, gradient.dG, len(gradient.dG), S)
        return Tap(
            None if S is None else S.ctypes.data,
            None if gradient.target is None else gradient.target.ctypes.data,
            gradient.scale,
        )

    def _before_relu(self, step: Step, g: np.ndarray, gradients: Mapping[str, TapGradient]) -> None:
        """g += what the losses send back from a convolution before its ReLU."""
        if step.kind == "conv" and step.name in gradients:
            self._tap_gradient(self.buffers[step.name], g, False, gradients[step.name], add=True)

    def _tap_gradient(
        self, F: np.ndarray, g: np.ndarray, mask: bool, gradient: TapGradient | None, add: bool = False
    ) -> None:
        blocks, H, W, _ = F.shape
        tap, work = self._tap(gradient), self.buffers["work"]
        self.library.tap_gradient(self.crew.pointer, F, g, add, mask, blocks * CB, H * W, tap, work)

    # -- statistics -----------------------------------------------------------------------------------------------

    def _need_features(self) -> None:
        if not self._there:
            raise RuntimeError("the features are gone: backward overwrites them; call forward first")

    def _tapped(self, tap: str) -> np.ndarray:
        self._need_features()
        return self.buffers[tap]

    def positions(self, tap: str) -> int:
        return math.prod(self.buffers[tap].shape[1:3])

    def gram(self, tap: str) -> np.ndarray:
        F, G = self._tapped(tap), self.buffers[f"{tap}:gram"]
        self.library.gram(self.crew.pointer, F, len(G), self.positions(tap), G, self.buffers["work"])
        return G

    def keep(self, tap: str) -> np.ndarray:
        arena = Arena()
        arena.add(tap, self.buffers[tap].shape, np.float32)
        kept = arena.allocate()[tap]
        np.copyto(kept, self._tapped(tap))
        return kept

    def squared_norm(self, tap: str) -> float:
        F = self._tapped(tap)
        return self.library.squared_distance(self.crew.pointer, F, None, F.size)

    def squared_distance(self, tap: str, target: Any) -> float:
        F = self._tapped(tap)
        return self.library.squared_distance(self.crew.pointer, F, target, F.size)

    def features(self, tap: str) -> np.ndarray:
        return self._book_layout(self._tapped(tap))

    @staticmethod
    def _book_layout(blocked: np.ndarray) -> np.ndarray:
        blocks, height, width, _ = blocked.shape
        return np.array(blocked.transpose(0, 3, 1, 2), order="C").reshape(blocks * CB, height, width)
