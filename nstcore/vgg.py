"""VGG16 and VGG19 as one table each: what follows from the table is computed here, and only here.

A network is a list of blocks; block i is `n` convolutions of `K` filters (3x3, stride 1, padded by 1, each followed by
a ReLU) and a 2x2 pooling with stride 2. Names are the field's: conv4_2 is the second convolution of the fourth block
before its ReLU, relu4_2 after it, pool4 the pooling that ends the block.

A picture enters as (3, H, W). Pooling drops an odd last row or column (floor), as the published networks do.

References
----------
.. [1] Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, table 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from .errors import LayerError, OptionError, ShapeError

SMALLEST_SIDE = 16

# (convolutions, filters) of each block
ARCHITECTURES: dict[str, tuple[tuple[int, int], ...]] = {
    "vgg16": ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)),
    "vgg19": ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)),
}


@dataclass(frozen=True)
class Part:
    """Some blocks of a network: from the picture, or the pooling before block `first`, to the pooling that ends block
    `last`; None: to the deepest tap."""

    first: int = 1
    last: int | None = None

    @property
    def stride(self) -> int:
        """Pixels of the picture that one position of its input stands for."""
        return 2 ** (self.first - 1)


WHOLE = Part()

_LAYER = re.compile(r"(conv|relu)([1-9])_([1-9])|pool([1-9])")


@dataclass(frozen=True)
class Step:
    """One step of the network: a convolution with its ReLU, or a pooling.

    `in_channels` and `out_channels` are C and K; `stride` is how many pixels of the picture one position of the
    *output* stands for; `reach` is how many pixels beyond that position's own `stride` x `stride` square it sees to
    each side (see `receptive_field`).
    """

    kind: str  # "conv" or "pool"
    block: int
    index: int  # 1.. within the block; 0 for the pooling
    in_channels: int
    out_channels: int
    stride: int
    reach: int

    @property
    def name(self) -> str:
        return f"pool{self.block}" if self.kind == "pool" else f"conv{self.block}_{self.index}"

    @property
    def output(self) -> str:
        """The layer that the step ends in: relu4_2 for conv4_2, pool4 for pool4."""
        return self.name.replace("conv", "relu")

    @property
    def layers(self) -> tuple[str, ...]:
        """Every name under which a result of this step can be tapped."""
        return (self.name,) if self.kind == "pool" else (self.name, self.output)


def steps(architecture: str) -> tuple[Step, ...]:
    """The whole network, in the order of the data."""
    if architecture not in ARCHITECTURES:
        raise OptionError(f"architecture: expected one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    return _steps(ARCHITECTURES[architecture])


@cache
def _steps(table: tuple[tuple[int, int], ...]) -> tuple[Step, ...]:
    out: list[Step] = []
    channels, stride, reach = 3, 1, 0
    for block, (convolutions, filters) in enumerate(table, 1):
        for index in range(1, convolutions + 1):
            reach += stride  # a 3x3 window sees one more position to each side
            out.append(Step("conv", block, index, channels, filters, stride, reach))
            channels = filters
        stride *= 2  # the 2x2 window lies inside the output's own square: the reach stays
        out.append(Step("pool", block, 0, channels, channels, stride, reach))
    return tuple(out)


def layers(architecture: str) -> tuple[str, ...]:
    """All names that can be tapped, in the order of the data."""
    return tuple(name for step in steps(architecture) for name in step.layers)


def convolutions(architecture: str) -> dict[str, tuple[int, int, int, int]]:
    """Filter shape (K, C, 3, 3) of every convolution, by name."""
    return {s.name: (s.out_channels, s.in_channels, 3, 3) for s in steps(architecture) if s.kind == "conv"}


@cache
def _by_layer(every: tuple[Step, ...]) -> dict[str, Step]:
    return {name: step for step in every for name in step.layers}


def find(architecture: str, layer: str) -> Step:
    """The step in which a layer is computed; `LayerError` for a name that the network does not have."""
    table = _by_layer(steps(architecture))
    if layer not in table:
        if not _LAYER.fullmatch(layer):
            raise LayerError(f"layer {layer!r}: expected a name like relu4_2, conv4_2 or pool4")
        raise LayerError(f"layer {layer!r}: {architecture} has no such layer; it has {_ranges(architecture)}")
    return table[layer]


def steps_for(architecture: str, taps: Iterable[str], part: Part = WHOLE) -> tuple[Step, ...]:
    """The steps of a part up to the deepest tap: nothing beyond it is ever computed.

    A part that ends in a pooling has all its steps, whatever is tapped of them.
    """
    wanted = {tap: find(architecture, tap) for tap in taps}
    every = tuple(s for s in steps(architecture) if part.first <= s.block <= (part.last or s.block))
    for tap, step in wanted.items():
        if step not in every:
            raise LayerError(f"layer {tap}: expected one of blocks {part.first} to {part.last or 'the last'}")
    if part.last is not None:
        return every
    if not wanted:
        raise LayerError("taps: expected at least one layer, got none")
    return every[: max(every.index(step) for step in wanted.values()) + 1]


def shape(architecture: str, layer: str, height: int, width: int, what: str = "picture") -> tuple[int, int, int]:
    """Shape (channels, height, width) of a layer for a picture of height x width pixels, called `what` in messages.

    Raises
    ------
    ShapeError
        If the picture is smaller than 16 pixels on a side, or too small to leave the layer a single position.
    """
    step = find(architecture, layer)
    if min(height, width) < SMALLEST_SIDE:
        least = f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        raise ShapeError(f"{what}: expected at least {least} pixels, got {width}x{height}; take a larger size")
    if min(height, width) < step.stride:
        raise ShapeError(
            f"{what}: {layer} needs at least {step.stride} pixels a side, got {width}x{height}; "
            "take a larger size or a shallower layer"
        )
    return step.out_channels, height // step.stride, width // step.stride


def receptive_field(architecture: str, layer: str) -> tuple[int, int]:
    """(size, stride) in pixels: the side of the square that one position sees, and the distance between positions.

    Position (p, q) sees rows `p*stride - reach` to `p*stride + stride - 1 + reach`, and columns likewise, where
    `reach = (size - stride) / 2`.
    """
    step = find(architecture, layer)
    return step.stride + 2 * step.reach, step.stride


def _ranges(architecture: str) -> str:
    blocks = enumerate(ARCHITECTURES[architecture], 1)
    return ", ".join(f"conv{b}_1-{n}/relu{b}_1-{n}/pool{b}" for b, (n, _) in blocks)
