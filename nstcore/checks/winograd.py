"""Winograd's F(4x4, 3x3) as the NumPy engine computes it, against the convolution that it stands for; in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from .. import ops
from ..engines.cpu import winograd
from ..engines.cpu.arena import Arena
from ..engines.cpu.team import Team
from ..engines.cpu.winograd import AT, BT, FREQUENCIES, G, WinogradConv, plan_scratch
from .check import Proof
from .gradcheck import relative_error

# Numbers of the transforms reach 8 and 1/24, and cancel: some hundred times the rounding of a plain sum, 1e-16
BOUND = 1e-13
CHANNELS, FILTERS = 5, 7
SIZES = ((4, 4), (9, 22), (13, 7))
PADDINGS = ("zero", "replicate")  # those of VGG's convolutions, and so the engine's


def proofs(seed: int) -> Iterator[Proof]:
    """One tile by the formula; whole pictures of odd sizes, both ways; and what it is for: fewer multiplications."""
    yield Proof("A'[(G g G') * (B' d B)]A, one tile", partial(_tile, seed), BOUND)
    for padding in PADDINGS:
        yield Proof(f"forward is conv_forward, {padding}", partial(_forward, seed, padding), BOUND)
    yield Proof("backward is conv_backward", partial(_backward, seed), BOUND)
    yield Proof("backward is the adjoint", partial(_adjoint, seed), BOUND)
    yield Proof("36 multiplications instead of 144", _multiplications, 0.0)


def _tile(seed: int) -> float:
    """4x4 outputs of 6x6 inputs, against the nine products of each."""
    rng = np.random.default_rng(seed)
    d, g = rng.standard_normal((6, 6)), rng.standard_normal((3, 3))
    U = winograd.transform_filters(g[None, None], np.dtype(np.float64)).reshape(6, 6)
    direct = sum(g[r, s] * d[r : r + 4, s : s + 4] for r in range(3) for s in range(3))
    by_formula = AT @ ((G @ g @ G.T) * (BT @ d @ BT.T)) @ AT.T
    by_engine = AT @ (U * (BT @ d @ BT.T)) @ AT.T
    return max(relative_error(by_formula, direct), relative_error(by_engine, direct))


def convolved(x: np.ndarray, w: np.ndarray, padding: str = "zero") -> np.ndarray:
    """conv(x, w) as the engine computes it: (C, H, W), (K, C, 3, 3) -> (K, H, W)."""
    K, C = w.shape[:2]
    _, height, width = x.shape
    dtype = np.dtype(np.float64)
    conv, arena = WinogradConv(C, K, height, width, dtype, Team(1)), Arena()
    plan_scratch([conv], arena, dtype)
    work = arena.allocate()
    for buffer in work.values():
        buffer.fill(np.nan)  # what is read before it is written shows
    y = np.full((height, width, K), np.nan)
    conv(np.ascontiguousarray(x.transpose(1, 2, 0)), winograd.transform_filters(w, dtype), y, work, None, padding)
    return y.transpose(2, 0, 1)


def _drawn(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (C, H, W), w (K, C, 3, 3), dy (K, H, W)."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((FILTERS, CHANNELS, 3, 3))
    return rng.standard_normal((CHANNELS, *size)), w, rng.standard_normal((FILTERS, *size))


def _forward(seed: int, padding: str) -> float:
    drawn = [_drawn(seed, size) for size in SIZES]
    return max(relative_error(convolved(x, w, padding), ops.conv_forward(x, w, None, padding)) for x, w, _ in drawn)


def _backward(seed: int) -> float:
    """The same function with the filters turned."""
    drawn = [_drawn(seed, size) for size in SIZES]
    return max(
        relative_error(convolved(dy, winograd.rotate_filters(w)), ops.conv_backward(dy, w)) for _, w, dy in drawn
    )


def _adjoint(seed: int) -> float:
    """<conv(x), dy> = <x, conv'(dy)>, where conv(x) is the book's."""
    errors = []
    for x, w, dy in (_drawn(seed, size) for size in SIZES):
        y, dx = ops.conv_forward(x, w), convolved(dy, winograd.rotate_filters(w))
        errors.append(abs(np.vdot(y, dy) - np.vdot(x, dx)) / (np.linalg.norm(y) * np.linalg.norm(dy)))
    return float(np.max(errors))


class _Counted:
    """A number that counts the products of data with filters; those with constants of the transforms are no such."""

    products = 0

    def __mul__(self, other: Any) -> _Counted:
        _Counted.products += isinstance(other, _Counted)
        return self

    def __add__(self, other: Any) -> _Counted:
        return self

    __rmul__, __radd__ = __mul__, __add__


def _multiplications() -> float:
    """The engine's convolution of one tile with one filter, run on numbers that count."""
    dtype = np.dtype(object)
    conv = WinogradConv(1, 1, 4, 4, dtype, Team(1))
    number = _Counted()
    work = {name: np.full(size, number) for name, size in conv.scratch().items()}
    x, y = np.full((4, 4, 1), number), np.full((4, 4, 1), number)
    _Counted.products = 0
    conv(x, np.full((FREQUENCIES, 1, 1), number), y, work)
    return abs(_Counted.products / 36 - 1)
