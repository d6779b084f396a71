"""The objective of style transfer: pixels -> loss and gradient, written once for every engine.

        L(x) = content_weight * sum_l w_l content_l(F_l, P_l)  +  style_weight * sum_l w_l style_l(G_l, A_l)
               + tv_weight * TV(x)

x are the pixels, F_l the network's features at layer l, P_l those of the content picture, G_l = F_l F_l^T, A_l the Gram
matrix of the style picture. What `content_l` and `style_l` are is the convention's (see `nstcore.conventions`).

It is computed in two passes, so that a picture may one day come in tiles: the statistics pass gives Gram matrices and
distances, which are sums over positions; from them follow the loss and the factors of every layer's gradient, which the
gradient pass carries back to the pixels.

References
----------
.. [1] Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import conventions, engines, images, vgg
from .engines import Engine, TapGradient
from .errors import LayerError, OptionError, ShapeError
from .images import Picture
from .pretrained import Weights

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


@dataclass(frozen=True)
class Terms:
    """The loss at one point.

    Attributes
    ----------
    total : float
        What is minimised.
    content, style, tv : float
        The three sums *before* content_weight, style_weight and tv_weight.
    content_layers, style_layers : dict of float
        Each layer's term before its weight w_l.
    """

    total: float
    content: float
    style: float
    tv: float
    content_layers: dict[str, float] = field(default_factory=dict)
    style_layers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _ContentTarget:
    weight: float
    features: Any  # P, in the engine's own form
    norm: float  # sum P^2
    scale: float


@dataclass(frozen=True)
class _StyleTarget:
    weight: float
    gram: Any  # A/M'
    norm: float  # sum (A/M')^2
    scale: float


class Objective:
    """Loss and gradient of a picture, given a content and a style picture.

    Parameters
    ----------
    weights : Weights
    content : path, PIL image, or array (H, W, 3) uint8 or float in [0, 1]
        Taken at the size it has, which is the size of the pixels.
    style : the same, of any size, or several of them
        Of several, the Gram matrices per position, A/M', are averaged.
    device, dtype, threads
        See `nstcore.engines.create`; or `engine`, one that exists already.
    content_layers, style_layers : mapping of layer name to weight w_l, or names alone
        w_l = 1, or the convention's.
    content_weight, style_weight, tv_weight : float, optional
        The convention's defaults, if not given.
    convention : {"relative", "gatys2016", "gatys-code", "johnson"}
    pooling : {"max", "average", "l2"}, optional
        The weights' own, if not given.

    Raises
    ------
    OptionError, LayerError, ShapeError, PictureError, DeviceError
        For an option or a picture that cannot be used; one line each.
    """

    def __init__(
        self,
        weights: Weights,
        content: Picture,
        style: Picture | Sequence[Picture],
        *,
        device: str = "auto",
        dtype: str = "float32",
        threads: int | None = None,
        engine: Engine | None = None,
        content_layers: Mapping[str, float] | tuple[str, ...] | None = None,
        style_layers: Mapping[str, float] | tuple[str, ...] | None = None,
        content_weight: float | None = None,
        style_weight: float | None = None,
        tv_weight: float | None = None,
        convention: str = "relative",
        pooling: str | None = None,
    ) -> None:
        self.convention = conventions.find(convention)
        self.weights = weights
        self.engine = engine or engines.create(device, dtype, threads)
        self.content_layers = _layer_weights("content_layers", content_layers, CONTENT_LAYERS, 1.0)
        self.style_layers = _layer_weights(
            "style_layers", style_layers, STYLE_LAYERS, self.convention.style_layer_weight
        )
        self.content_weight = _weight("content_weight", content_weight, self.convention.content_weight)
        self.style_weight = _weight("style_weight", style_weight, self.convention.style_weight)
        self.tv_weight = _weight("tv_weight", tv_weight, self.convention.tv_weight)
        self.pooling = weights.pooling if pooling is None else pooling
        if not self.content_weight:
            self.content_layers = {}
        if not self.style_weight:
            self.style_layers = {}
        wanted = {**self.content_layers, **self.style_layers}
        for layer in wanted:
            vgg.find(weights.architecture, layer)
        taps = [tap for tap in vgg.layers(weights.architecture) if tap in wanted]
        if not taps:
            raise OptionError("layers: expected at least one content or style layer with a weight above 0, got none")
        self.network = self.engine.network(weights, taps, self.pooling)
        self._style = self._style_targets([images.as_pixels(s) for s in images.as_list(style)])
        pixels = images.as_pixels(content)
        self.shape = pixels.shape
        self._content = self._content_targets(pixels)

    def _style_targets(self, styles: list[np.ndarray]) -> dict[str, _StyleTarget]:
        if not styles:
            raise OptionError("style: expected at least one picture, got none")
        means: dict[str, np.ndarray] = {}
        for pixels in styles if self.style_layers else ():
            self.network.forward(self.engine.array(pixels))
            for tap, gram in self.network.grams(self.style_layers).items():
                share = self.engine.numpy(gram) / (self.network.positions(tap) * len(styles))
                means[tap] = means[tap] + share if tap in means else share
        targets = {}
        for tap, weight in self.style_layers.items():
            norm = float(np.square(means[tap], dtype=np.float64).sum())
            scale = self.convention.style_scale(len(means[tap]), norm)
            targets[tap] = _StyleTarget(weight, self.engine.array(means[tap]), norm, scale)
        return targets

    def _content_targets(self, pixels: np.ndarray) -> dict[str, _ContentTarget]:
        self.network.forward(self.engine.array(pixels))
        targets = {}
        for tap, weight in self.content_layers.items():
            norm = self.network.squared_norm(tap)
            scale = self.convention.content_scale(self._channels(tap), self.network.positions(tap), norm)
            targets[tap] = _ContentTarget(weight, self.network.keep(tap), norm, scale)
        return targets

    def __call__(self, pixels: Any) -> tuple[Terms, Any]:
        """Loss and gradient.

        Parameters
        ----------
        pixels : array of shape (3, H, W)
            RGB in [0, 1], of the content's size; an array of the engine, or NumPy.

        Returns
        -------
        terms : Terms
        gradient : array of shape (3, H, W)
            d total / d pixels; a buffer of the engine that the next call reuses.
        """
        if tuple(pixels.shape) != self.shape:
            raise ShapeError(f"pixels: expected {self.shape}, the content's (3, H, W), got {tuple(pixels.shape)}")
        pixels = self.engine.asarray(pixels)
        self.network.forward(pixels)
        terms, gradients = self._losses()
        gradient = self.network.backward(gradients)
        tv = 0.0
        if self.tv_weight > 0:
            numbers = math.prod(self.shape)
            tv = self.engine.total_variation(pixels, self.tv_weight / numbers, gradient) / self.tv_weight
        total = terms.total + self.tv_weight * tv
        return replace(terms, total=total, tv=tv), gradient

    def _losses(self) -> tuple[Terms, dict[str, TapGradient]]:
        """Content and style terms from the statistics of the last forward, and each tap's gradient as its factors."""
        network = self.network
        content, style, gradients = {}, {}, {}
        for tap, p in self._content.items():
            content[tap] = p.scale * network.squared_distance(tap, p.features)
            gradients[tap] = TapGradient(target=p.features, scale=self.content_weight * p.weight * p.scale)
        for tap, gram in network.grams(self._style).items():
            a, M = self._style[tap], network.positions(tap)
            scale = self.style_weight * a.weight * a.scale
            loss, dG = self.engine.style_term(gram, M, a.gram, 1, scale)
            style[tap] = loss / (self.style_weight * a.weight)
            gradients[tap] = replace(gradients.get(tap, TapGradient()), dG=dG)
        content_sum = sum(self._content[tap].weight * v for tap, v in content.items())
        style_sum = sum(self._style[tap].weight * v for tap, v in style.items())
        total = self.content_weight * content_sum + self.style_weight * style_sum
        return Terms(total, content_sum, style_sum, 0.0, content, style), gradients

    def _channels(self, tap: str) -> int:
        return vgg.find(self.weights.architecture, tap).out_channels

    def settings(self) -> dict[str, Any]:
        """The options as they were understood, defaults filled in."""
        return {
            "convention": self.convention.name,
            "content_layers": self.content_layers,
            "style_layers": self.style_layers,
            "content_weight": self.content_weight,
            "style_weight": self.style_weight,
            "tv_weight": self.tv_weight,
            "pooling": self.pooling,
        }

    def equivalent(self, convention: str) -> dict[str, Any]:
        """The weights that make another convention compute this very objective, for these two pictures.

        Returns
        -------
        options : dict
            `convention`, `content_weight`, `style_weight`, `tv_weight`, `content_layers`, `style_layers`: what to pass
            to `Objective` (or on the command line). Layer weights are relative to the first layer's default.
        """
        other = conventions.find(convention)
        content = {}
        for tap, p in self._content.items():
            N, M = self._channels(tap), self.network.positions(tap)
            content[tap] = self.content_weight * p.weight * p.scale / other.content_scale(N, M, p.norm)
        style = {
            tap: self.style_weight * a.weight * a.scale / other.style_scale(len(a.gram), a.norm)
            for tap, a in self._style.items()
        }
        content_weight = next(iter(content.values()), 0.0)
        style_weight = next(iter(style.values()), 0.0) / other.style_layer_weight
        return {
            "convention": convention,
            "content_weight": content_weight,
            "style_weight": style_weight,
            "tv_weight": self.tv_weight,
            "content_layers": {tap: w / content_weight for tap, w in content.items()},
            "style_layers": {tap: w / style_weight for tap, w in style.items()},
        }


def _layer_weights(
    name: str, given: Mapping[str, float] | tuple[str, ...] | None, default: tuple[str, ...], weight: float
) -> dict[str, float]:
    """Layer weights above zero; a layer of weight 0 is not computed."""
    if given is None:
        given = default
    if isinstance(given, str):
        raise OptionError(f"{name}: expected a mapping of layers to weights or a sequence of names, got {given!r}")
    table = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, weight)
    for layer, value in table.items():
        if not isinstance(layer, str):
            raise LayerError(f"{name}: expected layer names such as relu4_2, got {layer!r}")
        _weight(f"{name} {layer}", value, weight)
    return {layer: float(value) for layer, value in table.items() if value > 0}


def _weight(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise OptionError(f"{name}: expected a number of 0 or more, got {value!r}") from None
    if not (math.isfinite(number) and number >= 0):
        raise OptionError(f"{name}: expected a finite number of 0 or more, got {value!r}")
    return number
