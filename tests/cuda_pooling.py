"""A convolution and the pooling above it, both ways, for tests: by two kernels, or by one that does both."""

from __future__ import annotations

import numpy as np
from cuda_conv import Layer, last
from cuda_devices import Machine, elements, unwritten

from nstcore.engines.cuda import pool
from nstcore.engines.cuda.conv import RUNGS, Convolution
from nstcore.engines.cuda.device import Device


def forward(
    layer: Layer, device: Device, rung: str, kind: str, replicate: bool, fused: bool, kept: bool = True
) -> tuple[np.ndarray, ...]:
    """What goes into the ReLU, y, pool(y) and its choices, as bits; without the first two if they are not `kept`."""
    s, precision = layer.size, layer.precision
    x, b = elements(device, last(layer.x), precision), device.to_device(layer.b)
    w = device.to_device(RUNGS[rung].filters(layer.w, precision))
    linear, y = (unwritten(device, (s.H, s.W, s.K), precision.dtype) if kept else None for _ in range(2))
    pooled = unwritten(device, (s.H // 2, s.W // 2, s.K), precision.dtype)
    bits = None if kind == "l2" else unwritten(device, ((s.H + 1) // 2, (s.W + 1) // 2, s.K), np.uint8)
    asked = device, precision, rung, s.C, s.K, s.H, s.W, replicate, None, kind if fused else None
    convolution = Convolution(*asked)
    if fused:
        convolution.forward(x, w, b, linear, y, pooled, bits)
    else:
        convolution.forward(x, w, b, linear, y)
        pool.forward(device, precision, y, pooled, s.K, s.H, s.W, kind, True, bits)
    return tuple(device.to_host(a) for a in (linear, y, pooled, bits) if a is not None)


def backward(
    layer: Layer, device: Device, rung: str, kind: str, fused: bool, losses: str = "", mask: bool = True
) -> np.ndarray:
    """dx (H, W, C) as bits, from the gradient of pool(y): y is dy, whose gradient is its own first rows and columns."""
    s, precision = layer.size, layer.precision
    y, F, S, P = (elements(device, a, precision) for a in (last(layer.dy), last(layer.F), layer.S, last(layer.P)))
    bits = unwritten(device, ((s.H + 1) // 2, (s.W + 1) // 2, s.K), np.uint8)
    pooled, dy = (unwritten(device, (H, W, s.K), precision.dtype) for H, W in ((s.H // 2, s.W // 2), (s.H, s.W)))
    pool.forward(device, precision, y, pooled, s.K, s.H, s.W, kind, True, bits)
    dpooled = elements(device, last(layer.dy)[: s.H // 2, : s.W // 2], precision)
    w, dx = device.to_device(RUNGS[rung].turned(layer.w, precision)), unwritten(device, F.shape, precision.dtype)
    convolution = Convolution(*(device, precision, rung, s.C, s.K, s.H, s.W, False), unpooling=kind if fused else None)
    sent = (
        *(w, None, F if losses or mask else None),
        *(S if "S" in losses else None, layer.style_scale),
        *(P if "P" in losses else None, layer.content_scale),
    )
    if fused:
        convolution.backward(dpooled, *sent, mask, dx, choices=bits)
    else:
        pool.backward(device, precision, dpooled, None, dy, s.K, s.H, s.W, kind, True, bits)
        convolution.backward(dy, *sent, mask, dx)
    return device.to_host(dx)


def check_forward(machine: Machine, layer: Layer, apart: str, together: str, kind: str, replicate: bool) -> None:
    """One rung and a pooling give the bits of another that pools, whether what was pooled is kept or not."""
    expected = machine.check(lambda d: forward(layer, d, apart, kind, replicate, fused=False))
    got = machine.check(lambda d: forward(layer, d, together, kind, replicate, fused=True))
    alone = machine.check(lambda d: forward(layer, d, together, kind, replicate, fused=True, kept=False))
    alone = alone if isinstance(alone, tuple) else (alone,)
    for wanted, *found in (*zip(expected, got, strict=True), *zip(expected[2:], alone, strict=True)):
        assert all(a.tobytes() == wanted.tobytes() for a in found)


def check_backward(machine: Machine, layer: Layer, apart: str, together: str, kind: str, losses: str = "SP") -> None:
    """The same of the gradient, with what the losses send back and without."""
    for more, mask in ((losses, True), ("", False)):
        expected = machine.check(lambda d, m=more, k=mask: backward(layer, d, apart, kind, False, m, k))
        got = machine.check(lambda d, m=more, k=mask: backward(layer, d, together, kind, True, m, k))
        assert got.tobytes() == expected.tobytes()
        assert np.any(got)
