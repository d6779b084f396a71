"""How large a picture is to be: numbers only, no pixels."""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex

from ..errors import OptionError

_EXPECTED = "size: expected a long side in pixels, content, short=PIXELS or area=MEGAPIXELS"


def fit(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(height, width) with the proportions of `size` and that long side, each at least 1."""
    if long_side < 1:
        raise OptionError(f"size: expected a long side of 1 pixel or more, got {long_side}")
    return _scaled(size, long_side / max(size))


def target_size(shape: tuple[int, int], size: SupportsIndex | str) -> tuple[int, int]:
    """The size that a picture is to have, with its proportions kept.

    Parameters
    ----------
    shape : (height, width), pixels
        Of the picture as it is.
    size : int or str
        The long side in pixels (512 or "512"), "content" (as it is), "short=PIXELS" (the short side) or
        "area=MEGAPIXELS" (height * width in millions; fractions allowed).

    Returns
    -------
    (height, width), pixels
        Each rounded to nearest and at least 1.

    Raises
    ------
    OptionError
        If `size` is none of these, or not positive.
    """
    kind, number = _parsed(size)
    if kind == "content":
        return shape
    if kind == "long":
        return fit(shape, int(number))
    if kind == "short":
        return _scaled(shape, number / min(shape))
    return _scaled(shape, math.sqrt(number * 1e6 / (shape[0] * shape[1])))


def _parsed(size: SupportsIndex | str) -> tuple[str, float]:
    if not isinstance(size, str):
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise OptionError(f"{_EXPECTED}, got {size!r}")
        return "long", operator.index(size)
    text = size.strip().lower()
    if text == "content":
        return text, 0
    kind, equals, number = text.partition("=")
    if not equals:
        kind, number = "long", text
    if kind not in ("long", "short", "area"):
        raise OptionError(f"{_EXPECTED}, got {size!r}")
    try:
        value = float(number) if kind == "area" else float(int(number))
    except ValueError:
        raise OptionError(f"{_EXPECTED}, got {size!r}") from None
    if not 0 < value < math.inf:
        raise OptionError(f"{_EXPECTED}, more than 0, got {size!r}")
    return kind, value


def _scaled(shape: tuple[int, int], ratio: float) -> tuple[int, int]:
    height, width = shape
    return max(1, round(height * ratio)), max(1, round(width * ratio))
