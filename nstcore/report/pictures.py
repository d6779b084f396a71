"""Pictures small enough for a page, and the evaluations at which one is kept.

A page has room for 5 MB. Each picture gets a share of it in advance: it is brought down to a long side first, then to a
lower JPEG quality, then made smaller still, until it fits its share.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from ..images import to_uint8
from ..transfer import Rung

# (pixels of the long side, bytes as text in the page)
LARGE = (1280, 900_000)  # content and result
STYLE = (512, 240_000)  # all styles together
FRAME = (320, 32_000)
FRAMES = 40  # at most
LEAST = 16  # pixels: no picture is made smaller than that

_QUALITIES = (88, 80, 70, 58)


def picture(pixels: np.ndarray, long_side: int, most: int) -> dict[str, Any]:
    """A picture for the page.

    Parameters
    ----------
    pixels : ndarray (3, H, W)
        RGB in [0, 1].
    long_side : int
        What it is brought down to; it is never enlarged.
    most : int
        Bytes that its text may take.

    Returns
    -------
    dict
        `src`, a data URI with a JPEG; `width` and `height` of the picture itself, in pixels.
    """
    image = Image.fromarray(to_uint8(pixels))
    width, height = image.size
    side = min(long_side, max(width, height))
    while True:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            src = _jpeg(image, quality)
            if len(src) <= most:
                break
        if len(src) <= most or side <= LEAST:
            return {"src": src, "width": width, "height": height}
        side = max(LEAST, side * 3 // 4)


def _jpeg(image: Image.Image, quality: int) -> str:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getbuffer()).decode()}"


def kept_evaluations(rungs: Sequence[Rung]) -> frozenset[int]:
    """The evaluations (the first is 1) at which a frame is kept, if all goes as planned.

    The first and the last of every size, and others at distances that grow in proportion: most happens early.
    """
    ends, total = {1}, 0
    for rung in rungs:
        first, total = total + 1, total + rung.iterations + 1
        ends |= {first, total}
    if len(ends) > FRAMES // 2:
        ends = {1, total}
    for count in range(3 * FRAMES, 1, -1):  # early ones fall together
        found = ends | {round(total ** (i / (count - 1))) for i in range(count)}
        if len(found) <= FRAMES:
            return frozenset(found)
    return frozenset(ends)
