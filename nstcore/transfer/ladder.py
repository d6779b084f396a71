"""The sizes on the way: from coarse to fine, each sqrt(2) times as large as the one before.

A network sees structure up to the size of its receptive field, 156 pixels at relu5_1. In a larger picture that is
a detail: its composition would stay as the start has it, and the look would depend on the size. So the picture is
painted small first, then enlarged and gone over again [1]_, [2]_.

References
----------
.. [1] Gatys, Ecker, Bethge, Hertzmann, Shechtman, "Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017,
   section 6 (two sizes).
.. [2] Crowson, github.com/crowsonkb/style-transfer-pytorch (steps of sqrt(2) from 128 pixels).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .. import vgg
from ..errors import OptionError
from ..images import fit

FROM = 512  # long side from which "auto" climbs
FIRST = 128  # its first long side
RATIO = math.sqrt(2)
# A size with the share c of the full size's pixels gets c^TILT times its evaluations: small pictures settle in a few
# where things go, and what they paint in detail is lost when they grow. 1 is better for pairs where a single size is
# far from done (a tenth lower in style), 2 where it is nearly done; tools/compare_ladder.py measures it.
TILT = 1.5


@dataclass(frozen=True)
class Rung:
    """One size.

    Attributes
    ----------
    height, width : int
    iterations : int
        Evaluations of loss and gradient after the one of the picture that it starts with.
    cost : float
        Of one of them, where one at the full size costs 1.
    blocks : tuple of int
        Its pyramid; see `pyramid`.
    """

    height: int
    width: int
    iterations: int
    cost: float
    blocks: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.height, self.width


def climb(
    size: tuple[int, int],
    ladder: str | int,
    iterations: int,
    stride: int,
    blocks: Callable[[tuple[int, int]], tuple[int, ...]] = lambda size: (),
) -> list[Rung]:
    """The sizes on the way to (height, width), which is the last.

    Parameters
    ----------
    size : (height, width)
    ladder : "auto", "off" or int
        "auto": from 128 pixels on, if the long side is 512 or more. An int is the long side to begin with.
    iterations : int
        What all may cost together, in evaluations at the full size.
    stride : int
        Pixels that one position of the network's deepest layer stands for: a size with a shorter side is left out.
    blocks : callable (size) -> tuple of int
        The pyramid of each size.
    """
    first = _first(ladder, max(size))
    sizes = [size]
    for i in range(1, 64):
        long_side = round(max(size) / RATIO**i)
        if long_side < first or long_side < 1:
            break
        smaller = fit(size, long_side)
        if min(smaller) < max(stride, vgg.SMALLEST_SIDE):
            break
        sizes.insert(0, smaller)
    levels = [blocks(s) for s in sizes]
    work = [h * w * (1 + sum(1 / k**2 for k in ks)) for (h, w), ks in zip(sizes, levels, strict=True)]
    costs = [w / work[-1] for w in work]
    most = iterations / sum(cost ** (TILT + 1) for cost in costs)
    counts = [max(1, round(most * cost**TILT)) for cost in costs[:-1]]
    spent = sum(n * cost for n, cost in zip(counts, costs, strict=False))
    counts.append(max(1, round(iterations - spent)))
    return [Rung(*s, n, cost, ks) for s, n, cost, ks in zip(sizes, counts, costs, levels, strict=True)]


def _first(ladder: str | int, long_side: int) -> int:
    if isinstance(ladder, int) and not isinstance(ladder, bool):
        if ladder < 1:
            raise OptionError(f"ladder: expected the long side in pixels to begin with, got {ladder}")
        return ladder
    if ladder == "auto":
        return FIRST if long_side >= FROM else long_side
    if ladder == "off":
        return long_side
    raise OptionError(f"ladder: expected auto, off, or the long side in pixels to begin with, got {ladder!r}")
