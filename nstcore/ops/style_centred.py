"""Style loss of centred features: squared distance of the covariances.

        L  = scale * sum_{i,j} (C[i,j] - C'[i,j])^2           C = second - mean mean^T
        dC = 2 scale (C - C')

Primes are the style picture's. The Gram matrix of features that are all >= 0 (after a ReLU) is mostly mean; the
covariance leaves the mean out, and with it the overall brightness and strength of a filter.

References
----------
.. [1] Gatys, Ecker, Bethge, Hertzmann, Shechtman, "Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017.
.. [2] Li, Wang, Liu, Hou, "Demystifying Neural Style Transfer", IJCAI 2017: matching Gram matrices is matching second
   moments (maximum mean discrepancy with a polynomial kernel).
"""

from __future__ import annotations

import numpy as np

from . import _shapes
from .covariance import covariance_backward, covariance_forward


def centred_forward(second: np.ndarray, mean: np.ndarray, target_covariance: np.ndarray, scale: float) -> float:
    """Loss of the second moment (N, N) and mean (N,) against the style's covariance (N, N)."""
    difference = _difference(second, mean, target_covariance)
    return scale * float(np.square(difference).sum(dtype=np.promote_types(difference.dtype, np.float64)))


def centred_backward(
    second: np.ndarray, mean: np.ndarray, target_covariance: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (dsecond, dmean) of shapes (N, N) and (N,)."""
    difference = _difference(second, mean, target_covariance)
    return covariance_backward(difference.dtype.type(2 * scale) * difference, mean)


def _difference(second: np.ndarray, mean: np.ndarray, target_covariance: np.ndarray) -> np.ndarray:
    _shapes.equal("second", second, target_covariance.shape, f"target_covariance {target_covariance.shape}")
    return covariance_forward(second, mean) - target_covariance
