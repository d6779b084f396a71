"""Where the optimisation starts: a picture, or a mixture of several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import disk, images
from ..errors import OptionError

INITS = ("content", "noise", "style", "gray", "statistics", "fast")
FAST = "fast"  # the content painted in one pass, by `FAST_WEIGHTS`
FAST_WEIGHTS = "magenta"
_EXPECTED = f"init: expected one of {', '.join(INITS)}, a picture file, or a mixture such as content=0.8,noise=0.2"


def parts_of(init: str | Path) -> dict[str, float]:
    """What a start is mixed of, with weights that add up to 1.

    Raises
    ------
    OptionError
        If a part is no start and cannot be the name of a file, or a weight is no number above 0.
    """
    text = str(init)
    if text in INITS or os.path.isfile(text) or "=" not in text:
        return {_checked(text, text): 1.0}
    parts: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        try:
            weight = float(number) if equals else 0.0
        except ValueError:
            weight = 0.0
        if not name or not 0 < weight < float("inf"):
            raise OptionError(f"{_EXPECTED}, each weight above 0; got {text!r}")
        name = _checked(name, text)
        parts[name] = parts.get(name, 0.0) + weight
    total = sum(parts.values())
    return {name: weight / total for name, weight in parts.items()}


def start(
    parts: dict[str, float],
    content: np.ndarray,
    styles: list[np.ndarray],
    blend: tuple[float, ...],
    seed: int,
    painted: Callable[[], np.ndarray],
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The starting picture (3, H, W).

    Parameters
    ----------
    parts : dict of str to float
        As `parts_of` gives them.
    content : ndarray (3, H, W)
    styles : list of ndarray (3, H', W')
    blend : tuple of float
        How much each style counts, adding up to 1.
    seed : int
        Of the noise.
    painted : callable () -> ndarray (3, H, W)
        The content painted in one pass; called only for the part "fast".
    out : ndarray (3, H, W), float32, optional
        Takes the picture. Where it lies on disk, so do the parts that are as large, and memory is taken for a strip.
    """
    rng = np.random.default_rng(seed)
    dtype = np.result_type(content.dtype, np.float32)
    mixture = np.zeros(content.shape, dtype) if out is None else out
    disk.fill(mixture, 0)
    for name, weight in parts.items():
        share = mixture.dtype.type(weight)
        for where, part in _part(name, mixture, content, styles, blend, rng, painted):
            mixture[where] += share * part
            disk.release(mixture, content)
    for rows in _strips(mixture):
        np.clip(mixture[:, rows], 0, 1, out=mixture[:, rows])
        disk.release(mixture)
    return mixture


def _part(
    name: str,
    mixture: np.ndarray,
    content: np.ndarray,
    styles: list[np.ndarray],
    blend: tuple[float, ...],
    rng: np.random.Generator,
    painted: Callable[[], np.ndarray],
) -> Iterator[tuple[Any, Any]]:
    """A start piece by piece: where in the mixture, and what."""
    size = content.shape[1], content.shape[2]
    if name == "gray":
        whole: Any = np.broadcast_to(np.float32(0.5), content.shape)
    elif name == "noise":
        for plane in range(3):  # the order in which one call would draw the whole
            for rows in _strips(mixture):
                yield (plane, rows), rng.random(mixture[plane, rows].shape, np.float32)
        return
    elif name == "content":
        whole = content
    elif name == FAST:
        whole = painted()
    elif name == "style":
        whole = images.resize_pixels(styles[int(np.argmax(blend))], size, _like(mixture))
    elif name == "statistics":
        whole = _statistics(mixture, styles, blend, rng)
    elif disk.on_disk(mixture):
        whole = _on_white(name, size, mixture)
    else:
        whole = images.resize_pixels(images.as_pixels(name), size)
    for rows in _strips(mixture):
        yield (slice(None), rows), whole[:, rows]
        disk.release(whole)


def _statistics(
    mixture: np.ndarray, styles: list[np.ndarray], blend: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """Gaussian noise with the mean and the covariance of the styles' colours."""
    mean, second = np.zeros(3), np.zeros((3, 3))
    for weight, style in zip(blend, styles, strict=True):
        count = style[0].size
        for rows in _strips(style):
            colours = style[:, rows].reshape(3, -1).astype(np.float64)
            mean += weight * (colours.sum(axis=1) / count)
            second += weight * colours @ colours.T / count
            disk.release(style)
    values, axes = np.linalg.eigh(second - np.outer(mean, mean))
    root = axes * np.sqrt(np.maximum(values, 0))
    noise = disk.disk_array(mixture.shape) if disk.on_disk(mixture) else np.empty(mixture.shape, np.float32)
    for plane in noise:
        for rows in _strips(noise):
            plane[rows] = rng.standard_normal(plane[rows].shape, np.float32)
            disk.release(noise)
    for rows in _strips(noise):
        part = noise[:, rows]
        noise[:, rows] = (root @ part.reshape(3, -1) + mean[:, None]).reshape(part.shape)
        disk.release(noise)
    return noise


def _on_white(name: str, size: tuple[int, int], mixture: np.ndarray) -> np.ndarray:
    """A picture file at a size, on disk, its transparent parts on white."""
    loaded = images.load(name, images.LARGE)
    pixels, alpha = loaded.pixels, loaded.alpha
    if alpha is not None:
        pixels = disk.disk_array(pixels.shape)
        for rows in _strips(pixels):
            pixels[:, rows] = images.numbers(loaded.pixels[:, rows]) * alpha[rows] + (1 - alpha[rows])
            disk.release(pixels, loaded.pixels, alpha)
    return images.resize_pixels(pixels, size, _like(mixture))


def _strips(array: np.ndarray) -> Iterator[slice]:
    """Rows of an array on disk, many at a time; of another one, all: sums over strips would round otherwise."""
    return disk.strips(array) if disk.on_disk(array) else iter([slice(0, array.shape[-2])])


def _like(mixture: np.ndarray) -> np.ndarray | None:
    """An array for a part of a mixture on disk; None for a new one in memory."""
    return disk.disk_array(mixture.shape) if disk.on_disk(mixture) else None


def _checked(name: str, text: str) -> str:
    if name not in INITS and "." not in name and "/" not in name and not os.path.exists(name):
        raise OptionError(f"{_EXPECTED}; got {text!r}")
    return name
