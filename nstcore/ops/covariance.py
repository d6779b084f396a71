"""Covariance of a layer's features, from their moments per position.

        C = E - mu mu^T                           E = G / M second moment, mu = s / M mean
        dE = dC,   dmu = -(dC + dC^T) mu

It is the Gram matrix (over M) of the centred features F - mu: what two filters do together, once how strongly each
answers on average is taken away.

References
----------
.. [1] Li, Wang, Liu, Hou, "Demystifying Neural Style Transfer", IJCAI 2017.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def covariance_forward(second: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Covariance (N, N) from the second moment (N, N) and the mean (N,), both per position."""
    _check("second", second, mean)
    return second - np.outer(mean, mean)


def covariance_backward(dC: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (dsecond, dmean) of shapes (N, N) and (N,), from dC (N, N), through C = second - mean mean^T."""
    _check("dC", dC, mean)
    return dC.copy(), -(dC + dC.T) @ mean


def _check(name: str, matrix: np.ndarray, mean: np.ndarray) -> None:
    _shapes.rank("mean", mean, "(N,)")
    _shapes.equal(name, matrix, (mean.size, mean.size), f"mean {mean.shape}")
