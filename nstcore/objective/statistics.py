"""What a style is to the objective: moments of its features, blended over styles, and the losses on them.

At a layer, over M positions (or guided ones, M = sum of their weights; see `guides`),

        second = 1/M sum_m F[:, m] F[:, m]^T   (N, N)          mean = 1/M sum_m F[:, m]   (N,)

describe the style. Blending several styles averages both [4]_, so the blend is linear in the styles' statistics. The
losses:

        gram        sum (second - second')^2                                                    [1]_
        centred     sum (C - C')^2,   C = second - mean mean^T: the Gram matrix of centred features
        mean-std    sum (mean - mean')^2 + sum (sigma - sigma')^2,   sigma^2 = diag C               [2]_
        w2          |mean - mean'|^2 + tr(C + C' - 2 (C'^1/2 C C'^1/2)^1/2): W2 distance of Gaussians  [3]_, [4]_

`gram` is computed by the engine, in one pass with its gradient. The others are computed from N^2 + N numbers per layer,
in float64: `centred` and `mean-std` by the engine, where it has them (`Engine.moments_loss`), and else by the book.

`w2` is the book's on every engine. Its root is that of C'^1/2 C C'^1/2, which for a photograph and a painting of 256
pixels has condition numbers of 5e7 to 1e11 at VGG19's layers; epsilon allows (1e4 N)^2. In float32 that matrix has
negative eigenvalues (129 of 512 at relu5_1), and Newton-Schulz, which would take the root by products of matrices
alone, overflows at three layers of five. In float64 it comes within 3e-7 of the book's gradient, in some 70 products
for each layer, which most GPUs compute at 1/64 of their speed; but only where C has a root. A Gram matrix that was
rounded to float32 leaves eigenvalues of -3e-8 (N = 512) to -1.5e-7 (N = 64) of its trace, more than epsilon where the
style is faint, and there Newton-Schulz overflows, too: at relu5_1, for a photograph held against a plain grey. The
host's eigendecomposition takes such eigenvalues as 0. Beside it, what launching the rest of a step costs is nothing.

References
----------
.. [1] Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016.
.. [2] Huang, Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017; as a
   loss: Li, Wang, Liu, Hou, "Demystifying Neural Style Transfer", IJCAI 2017.
.. [3] Dowson, Landau, "The Frechet Distance between Multivariate Normal Distributions", J. Multivariate Anal. 12, 1982.
.. [4] Crowson, github.com/crowsonkb/style-transfer-pytorch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..disk import release, strips
from ..engines import Asked, Engine, Network
from ..engines.base import MomentsLoss
from ..errors import OptionError
from .guides import LEAST, propagate

STYLE_LOSSES = ("gram", "centred", "mean-std", "w2")
# Added to covariances and variances, as a part of the style's mean square: keeps roots away from 0, where they have no
# derivative. Crowson's program adds 1e-4 to features whose squares are about 1.
EPSILON = 1e-4
REMEMBERED = 40  # measurements in a cache: the sizes of some ten styles, 5 MB each for five layers of VGG19


@dataclass(frozen=True)
class Statistics:
    """Moments per position, float64: second (N, N) and mean (N,)."""

    second: np.ndarray
    mean: np.ndarray


Cache = dict[str, dict[str, Statistics]]


def measure(
    network: Network,
    engine: Engine,
    pixels: np.ndarray,
    guide: np.ndarray | None,
    taps: Iterable[str],
    edges: str,
    cache: Cache | None = None,
) -> dict[str, Statistics]:
    """Statistics of a style picture at every tap that sees something of it.

    Parameters
    ----------
    network, engine
    pixels : ndarray (3, H, W)
    guide : ndarray (H, W), or None
        T on the style; None: everywhere.
    taps : iterable of str
    edges : str
        How the guide comes down; see `guides.propagate`.
    cache : dict, optional
        What has been measured before, for these pixels, this guide and this network, is taken from it.
    """
    taps = tuple(taps)
    key = _key(network, engine, pixels, guide, taps, edges)
    if cache is not None and key in cache:
        cache[key] = cache.pop(key)  # the latest used is the last
        return cache[key]
    guides: dict[str, Any] = dict.fromkeys(taps)
    totals: dict[str, float] = {}
    if guide is not None:
        weights = propagate(guide, network.steps, taps, edges)
        totals = {tap: total for tap, w in weights.items() if (total := float(w.sum(dtype=np.float64))) >= LEAST}
        guides = {tap: network.guide(tap, weights[tap]) for tap in totals}
    network.ask([Asked(what, tap, w) for tap, w in guides.items() for what in ("gram", "sums")])
    network.forward(engine.array(pixels))
    grams = network.grams(taps) if guide is None else {}
    found = {}
    for tap, w in guides.items():
        M = network.positions(tap) if guide is None else totals[tap]
        gram = grams[tap] if guide is None else network.gram(tap, w)
        found[tap] = Statistics(_double(engine, gram) / M, network.sums(tap, w) / M)
    if cache is not None:
        cache[key] = found
        while len(cache) > REMEMBERED:
            del cache[next(iter(cache))]
    return found


def blend(parts: Mapping[int, Statistics], weights: Mapping[int, float]) -> Statistics:
    """The mean of several styles' statistics with these weights, which need not add up to 1."""
    total = sum(weights[k] for k in parts)
    shares = np.array([weights[k] / total for k in parts])
    second = np.tensordot(shares, np.stack([part.second for part in parts.values()]), axes=1)
    mean = shares @ np.stack([part.mean for part in parts.values()])
    return Statistics(second, mean)


class StyleLoss:
    """One layer's distance from a style, and its gradient.

    Parameters
    ----------
    kind : {"gram", "centred", "mean-std", "w2"}
    target : Statistics
    engine : Engine
    M : float
        Positions of the picture at this layer, or the sum of their weights.

    Attributes
    ----------
    norm : float
        The distance of the style from nothing at all (features that are 0 everywhere).
    needs_sums : bool
        Whether the loss looks at the mean.
    """

    def __init__(self, kind: str, target: Statistics, engine: Engine, M: float) -> None:
        self.kind, self.engine, self.M = kind, engine, M
        self.N = len(target.mean)
        self.needs_sums = kind != "gram"
        second, mean = target.second, target.mean
        if kind == "gram":
            # Engines count positions in integers; G/M - A is (G - M A)/M
            self._divisor = int(M) if int(M) == M else 1
            self._gram = engine.array(second * (M / self._divisor))
            self.norm = float(np.square(second).sum())
            return
        self._mean, square = mean, float(np.trace(second))
        self._epsilon = EPSILON * square / self.N or EPSILON
        self.norm = square
        self._on_engine: MomentsLoss | None = None
        if kind == "centred":
            self._covariance = ops.covariance_forward(second, mean)
            self.norm = float(np.square(self._covariance).sum())
            self._on_engine = engine.moments_loss(kind, M, self._covariance)
        elif kind == "mean-std":
            self._std = ops.standard_deviations(second, mean, self._epsilon)
            self._on_engine = engine.moments_loss(kind, M, mean, self._std, self._epsilon)
        else:
            self._root, self._trace = ops.w2_target(second, mean, self._epsilon)

    def __call__(self, gram: Any, sums: Any, scale: float) -> tuple[float, Any, Any]:
        """Loss, and its gradient with respect to the Gram matrix (an array of the engine) and to the sums.

        Parameters
        ----------
        gram : array of the engine (N, N)
            Not divided; its place may be taken by the gradient.
        sums : as `Network.sums` gave them, or None where they are not needed
        scale : float
        """
        M = self.M
        if self.kind == "gram":
            loss, dG = self.engine.style_term(gram, self._divisor, self._gram, 1, scale * (self._divisor / M) ** 2)
            return loss, dG, None
        if self._on_engine is not None:
            return self._on_engine(gram, sums, scale)
        second, mean = _double(self.engine, gram) / M, _double(self.engine, sums) / M
        if self.kind == "centred":
            loss = ops.centred_forward(second, mean, self._covariance, scale)
            dsecond, dmean = ops.centred_backward(second, mean, self._covariance, scale)
        elif self.kind == "mean-std":
            target = self._mean, self._std, scale, self._epsilon
            loss = ops.mean_std_forward(second, mean, *target)
            dsecond, dmean = ops.mean_std_backward(second, mean, *target)
        else:
            loss, cache = ops.w2_forward(second, mean, self._root, self._mean, self._trace, scale, self._epsilon)
            dsecond, dmean = ops.w2_backward(cache)
        return loss, self.engine.array(dsecond / M), dmean / M


def checked_loss(kind: str | None, allowed: tuple[str, ...], convention: str) -> str:
    """The name of a style loss that the convention can take; its own for None."""
    if kind is None:
        return allowed[0]
    if kind not in STYLE_LOSSES:
        raise OptionError(f"style_loss: expected one of {', '.join(STYLE_LOSSES)}, got {kind!r}")
    if kind not in allowed:
        raise OptionError(
            f"style_loss: convention {convention} expects {' or '.join(allowed)}, got {kind}; the convention relative "
            "takes them all"
        )
    return kind


def _double(engine: Engine, a: Any) -> np.ndarray:
    return (a if isinstance(a, np.ndarray) else engine.numpy(a)).astype(np.float64)


def _key(
    network: Network, engine: Engine, pixels: np.ndarray, guide: np.ndarray | None, taps: tuple[str, ...], edges: str
) -> str:
    digest = hashlib.sha256()
    facts = (network.weights.sha256, network.pooling, engine.name, engine.precision, taps, pixels.shape, edges)
    digest.update(repr(facts).encode())
    for rows in strips(pixels.shape):
        digest.update(np.ascontiguousarray(pixels[:, rows]).data)
        release(pixels)
    if guide is not None:
        digest.update(b"guide")
        digest.update(np.ascontiguousarray(guide).data)
    return digest.hexdigest()
