"""Moments of a layer's features under a guide: the second and the first, summed over the positions.

        G = sum_m w[m] F[:,m] F[:,m]^T,   s = sum_m w[m] F[:,m]            N channels, M = H*W positions
        dF[:,m] = w[m] ((dG + dG^T) F[:,m] + ds)

w >= 0 says how much each position counts. Gatys et al. guide with T o F, features weighted by T: that is w = T^2 for G.
Divided by sum_m w[m], they are the second moment and the mean of the guided region, from which `covariance_forward`
follows. Without a guide, w = 1 and G is the Gram matrix.

References
----------
.. [1] Gatys, Ecker, Bethge, Hertzmann, Shechtman, "Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def moments_forward(F: np.ndarray, w: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Moments (G, s) of shapes (N, N) and (N,) of features F (N, M), not divided by anything.

    Parameters
    ----------
    F : ndarray of shape (N, M)
        Features of one layer.
    w : ndarray of shape (M,), optional
        Weights of the positions, >= 0; 1 everywhere, if not given.

    Raises
    ------
    ShapeError
        If `w` is not (M,) for F's M.
    """
    _check(F, w)
    wF = F if w is None else w * F
    return wF @ F.T, wF.sum(axis=1)


def moments_backward(dG: np.ndarray, ds: np.ndarray, F: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
    """Gradient with respect to the features, through G = sum w F F^T and s = sum w F.

    Parameters
    ----------
    dG : ndarray of shape (N, N)
        Upstream gradient of G. It need not be symmetric.
    ds : ndarray of shape (N,)
        Upstream gradient of s.
    F : ndarray of shape (N, M)
        Features of one layer.
    w : ndarray of shape (M,), optional
        As in the forward pass.

    Returns
    -------
    dF : ndarray of shape (N, M), dtype of `F`
        0 where w is 0.
    """
    _check(F, w)
    N = F.shape[0]
    _shapes.equal("dG", dG, (N, N), f"F {F.shape}")
    _shapes.equal("ds", ds, (N,), f"F {F.shape}")
    dF = (dG + dG.T) @ F + ds[:, None]
    return dF if w is None else w * dF


def _check(F: np.ndarray, w: np.ndarray | None) -> None:
    _shapes.rank("F", F, "(N, M)")
    if w is not None:
        _shapes.equal("w", w, F.shape[1:], f"F {F.shape}")
