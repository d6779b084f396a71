"""Layers of random numbers for the tests of convolution kernels: what the book says, and how far off a kernel may be.

A sum of n products, rounded to float32 after each, is off by at most LAMBDA sqrt(n) u sum |a| |b|, u = 2^-24, but with
probability 2 n exp(-LAMBDA^2 / 2) or less: no layer here has enough sums for that to happen. To this comes the rounding
of the result to an element, where that is shorter. Inputs are rounded to elements before the book sees them.

References
----------
.. [1] Higham, Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41(5), 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from cuda_devices import elements, floats, unwritten

from nstcore import ops
from nstcore.engines.cuda.conv import RUNGS, Convolution, ConvRung
from nstcore.engines.cuda.device import Device
from nstcore.engines.cuda.precision import FLOAT32, Precision, from_elements, to_elements

U = 2.0**-24
LAMBDA = 8.0
SMALLEST = {"float16": 2.0**-24}  # spacing of the numbers next to zero, where it is not far below anything of interest

# Of Winograd's transforms F(2x2, 3x3)
B = np.array([[1, 0, 0, 0], [0, 1, -1, 1], [-1, 1, 1, 0], [0, 0, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])


@dataclass(frozen=True)
class Size:
    """One layer."""

    C: int
    K: int
    H: int
    W: int

    def __str__(self) -> str:
        return f"{self.C}-{self.K}x{self.H}x{self.W}"


class Layer:
    """Random inputs of one layer, channels first, as float32 numbers that are elements."""

    def __init__(self, size: Size, precision: Precision, seed: int = 0) -> None:
        self.size, self.precision = size, precision
        C, K, H, W = size.C, size.K, size.H, size.W
        rng = np.random.default_rng([seed, C, K, H, W])

        def numbers(*shape: int, scale: float = 1.0) -> np.ndarray:
            drawn = rng.standard_normal(shape, np.float32) * np.float32(scale)
            return from_elements(to_elements(drawn, precision), precision)

        self.x = numbers(C, H, W)
        self.w = numbers(K, C, 3, 3, scale=(4.5 * C) ** -0.5)
        self.b = rng.standard_normal(K, np.float32)
        self.dy = numbers(K, H, W)
        self.F = np.maximum(numbers(C, H, W), 0)
        self.P = np.maximum(numbers(C, H, W), 0)
        S = numbers(C, C)
        self.S = np.triu(S) + np.triu(S, 1).T
        self.style_scale, self.content_scale = 0.3 / math.sqrt(C), -0.7

    def kernel(self, device: Device, rung: str | ConvRung, replicate: bool = False) -> Convolution:
        s = self.size
        return Convolution(device, self.precision, rung, s.C, s.K, s.H, s.W, replicate)


def last(a: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (H, W, C), as the kernels have it."""
    return np.ascontiguousarray(a.transpose(1, 2, 0))


def first(a: np.ndarray) -> np.ndarray:
    return a.transpose(2, 0, 1)


def run_forward(layer: Layer, device: Device, rung: str, replicate: bool, linear: bool) -> np.ndarray:
    """(y,) or (y, linear), stacked; float32 (1 or 2, H, W, K)."""
    precision = layer.precision
    x, b = elements(device, last(layer.x), precision), device.to_device(layer.b)
    w = device.to_device(RUNGS[rung].filters(layer.w, precision))
    y = [unwritten(device, (*x.shape[:2], layer.size.K), precision.dtype) for _ in range(1 + linear)]
    layer.kernel(device, rung, replicate).forward(x, w, b, y[1] if linear else None, y[0])
    return np.stack([floats(device, a, precision) for a in y])


def run_backward(
    layer: Layer, device: Device, rung: str, replicate: bool = False, losses: str = "", mask: bool = False
) -> np.ndarray:
    """dx (H, W, C), float32; `losses` names those of S and P that are added."""
    precision = layer.precision
    dy, F, S, P = (elements(device, a, precision) for a in (last(layer.dy), last(layer.F), layer.S, last(layer.P)))
    w = device.to_device(RUNGS[rung].turned(layer.w, precision))
    plain = device.to_device(RUNGS["01_naive"].turned(layer.w, precision)) if replicate else None
    dx = unwritten(device, F.shape, precision.dtype)
    layer.kernel(device, rung, replicate).backward(
        dy,
        w,
        plain,
        F if losses or mask else None,
        S if "S" in losses else None,
        layer.style_scale,
        P if "P" in losses else None,
        layer.content_scale,
        mask,
        dx,
    )
    return floats(device, dx, precision)


def check_forward(layer: Layer, got: np.ndarray, rung: str, replicate: bool) -> None:
    """What `run_forward` returned, against ops.conv_forward and relu_forward in float64."""
    padding = "replicate" if replicate else "zero"
    x, w, b = (a.astype(np.float64) for a in (layer.x, layer.w, layer.b))
    linear = ops.conv_forward(x, w, b, padding)
    rounding = U * (_products(x, w, rung, padding, 9 * layer.size.C) + 2 * np.abs(b)[:, None, None])
    for a, wanted in zip(got, (ops.relu_forward(linear), linear), strict=False):
        _near(first(a), wanted, rounding, layer.precision, linear)


def check_backward(
    layer: Layer, got: np.ndarray, rung: str, replicate: bool = False, losses: str = "", mask: bool = False
) -> None:
    """What `run_backward` returned, against the book in float64."""
    C, K = layer.size.C, layer.size.K
    dy, w, F, P, S = (a.astype(np.float64) for a in (layer.dy, layer.w, layer.F, layer.P, layer.S))
    inside = ops.conv_backward(dy, w)
    turned = w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    n = 9 * K + (C if "S" in losses else 0)
    rounding = _products(dy, turned, rung, "zero", n)
    matrix = F.reshape(C, -1)
    if "S" in losses:
        # S = dG + dG^T
        inside += layer.style_scale * ops.gram_backward(S / 2, matrix).reshape(F.shape)
        rounding += (_terms(n) + 2) * layer.style_scale * (np.abs(S) @ matrix).reshape(F.shape)
    if "P" in losses:
        inside += layer.content_scale * (F - P)
        rounding += 4 * abs(layer.content_scale) * (F + P)
    wanted = inside
    if replicate:
        wanted = inside + ops.conv_backward(dy, w, "replicate") - ops.conv_backward(dy, w)
        rounding += 2 * _terms(9 * K) * ops.conv_backward(np.abs(dy), np.abs(w), "replicate")
    if mask:
        wanted, rounding = wanted * (F > 0), rounding * (F > 0)
    # The result is an element between the convolution and what another kernel adds to it
    steps = np.abs(ops.conv_backward(dy, w)) + np.abs(inside) + np.abs(wanted)
    _near(first(got), wanted, U * rounding, layer.precision, steps * (F > 0) if mask else steps)


def _terms(n: int) -> float:
    return min(n, LAMBDA * math.sqrt(n))


def _products(x: np.ndarray, w: np.ndarray, rung: str, padding: str, n: int) -> np.ndarray:
    """Rounding of a convolution's sums of n products, in units of u."""
    if RUNGS[rung].pack is RUNGS["04_winograd"].pack:
        # 2 roundings in B^T d B, 1 in G g G^T, 4 in A^T M A
        return (_terms(n // 9) + 7) * _winograd(np.abs(ops.conv.pad(x, padding)), w)
    return _terms(n) * ops.conv_forward(np.abs(x), np.abs(w), None, padding)


def _winograd(xp: np.ndarray, w: np.ndarray) -> np.ndarray:
    """|A|^T [sum_c |G g G^T| . (|B|^T |d| |B|)] |A| of x with its border: what passes through each output, at most."""
    C, height, width = xp.shape[0], xp.shape[1] - 2, xp.shape[2] - 2
    rows, columns = -(-height // 2), -(-width // 2)
    xp = np.pad(xp, ((0, 0), (0, 2 * rows - height), (0, 2 * columns - width)))
    windows = np.lib.stride_tricks.sliding_window_view(xp, (4, 4), (1, 2))[:, ::2, ::2]
    V = np.einsum("if,chwij,jg->fgchw", abs(B), windows, abs(B)).reshape(16, C, -1)
    filters = np.abs(G @ w @ G.T).transpose(2, 3, 0, 1).reshape(16, -1, C)
    M = (filters @ V).reshape(4, 4, -1, rows, columns)
    y = np.einsum("fi,fgkhw,gj->khiwj", abs(A), M, abs(A))
    return y.reshape(-1, 2 * rows, 2 * columns)[:, :height, :width]


def _near(got: np.ndarray, wanted: np.ndarray, rounding: np.ndarray, precision: Precision, stored: np.ndarray) -> None:
    """`stored`: the sum of the magnitudes of all that was rounded to an element on the way."""
    tolerance = rounding + SMALLEST.get(precision.name, 0.0)
    if precision is not FLOAT32:
        tolerance = tolerance + precision.unit * (np.abs(stored) + rounding)
    error = np.abs(got.astype(np.float64) - wanted)
    assert got.shape == wanted.shape
    worst = np.max(error / np.maximum(tolerance, 1e-200))  # NaN shows, as does what should be an exact 0
    assert np.all(error <= tolerance), f"off by up to {worst:.3g} times what rounding explains"
