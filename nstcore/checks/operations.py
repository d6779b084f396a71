"""Cases for every operation of the book: a loss of one array x, and the gradient that the backward pass says it has.

The statistics and the losses are here, the layers of networks in layers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from .. import ops
from . import layers
from .cases import SMALL, Case, Cases, Rng, Size, through, upstream
from .samples import distinct

SCALE = 0.7  # of losses: not 1, so that one left out shows
EPSILON = 1e-4  # of variances


# -- statistics -------------------------------------------------------------------------------------------------------


def _features(rng: Rng, size: Size) -> np.ndarray:
    """F (N, M), of a mean that is not 0."""
    return rng.standard_normal((size[0], size[1] * size[2])) + 0.5


def _guide(rng: Rng, size: Size) -> np.ndarray:
    """w (M,), 0 at every third position."""
    M = size[1] * size[2]
    return rng.random(M) * (np.arange(M) % 3 > 0)


def draw_moments(rng: Rng, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Second moment (N, N) and mean (N,) per position."""
    G, s = ops.moments_forward(F := _features(rng, size))
    return G / F.shape[1], s / F.shape[1]


def gram(rng: Rng, size: Size) -> Cases:
    """An upstream gradient that is not symmetric: both halves of dG + dG^T count."""
    F = _features(rng, size)
    return {"gram_backward": through(ops.gram_forward, lambda dG: ops.gram_backward(dG, F), F)}


def moments(rng: Rng, size: Size) -> Cases:
    """With a guide and without."""
    F = _features(rng, size)
    dG, ds = upstream(F @ F.T), rng.standard_normal(size[0])

    def case(w: np.ndarray | None) -> Case:
        def f(F: np.ndarray) -> float:
            G, s = ops.moments_forward(F, w)
            return float(np.vdot(dG, G) + ds @ s)

        return Case(f, lambda: ops.moments_backward(dG, ds, F, w), F)

    return {"moments_backward": case(None), "moments_backward, guided": case(_guide(rng, size))}


def covariance(rng: Rng, size: Size) -> Cases:
    """By the second moment and by the mean."""
    second, mean = draw_moments(rng, size)

    def forward(second: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return ops.covariance_forward(second, mean)

    def backward(dC: np.ndarray, which: int) -> np.ndarray:
        return ops.covariance_backward(dC, mean)[which]

    return {
        "covariance_backward, second": through(lambda a: forward(a, mean), partial(backward, which=0), second),
        "covariance_backward, mean": through(lambda a: forward(second, a), partial(backward, which=1), mean),
    }


def matrix_sqrt(rng: Rng, size: Size) -> Cases:
    """Of a covariance, and where eigenvalues are repeated."""
    rotation = np.linalg.qr(rng.standard_normal((size[0], size[0])))[0]
    repeated = (rotation * np.where(np.arange(size[0]) > 0, 2.0, 1.0)) @ rotation.T

    def case(C: np.ndarray) -> Case:
        return through(
            lambda C: ops.matrix_sqrt_forward(C)[0],
            lambda dS: ops.matrix_sqrt_backward(dS, ops.matrix_sqrt_forward(C)[1]),
            C,
        )

    return {
        "matrix_sqrt_backward": case(ops.covariance_forward(*draw_moments(rng, size))),
        "matrix_sqrt_backward, repeated": case(repeated),
    }


# -- losses -----------------------------------------------------------------------------------------------------------


def content(rng: Rng, size: Size) -> Cases:
    """With a guide and without."""
    F, P, w = _features(rng, size), _features(rng, size), _guide(rng, size)
    return {
        "content_backward": Case(
            lambda F: ops.content_forward(F, P, SCALE), lambda: ops.content_backward(F, P, SCALE), F
        ),
        "content_backward, guided": Case(
            lambda F: ops.content_forward(F, P, SCALE, w), lambda: ops.content_backward(F, P, SCALE, w), F
        ),
    }


def style(rng: Rng, size: Size) -> Cases:
    """Against a style of another number of positions."""
    F, P = _features(rng, size), _features(rng, size)
    G, M, A, M_style = F @ F.T, F.shape[1], P @ P.T, F.shape[1] + 2
    return {
        "style_backward": Case(
            lambda G: ops.style_forward(G, M, A, M_style, SCALE),
            lambda: ops.style_backward(G, M, A, M_style, SCALE),
            G,
        )
    }


class StatisticsLoss:
    """One of the losses of a second moment (N, N) and a mean (N,), against those of a style.

    Parameters
    ----------
    name : {"centred", "mean_std", "w2"}
    second, mean
        Of the style.
    eps : float
        Added to variances, where the loss adds any.
    """

    def __init__(self, name: str, second: np.ndarray, mean: np.ndarray, eps: float = EPSILON) -> None:
        self.name, self.mean, self.eps = name, mean, eps
        self.covariance = ops.covariance_forward(second, mean)
        self.std = ops.standard_deviations(second, mean, eps)
        self.R, self.trace = ops.w2_target(second, mean, eps)

    def forward(self, second: np.ndarray, mean: np.ndarray) -> float:
        """The loss."""
        if self.name == "centred":
            return ops.centred_forward(second, mean, self.covariance, SCALE)
        if self.name == "mean_std":
            return ops.mean_std_forward(second, mean, self.mean, self.std, SCALE, self.eps)
        return self._w2(second, mean)[0]

    def backward(self, second: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Its gradients (dsecond, dmean)."""
        if self.name == "centred":
            return ops.centred_backward(second, mean, self.covariance, SCALE)
        if self.name == "mean_std":
            return ops.mean_std_backward(second, mean, self.mean, self.std, SCALE, self.eps)
        return ops.w2_backward(self._w2(second, mean)[1])

    def _w2(self, second: np.ndarray, mean: np.ndarray) -> tuple[float, ops.W2Cache]:
        return ops.w2_forward(second, mean, self.R, self.mean, self.trace, SCALE, self.eps)


def _loss_of_statistics(name: str, rng: Rng, size: Size) -> Cases:
    """By the second moment and by the mean."""
    second, mean = draw_moments(rng, size)
    loss = StatisticsLoss(name, *draw_moments(rng, size))
    return {
        f"{name}_backward, second": Case(
            lambda a: loss.forward(a, mean), lambda: loss.backward(second, mean)[0], second
        ),
        f"{name}_backward, mean": Case(lambda a: loss.forward(second, a), lambda: loss.backward(second, mean)[1], mean),
    }


def total_variation(rng: Rng, size: Size) -> Cases:
    """Of four neighbours, and of eight."""
    x = distinct(rng, *size)

    def case(diagonal: float) -> Case:
        return Case(
            lambda x: ops.total_variation_forward(x, SCALE, diagonal),
            lambda: ops.total_variation_backward(x, SCALE, diagonal),
            x,
        )

    return {"total_variation_backward": case(0.0), "total_variation_backward, diagonal": case(0.5)}


def block_mean(rng: Rng, size: Size) -> Cases:
    """Blocks that do not divide the size."""
    x = distinct(rng, *size)
    return {
        "block_mean_backward": through(
            lambda x: ops.block_mean_forward(x, 4), lambda dy: ops.block_mean_backward(dy, 4, size), x
        )
    }


OPERATIONS: dict[str, Callable[[Rng, Size], Cases]] = {
    **layers.VGG,
    "gram": gram,
    "moments": moments,
    "covariance": covariance,
    "matrix-sqrt": matrix_sqrt,
    "content": content,
    "style": style,
    "centred": partial(_loss_of_statistics, "centred"),
    "mean-std": partial(_loss_of_statistics, "mean_std"),
    "w2": partial(_loss_of_statistics, "w2"),
    "total-variation": total_variation,
    "block-mean": block_mean,
    **layers.FEED_FORWARD,
}


def cases(seed: int) -> Cases:
    """Every case of every operation, small, by name: "conv_backward, zero"."""
    return {
        name: case for draw in OPERATIONS.values() for name, case in draw(np.random.default_rng(seed), SMALL).items()
    }
