"""In which smaller sizes a large picture is held against its pictures as well.

What a network sees is limited by its receptive field. At 1024 pixels a swirl that fills the sky of a picture of 256 is
too large for it: the style distance that the large picture has once it is made small grows a hundredfold, although at
its own size it is as low as ever (`tools/compare_ladder.py --looks` measures it). Levels of the pyramid are pictures a
quarter as large, and again, down to about 256 pixels; together they cost less than a seventh of the picture itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .. import vgg
from ..errors import OptionError

PYRAMIDS = ("auto", "off")
SMALLEST = 256  # about the long side of the smallest level
LEAST = 3  # blocks of 2 x 2 would cost a quarter of the picture itself
RATIO = 4  # about how many times as large as the next one a level is


def blocks(size: tuple[int, int], styles: Sequence[tuple[int, int]], stride: int) -> tuple[int, ...]:
    """Sides of the blocks whose means make each level, the largest level first.

    Parameters
    ----------
    size : (height, width)
        Of the picture.
    styles : sequence of (height, width)
    stride : int
        Pixels that one position of the network's deepest layer stands for: no level has a shorter side.
    """
    deepest = round(max(size) / SMALLEST)
    shortest = min(min(s) for s in (size, *styles)) // max(stride, vgg.SMALLEST_SIDE)
    deepest = min(deepest, shortest)
    if deepest < LEAST:
        return ()
    count = max(1, round(math.log(deepest, RATIO)))
    return tuple(round(deepest ** (i / count)) for i in range(1, count + 1))


def chosen(pyramid: str, convention: str) -> bool:
    """Whether there is one: "auto" is for the relative convention, as the others' objectives are those of others."""
    if pyramid not in PYRAMIDS:
        raise OptionError(f"pyramid: expected one of {', '.join(PYRAMIDS)}, got {pyramid!r}")
    return pyramid == "auto" and convention == "relative"
