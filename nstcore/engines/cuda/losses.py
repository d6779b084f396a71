"""Losses and their gradients on a GPU: kernels/cuda/content, style, total_variation.

A loss is a number that the host wants: each takes one pass over its arrays, which leaves a partial sum per block, and a
block of a second launch that adds these in double. The gradient is written by the first pass. Reading a number waits
for the GPU, so an evaluation may leave its losses there (`later`): then one launch adds up all of them, and they are
read together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...errors import ShapeError
from ..base import MomentsLoss
from .device import Array, Device, Kernel
from .later import Later, LaterArray
from .precision import FLOAT32, PRECISIONS, Precision
from .variants import Variant
from .vectors import PIECES, THREADS, CudaVectors, pieces

CONTENT, STYLE, VARIATION = "content/01_two_stage", "style/01_two_stage", "total_variation/01_two_stage"
RESULTS = 512  # losses of one evaluation, at most: of some ten layers, levels and regions each
ROW = 1 + PIECES  # doubles that a loss leaves for the second launch: how many pieces there are, and they
TILE, ROWS = 32, 8  # of pack_style: a block of TILE x ROWS threads, -DROWS, per TILE x TILE elements
TILE_HEIGHT = THREADS // 32  # of total_variation: TILE_HEIGHT x 32 pixels at a time


def variants() -> Iterator[Variant]:
    """Every form in which the rungs are compiled; all of them are production's."""
    for rung in (CONTENT, STYLE):
        for precision in PRECISIONS.values():
            yield Variant(rung, precision, _defines(rung), production=True)
    yield Variant(VARIATION, FLOAT32, _defines(VARIATION), production=True)


def _defines(rung: str) -> dict[str, int]:
    return {"THREADS": THREADS, "ROWS": ROWS} if rung == STYLE else {"THREADS": THREADS}


class Losses:
    """Content, style and total variation for the features of one precision.

    Losses come back as Python floats, or as `Later`. The terms of one 16-byte load are added in float32, all others in
    float64; with those of the differences, weights and squares, a sum has at most 12 roundings by 2^-24. The same bits
    on every GPU.

    Parameters
    ----------
    device : Device
    precision : Precision
        Of the features; Gram matrices, pixels and their gradients are float32.
    """

    def __init__(self, device: Device, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self._vectors = CudaVectors(device)
        self._pieces = device.empty((RESULTS, ROW), np.float64)
        self._results = device.empty(RESULTS, np.float64)
        self._used: int | None = None  # of the results, by numbers that are read later; None: each is read at once
        self.checks: list[Any] = []  # what is to be looked at once the results of `later` are read

    def squared_distance(self, F: Array, P: Array | None, w: Array | None = None) -> float:
        """sum w (F - P)^2 of elements, sum w F^2 for None: `ops.content_forward` with scale 1.

        Parameters
        ----------
        F, P : arrays (H, W, N), or of any shape without w
        w : float32 array (H W,), optional
            Weights of the positions; 1 everywhere, if not given.
        """
        return self._squares(self.precision, F, P, w)

    def squared_sum(self, a: Array) -> float:
        """sum a^2 of a float32 array."""
        return self._squares(FLOAT32, a, None, None)

    def multiply(self, a: Array, factor: float) -> None:
        """a = factor a, for a float32 array."""
        self._vectors.combine(factor, a, None, (), out=a)

    def style(self, G: Array, M: float, A: Array, M_style: float, scale: float) -> tuple[float, Array]:
        """Style loss of one layer, and its gradient in G's place: `ops.style_forward`, `ops.style_backward`.

        Parameters
        ----------
        G, A : float32 arrays (N, N)
            Of the picture and of the style, over M and M_style positions, or weights of them.
        """
        _square("G", G, A.shape)
        _square("A", A, G.shape)
        count, factor = pieces(G.size, 1), 2 * scale / M
        kernel, place = self._kernel(STYLE, "style", self.precision), self._place()
        kernel(count, THREADS, G, A, self._pieces[place], M, M_style, factor, G.size)
        return scale * self._sum(place), G

    def moments_loss(self, kind: str, M: float, *target: Any) -> MomentsLoss:
        """See `Engine.moments_loss`. ds is always the same array, dG in G's place."""
        device, function = self.device, kind.replace("-", "_")
        arrays = [device.to_device(np.ascontiguousarray(a, np.float64)) for a in target if np.ndim(a)]
        numbers, N = [a for a in target if not np.ndim(a)], len(arrays[0])
        count, ds = min(N, PIECES), device.empty(N, np.float32)

        def loss(G: Array, s: Any, scale: float) -> tuple[Any, Array, LaterArray]:
            _square("G", G, (N, N))
            if s.shape != (N,):
                raise ShapeError(f"s: expected ({N},) for G {G.shape}, got {s.shape}")
            there = s if device.owns(s) else device.to_device(s)
            kernel, place = self._kernel(STYLE, function, self.precision), self._place()
            kernel(count, THREADS, G, there, *arrays, self._pieces[place], ds, M, *numbers, scale, N)
            return scale * self._sum(place), G, LaterArray(ds)

        return loss

    def pack_style(self, dG: Array, factor: float, S: Array, scales: Array | None = None) -> None:
        """S = to_element(factor (dG + dG^T)), what the features are multiplied by in `ops.gram_backward`.

        `factor`, or that of the `scales` (see loss_scale.py), brings S into the range of 16-bit elements; it is taken
        out again where S is used.
        """
        _square("dG", dG, S.shape)
        _square("S", S, dG.shape)
        across = -(-len(dG) // TILE)
        self._kernel(STYLE, "pack_style", self.precision)(
            (across, across), (TILE, ROWS), dG, factor, scales, S, len(dG)
        )

    def total_variation(self, pixels: Array, scale: float, gradient: Array, diagonal: float = 0.0) -> float:
        """Total variation of pixels (C, H, W); its gradient is added to `gradient`.

        `ops.total_variation_forward`, `ops.total_variation_backward`; diagonal neighbours weigh `diagonal`.
        """
        if pixels.ndim != 3 or gradient.shape != pixels.shape:
            raise ShapeError(
                f"pixels, gradient: expected two arrays (C, H, W), got {pixels.shape} and {gradient.shape}"
            )
        C, H, W = pixels.shape
        count = min(C * -(-H // TILE_HEIGHT) * -(-W // 32), PIECES)
        kernel, place = self._kernel(VARIATION, "total_variation", FLOAT32), self._place()
        kernel(count, THREADS, pixels, 2 * scale, diagonal, gradient, self._pieces[place], C, H, W)
        return scale * self._sum(place)

    def _squares(self, precision: Precision, F: Array, P: Array | None, w: Array | None) -> float:
        check_fit(F, P, w)
        count, place = pieces(F.size, 16 // precision.dtype.itemsize), self._place()
        kernel = self._kernel(CONTENT, "squared_distance", precision)
        kernel(count, THREADS, F, P, w, self._pieces[place], F.size, F.shape[-1])
        return self._sum(place)

    @contextmanager
    def later(self) -> Iterator[None]:
        """Within it, losses come back as `Later`; `results` then knows them, until the next such block begins."""
        self._used, self.checks = 0, []
        try:
            yield
            if self._used:
                self._add_up(0, self._used)
        finally:
            self._used = None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, numbers are known, whatever holds around it."""
        used, self._used = self._used, None
        try:
            yield
        finally:
            self._used = used

    @property
    def deferred(self) -> bool:
        """Whether numbers stay on the device for now."""
        return self._used is not None

    @property
    def unread(self) -> Array:
        """Where `results` are on the device."""
        return self._results

    def results(self) -> np.ndarray:
        """All that lies on the device, in one copy."""
        return self.device.to_host(self._results)

    def _place(self) -> int:
        """Where the next number goes, of the results: the last place is for those that are read at once."""
        return RESULTS - 1 if self._used is None else self._used

    def _sum(self, place: int) -> Any:
        """Of the pieces there: known at once, as is asked for, or because there is no more room; else later."""
        if self._used is None or place == RESULTS - 1:
            self._add_up(place, place + 1)
            return float(self.results()[place])
        self._used += 1
        return Later(lambda results: float(results[place]))

    def _add_up(self, begin: int, end: int) -> None:
        """The second stage, of the results from `begin` to before `end`."""
        kernel = self._kernel(CONTENT, "sum_pieces", self.precision)
        kernel(end - begin, THREADS, self._pieces[begin:end], self._results[begin:end], ROW)

    def _kernel(self, rung: str, function: str, precision: Precision) -> Kernel:
        return self.device.kernel(rung, function, precision, **_defines(rung))


def check_fit(F: Array, P: Array | None, w: Array | None) -> None:
    """Refuse a P of another shape than F's, and other than one w for each of its positions."""
    if P is not None and P.shape != F.shape:
        raise ShapeError(f"P: expected the shape of F {F.shape}, got {P.shape}")
    if w is not None and w.size != F.size // F.shape[-1]:
        raise ShapeError(f"w: expected a weight for each position of F {F.shape}, got {w.size}")


def _square(name: str, a: Array, shape: tuple[int, ...]) -> None:
    if a.shape != shape or a.shape != (len(a), len(a)):
        raise ShapeError(f"{name}: expected a square matrix {shape}, got {a.shape}")
