"""What a replicated border adds to a backward pass, against the book."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_conv import LAMBDA, Layer, Size, U, first, last
from cuda_devices import elements, floats

from nstcore import ops
from nstcore.engines.cuda.conv import BORDER, RUNGS
from nstcore.engines.cuda.precision import FLOAT32, PRECISIONS, from_elements, to_elements

SMALL = [
    Size(1, 1, 1, 1),
    Size(3, 8, 1, 7),
    Size(64, 3, 7, 1),
    Size(33, 5, 2, 2),
    Size(8, 65, 5, 3),
    Size(130, 16, 3, 16),
    Size(1, 130, 16, 16),
]
LARGE = [Size(64, 64, 33, 18), Size(8, 64, 67, 131), Size(513, 65, 5, 3), Size(65, 513, 3, 5)]


def agrees(machine, size, precision, mask) -> None:
    layer = Layer(size, precision)
    C, K, H, W = size.C, size.K, size.H, size.W
    before = to_elements(np.random.default_rng(1).standard_normal((H, W, C)), precision)

    def run(device):
        dy, F = (elements(device, last(a), precision) for a in (layer.dy, layer.F))
        w = device.to_device(RUNGS["01_naive"].turned(layer.w, precision))
        dx = device.to_device(before)
        kernel = device.kernel(BORDER, "replicate_backward", precision)
        grid = -(-2 * (H + W) // 8), -(-C // 32)
        kernel(grid, 256, dy, w, F if mask else None, mask, dx, K, C, H, W)
        return floats(device, dx, precision), device.to_host(dx)

    got, bits = machine.check(run)
    dy, w = layer.dy.astype(np.float64), layer.w.astype(np.float64)
    added = ops.conv_backward(dy, w, "replicate") - ops.conv_backward(dy, w)
    # The absolute products alone, whose rounding comes back n times over in the worst place of a sum of n
    products = ops.conv_backward(abs(dy), abs(w), "replicate") - ops.conv_backward(abs(dy), abs(w))
    if mask:
        added, products = added * (layer.F > 0), products * (layer.F > 0)
    there = first(from_elements(before, precision)).astype(np.float64)
    wanted = there + added
    n = 9 * K
    unit = U if precision is FLOAT32 else precision.unit + U
    tolerance = min(n, LAMBDA * np.sqrt(n)) * U * products + unit * (abs(wanted) + U) + 2.0**-24 * (products > 0)
    error = abs(first(got) - wanted)
    assert np.all(error <= tolerance)
    untouched = np.ones((H, W, C), bool)
    untouched[[0, -1]] = untouched[:, [0, -1]] = False
    if mask:
        untouched |= ~(last(layer.F) > 0)
    assert np.array_equal(bits[untouched], before[untouched])
    if H * W * C > 8:
        assert np.count_nonzero(bits != before) > 0


@pytest.mark.parametrize("mask", [False, True], ids=["linear", "masked"])
@pytest.mark.parametrize("size", SMALL, ids=str)
def test_the_rim_collects_what_lay_outside(machine, size, mask):
    agrees(machine, size, FLOAT32, mask)


@pytest.mark.parametrize("precision", ["tf32", "float16", "bfloat16"])
def test_shorter_elements_cost_their_own_rounding_only(machine, precision):
    agrees(machine, Size(24, 17, 6, 5), PRECISIONS[precision], True)


@pytest.mark.slow
@pytest.mark.parametrize("size", LARGE, ids=str)
def test_large_rims(machine, size):
    agrees(machine, size, FLOAT32, True)
