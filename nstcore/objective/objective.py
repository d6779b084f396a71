"""The objective of style transfer: pixels -> loss and gradient, written once for every engine.

        L(x) = content_weight * sum_l w_l content_l(F_l, P_l)
               + style_weight * sum_r share_r sum_l w_l style_l(statistics of F_l in region r, those of its styles)
               + tv_weight * TV(x)
               + the same of the picture in small, at every level of the pyramid

x are the pixels, F_l the network's features at layer l, P_l those of the content picture. Without masks there is one
region, and with the Gram matrix as statistics this is the papers' loss. What `content_l` and `style_l` are is the
convention's (see `nstcore.conventions`), the style loss's (`statistics`) and the masks' (`guides`).

Where a part of the content is protected, x is a composite: x = protect o content + (1 - protect) o z, and z is what is
optimised. dz = (1 - protect) o dx.

A network sees no structure that is larger than its receptive field. A level of the pyramid is the picture's means over
k x k blocks, held against the content and the styles at 1/k of their size: what is too large to be seen in the picture
is seen there, and a large picture looks as a small one does.

It is computed in two passes, so that a picture may come in tiles (`nstcore.engines.tiled`): the statistics pass gives
Gram matrices and distances, which are sums over positions; from them follow the loss and the factors of every layer's
gradient, which the gradient pass carries back to the pixels.

References
----------
.. [1] Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016.
.. [2] Gatys, Ecker, Bethge, Hertzmann, Shechtman, "Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .. import conventions, engines, images, vgg
from ..engines import Asked, Engine, Network, TapGradient
from ..errors import OptionError, ShapeError
from ..images import Picture
from ..pretrained import Weights
from .guides import EDGES, LEAST, Region, propagate, regions_of
from .layers import CONTENT_LAYERS, STYLE_LAYERS, Layers, blend_weights, falling, layer_weights, ratio_of, weight_of
from .levels import product, reduced
from .statistics import Cache, Statistics, StyleLoss, blend, checked_loss, measure
from .targets import ContentTarget, StyleTarget, equivalent_weights
from .terms import Terms


class Objective:
    """Loss and gradient of a picture, given a content and a style picture.

    Parameters
    ----------
    weights : Weights
    content : path, PIL image, or array (H, W, 3) or (H, W, 4) of uint8 or float in [0, 1]
        Taken at the size it has, which is the size of the pixels. Transparent parts do not enter.
    style : the same, of any size, or several of them
    device, dtype, threads
        See `nstcore.engines.create`; or `engine`, one that exists already.
    content_layers, style_layers : mapping of layer name to weight w_l, or names alone
        w_l = 1, or the convention's.
    style_falloff : float, optional
        Each deeper style layer weighs 1/style_falloff of what it would; their sum is kept. The convention's, if not
        given and the layers have no weights of their own.
    content_weight, style_weight, tv_weight : float, optional
        The convention's defaults, if not given.
    convention : {"relative", "gatys2016", "gatys-code", "johnson", "crowson"}
    style_loss : {"gram", "centred", "mean-std", "w2"}, optional
        The convention's own, if not given. See `statistics`.
    style_blend : sequence of float, optional
        How much each style counts; equally, if not given.
    regions : sequence of (content mask, style masks)
        What is styled with what; see `guides.regions_of`. Masks are pictures of any size, white inside.
    protect : picture, optional
        A mask: what is white stays as the content is.
    guide_edges : {"simple", "inside", "all"}
        How masks come down to the layers; see `guides`.
    pooling : {"max", "average", "l2"}, optional
        The weights' own, if not given.
    pyramid : sequence of int
        Sides k of the blocks of each level.
    statistics : dict, optional
        Statistics of styles that other objectives have measured; new ones are added to it.
    network : Network, optional
        Of another objective with the same engine, weights, layers, pooling and convention, which is then done with.

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
        content_layers: Layers | None = None,
        style_layers: Layers | None = None,
        style_falloff: float | None = None,
        content_weight: float | None = None,
        style_weight: float | None = None,
        tv_weight: float | None = None,
        convention: str = "relative",
        style_loss: str | None = None,
        style_blend: Sequence[float] | None = None,
        regions: Sequence[tuple[Picture, Sequence[Any]]] = (),
        protect: Picture | None = None,
        guide_edges: str = "simple",
        pooling: str | None = None,
        pyramid: Sequence[int] = (),
        statistics: Cache | None = None,
        network: Network | None = None,
    ) -> None:
        self.convention = found = conventions.find(convention)
        self.style_loss = checked_loss(style_loss, found.style_losses, convention)
        self.weights = weights
        self.engine = engine or engines.create(device, dtype, threads)
        self.content_layers = layer_weights("content_layers", content_layers, CONTENT_LAYERS, 1.0)
        self.style_layers = layer_weights("style_layers", style_layers, STYLE_LAYERS, found.style_layer_weight)
        self.content_weight = weight_of("content_weight", content_weight, found.content_weight)
        self.style_weight = weight_of("style_weight", style_weight, found.style_weight)
        self.tv_weight = weight_of("tv_weight", tv_weight, found.tv_weight)
        self.pooling = weights.pooling if pooling is None else pooling
        self.guide_edges = guide_edges
        if guide_edges not in EDGES:
            raise OptionError(f"guide_edges: expected one of {', '.join(EDGES)}, got {guide_edges!r}")
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
        weighed = isinstance(style_layers, Mapping)
        self.style_falloff = ratio_of("style_falloff", style_falloff, 1.0 if weighed else found.style_falloff)
        if self.style_layers:
            self.style_layers = falling(self.style_layers, self.style_falloff, taps)
        self.network = network or self.engine.network(self._adapted(weights), taps, self.pooling)

        styles = [images.load(s) for s in images.as_list(style)]
        if not styles:
            raise OptionError("style: expected at least one picture, got none")
        self.style_blend = blend_weights(style_blend, len(styles))
        picture = images.load(content)
        self.shape = picture.pixels.shape
        protected = None if protect is None else images.resize_mask(images.read_mask(protect), self.shape[1:])
        self._regions = regions_of(
            regions,
            self.shape[1:],
            product(picture.alpha, None if protected is None else 1 - protected),
            [s.pixels.shape[1:] for s in styles],
            [s.alpha for s in styles],
        )
        cache: Cache = {} if statistics is None else statistics
        self.levels = {
            k: Objective(
                weights,
                reduced(picture, k),
                [reduced(s, k) for s in styles],
                engine=self.engine,
                content_layers=content_layers,
                style_layers=style_layers,
                style_falloff=style_falloff,
                content_weight=content_weight,
                style_weight=style_weight,
                tv_weight=tv_weight,
                convention=convention,
                style_loss=style_loss,
                style_blend=style_blend,
                regions=regions,
                protect=protect,
                guide_edges=guide_edges,
                pooling=pooling,
                statistics=cache,
                network=self.network.twin(),
            )
            for k in pyramid
        }
        self._repeated = self.engine.repeated(self.network)
        self._content = self._content_targets(picture.pixels, picture.alpha)
        self._style = self._style_targets([s.pixels for s in styles], cache)
        self._gradients: dict[tuple[int, str], Any] = {}  # by region and tap
        self._protected: Any = None
        if protected is not None:
            whole = self.engine.array(np.broadcast_to(protected, self.shape))
            self._free = self.engine.array(np.broadcast_to(1 - protected, self.shape))
            self._protected = self.engine.array(picture.pixels)
            self.engine.vectors.combine(1.0, self._protected, whole, (), out=self._protected)
            self._composite = self.engine.vectors.empty_like(self._free)

    def _adapted(self, weights: Weights) -> Weights:
        """The weights with the convention's padding and scaled poolings."""
        if scale := self.convention.pooling_scales.get(self.pooling):
            weights = weights.with_pooling_scaled(scale)
        if self.convention.padding is not None:
            weights = replace(weights, padding=self.convention.padding)
        return weights

    # -- targets --------------------------------------------------------------------------------------------------

    def _content_targets(self, pixels: np.ndarray, alpha: np.ndarray | None) -> dict[str, ContentTarget]:
        targets: dict[str, ContentTarget] = {}
        if not self.content_layers:
            return targets
        weights = {} if alpha is None else propagate(alpha, self.network.steps, self.content_layers, self.guide_edges)
        self.network.ask([Asked("keep", tap) for tap in self.content_layers])
        self.network.forward(self.engine.array(pixels))
        for tap, weight in self.content_layers.items():
            w = weights.get(tap)
            guide = None if w is None else self.network.guide(tap, w)
            kept = self.network.keep(tap, guide)
            norm = self.network.squared_norm(kept)
            M = float(self._positions(tap) if w is None else w.sum(dtype=np.float64))
            scale = self.convention.content_scale(self._channels(tap), M, norm) if M >= LEAST else 0.0
            targets[tap] = ContentTarget(weight, kept, norm, scale, M, guide)
        return targets

    def _style_targets(self, styles: list[np.ndarray], cache: Cache) -> list[dict[str, StyleTarget]]:
        """By region, then by layer."""
        if not self.style_layers:
            return [{} for _ in self._regions]
        targets = []
        for number, region in enumerate(self._regions, 1):
            measured = {
                k: measure(self.network, self.engine, styles[k], guide, self.style_layers, self.guide_edges, cache)
                for k, guide in region.styles.items()
                if self.style_blend[k] > 0
            }
            found = self._region_targets(region, measured)
            if not found:
                raise OptionError(
                    f"region {number}: expected a layer at which both its masks hold something, got none; widen the "
                    "masks, or take guide_edges simple"
                )
            targets.append(found)
        return targets

    def _region_targets(self, region: Region, measured: dict[int, dict[str, Statistics]]) -> dict[str, StyleTarget]:
        """Targets of the layers at which something of the region is left on the picture and on a style."""
        taps, found = tuple(self.style_layers), {}
        weights = None
        if region.content is not None:
            weights = propagate(region.content, self.network.steps, taps, self.guide_edges)
        for tap, weight in self.style_layers.items():
            parts = {k: statistics[tap] for k, statistics in measured.items() if tap in statistics}
            w = None if weights is None else weights[tap]
            M = float(self._positions(tap) if w is None else w.sum(dtype=np.float64))
            if not parts or M < LEAST:
                continue
            loss = StyleLoss(self.style_loss, blend(parts, dict(enumerate(self.style_blend))), self.engine, M)
            scale = self.convention.style_scale(loss.N, loss.norm)
            guide = None if w is None else self.network.guide(tap, w)
            found[tap] = StyleTarget(weight, region.share, loss, scale, guide)
        return found

    # -- loss and gradient ----------------------------------------------------------------------------------------

    def __call__(self, pixels: Any) -> tuple[Terms, Any]:
        """Loss and gradient.

        Parameters
        ----------
        pixels : array of shape (3, H, W)
            RGB in [0, 1], of the content's size; an array of the engine, or NumPy. With `protect`, the free picture z.

        Returns
        -------
        terms : Terms
        gradient : array of shape (3, H, W)
            d total / d pixels; a buffer of the engine that the next call reuses.
        """
        if isinstance(pixels, np.ndarray) and pixels.dtype.kind != "f":
            raise ShapeError(f"pixels: expected floating point in [0, 1], got {pixels.dtype}; divide by 255")
        if tuple(pixels.shape) != self.shape:
            raise ShapeError(f"pixels: expected {self.shape}, the content's (3, H, W), got {tuple(pixels.shape)}")
        terms, gradient = self._repeated(self._at, self.composed(self.engine.asarray(pixels)))
        if self._protected is not None:
            self.engine.vectors.combine(1.0, gradient, self._free, (), out=gradient)
        return terms, gradient

    def _at(self, x: Any) -> tuple[Terms, Any]:
        """The same of a picture that is composed already."""
        self.network.ask(self._asked())
        self.network.forward(x)
        terms, gradients = self._losses()
        gradient = self.network.backward(gradients)
        tv = 0.0
        if self.tv_weight > 0:
            scale = self.convention.tv_scale / math.prod(self.shape)
            weighted = self.engine.total_variation(x, self.tv_weight * scale, gradient, self.convention.tv_diagonal)
            tv = weighted / self.tv_weight
        smaller = {}
        for k, level in self.levels.items():
            smaller[k], dy = level._at(self.engine.block_mean(x, k))
            self.engine.add_block_mean_gradient(dy, k, gradient)
        total = terms.total + self.tv_weight * tv + sum(level.total for level in smaller.values())
        return replace(terms, total=total, tv=tv, levels=smaller), gradient

    def _asked(self) -> list[Asked]:
        """The statistics that `_losses` wants."""
        every = [(tap, a) for targets in self._style for tap, a in targets.items()]
        return [
            *(Asked("gram", tap, a.guide) for tap, a in every),
            *(Asked("sums", tap, a.guide) for tap, a in every if a.loss.needs_sums),
            *(Asked("distance", tap, target=p.features) for tap, p in self._content.items()),
        ]

    def composed(self, pixels: Any) -> Any:
        """The picture that the losses see, an array of the engine: with `protect`, the composite with the content."""
        if self._protected is None:
            return pixels
        combine = self.engine.vectors.combine
        combine(1.0, pixels, self._free, (), out=self._composite)
        combine(1.0, self._composite, None, (1.0,), self._protected, out=self._composite)
        return self._composite

    def _losses(self) -> tuple[Terms, dict[str, list[TapGradient]]]:
        """Content and style terms from the statistics of the last forward, and each tap's gradient as its factors."""
        network = self.network
        gradients: dict[str, list[TapGradient]] = {tap: [] for tap in network.taps}
        content: dict[str, float] = {}
        style = dict.fromkeys(self.style_layers, 0.0)
        for region, targets in enumerate(self._style):
            unguided = {tap: a for tap, a in targets.items() if a.guide is None}
            grams = network.grams(unguided) if unguided else {}
            for tap, a in targets.items():
                gram = grams[tap] if a.guide is None else network.gram(tap, a.guide)
                sums = network.sums(tap, a.guide) if a.loss.needs_sums else None
                factor = self.style_weight * a.share * a.weight
                loss, dG, ds = a.loss(gram, sums, factor * a.scale)
                style[tap] += loss / (self.style_weight * a.weight)
                gradients[tap].append(TapGradient(dG=self._kept(dG, region, tap), ds=ds, guide=a.guide))
        for tap, p in self._content.items():
            content[tap] = p.scale * network.squared_distance(tap, p.features)
            scale = self.content_weight * p.weight * p.scale
            together = next((i for i, g in enumerate(gradients[tap]) if g.guide is None and p.guide is None), None)
            if together is None:
                gradients[tap].append(TapGradient(target=p.features, scale=scale, guide=p.guide))
            else:
                gradients[tap][together] = replace(gradients[tap][together], target=p.features, scale=scale)
        content_sum = sum(self._content[tap].weight * v for tap, v in content.items())
        style_sum = sum(self.style_layers[tap] * v for tap, v in style.items())
        total = self.content_weight * content_sum + self.style_weight * style_sum
        return Terms(total, content_sum, style_sum, 0.0, content, style), gradients

    def _kept(self, dG: Any, region: int, tap: str) -> Any:
        """dG where the next region's Gram matrix does not overwrite it: in the same array every time."""
        if len(self._style) == 1:
            return dG
        vectors = self.engine.vectors
        if (region, tap) not in self._gradients:
            self._gradients[region, tap] = vectors.empty_like(dG)
        vectors.copy(dG, out=self._gradients[region, tap])
        return self._gradients[region, tap]

    def _channels(self, tap: str) -> int:
        return vgg.find(self.weights.architecture, tap).out_channels

    def _positions(self, tap: str) -> int:
        return math.prod(vgg.shape(self.weights.architecture, tap, *self.shape[1:])[1:])

    # -- words ----------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """The options as they were understood, defaults filled in."""
        return {
            "convention": self.convention.name,
            "content_layers": self.content_layers,
            "style_layers": self.style_layers,
            "style_loss": self.style_loss,
            "style_blend": list(self.style_blend),
            "content_weight": self.content_weight,
            "style_weight": self.style_weight,
            "tv_weight": self.tv_weight,
            "guide_edges": self.guide_edges,
            "pooling": self.pooling,
        }

    def equivalent(self, convention: str) -> dict[str, Any] | None:
        """The weights that make another convention compute this very objective, for these pictures.

        Returns
        -------
        options : dict, or None
            `convention`, `content_weight`, `style_weight`, `tv_weight`, `content_layers`, `style_layers`: what to pass
            to `Objective` (or on the command line). Layer weights are relative to the first layer's default. None where
            no weights do: the other convention has another style loss, network or total variation, or there are several
            regions, or a pyramid.
        """
        mine, other = self.convention, conventions.find(convention)
        same_network = mine.padding == other.padding and mine.pooling_scales == other.pooling_scales
        same_tv = (mine.tv_scale, mine.tv_diagonal) == (other.tv_scale, other.tv_diagonal)
        same_loss = self.style_loss in other.style_losses
        if not (same_loss and same_network and same_tv) or len(self._style) > 1 or self.levels:
            return None
        return equivalent_weights(
            self._content, self._style[0], other, self.content_weight, self.style_weight, self._channels
        ) | {"style_loss": self.style_loss, "tv_weight": self.tv_weight}
