"""Content loss: squared distance of the features from those of the content picture.

        L  = scale * sum_m w[m] sum_i (F[i,m] - P[i,m])^2
        dF = 2 scale w (F - P)

The paper's scale is 1/2, and its w is 1 everywhere; what other programs take is the business of `nstcore.conventions`.

References
----------
.. [1] Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, equations 1 and 2.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def content_forward(F: np.ndarray, P: np.ndarray, scale: float, w: np.ndarray | None = None) -> float:
    """Loss of features F against the content picture's P, both (N, M); w (M,) >= 0: how much each position counts."""
    _check(F, P, w)
    squares = np.square(F - P)
    if w is not None:
        squares *= w
    return scale * float(squares.sum(dtype=np.promote_types(F.dtype, np.float64)))


def content_backward(F: np.ndarray, P: np.ndarray, scale: float, w: np.ndarray | None = None) -> np.ndarray:
    """Gradient (N, M) with respect to F."""
    _check(F, P, w)
    dF = F.dtype.type(2 * scale) * (F - P)
    return dF if w is None else w * dF


def _check(F: np.ndarray, P: np.ndarray, w: np.ndarray | None) -> None:
    _shapes.equal("F", F, P.shape, f"P {P.shape}")
    if w is not None:
        _shapes.equal("w", w, F.shape[1:], f"F {F.shape}")
