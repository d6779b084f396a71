"""Rectified linear unit.

        y  = max(x, 0)
        dx = dy where x > 0, else 0

The derivative at x = 0, which does not exist, is taken as 0, as every program of the field does. Because x > 0 exactly
where y > 0, the backward pass needs only the output: a network can rectify in place. (The papers' "0 if F < 0" in the
gradients of their losses is this mask, and belongs here, not to the losses.)

References
----------
.. [1] Nair, Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML 2010.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def relu_forward(x: np.ndarray) -> np.ndarray:
    """y = max(x, 0) for x of any shape. NaN stays NaN."""
    _shapes.floating("x", x)
    return np.maximum(x, 0)


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient with respect to x, from the upstream gradient dy and the *output* y, all of one shape."""
    _shapes.equal("dy", dy, y.shape, f"y {y.shape}")
    return np.where(y > 0, dy, np.zeros((), dy.dtype))
