"""A picture in one pass of a network that was trained for it, and the same as a start for the optimisation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import engines, fast, files, images
from ..engines import Engine
from ..errors import OptionError, TooLarge
from ..fast import FastNetwork
from ..images import Picture
from ..pretrained import FastWeights, load_fast_weights
from .pictures import Pictures
from .record import made_with, named
from .result import Painted

# Copies of the picture beside the maps, in float32: as it was read, as it is continued, as it is painted, as it is cut
_COPIES = 4
_CHANNELS = 3


@dataclass(frozen=True)
class FastResult(Painted):
    """What came of one pass.

    Attributes
    ----------
    pixels : ndarray of shape (3, H, W)
        RGB in [0, 1].
    alpha : ndarray of shape (H, W), or None
        The content's.
    metadata : dict
        How the picture was made: everything that is needed to make it again.
    seconds : float
        From the pictures in memory to the picture in memory.
    """

    pixels: np.ndarray = field(repr=False)
    alpha: np.ndarray | None = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)
    seconds: float


def stylize_fast(
    content: Picture,
    style: Picture | Sequence[Picture],
    *,
    weights: str | Path | FastWeights = "magenta",
    size: int | str = 512,
    style_size: int | Sequence[int | None] | None = None,
    style_blend: Sequence[float] | None = None,
    strength: float = 1.0,
    colors: str = "style",
    device: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
    on_share: Callable[[float], object] | None = None,
) -> FastResult:
    """Paint the content in the manner of the style, in one pass.

    Parameters
    ----------
    content : path, PIL image or array (H, W, 3) or (H, W, 4)
        What is transparent is transparent again in the result.
    style : the same, or a list of them
    weights : str, path or FastWeights
        "magenta", "adain", a converted file, a published file or a folder of these, or loaded ones.
    size : int or str
        Of the result: its long side in pixels, "short=PIXELS", "area=MEGAPIXELS", or "content" for the content's own.
    style_size : int, or one per style
        The style's long side in pixels, as the network sees it; if not given, its short side is the one that the
        network was trained with.
    style_blend : sequence of float, one per style
        How much each counts, 0 or more; equally if not given. Blended is what the network makes of the styles.
    strength : float
        From 0, the content's own look, to 1, the style's.
    colors : {"style", "luminance", "cholesky", "symmetric", "histogram"}
        Whose colours: the style's, or the content's in one of four ways; see `nstcore.transfer.pictures`.
    device, dtype, threads
        See `nstcore.engines.create`; or `engine`, one that exists already.
    on_share : callable, optional
        Called again and again with the share of the work that is done, from 0 to 1.

    Returns
    -------
    FastResult

    Raises
    ------
    UsageError
        If something that was given cannot be used; nothing was computed.
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise OptionError(f"strength: expected a number from 0 (the content's own look) to 1, got {strength!r}")
    styles = images.as_list(style)
    blend = [1.0] * len(styles) if style_blend is None else list(style_blend)
    pictures = Pictures(content, styles, colors, 1.0, style_size)
    target = images.target_size(pictures.size, size)
    loaded = weights if isinstance(weights, FastWeights) else load_fast_weights(weights)
    engine = engine or engines.create(device, dtype, threads)
    network = fast.network(loaded, engine)
    check_memory(network, engine, target)
    begin = time.monotonic()
    pixels = pictures.finished(one_pass(network, pictures, target, blend, float(strength), on_share))
    seconds = time.monotonic() - begin
    settings = {
        "model": loaded.model,
        "size": size,
        "style_size": pictures.sizes,
        "style_blend": blend,
        "strength": float(strength),
        "colors": colors,
        "device": engine.name,
        "precision": engine.precision,
        "threads": engine.threads,
    }
    metadata = {
        "content": named(content),
        "style": [named(s) for s in styles],
        "settings": settings,
        "sizes": [{"height": target[0], "width": target[1]}],
        "status": "one pass",
        **made_with(loaded, engine),
    }
    return FastResult(pixels, pictures.alpha(target), metadata, seconds)


def one_pass(
    network: FastNetwork,
    pictures: Pictures,
    size: tuple[int, int],
    blend: Sequence[float],
    strength: float = 1.0,
    on_share: Callable[[float], object] | None = None,
) -> np.ndarray:
    """The content (3, H, W) at that size, painted in the blend of the styles."""
    content = pictures.pixels(size)
    look = fast.blended([network.look(seen) for seen in pictures.styles_seen(network.style_side)], blend)
    if strength < 1:
        short = images.target_size(size, f"short={network.style_side}")
        own = network.look(images.resize_pixels(content, short))
        look = fast.blended([look, own], [strength, 1 - strength])
    return network.paint(content, look, on_share).astype(np.result_type(content.dtype, np.float32), copy=False)


def check_memory(network: FastNetwork, engine: Engine, size: tuple[int, int]) -> None:
    """Refuse a size that does not fit the memory at hand, with one that would."""
    free = engine.memory()
    need = memory(network, engine, size)
    if free is None or need <= free:
        return
    long_side = int(max(size) * math.sqrt(free / need) * 0.98)
    raise TooLarge(
        f"size: one pass at {size[1]}x{size[0]} takes {files.shown_bytes(need)}, and {files.shown_bytes(free)} are "
        f"free; take --size {long_side} or less"
    )


def memory(network: FastNetwork, engine: Engine, size: tuple[int, int]) -> int:
    """Bytes that painting a picture of that size takes at most, the picture itself included."""
    maps = network.usage(*size).numbers * engine.dtype.itemsize * network.layers.overhead
    return int(maps + _COPIES * _CHANNELS * size[0] * size[1] * 4)
