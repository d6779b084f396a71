"""Style loss of one layer: squared distance of the Gram matrices, each divided by its number of positions.

        E  = scale * sum_{i,j} (G[i,j]/M - A[i,j]/M')^2
        dG = 2 scale/M (G/M - A/M')

G and M belong to the generated picture, A and M' to the style picture. Dividing by the positions lets the two pictures
differ in size; where they do not, the paper's E = 1/(4 N^2 M^2) sum (G - A)^2 is this one with scale = 1/(4 N^2). Other
programs' scales are the business of `nstcore.conventions`.

References
----------
.. [1] Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, equations 4 and 6.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def style_forward(G: np.ndarray, M: int, A: np.ndarray, M_style: int, scale: float) -> float:
    """Loss of the Gram matrix G over M positions against the style's A over M_style, both (N, N)."""
    _shapes.equal("G", G, A.shape, f"A {A.shape}")
    return scale * float(np.square(G / M - A / M_style).sum(dtype=np.promote_types(G.dtype, np.float64)))


def style_backward(G: np.ndarray, M: int, A: np.ndarray, M_style: int, scale: float) -> np.ndarray:
    """Gradient (N, N) with respect to G; symmetric, because G and A are."""
    _shapes.equal("G", G, A.shape, f"A {A.shape}")
    return G.dtype.type(2 * scale / M) * (G / M - A / M_style)
