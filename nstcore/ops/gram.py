"""Gram matrix of a layer's features: how often, and how strongly, each pair of filters answers together.

        G = F F^T,   G[i,j] = sum_m F[i,m] F[j,m]            N channels, M = H*W positions
        dF = (dG + dG^T) F

G forgets where things are: permuting the positions leaves it as it is. That is what makes it a description of style. It
is symmetric and positive semi-definite.

References
----------
.. [1] Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, equation 3.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def gram_forward(F: np.ndarray) -> np.ndarray:
    """Gram matrix (N, N) of features F (N, M); not divided by anything."""
    _shapes.rank("F", F, "(N, M)")
    return F @ F.T


def gram_backward(dG: np.ndarray, F: np.ndarray) -> np.ndarray:
    """Gradient with respect to the features, through G = F F^T.

    Parameters
    ----------
    dG : ndarray of shape (N, N)
        Upstream gradient; loss per activation squared. It need not be symmetric.
    F : ndarray of shape (N, M)
        Features of one layer: N channels, M = H*W positions, row-major.
        Unit: activation of the network, for input prepared as its weights state.

    Returns
    -------
    dF : ndarray of shape (N, M), dtype of `F`

    Raises
    ------
    ShapeError
        If `dG` is not (N, N) for F's N.
    """
    _shapes.rank("F", F, "(N, M)")
    _shapes.equal("dG", dG, (F.shape[0], F.shape[0]), f"F {F.shape}")
    return (dG + dG.T) @ F
