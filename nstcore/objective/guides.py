"""Where each style goes: masks on the content and on the styles, brought down to every layer [1]_.

A region r has a guide T_r, between 0 and 1, on the content picture and one on each style that it takes. At a layer, the
statistics of the region are those of the guided features T_r o F:

        G_r = sum_m w[m] F[:, m] F[:, m]^T,        w = T_r^2,        M_r = sum_m w[m]

and G_r / M_r takes the place of G / M: which is the paper's Gram matrix for guides scaled to mean(T^2) = 1. Each region
counts with its share of the guided area, so that a picture is styled as strongly however it is cut into regions.

A guide comes down through the network with the features, convolution by convolution and pooling by pooling:

        simple    the mean of the pixels below: edges stay soft
        inside    the minimum over the receptive field: only what sees nothing but the region
        all       the maximum: whatever sees something of the region

Transparent parts of a picture and those that are protected belong to no region: the guides are multiplied by alpha and
by 1 - protect.

References
----------
.. [1] Gatys, Ecker, Bethge, Hertzmann, Shechtman, "Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017,
   section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import images
from ..errors import OptionError
from ..images import Picture
from ..vgg import Step

EDGES = ("simple", "inside", "all")
EVERYWHERE, NOWHERE = "all", "none"
LEAST = 1e-3  # of M_r, in positions: below, a layer is too coarse to see the region


@dataclass(frozen=True)
class Region:
    """A part of the picture, and the styles that it takes.

    Attributes
    ----------
    content : ndarray (H, W), or None
        Guide T on the picture; None: everywhere.
    styles : dict of int to ndarray (H', W'), or None
        By the number of the style, its guide; a style that is not there does not enter.
    share : float
        Of the guided area; the shares of all regions add up to 1.
    """

    content: np.ndarray | None
    styles: dict[int, np.ndarray | None]
    share: float


def regions_of(
    given: Sequence[tuple[Picture, Sequence[Any]]],
    size: tuple[int, int],
    outside: np.ndarray | None,
    style_sizes: Sequence[tuple[int, int]],
    style_alphas: Sequence[np.ndarray | None],
) -> list[Region]:
    """The regions of a picture.

    Parameters
    ----------
    given : sequence of (content mask, style masks)
        Style masks, one per style, are pictures, "all" or "none"; without any, region i takes style i. No regions: one
        that is everywhere and takes every style.
    size : (H, W)
        Of the picture.
    outside : ndarray (H, W), or None
        What every guide on the picture is multiplied by: alpha, 1 - protect.
    style_sizes : sequence of (H', W')
    style_alphas : sequence of ndarray (H', W'), or None
        What every guide on a style is multiplied by.
    """
    count = len(style_sizes)
    for k, alpha in enumerate(style_alphas):
        _not_empty(f"style {k + 1}", alpha, "opaque")
    if not given:
        _not_empty("the picture", outside, "opaque and not protected")
        return [Region(outside, dict(enumerate(style_alphas)), 1.0)]
    found: list[tuple[np.ndarray, dict[int, np.ndarray | None]]] = []
    for i, (mask, style_masks) in enumerate(given):
        name = f"region {i + 1}"
        if not style_masks:
            if len(given) != count:
                raise OptionError(
                    f"{name}: expected a mask, all or none for each of the {count} styles, got none; only with as many "
                    f"regions as styles (here {len(given)}) region i takes style i by itself"
                )
            style_masks = [EVERYWHERE if k == i else NOWHERE for k in range(count)]
        if len(style_masks) != count:
            raise OptionError(
                f"{name}: expected a mask, all or none for each of the {count} styles, got {len(style_masks)}"
            )
        content = _times(images.resize_mask(images.read_mask(mask), size), outside)
        _not_empty(f"{name}, its mask on the content", content, "white, opaque and not protected")
        styles: dict[int, np.ndarray | None] = {}
        for k, style_mask in enumerate(style_masks):
            if isinstance(style_mask, str) and style_mask == NOWHERE:
                continue
            if isinstance(style_mask, str) and style_mask == EVERYWHERE:
                styles[k] = style_alphas[k]
                continue
            guide = _times(images.resize_mask(images.read_mask(style_mask), style_sizes[k]), style_alphas[k])
            _not_empty(f"{name}, its mask on style {k + 1}", guide, "white and opaque")
            styles[k] = guide
        if not styles:
            raise OptionError(
                f"{name}: expected at least one style, got none for all; use protect to leave it unstyled"
            )
        found.append((content, styles))
    areas = [float(np.square(content, dtype=np.float64).sum()) for content, _ in found]
    return [Region(content, styles, area / sum(areas)) for (content, styles), area in zip(found, areas, strict=True)]


def propagate(guide: np.ndarray, steps: Iterable[Step], taps: Iterable[str], edges: str) -> dict[str, np.ndarray]:
    """Weights w = T^2 of the positions of every tap.

    Parameters
    ----------
    guide : ndarray (H, W)
        T on the picture.
    steps : iterable of Step
        Of the network, in the order of the data.
    taps : iterable of str
    edges : {"simple", "inside", "all"}

    Returns
    -------
    dict of str to ndarray (H_l, W_l), float32
    """
    if edges not in EDGES:
        raise OptionError(f"guide_edges: expected one of {', '.join(EDGES)}, got {edges!r}")
    wanted, T, found = set(taps), guide, {}
    for step in steps:
        if step.kind == "pool":
            windows = _windows(T)
            T = {"simple": windows.mean(0), "inside": windows.min(0), "all": windows.max(0)}[edges]
        elif edges != "simple":
            T = _neighbours(T, np.minimum if edges == "inside" else np.maximum)
        for layer in wanted.intersection(step.layers):
            found[layer] = np.square(T, dtype=np.float32)
    return found


def _windows(T: np.ndarray) -> np.ndarray:
    """The 2x2 windows of a pooling: (4, H//2, W//2)."""
    height, width = T.shape[0] // 2 * 2, T.shape[1] // 2 * 2
    return np.stack([T[r:height:2, s:width:2] for r in (0, 1) for s in (0, 1)])


def _neighbours(T: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """Minimum or maximum over the 3x3 window of a convolution; beyond the border there is nothing to see."""
    for axis in (0, 1):
        padded = np.pad(T, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        n = T.shape[axis]
        T = extreme.reduce([padded.take(range(i, i + n), axis) for i in range(3)])
    return T


def _times(guide: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
    return guide if outside is None else guide * outside


def _not_empty(what: str, guide: np.ndarray | None, how: str) -> None:
    if guide is not None and not guide.any():
        raise OptionError(f"{what}: expected some of it to be {how}, got nothing; nothing would be styled")
