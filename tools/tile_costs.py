"""What a step of a picture in tiles costs: multiplications, bytes of memory and of disk. Counted, nothing measured.

Everything follows from the network's table (`nstcore.vgg`) and from where windows lie
(`nstcore.engines.tiled.geometry`). Costs are for one pixel of the picture and one step, unless they are said to be of a
whole. float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from nstcore import vgg
from nstcore.engines.tiled.geometry import bands, tiles
from nstcore.objective.layers import CONTENT_LAYERS, STYLE_LAYERS

FLOAT, DOUBLE, WORD = 4, 8, 2
TAPS = tuple(dict.fromkeys((*STYLE_LAYERS, *CONTENT_LAYERS)))
PIXEL = 3 * FLOAT  # bytes
UPDATE = 6 * PIXEL, 4 * PIXEL  # read: x, its gradient, m, v; x and the average. Written: x, m, v; the average


@dataclass(frozen=True)
class PartCosts:
    """A part of a network (`nstcore.vgg.Part`), by the table alone.

    Attributes
    ----------
    name : str
        "blocks 1 to 2"
    stride, grid, reach : int
        Pixels of the picture for a position of its input; largest stride of its layers, and how far it sees, in
        positions of its input.
    channels : int
        Of its input.
    reach_again : int
        Of its deepest layer that is computed again on the way back.
    products : float
        Multiplications of the forward pass; the backward pass takes as many.
    products_again : float
        Of what is computed again: up to the deepest layer that a loss asks for.
    features : float
        Bytes of what its layers compute.
    output : float
        Bytes of what it ends with, where another part follows; else 0.
    content : float
        Bytes of the content targets at its layers.
    gates : float
        Bytes of the bits that stay of the others.
    """

    name: str
    stride: int
    grid: int
    reach: int
    channels: int
    reach_again: int
    products: float
    products_again: float
    features: float
    output: float
    content: float
    gates: float

    @property
    def halos(self) -> tuple[int, int]:
        """Of the features and of the gradient, in pixels of the picture."""
        return self.reach * self.stride, (max(self.reach, 2 * self.reach_again) + self.grid - 1) * self.stride

    @property
    def kept_halo(self) -> int:
        """Of both, where all features are computed again if they cannot be kept, as the workers of a cluster do."""
        return (2 * self.reach + self.grid - 1) * self.stride

    @property
    def input(self) -> float:
        """Bytes."""
        return self.channels * FLOAT / self.stride**2


def parts_of(architecture: str, cuts: Sequence[int] = ()) -> list[PartCosts]:
    """A network down to the deepest of the usual layers, cut at the poolings of these blocks."""
    deepest = max(vgg.find(architecture, tap).block for tap in TAPS)
    found = []
    for first, last in zip([1, *(c + 1 for c in cuts)], [*cuts, None], strict=True):
        within = [t for t in TAPS if last is None and vgg.find(architecture, t).block >= first]
        steps = vgg.steps_for(architecture, within, vgg.Part(first, last))
        stride = 2 ** (first - 1)
        convolutions = [s for s in steps if s.kind == "conv"]
        ends = steps[-1]
        taps = [s for s in steps if s.output in CONTENT_LAYERS]
        asked = max((i + 1 for i, s in enumerate(steps) if {s.name, s.output} & {*TAPS}), default=0)
        again = [s for s in steps[:asked] if s.kind == "conv"]
        bits = [s for s in steps[asked:] if s.kind == "conv"]
        found.append(
            PartCosts(
                name=f"blocks {first} to {last or deepest}" if first != (last or deepest) else f"block {first}",
                stride=stride,
                grid=ends.stride // stride,
                # a 3x3 convolution sees one position to each side; a pooling stays in its own square
                reach=sum(s.stride // stride for s in convolutions),
                channels=steps[0].in_channels,
                reach_again=sum(s.stride // stride for s in again),
                products=sum(map(_products, convolutions)),
                products_again=sum(map(_products, again)),
                features=sum(_bytes(s) for s in steps),
                output=0.0 if last is None else _bytes(ends),
                content=sum(_bytes(s) for s in taps),
                gates=sum(WORD * -(-s.out_channels // 16) / s.stride**2 for s in bits),
            )
        )
    return found


def _products(step: vgg.Step) -> float:
    return 9 * step.in_channels * step.out_channels / step.stride**2


def _bytes(step: vgg.Step) -> float:
    return step.out_channels * FLOAT / step.stride**2


def statistics_bytes(architecture: str, itemsize: int) -> int:
    """Of a Gram matrix for each style layer."""
    return sum(vgg.find(architecture, tap).out_channels ** 2 for tap in STYLE_LAYERS) * itemsize


@dataclass(frozen=True)
class Sweep:
    """The windows of a part in one sweep over a square picture.

    Attributes
    ----------
    count : int
        Tiles.
    shape : (int, int)
        Of a window, in positions of the part's input.
    """

    count: int
    shape: tuple[int, int]

    @property
    def one(self) -> int:
        """Positions of a window."""
        return math.prod(self.shape)

    @property
    def area(self) -> int:
        """Positions of all windows."""
        return self.count * self.one


@cache
def sweeps(part: PartCosts, size: int, tile: int, keep: bool = False) -> tuple[Sweep, Sweep]:
    """Forward and backward, for a picture of `size` x `size` pixels and tiles of `tile` pixels.

    Parameters
    ----------
    keep : bool
        Both sweeps take the same windows, those in which all features can be computed again, as the workers of a
        cluster do.
    """
    positions, side = size // part.stride, max(1, tile // part.stride)
    cover = tiles if part.stride == 1 else bands

    def of(halo: int) -> Sweep:
        found = cover(positions, positions, side, halo // part.stride, part.grid)
        return Sweep(len(found), found[0].shape)

    forward, gradient = (part.kept_halo, part.kept_halo) if keep else part.halos
    found = of(forward)
    return (found, found) if found.count == 1 else (found, of(gradient))


@dataclass(frozen=True)
class Step:
    """A step of a whole square picture, on one machine.

    Attributes
    ----------
    products : float
        Multiplications of all convolutions.
    whole : float
        The same in one piece.
    read, written : float
        Bytes of arrays that lie on disk, by the network.
    stored : float
        Bytes that lie between the parts, and the gradient.
    seconds : float
        Of the network; 0 without `passes`.
    """

    products: float
    whole: float
    read: float
    written: float
    stored: float
    seconds: float

    @property
    def lost(self) -> float:
        """Multiplications, as a multiple of those in one piece."""
        return self.products / self.whole


def step(
    parts: Sequence[PartCosts],
    size: int,
    sides: Sequence[int],
    stay: int = 0,
    passes: Sequence[tuple[float, float]] = (),
) -> Step:
    """Of a picture of `size` x `size` pixels, with tiles of so many pixels for each part.

    Parameters
    ----------
    stay : int
        Of so many of the deepest parts, if they are in one tile, nothing is computed again.
    passes : sequence of (forward, backward), optional
        Seconds of each part for a pixel.
    """
    pixels = size * size
    products = whole = read = written = stored = seconds = 0.0
    for i, (part, side) in enumerate(zip(parts, sides, strict=True)):
        windows = sweeps(part, size, side)
        forward, backward = (sweep.area * part.stride**2 for sweep in windows)  # in pixels
        again = 0 if windows[0].count == 1 and i >= len(parts) - stay else backward
        gates = part.gates if again else 0.0
        whole += 2 * part.products * pixels
        products += part.products * (forward + backward) + part.products_again * again
        if passes:
            share = part.products_again / part.products
            seconds += passes[i][0] * (forward + share * again) + passes[i][1] * backward
        read += part.input * (forward + again) + part.content * (forward + backward)
        read += (part.output + gates) * backward  # the gradient that comes from the next part
        # What the next part begins with; the gradient for the one before
        written += pixels * (part.output + part.input + gates)
        stored += pixels * (2 * part.output + gates + (part.input if i == 0 else 0))
    return Step(products, whole, read, written, stored, seconds)


def disk_of_a_run(parts: Sequence[PartCosts]) -> float:
    """Bytes on disk for each pixel while a run with Adam makes its steps: what the network stores, content targets, and
    nine pictures (the one that moves, where it began, m and v, their average, the best two, two on their way to a
    file)."""
    between = sum(2 * part.output + part.gates for part in parts) + parts[0].input
    return between + sum(part.content for part in parts) + 9 * PIXEL
