"""One block of device memory for every buffer of a step, planned before anything is allocated.

A buffer lives from the moment that it is written to the moment that it is last read; buffers whose lives do not meet
share memory. So the gradients of a backward pass lie where features were that nobody needs any more. Features that were
pooled do not wait for it: what the pooling needs of them is in its choices. So memory is fullest right after the
forward pass, or in VGG's first block on the way back, with one layer and the gradients on both sides of the convolution
above it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...vgg import WHOLE, Part, Step
from .device import Array, Device
from .pixels import PREPARED

ALIGNMENT = 256  # what cudaMalloc gives: any vector access, and whole cache lines


@dataclass(frozen=True)
class _Buffer:
    shape: tuple[int, ...]
    dtype: np.dtype
    first: int
    last: int

    @property
    def bytes(self) -> int:
        size = math.prod(self.shape) * self.dtype.itemsize
        return max(1, -(-size // ALIGNMENT)) * ALIGNMENT

    def meets(self, other: _Buffer) -> bool:
        return self.first <= other.last and other.first <= self.last


class Plan:
    """`add` every buffer with its life, then `allocate` once; buffers are views of one block.

    `bytes` is exact: it is what `allocate` takes.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, _Buffer] = {}
        self._places: dict[str, int] = {}

    def add(self, name: str, shape: tuple[int, ...], dtype: np.dtype | type, first: int, last: int) -> None:
        """A buffer that is first written at moment `first` and last read at moment `last`."""
        self._buffers[name] = _Buffer(shape, np.dtype(dtype), first, last)
        self._places = {}

    def places(self) -> dict[str, int]:
        """Where each buffer begins: the largest are placed first, each as low as those it meets allow."""
        if not self._places:
            for name, buffer in sorted(self._buffers.items(), key=lambda item: -item[1].bytes):
                met = ((self._places[n], self._buffers[n]) for n in self._places if buffer.meets(self._buffers[n]))
                at = 0
                for start, other in sorted(met, key=lambda pair: pair[0]):
                    if start >= at + buffer.bytes:
                        break
                    at = max(at, start + other.bytes)
                self._places[name] = at
        return self._places

    @property
    def bytes(self) -> int:
        return max((at + self._buffers[name].bytes for name, at in self.places().items()), default=0)

    @property
    def fullest(self) -> dict[str, int]:
        """Bytes of the buffers that live at the moment when they are the most, and of the rest of the block."""
        moments = {buffer.first for buffer in self._buffers.values()}
        living = [
            {name: b.bytes for name, b in self._buffers.items() if b.first <= moment <= b.last} for moment in moments
        ]
        found = max(living, key=lambda alive: sum(alive.values()), default={})
        return {**found, "gaps": self.bytes - sum(found.values())}

    def allocate(self, device: Device) -> dict[str, Array]:
        block = device.empty(self.bytes, np.uint8)
        views = {}
        for name, at in self.places().items():
            buffer = self._buffers[name]
            size = math.prod(buffer.shape) * buffer.dtype.itemsize
            views[name] = block[at : at + size].view(buffer.dtype).reshape(buffer.shape)
        return views


@dataclass(frozen=True)
class Pooled:
    """How the poolings of a network are done.

    Attributes
    ----------
    choosing : bool
        Whether they leave choices, after which nobody but a tap needs the features that were pooled.
    fused : collection of str
        Convolutions that do the pooling above them: their features are only written where somebody needs them.
    unpooling : collection of str
        Those whose backward pass can begin with the pooling's: the gradient between them is only written where a loss
        may be added to it.
    """

    choosing: bool = False
    fused: Collection[str] = ()
    unpooling: Collection[str] = ()


def lives(
    steps: Sequence[Step], taps: Sequence[str], shapes: Mapping[str, tuple[int, int, int]], pooled: Pooled = Pooled()
) -> Iterator[tuple[str, tuple[int, int, int], int, int]]:
    """Name, shape (H, W, K), and first and last moment of every feature and gradient of a step.

    Moments, for n steps: 0 prepares the picture, i + 1 runs step i forward, `statistics(n)` takes the statistics and
    the gradient at the top, 2 n + 1 - i runs step i backward, which gives the gradient at the step below.

    Parameters
    ----------
    steps, taps
        Of a `Network`.
    shapes : mapping
        (K, H, W) of every layer that is computed.
    pooled : Pooled
    """
    n = len(steps)
    for i, step in enumerate(steps):
        K, H, W = shapes[step.output]
        shape, forward, backward = (H, W, K), i + 1, 2 * n + 1 - i
        arrives = backward - 1  # when the gradient at this layer is computed: for the top, with the statistics
        # A convolution's output is its ReLU's mask and a maximum's choice, unless a byte tells them (see pool.py); a
        # pooling's is needed by the next step only
        chosen = pooled.choosing and step.kind == "conv" and i + 1 < n and steps[i + 1].kind == "pool"
        needed = step.output in taps or (step.kind == "conv" and not chosen)
        at = forward - 1 if step.kind == "pool" and steps[i - 1].name in pooled.fused else forward
        if needed or not (chosen and step.name in pooled.fused):
            yield step.output, shape, at, arrives if needed else forward + 1
        if step.kind == "conv" and step.name in taps:  # before the ReLU
            yield step.name, shape, forward, arrives
        untouched = not {step.name, step.output} & set(taps)
        if not (step.name in pooled.unpooling and untouched):
            later = step.kind == "pool" and steps[i - 1].name in pooled.unpooling
            yield f"{step.output}:gradient", shape, arrives, backward + later


def choices(
    steps: Sequence[Step], shapes: Mapping[str, tuple[int, int, int]], pooled: Pooled
) -> Iterator[tuple[str, tuple[int, int, int], int, int]]:
    """The same of what poolings leave for the way back, bytes: by "pool1:choices"."""
    for i, step in enumerate(steps):
        if step.kind == "pool" and pooled.choosing:
            K, H, W = shapes[steps[i - 1].output]
            forward = i if steps[i - 1].name in pooled.fused else i + 1
            backward = 2 * len(steps) + 1 - i + (steps[i - 1].name in pooled.unpooling)
            yield f"{step.name}:choices", (-(-H // 2), -(-W // 2), K), forward, backward


def statistics(n: int) -> int:
    """The moment between forward and backward of a network of n steps."""
    return n + 1


@dataclass(frozen=True)
class Sizes:
    """What a network's buffers depend on, beside its steps.

    Attributes
    ----------
    taps : sequence of str
    part : Part
    height, width : int
        Of the input.
    shapes : mapping
        (K, H, W) of every layer that is computed.
    element : dtype
        Of features and their gradients.
    partials : int
        Floats in which the pieces of Gram matrices lie.
    sums : int
        Floats in which the parts of split sums lie.
    pooled : Pooled
    """

    taps: Sequence[str]
    part: Part
    height: int
    width: int
    shapes: Mapping[str, tuple[int, int, int]]
    element: np.dtype
    partials: int
    sums: int
    pooled: Pooled


def network_plan(steps: Sequence[Step], sizes: Sizes) -> Plan:
    """Every buffer of a network for one size of its input, with its life.

    A part's "input" are features, and "gradient" theirs; in "output" its last layer's features leave.
    """
    plan, n, shapes, E = Plan(), len(steps), sizes.shapes, sizes.element
    always, plane = (0, 2 * n + 2), (sizes.height, sizes.width)
    if sizes.part.first == 1:
        plan.add("prepared", (*plane, PREPARED), E, 0, 1)
    else:
        C = steps[0].in_channels
        plan.add("input", (*plane, C), E, 0, 1)
        plan.add("input:gradient", (*plane, C), E, 2 * n + 1, 2 * n + 2)
        plan.add("gradient", (C, *plane), np.float32, 2 * n + 2, 2 * n + 2)
    if sizes.part == WHOLE:
        plan.add("input", (3, *plane), np.float32, *always)  # of a recorded evaluation
        plan.add("gradient", (3, *plane), np.float32, *always)
    elif sizes.part.first == 1:
        plan.add("gradient", (3, *plane), np.float32, 2 * n + 1, 2 * n + 1)
    if sizes.part.last is not None:
        plan.add("output", shapes[steps[-1].output], np.float32, statistics(n), statistics(n))
    for name, shape, first, last in lives(steps, sizes.taps, shapes, sizes.pooled):
        plan.add(name, shape, E, first, last)
    for name, shape, first, last in choices(steps, shapes, sizes.pooled):
        plan.add(name, shape, np.uint8, first, last)
    for tap in sizes.taps:
        N = shapes[next(s.output for s in steps if tap in s.layers)][0]
        plan.add(f"{tap}:gram", (N, N), np.float32, *always)
    if sizes.taps:
        plan.add("partials", (sizes.partials,), np.float32, statistics(n), statistics(n))
    if sizes.sums:
        plan.add("parts of sums", (sizes.sums,), np.float32, *always)
    if sizes.taps:
        widest = max(step.out_channels for step in steps)
        plan.add("style", (widest * widest,), E, *always)
    return plan


def gone(steps: Sequence[Step], taps: Sequence[str], choosing: bool) -> set[str]:
    """Layers whose features another buffer may have overwritten when the forward pass is done."""
    pools = {s.output for s in steps[:-1] if s.kind == "pool"}
    below = {below.output for below, s in pairwise(steps) if s.kind == "pool" and choosing}
    return (pools | below) - set(taps)
