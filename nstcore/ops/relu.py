"""Rectified linear unit, and the one that ends at 6.

        relu:   y = max(x, 0)                dx = dy where x > 0, else 0
        relu6:  y = min(max(x, 0), 6)        dx = dy where 0 < x < 6, else 0

The derivatives at the kinks, which do not exist, are taken as 0, as every program of the field does. Because x > 0
exactly where y > 0 (and x < 6 where y < 6), the backward pass needs only the output: a network can rectify in place.
(The papers' "0 if F < 0" in the gradients of their losses is this mask, and belongs here, not to the losses.)

ReLU6 keeps features in [0, 6], so that few bits are enough for them: networks for telephones use it.

References
----------
.. [1] Nair, Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML 2010.
.. [2] Krizhevsky, "Convolutional Deep Belief Networks on CIFAR-10", 2010 (relu6).
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


def relu6_forward(x: np.ndarray) -> np.ndarray:
    """y = min(max(x, 0), 6) for x of any shape. NaN stays NaN."""
    _shapes.floating("x", x)
    return np.minimum(np.maximum(x, 0), 6)


def relu6_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient with respect to x, from the upstream gradient dy and the *output* y, all of one shape."""
    _shapes.equal("dy", dy, y.shape, f"y {y.shape}")
    return np.where((y > 0) & (y < 6), dy, np.zeros((), dy.dtype))
