"""What fits the memory at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import images, vgg
from ..engines import Engine, Network
from ..errors import RunError
from .pictures import Pictures

USABLE = 0.85  # of the memory at hand: the pictures, the interpreter and others need some too
_PICTURES = 6  # pictures that a transfer holds besides those of the optimizer: start, best, spare, average, composite


@dataclass(frozen=True)
class Needs:
    """What a transfer takes, whatever its size.

    Attributes
    ----------
    network : Network
    kept : tuple of str
        Content layers: their features are kept.
    buffers : int
        Arrays of the optimizer, each as large as the picture.
    """

    network: Network
    kept: tuple[str, ...]
    buffers: int

    def bytes(self, size: tuple[int, int], style_sizes: list[tuple[int, int]]) -> int:
        """For a picture of (height, width), and styles of these sizes."""
        shapes = self.network.shapes(*size)
        kept = sum(math.prod(shapes[tap.replace("conv", "relu")]) for tap in self.kept)
        pictures = 3 * math.prod(size) * (self.buffers + _PICTURES)
        return max(self.network.bytes(*s) for s in (size, *style_sizes)) + 4 * (kept + pictures)


def largest(needs: Needs, engine: Engine, pictures: Pictures, wanted: tuple[int, int]) -> tuple[int, int]:
    """The size up to `wanted`, with its proportions, whose buffers fit the memory at hand.

    Raises
    ------
    RunError
        If not even the smallest picture does.
    """
    memory = engine.memory()
    if memory is None:
        return wanted

    def fits(long_side: int) -> bool:
        size = images.fit(pictures.size, long_side)
        return needs.bytes(size, pictures.style_sizes(long_side)) <= USABLE * memory

    if fits(max(wanted)):
        return wanted
    low, high = math.ceil(vgg.SMALLEST_SIDE * max(wanted) / min(wanted)), max(wanted)
    if not fits(low):
        raise RunError(
            f"fit: expected memory for a picture of {low} pixels, found {memory / 1e6:.0f} MB free; free some"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return images.fit(pictures.size, low)  # what that long side alone asks for: the run can be made again from it
