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

from .. import disk, images, vgg
from ..errors import OptionError
from ..images import Picture

COLORS = ("style", "luminance", "cholesky", "symmetric", "histogram")


@dataclass(frozen=True)
class _Picture:
    pixels: np.ndarray  # (3, H, W); of a large one also uint8 or uint16, on disk
    alpha: np.ndarray | None  # (H, W)

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[2]

    def at(self, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
        """Of another size, as an array (H, W, 3), or (H, W, 4) with alpha."""
        if out is not None:
            images.resize_pixels(self.pixels, size, out[:3])
            if self.alpha is not None:
                images.resize_mask(self.alpha, size, out[3])
            return out.transpose(1, 2, 0)
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
    large : int
        Pixels above which a picture is kept at the depth of its file, and what is made of it, in float32: on disk both.
    """

    def __init__(
        self,
        content: Picture,
        styles: Sequence[Picture],
        colors: str = "style",
        style_scale: float | Sequence[float] = 1.0,
        style_size: int | Sequence[int | None] | None = None,
        large: int = images.LARGE,
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
        self._large = large
        self._least = vgg.SMALLEST_SIDE
        self._original = _load(content, large)
        self._content, self._styles = self._original, [_load(s, large) for s in styles]
        if colors == "luminance":
            self._content = _Picture(self._grey(self._original.pixels), self._original.alpha)
            self._styles = [_Picture(self._matched_grey(s.pixels), s.alpha) for s in self._styles]
        elif colors != "style":
            self._styles = [_Picture(self._matched(s), s.alpha) for s in self._styles]

    def _grey(self, pixels: np.ndarray) -> np.ndarray:
        return images.grey(pixels) if self._is_large(pixels.shape[1:]) else _grey(images.luminance(pixels))

    def _matched_grey(self, style: np.ndarray) -> np.ndarray:
        content = self._original.pixels
        if self._any_large(style, content):
            return images.match_luminance_strips(style, content)
        return _grey(images.match_luminance(style, content))

    def _matched(self, style: _Picture) -> np.ndarray:
        content = self._original
        if self._any_large(style.pixels, content.pixels):
            pair = (style.pixels, style.alpha), (content.pixels, content.alpha)
            if self.colors == "histogram":
                return images.match_histogram_strips(*pair)
            return images.match_linear_strips(*pair, self.colors)
        if self.colors == "histogram":
            return images.match_histogram(style.pixels, content.pixels, style.alpha, content.alpha)
        return images.match_linear(style.pixels, content.pixels, self.colors, style.alpha, content.alpha)

    def _is_large(self, size: Sequence[int]) -> bool:
        return size[0] * size[1] > self._large

    def _any_large(self, *pictures: np.ndarray) -> bool:
        return any(self._is_large(pixels.shape[1:]) for pixels in pictures)

    def _new(self, channels: int, size: tuple[int, int], out: np.ndarray | None) -> np.ndarray | None:
        """Where a picture goes that is made at that size: an array on disk if it is large; None for a new one."""
        return disk.disk_array((channels, *size)) if out is None and self._is_large(size) else out

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the content."""
        return self._content.size

    @property
    def channels(self) -> int:
        """Of the content: 3, or 4 with alpha."""
        return 3 + (self._content.alpha is not None)

    def content(self, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
        """What the losses compare with: (H, W, 3), or (H, W, 4) with alpha.

        Parameters
        ----------
        size : (height, width)
        out : ndarray of shape (`channels`, height, width), float32, optional
            Takes it, strip by strip; what is returned is a view of it.
        """
        return self._content.at(size, self._new(self.channels, size, out))

    def alpha(self, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray | None:
        """Of the content, (H, W)."""
        if self._content.alpha is None:
            return None
        if out is None and self._is_large(size):
            out = disk.disk_array(size)
        return images.resize_mask(self._content.alpha, size, out)

    def style_sizes(self, long_side: int) -> list[tuple[int, int]]:
        """(height, width) of every style for a result with that long side.

        Where the scale would leave a style less than the network reads, on a small rung of the ladder, say, it stays
        larger.
        """
        found = []
        for style, scale, fixed in zip(self._styles, self.scales, self.sizes, strict=True):
            least = math.ceil(self._least * max(style.size) / min(style.size))
            found.append(images.fit(style.size, max(least, round(scale * long_side)) if fixed is None else fixed))
        return found

    def read_by(self, stride: int) -> None:
        """Whose layers will read them: one position of the deepest stands for `stride` pixels.

        Raises
        ------
        OptionError
            If a style's own size is less.
        """
        self._least = max(stride, vgg.SMALLEST_SIDE)
        for style, fixed in zip(self._styles, self.sizes, strict=True):
            if fixed is not None and min(size := images.fit(style.size, fixed)) < self._least:
                raise OptionError(
                    f"style_size: expected at least {self._least} pixels a side for the layers asked for, got {fixed}, "
                    f"which is {size[1]}x{size[0]}; take a larger one, or shallower layers"
                )

    def styles(self, long_side: int) -> list[np.ndarray]:
        """Every style for a result with that long side: (H, W, 3), or (H, W, 4) with alpha."""
        found = []
        for style, size in zip(self._styles, self.style_sizes(long_side), strict=True):
            found.append(style.at(size, self._new(3 + (style.alpha is not None), size, None)))
        return found

    def styles_seen(self, short_side: int) -> list[np.ndarray]:
        """Every style (3, H, W) with that short side, or the size that was given for it; its hidden parts filled."""
        sizes = [
            images.target_size(style.size, f"short={short_side}") if fixed is None else images.fit(style.size, fixed)
            for style, fixed in zip(self._styles, self.sizes, strict=True)
        ]
        return [images.resize_pixels(style.pixels, size) for style, size in zip(self._styles, sizes, strict=True)]

    def pixels(self, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
        """The content (3, H, W) at that size, its hidden parts filled; in `out`, float32, where that is given."""
        return images.resize_pixels(self._content.pixels, size, self._new(3, size, out))

    def finished(self, pixels: np.ndarray) -> np.ndarray:
        """What the optimisation has made (3, H, W), with the colours that were asked for."""
        if self.colors != "luminance":
            return pixels
        size = pixels.shape[1], pixels.shape[2]
        original = images.resize_pixels(self._original.pixels, size, self._new(3, size, None))
        if self._is_large(size):
            return images.with_luminance_strips(original, pixels, original)
        return images.with_luminance(original, images.luminance(pixels))


def _load(picture: Picture, large: int) -> _Picture:
    loaded = images.load(picture, large)
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
