"""Instance normalisation: each channel of one picture gets the mean and the deviation that it is told to have.

        y[c,m] = scale[c] n[c,m] + shift[c],     n = (x - mean) / sigma,     sigma[c] = sqrt(variance[c] + epsilon)

        dscale[c] = sum_m dy[c,m] n[c,m]
        dshift[c] = sum_m dy[c,m]
        dx[c,m]   = scale[c]/sigma[c] (dy[c,m] - dshift[c]/M - n[c,m] dscale[c]/M)

Mean and variance are those of the channel's own M = H*W positions (the variance is divided by M, not M - 1). Because
they depend on every x, a gradient that is the same everywhere, or proportional to n, does nothing: that is what the
last line takes away.

A normalised channel has lost how bright and how strong it was, and that is much of a picture's style: a network that
normalises takes the style away [1], and scale and shift put another one in. Who chooses them makes the method:

- learned once: a network for one style [1];
- a pair for each of several styles: conditional instance normalisation [2];
- predicted by another network from the style picture: any style [3];
- the deviation and the mean of the style picture's own features: adaptive instance normalisation, AdaIN [4].

References
----------
.. [1] Ulyanov, Vedaldi, Lempitsky, "Instance Normalization: The Missing Ingredient for Fast Stylization", 2016.
.. [2] Dumoulin, Shlens, Kudlur, "A Learned Representation for Artistic Style", ICLR 2017.
.. [3] Ghiasi, Lee, Kudlur, Dumoulin, Shlens, "Exploring the structure of a real-time, arbitrary neural artistic
   stylization network", BMVC 2017.
.. [4] Huang, Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def instance_norm_forward(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, epsilon: float) -> np.ndarray:
    """Normalise each channel over its positions, then scale and shift it.

    Parameters
    ----------
    x : ndarray of shape (C, H, W)
        Features of the layer below.
    scale, shift : ndarray of shape (C,)
        The deviation and the mean that the channels of y are to have.
    epsilon : float
        Added to every variance, in its unit (that of x, squared): a constant channel becomes its shift.

    Returns
    -------
    y : ndarray of shape (C, H, W), dtype of `x`

    Raises
    ------
    ShapeError
        If the shapes do not fit together, or x has no positions.
    """
    _check(x, scale, shift=shift)
    n, _ = _normalised(x, epsilon)
    return scale[:, None, None] * n + shift[:, None, None]


def instance_norm_backward(
    dy: np.ndarray, x: np.ndarray, scale: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients with respect to x, scale and shift.

    Parameters
    ----------
    dy : ndarray of shape (C, H, W)
        Upstream gradient.
    x, scale, epsilon
        As in the forward pass.

    Returns
    -------
    dx : ndarray of shape (C, H, W), dtype of `dy`
    dscale, dshift : ndarray of shape (C,)
    """
    _check(x, scale)
    _shapes.equal("dy", dy, x.shape, f"x {x.shape}")
    n, sigma = _normalised(x, epsilon)
    # forward: y = scale n + shift
    dscale, dshift = (dy * n).sum(axis=(1, 2)), dy.sum(axis=(1, 2))
    M = x[0].size
    dx = scale[:, None, None] / sigma * (dy - dshift[:, None, None] / M - n * dscale[:, None, None] / M)
    return dx, dscale, dshift


def _normalised(x: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """n (C, H, W), of mean 0 and nearly deviation 1, and sigma (C, 1, 1)."""
    centred = x - x.mean(axis=(1, 2), keepdims=True)
    variance = np.square(centred).mean(axis=(1, 2), keepdims=True)
    sigma = np.sqrt(variance + x.dtype.type(epsilon))
    return centred / sigma, sigma


def _check(x: np.ndarray, scale: np.ndarray, **others: np.ndarray) -> None:
    _shapes.rank("x", x, "(C, H, W)")
    _shapes.not_empty("x", x)
    for name, vector in {"scale": scale, **others}.items():
        _shapes.equal(name, vector, x.shape[:1], f"x {x.shape}")
