"""The formulas of `colour` for pictures on disk: sums over strips first, then each strip by itself.

They take pixels (3, H, W) as `load` keeps large ones, and return new arrays on disk, float32. The numbers are those of
`colour`, up to the order of summation; the levels of a histogram are those of 16 bits, or of the 8 that a picture has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from .. import disk
from ..errors import OptionError
from .colour import LEAST_VARIANCE, Axes, luminance, map_between, match_levels, with_luminance
from .resize import numbers

Picture: TypeAlias = tuple[np.ndarray, np.ndarray | None]  # pixels (3, H, W), alpha (H, W)
_LEVELS = 65536


def grey(pixels: np.ndarray) -> np.ndarray:
    """The luminance, in all three channels."""
    return _mapped(pixels, luminance)


def match_luminance_strips(style: np.ndarray, content: np.ndarray) -> np.ndarray:
    """`match_luminance`, in all three channels."""
    (mean_s, std_s), (mean_c, std_c) = (_luminance_moments(p) for p in (style, content))
    gain = std_c / max(std_s, float(np.sqrt(LEAST_VARIANCE)))
    return _mapped(style, lambda x: np.clip(gain * (luminance(x.astype(np.float64)) - mean_s) + mean_c, 0, 1))


def match_linear_strips(style: Picture, content: Picture, method: str) -> np.ndarray:
    """`match_linear`, each picture with its alpha as weights."""
    A, b = map_between(_axes(*style), _axes(*content), method)
    return _mapped(style[0], lambda x: np.clip(np.tensordot(A, x.astype(np.float64), axes=1) + b[:, None, None], 0, 1))


def match_histogram_strips(style: Picture, content: Picture) -> np.ndarray:
    """`match_histogram`, each picture with its alpha as weights."""
    values = np.arange(_LEVELS) / (_LEVELS - 1)
    masses = zip(_histograms(*style), _histograms(*content), strict=True)
    maps = np.stack([match_levels(values, mass_s, values, mass_c) for mass_s, mass_c in masses])

    def matched(x: np.ndarray) -> np.ndarray:
        return np.clip(np.stack([m[channel] for m, channel in zip(maps, _levels(x), strict=True)]), 0, 1)

    return _mapped(style[0], matched)


def with_luminance_strips(colours: np.ndarray, painted: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`with_luminance` of a picture at the luminance of another; `out` may be either of them."""
    for rows in disk.strips(out):
        out[:, rows] = with_luminance(colours[:, rows], luminance(painted[:, rows]))
        disk.release(colours, painted, out)
    return out


def _mapped(pixels: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What becomes of the floats (3, n, W) of each strip: (3, n, W), or (n, W) for all channels."""
    out = disk.new_array(pixels.shape)
    for rows in disk.strips(out):
        out[:, rows] = function(numbers(pixels[:, rows]))
        disk.release(pixels, out)
    return out


def _luminance_moments(pixels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the luminance."""
    count = pixels[0].size
    mean = sum(float(luminance(x.astype(np.float64)).sum()) for x, _ in _strips(pixels, None)) / count
    square = sum(float(np.square(luminance(x.astype(np.float64)) - mean).sum()) for x, _ in _strips(pixels, None))
    return mean, float(np.sqrt(square / count))


def _axes(pixels: np.ndarray, alpha: np.ndarray | None) -> Axes:
    total, sums = 0.0, np.zeros(3)
    for x, w in _strips(pixels, alpha):
        total += float(w.sum())
        sums += x.reshape(3, -1).astype(np.float64) @ w
    _check(total)
    mu, second = sums / total, np.zeros((3, 3))
    for x, w in _strips(pixels, alpha):
        centred = x.reshape(3, -1).astype(np.float64) - mu[:, None]
        second += (centred * w) @ centred.T
    values, axes = np.linalg.eigh(second / total)
    return mu, np.maximum(values, 0), axes


def _histograms(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Of each channel, the share of the pixels that has each level, (3, 65536)."""
    masses = np.zeros((3, _LEVELS))
    for x, w in _strips(pixels, alpha):
        for mass, channel in zip(masses, _levels(x), strict=True):
            mass += np.bincount(channel.ravel(), w, minlength=_LEVELS)
    _check(float(masses[0].sum()))
    return masses / masses[0].sum()


def _levels(x: np.ndarray) -> np.ndarray:
    return np.rint(x * (_LEVELS - 1)).astype(np.uint16)


def _strips(pixels: np.ndarray, alpha: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Floats (3, n, W) and their weights (n * W,)."""
    for rows in disk.strips(pixels.shape):
        x = numbers(pixels[:, rows])
        yield x, np.ones(x[0].size) if alpha is None else alpha[rows].ravel().astype(np.float64)
        disk.release(pixels, *(() if alpha is None else (alpha,)))


def _check(total: float) -> None:
    if not total > 0:
        raise OptionError("colour matching: the mask or alpha leaves no pixel to match; make part of it white")
