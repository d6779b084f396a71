"""Style loss of Gaussians: the squared Wasserstein-2 distance between those with the layers' means and covariances.

        L  = scale * ( |mu - mu'|^2 + tr( C + C' - 2 (R C R)^(1/2) ) ),      R = C'^(1/2)
        dC = scale * ( I - R (R C R)^(-1/2) R )

with C = second - mu mu^T + eps I; primes are the style picture's. tr X^(1/2) is the sum of the roots of X's
eigenvalues, its derivative 1/2 X^(-1/2): `matrix_sqrt_backward` with dS = I. So one eigendecomposition serves loss and
gradient.

Where covariances commute, the second term is sum (sqrt(lambda) - sqrt(lambda'))^2: standard deviations are compared,
not variances, so that weak directions of feature space count, which a distance of Gram matrices hardly sees. eps keeps
the derivative finite where a direction has no variance.

References
----------
.. [1] Dowson, Landau, "The Frechet distance between multivariate normal distributions", J. Multivariate Analysis 12,
   1982.
.. [2] Olkin, Pukelsheim, "The distance between two random vectors with given dispersion matrices", Linear Algebra and
   its Applications 48, 1982.
.. [3] crowsonkb/style-transfer-pytorch, where it is the style loss, with eps = 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import _shapes
from .covariance import covariance_backward, covariance_forward
from .matrix_sqrt import matrix_sqrt_backward, matrix_sqrt_forward


@dataclass(frozen=True)
class W2Cache:
    """What `w2_backward` needs of the forward pass."""

    roots: tuple[np.ndarray, np.ndarray]
    R: np.ndarray
    mean: np.ndarray
    dmean: np.ndarray
    scale: float


def w2_target(second: np.ndarray, mean: np.ndarray, eps: float) -> tuple[np.ndarray, float]:
    """R (N, N) and the trace of C' of a style picture's second moment (N, N) and mean (N,), per position."""
    C = _covariance(second, mean, eps)
    return matrix_sqrt_forward(C)[0], float(np.trace(C, dtype=np.promote_types(C.dtype, np.float64)))


def w2_forward(
    second: np.ndarray,
    mean: np.ndarray,
    R: np.ndarray,
    target_mean: np.ndarray,
    target_trace: float,
    scale: float,
    eps: float,
) -> tuple[float, W2Cache]:
    """Distance of the Gaussian with these moments from the style's.

    Parameters
    ----------
    second : ndarray of shape (N, N)
        Second moment per position, G / M.
    mean : ndarray of shape (N,)
        s / M.
    R : ndarray of shape (N, N)
    target_trace : float
        Both as `w2_target` gave them for the style picture, with the same eps.
    target_mean : ndarray of shape (N,)
    scale : float
    eps : float
        Added to every variance, in its unit: activation squared.

    Returns
    -------
    loss : float
        0 only up to rounding where the Gaussians are equal.
    cache : W2Cache
        For `w2_backward`.
    """
    _shapes.equal("R", R, second.shape, f"second {second.shape}")
    _shapes.equal("target_mean", target_mean, mean.shape, f"mean {mean.shape}")
    C = _covariance(second, mean, eps)
    _, roots = matrix_sqrt_forward(R @ C @ R)
    wide = np.promote_types(mean.dtype, np.float64)
    means = float(np.square(mean - target_mean).sum(dtype=wide))
    covariances = float(np.trace(C, dtype=wide)) + target_trace - 2 * float(roots[1].sum())
    dmean = mean.dtype.type(2 * scale) * (mean - target_mean)
    return scale * (means + covariances), W2Cache(roots, R, mean, dmean, scale)


def w2_backward(cache: W2Cache) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (dsecond, dmean) of shapes (N, N) and (N,)."""
    R = cache.R
    identity = np.eye(len(R), dtype=R.dtype)
    # forward: tr (R C R)^(1/2)
    dtrace = R @ matrix_sqrt_backward(identity, cache.roots) @ R
    dC = R.dtype.type(cache.scale) * (identity - 2 * dtrace)
    dsecond, dmean = covariance_backward(dC, cache.mean)
    return dsecond, dmean + cache.dmean


def _covariance(second: np.ndarray, mean: np.ndarray, eps: float) -> np.ndarray:
    return covariance_forward(second, mean) + second.dtype.type(eps) * np.eye(len(second), dtype=second.dtype)
