"""Content loss: squared distance of the features from those of the content picture.

        L  = scale * sum (F - P)^2
        dF = 2 scale (F - P)

The paper's scale is 1/2; what other programs take is the business of `nstcore.conventions`.

References
----------
.. [1] Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, equations 1 and 2.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def content_forward(F: np.ndarray, P: np.ndarray, scale: float) -> float:
    """Loss of features F against the content picture's P, both (N, M)."""
    _shapes.equal("F", F, P.shape, f"P {P.shape}")
    return scale * float(np.square(F - P).sum(dtype=np.promote_types(F.dtype, np.float64)))


def content_backward(F: np.ndarray, P: np.ndarray, scale: float) -> np.ndarray:
    """Gradient (N, M) with respect to F."""
    _shapes.equal("F", F, P.shape, f"P {P.shape}")
    return F.dtype.type(2 * scale) * (F - P)
