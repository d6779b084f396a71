"""Moments of features under guides, and their gradient: kernels/cuda/moments.

A guide weighs positions: G = sum_m w[m] F[m] F[m]^T, s = sum_m w[m] F[m] (`ops.moments_forward`). G is the Gram matrix
of sqrt(w) F, so guided features go through the kernels of kernels/cuda/gram, by way of a scratch as large as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import ShapeError
from .device import Array, Device, Kernel
from .later import LaterArray
from .precision import PRECISIONS, Precision
from .variants import Variant
from .vectors import PIECES, THREADS, pieces

RUNG = "moments/01_two_stage"
CHANNELS = 32  # of a block of weighted_sums
SHORTEST = 64  # positions of a piece, at least: GROUP for each of its warps
RECTANGLES = 32  # that are remembered
_DEFINES = {"THREADS": THREADS}


def variants() -> Iterator[Variant]:
    """Every form in which the rung is compiled; all of them are production's."""
    for precision in PRECISIONS.values():
        yield Variant(RUNG, precision, _DEFINES, production=True)


@dataclass(frozen=True)
class Guide:
    """Weights of a tap's positions, divided by a power of two, so that sqrt(w) F is in the range of F's elements.

    Attributes
    ----------
    tap : str
    w : float32 array (M,)
        In [0, 1].
    root : float32 array (M,)
        Their square roots.
    most : float
        The power of two by which all sums over w are multiplied.
    squares : float
        sum (most w)^2, for estimates.
    G : float32 array (N, N)
        Where the Gram matrix under this guide goes.
    s : float64 array (N,)
        Where the sums go.
    """

    tap: str
    w: Array
    root: Array
    most: float
    squares: float
    G: Array
    s: Array


def make_guide(device: Device, tap: str, weights: np.ndarray, channels: int) -> Guide:
    """A guide of the weights (H, W) >= 0 of a tap with so many channels."""
    w = np.asarray(weights, np.float64).reshape(-1)
    largest = w.max(initial=0.0)
    most = 2.0 ** math.ceil(math.log2(largest)) if 0 < largest < math.inf else 1.0
    normal, root = (device.to_device(a.astype(np.float32)) for a in (w / most, np.sqrt(w / most)))
    return Guide(tap, normal, root, most, float(w @ w), *_results(device, channels))


def _results(device: Device, channels: int) -> tuple[Array, Array]:
    """Where G and s go."""
    return device.empty((channels, channels), np.float32), device.empty(channels, np.float64)


def _rectangle(w: np.ndarray) -> tuple[int, int, int, int] | None:
    """First row, one after the last, first column, one after the last, where weights (H, W) are 1 there and else 0."""
    rows, columns = (np.flatnonzero(w.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return (top, bottom, left, right) if (w[top:bottom, left:right] == 1).all() else None


class Moments:
    """Sums over positions for the features of one precision, (H, W, N) or (M, N).

    Terms of at most 8 positions are added in float32, all others in float64. The same bits on every GPU.

    Parameters
    ----------
    device : Device
    precision : Precision
    """

    def __init__(self, device: Device, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self._pieces: Array = None  # made at the first sums, large enough for all: launches that are recorded know it
        self._rectangles: dict[tuple[int, ...], Array] = {}

    def guide(self, tap: str, weights: np.ndarray, channels: int) -> Guide:
        """A guide of the weights (H, W) >= 0 of a tap with so many channels.

        The tiles of a picture ask for the same few rectangles again and again: what is 1 in a rectangle and 0 around it
        is sent to the device once.
        """
        found = _rectangle(weights)
        if found is None:
            return make_guide(self.device, tap, weights, channels)
        key = *weights.shape, *found
        if key not in self._rectangles and len(self._rectangles) == RECTANGLES:
            del self._rectangles[next(iter(self._rectangles))]  # the one that was asked for longest ago
        w = self._rectangles.pop(key, None)
        if w is None:
            w = self.device.to_device(np.array(weights, np.float32).reshape(-1))
        self._rectangles[key] = w
        top, bottom, left, right = found
        area = float((bottom - top) * (right - left))
        return Guide(tap, w, w, 1.0, area, *_results(self.device, channels))

    def sums(self, F: Array, guide: Guide | None) -> np.ndarray:
        """s = sum_m w[m] F[m] (N,), float64: `ops.moments_forward`."""
        s = self.device.empty(F.shape[-1], np.float64)
        self.sums_into(F, guide, s)
        return self.device.to_host(s)

    def sums_into(self, F: Array, guide: Guide | None, s: Array) -> None:
        """The same, left in s, a float64 array (N,)."""
        N, M, w = F.shape[-1], F.size // F.shape[-1], self._weights(F, guide)
        across = -(-N // CHANNELS)
        length = -(-M // min(-(-M // SHORTEST), max(PIECES // across, 1)))
        count = -(-M // length)
        if self._pieces is None:
            self._pieces = self.device.empty(PIECES * CHANNELS, np.float64)
        self._kernel("weighted_sums")((across, count), THREADS, F, w, self._pieces, M, N, length)
        most = 1.0 if guide is None else guide.most
        self._kernel("sum_pieces")(across, THREADS, self._pieces, most, s, count, N)

    def weigh(self, F: Array, guide: Guide, Y: Array) -> None:
        """Y = sqrt(w) F: its Gram matrix, times `guide.most`, is F's under the guide."""
        self._weights(F, guide)
        _alike("Y", Y, F)
        self._kernel("weigh")(self._pieces_of(F), THREADS, F, guide.root, Y, F.size, F.shape[-1])

    def backward(
        self,
        T: Array | None,
        ds: np.ndarray | LaterArray | None,
        F: Array,
        guide: Guide | None,
        mask: bool,
        g: Array,
        scales: Array | None = None,
    ) -> None:
        """g += (F > 0) w (T + ds): `ops.moments_backward`, whose (dG + dG^T) F is T; `ops.relu_backward`.

        Parameters
        ----------
        T : array like F, or None
        ds : ndarray (N,), or float32 array (N,) times a factor, or None
            As T in every unit: the sums' gradient times `guide.most`.
        F : array of elements
        guide : Guide or None
            Its w in [0, 1]; 1 everywhere for None.
        mask : bool
            Whether the gradient passes only where F > 0.
        g : array like F
            Must not overlap it.
        scales : float32 array (4,), optional
            A further factor of ds, see loss_scale.py.
        """
        N, w = F.shape[-1], self._weights(F, guide)
        for name, a in (("T", T), ("g", g)):
            if a is not None:
                _alike(name, a, F)
        sums, factor = self._there(ds)
        if sums is not None and sums.shape != (N,):
            raise ShapeError(f"ds: expected ({N},) for F {F.shape}, got {sums.shape}")
        kernel = self._kernel("moments_backward")
        kernel(self._pieces_of(F), THREADS, T, sums, factor, scales, F, w, mask, g, F.size, N)

    def _there(self, ds: np.ndarray | LaterArray | None) -> tuple[Array | None, float]:
        """It on the device, and its factor."""
        if isinstance(ds, LaterArray):
            return ds.array, ds.factor
        return (None if ds is None else self.device.to_device(ds.astype(np.float32))), 1.0

    def _pieces_of(self, F: Array) -> int:
        return pieces(F.size, 16 // self.precision.dtype.itemsize)

    def _weights(self, F: Array, guide: Guide | None) -> Array | None:
        if guide is None:
            return None
        M = F.size // F.shape[-1]
        if guide.w.size != M:
            raise ShapeError(
                f"guide: expected weights of the {M} positions of {guide.tap}, got {guide.w.size}; make guides anew "
                "for another size of picture"
            )
        return guide.w

    def _kernel(self, function: str) -> Kernel:
        return self.device.kernel(RUNG, function, self.precision, **_DEFINES)


def _alike(name: str, a: Array, F: Array) -> None:
    if a.shape != F.shape:
        raise ShapeError(f"{name}: expected the shape of F {F.shape}, got {a.shape}")
