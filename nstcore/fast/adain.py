"""Adaptive instance normalisation (Huang, Belongie 2017): the style's moments in the content's features, decoded.

        t = std(f(style)) (f(content) - mean f(content)) / std(f(content)) + mean f(style)
        picture = g(t)

f is VGG19 to relu4_1, g a decoder trained to turn its features back into a picture; means and standard deviations are
those of each channel over its M positions, variances divided by M (pytorch-AdaIN, whose weights these are, divides by
M - 1: a ten-thousandth for a picture of 512 x 512, and less once the two are in one quotient). Both reflect at the
border, and the poolings of f round up.

References
----------
.. [1] Huang, Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .network import FastNetwork

EPSILON = 1e-5
CHANNELS = 512  # of relu4_1
ENCODER = (
    *("conv1_1", "conv1_2", "pool"),
    *("conv2_1", "conv2_2", "pool"),
    *("conv3_1", "conv3_2", "conv3_3", "conv3_4", "pool"),
    "conv4_1",
)
ENLARGED = (2, 6, 8)  # convolutions of the decoder before which the maps grow twofold
LAST = 9  # the one that gives the picture


class AdainNetwork(FastNetwork):
    """Encoder and decoder; a look is the 512 means and the 512 standard deviations of relu4_1."""

    grid = 8
    style_side = 512
    look_length = 2 * CHANNELS

    def _look(self, x: Any) -> np.ndarray:
        return np.concatenate([self._vector(part) for part in self.layers.statistics(self._encoded(x), EPSILON)])

    def _paint(self, x: Any, look: np.ndarray) -> Any:
        mean, std = (self._maps(part) for part in np.split(look, 2))
        x = self._encoded(x)
        x = self.layers.instance_norm(x, std, mean, EPSILON)
        for number in range(1, LAST + 1):
            upsample, activation = 2 if number in ENLARGED else 1, "none" if number == LAST else "relu"
            x = self._conv(x, f"decoder/conv{number}", padding="reflect", upsample=upsample, activation=activation)
        return x

    def _encoded(self, x: Any) -> Any:
        """f"""
        for name in ENCODER:
            if name == "pool":
                x = self.layers.max_pool(x)
            else:
                x = self._conv(x, f"encoder/{name}", padding="reflect", activation="relu")
        return x
