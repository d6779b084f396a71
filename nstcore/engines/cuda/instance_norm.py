"""Instance normalisation, and the means of channels that it is made of: kernels/cuda/instance_norm.

Everything stays on the device: mean, deviation, scale and shift are vectors there, and no launch waits for another's
result to come back.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import OptionError, ShapeError
from ..operations import ACTIVATIONS
from .device import Array, Device, Kernel
from .precision import FLOAT32
from .variants import Variant

RUNG = "instance_norm/01_two_stage"
THREADS = 256  # of every block
GROUP = 8  # positions of a thread at a time
PIECES = 1024  # of positions, at most: more would be more blocks than a large GPU has at a time
_DEFINES = {"THREADS": THREADS}


def variants() -> Iterator[Variant]:
    """The one form in which the rung is compiled: maps are float32 in every precision."""
    yield Variant(RUNG, FLOAT32, _DEFINES, production=True)


class Normalizer:
    """Statistics of the channels of maps (H, W, C) float32, and normalisation by them.

    Terms of at most 8 positions are added in float32, all others in float64. The same bits on every GPU. Scratch for
    partial sums is kept from one call to the next.

    Parameters
    ----------
    device : Device
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._pieces = device.empty(0, np.float64)

    def means(self, x: Array) -> Array:
        """Mean of each channel, (1, 1, C): `ops.global_average_forward`."""
        return self._means(x, None, 0.0)

    def statistics(self, x: Array, epsilon: float) -> tuple[Array, Array]:
        """Mean and sqrt(variance + epsilon) of each channel, (1, 1, C) each."""
        mean = self.means(x)
        return mean, self._means(x, mean, epsilon)

    def normalize(
        self, x: Array, scale: Array, shift: Array, epsilon: float, activation: str, plus: Array | None
    ) -> Array:
        """activation(scale (x - mean) / sqrt(variance + epsilon) + shift) + plus, in x's place:
        `ops.instance_norm_forward`.

        Parameters
        ----------
        x : float32 array (H, W, C)
            Used up.
        scale, shift : float32 arrays (1, 1, C)
        epsilon : float
            In the unit of x, squared.
        activation : str
        plus : array like x, or None

        Raises
        ------
        ShapeError
            If the shapes do not fit together.
        OptionError
            For an activation that there is not.
        """
        C = x.shape[-1]
        for name, vector in (("scale", scale), ("shift", shift)):
            if vector.shape != (1, 1, C):
                H, W, found = vector.shape
                raise ShapeError(f"{name}: expected a vector ({C}, 1, 1) for {C} channels, got ({found}, {H}, {W})")
        if plus is not None and plus.shape != x.shape:
            raise ShapeError(f"plus: expected the shape of x, (H, W, C) = {x.shape}, got {plus.shape}")
        if activation not in ACTIVATIONS:
            raise OptionError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        mean, sigma = self.statistics(x, epsilon)
        M, length, grid = _cut(x)
        numbers = M, C, length, ACTIVATIONS.index(activation)
        self._kernel("normalise")(grid, THREADS, x, mean, sigma, scale, shift, plus, x, *numbers)
        return x

    def _means(self, x: Array, mean: Array | None, epsilon: float) -> Array:
        """Of x; with `mean`, of the squared deviations from it, and of their mean plus epsilon the root."""
        C = x.shape[-1]
        M, length, (across, count) = _cut(x)
        if self._pieces.size < count * C:
            self._pieces = self.device.empty(count * C, np.float64)
        out = self.device.empty((1, 1, C), np.float32)
        self._kernel("channel_sums")((across, count), THREADS, x, mean, self._pieces, M, C, length)
        root = mean is not None
        self._kernel("channel_means")(across, THREADS, self._pieces, out, count, M, C, root, epsilon)
        return out

    def _kernel(self, function: str) -> Kernel:
        return self.device.kernel(RUNG, function, FLOAT32, **_DEFINES)


def _cut(x: Array) -> tuple[int, int, tuple[int, int]]:
    """Positions M, those of a piece, and the grid: blocks for all channels, and for all pieces."""
    H, W, C = x.shape
    M, across = H * W, -(-C // THREADS)
    if not M:
        raise ShapeError(f"x: expected at least 1 row and 1 column, got (H, W, C) = {x.shape}")
    shortest = GROUP * (THREADS // min(C, THREADS))
    length = -(-M // min(-(-M // shortest), -(-PIECES // across)))
    return M, length, (across, -(-M // length))
