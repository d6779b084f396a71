"""Style loss of means and standard deviations: channel by channel, blind to what filters do together.

        L      = scale * ( sum_i (mu[i] - mu'[i])^2 + sum_i (sigma[i] - sigma'[i])^2 )
        sigma  = sqrt(max(C_ii, 0) + eps),   C_ii = second_ii - mu_i^2
        dC_ii  = scale (sigma_i - sigma'_i) / sigma_i,   0 where C_ii <= 0
        dsecond = diag(dC_ii),   dmu = 2 scale (mu - mu') - 2 dC_ii mu

Primes are the style picture's. These are the statistics that adaptive instance normalisation matches; its decoder is
trained with their distance, not squared.

References
----------
.. [1] Huang, Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017,
   equation 13.
.. [2] Li, Wang, Liu, Hou, "Demystifying Neural Style Transfer", IJCAI 2017: batch normalisation statistics.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def standard_deviations(second: np.ndarray, mean: np.ndarray, eps: float) -> np.ndarray:
    """sigma (N,) of every channel, from the second moment (N, N) and the mean (N,) per position.

    `eps`, in units of a variance, keeps the derivative bounded; a variance that rounding left below 0 counts as 0.
    """
    return np.sqrt(np.maximum(_variances(second, mean), 0) + mean.dtype.type(eps))


def mean_std_forward(
    second: np.ndarray, mean: np.ndarray, target_mean: np.ndarray, target_std: np.ndarray, scale: float, eps: float
) -> float:
    """Loss of the second moment (N, N) and mean (N,) against the style's means and standard deviations, both (N,)."""
    _check(mean, target_mean, target_std)
    wide = np.promote_types(mean.dtype, np.float64)
    means = np.square(mean - target_mean).sum(dtype=wide)
    deviations = np.square(standard_deviations(second, mean, eps) - target_std).sum(dtype=wide)
    return scale * float(means + deviations)


def mean_std_backward(
    second: np.ndarray, mean: np.ndarray, target_mean: np.ndarray, target_std: np.ndarray, scale: float, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (dsecond, dmean) of shapes (N, N) and (N,); finite where a channel is constant, even with eps = 0."""
    _check(mean, target_mean, target_std)
    factor, sigma = mean.dtype.type(scale), standard_deviations(second, mean, eps)
    varies = _variances(second, mean) > 0
    dvariances = np.divide(factor * (sigma - target_std), sigma, out=np.zeros_like(sigma), where=varies)
    return np.diag(dvariances), 2 * factor * (mean - target_mean) - 2 * dvariances * mean


def _variances(second: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Diagonal of the covariance."""
    _shapes.rank("mean", mean, "(N,)")
    _shapes.equal("second", second, (mean.size, mean.size), f"mean {mean.shape}")
    return np.diagonal(second) - mean * mean


def _check(mean: np.ndarray, target_mean: np.ndarray, target_std: np.ndarray) -> None:
    _shapes.equal("target_mean", target_mean, mean.shape, f"mean {mean.shape}")
    _shapes.equal("target_std", target_std, mean.shape, f"mean {mean.shape}")
