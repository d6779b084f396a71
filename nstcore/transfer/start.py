"""Where the optimisation starts: a picture, or a mixture of several."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import images
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
    """
    rng = np.random.default_rng(seed)
    mixture = np.zeros(content.shape, np.result_type(content.dtype, np.float32))
    for name, weight in parts.items():
        part = painted() if name == FAST else _part(name, content, styles, blend, rng)
        mixture += mixture.dtype.type(weight) * part
    return np.clip(mixture, 0, 1)


def _part(
    name: str, content: np.ndarray, styles: list[np.ndarray], blend: tuple[float, ...], rng: np.random.Generator
) -> Any:
    if name == "content":
        return content
    if name == "noise":
        return rng.random(content.shape, np.float32)
    if name == "gray":
        return np.float32(0.5)
    if name == "style":
        return images.resize_pixels(styles[int(np.argmax(blend))], content.shape[1:])
    if name == "statistics":
        return _statistics(content.shape, styles, blend, rng)
    return images.resize_pixels(images.as_pixels(name), content.shape[1:])


def _statistics(
    shape: tuple[int, ...], styles: list[np.ndarray], blend: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """Gaussian noise with the mean and the covariance of the styles' colours."""
    mean, second = np.zeros(3), np.zeros((3, 3))
    for weight, style in zip(blend, styles, strict=True):
        colours = style.reshape(3, -1).astype(np.float64)
        mean += weight * colours.mean(axis=1)
        second += weight * colours @ colours.T / colours.shape[1]
    values, axes = np.linalg.eigh(second - np.outer(mean, mean))
    root = axes * np.sqrt(np.maximum(values, 0))
    noise = rng.standard_normal((3, shape[1] * shape[2]), np.float32)
    return (root @ noise + mean[:, None]).reshape(shape).astype(np.float32)


def _checked(name: str, text: str) -> str:
    if name not in INITS and "." not in name and "/" not in name and not os.path.exists(name):
        raise OptionError(f"{_EXPECTED}; got {text!r}")
    return name
