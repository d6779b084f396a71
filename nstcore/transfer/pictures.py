"""Content and styles as the options want them: whose colours, and at which sizes.

        style       the picture takes the styles' colours
        luminance   content and styles are painted in grey, the styles' luminance matched to the content's; the
                    content's chrominance comes back at the end
        cholesky, symmetric, histogram
                    before anything else, the styles' colours are matched to the content's

References
----------
.. [1] Gatys, Ecker, Bethge, Hertzmann, Shechtman, "Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017,
   section 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import images, vgg
from ..errors import OptionError
from ..images import Picture

COLORS = ("style", "luminance", "cholesky", "symmetric", "histogram")


@dataclass(frozen=True)
class _Picture:
    pixels: np.ndarray  # (3, H, W)
    alpha: np.ndarray | None  # (H, W)

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[2]

    def at(self, size: tuple[int, int]) -> np.ndarray:
        """Of another size, as an array (H, W, 3), or (H, W, 4) with alpha."""
        image = images.resize_pixels(self.pixels, size).transpose(1, 2, 0)
        return image if self.alpha is None else np.dstack([image, images.resize_mask(self.alpha, size)])


class Pictures:
    """The content and the styles of one transfer.

    Parameters
    ----------
    content, styles
        As for `stylize`.
    colors : {"style", "luminance", "cholesky", "symmetric", "histogram"}
    style_scale : float, or one per style
        The style's long side as a multiple of the result's.
    style_size : int or None, or one per style
        The style's long side in pixels, whatever the result's.
    """

    def __init__(
        self,
        content: Picture,
        styles: Sequence[Picture],
        colors: str = "style",
        style_scale: float | Sequence[float] = 1.0,
        style_size: int | Sequence[int | None] | None = None,
    ) -> None:
        if colors not in COLORS:
            raise OptionError(f"colors: expected one of {', '.join(COLORS)}, got {colors!r}")
        if not styles:
            raise OptionError("style: expected at least one picture, got none")
        self.colors = colors
        self.scales = [_positive("style_scale", s) for s in _one_each("style_scale", style_scale, len(styles))]
        self.sizes = _one_each("style_size", style_size, len(styles))
        for size in self.sizes:
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
                raise OptionError(f"style_size: expected a long side in pixels, got {size!r}")
        self._original = _load(content)
        self._content, self._styles = self._original, [_load(s) for s in styles]
        if colors == "luminance":
            self._content = _Picture(_grey(images.luminance(self._original.pixels)), self._original.alpha)
            self._styles = [
                _Picture(_grey(images.match_luminance(s.pixels, self._original.pixels)), s.alpha) for s in self._styles
            ]
        elif colors != "style":
            self._styles = [_Picture(self._matched(s), s.alpha) for s in self._styles]

    def _matched(self, style: _Picture) -> np.ndarray:
        content = self._original
        if self.colors == "histogram":
            return images.match_histogram(style.pixels, content.pixels, style.alpha, content.alpha)
        return images.match_linear(style.pixels, content.pixels, self.colors, style.alpha, content.alpha)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the content."""
        return self._content.size

    def content(self, size: tuple[int, int]) -> np.ndarray:
        """What the losses compare with: (H, W, 3), or (H, W, 4) with alpha."""
        return self._content.at(size)

    def alpha(self, size: tuple[int, int]) -> np.ndarray | None:
        """Of the content, (H, W)."""
        return None if self._content.alpha is None else images.resize_mask(self._content.alpha, size)

    def style_sizes(self, long_side: int) -> list[tuple[int, int]]:
        """(height, width) of every style for a result with that long side.

        Where the scale would leave a narrow style less than a network reads, it stays larger.
        """
        found = []
        for style, scale, fixed in zip(self._styles, self.scales, self.sizes, strict=True):
            least = math.ceil(vgg.SMALLEST_SIDE * max(style.size) / min(style.size))
            found.append(images.fit(style.size, max(least, round(scale * long_side)) if fixed is None else fixed))
        return found

    def styles(self, long_side: int) -> list[np.ndarray]:
        """Every style for a result with that long side: (H, W, 3), or (H, W, 4) with alpha."""
        return [style.at(size) for style, size in zip(self._styles, self.style_sizes(long_side), strict=True)]

    def styles_seen(self, short_side: int) -> list[np.ndarray]:
        """Every style (3, H, W) with that short side, or the size that was given for it; its hidden parts filled."""
        sizes = [
            images.target_size(style.size, f"short={short_side}") if fixed is None else images.fit(style.size, fixed)
            for style, fixed in zip(self._styles, self.sizes, strict=True)
        ]
        return [images.resize_pixels(style.pixels, size) for style, size in zip(self._styles, sizes, strict=True)]

    def pixels(self, size: tuple[int, int]) -> np.ndarray:
        """The content (3, H, W) at that size, its hidden parts filled."""
        return images.resize_pixels(self._content.pixels, size)

    def finished(self, pixels: np.ndarray) -> np.ndarray:
        """What the optimisation has made (3, H, W), with the colours that were asked for."""
        if self.colors != "luminance":
            return pixels
        original = images.resize_pixels(self._original.pixels, pixels.shape[1:])
        return images.with_luminance(original, images.luminance(pixels))


def _load(picture: Picture) -> _Picture:
    loaded = images.load(picture)
    return _Picture(loaded.pixels, loaded.alpha)


def _grey(luminance: np.ndarray) -> np.ndarray:
    return np.repeat(luminance[None], 3, axis=0)


def _one_each(name: str, given: Any, count: int) -> list[Any]:
    """A value for every style, from one for all or one for each."""
    if not isinstance(given, list | tuple):
        return [given] * count
    if len(given) not in (1, count):
        raise OptionError(f"{name}: expected one value, or {count}, one per style, got {len(given)}")
    return list(given) * (count if len(given) == 1 else 1)


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise OptionError(f"{name}: expected a number above 0, got {value!r}")
    return float(value)
