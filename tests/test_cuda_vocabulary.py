"""The functions of common.cuh, by themselves: what stands in for them on the CPU does what the GPU does."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_devices import unwritten
from test_cuda_on_cpu import VOCABULARY, needs_compiler

from nstcore.engines.cuda.on_cpu import OnCpuDevice
from nstcore.engines.cuda.precision import BFLOAT16, FLOAT16, TF32, from_elements, to_elements


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit, but for what kind of NaN it is."""
    kind = np.dtype(f"u{a.itemsize}")
    return bool(np.all((a.view(kind) == b.view(kind)) | (np.isnan(a) & np.isnan(b))))


def test_all_halves_become_the_floats_that_they_are(machine):
    bits = np.arange(65536, dtype=np.uint16)

    def run(device):
        floats, bfloats = (device.empty(65536, np.float32) for _ in range(2))
        device.kernel(VOCABULARY, "halves", FLOAT16)(256, 256, device.to_device(bits), floats, bfloats, 65536)
        return device.to_host(floats), device.to_host(bfloats)

    floats, bfloats = machine.check(run)
    assert same(floats, bits.view(np.float16).astype(np.float32))
    assert same(bfloats, (bits.astype(np.uint32) << 16).view(np.float32))


def difficult_floats() -> np.ndarray:
    """Of every size, halfway between two halves, next to that, subnormal, infinite, NaN."""
    rng = np.random.default_rng(1)
    finite = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    halfway = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    special = np.array([0, 65504, 65519.996, 65520, 65536, 3.4e38, np.inf, np.nan, 1e-45, 1e-38, 2**-25], np.float32)
    ties = (rng.integers(0, 2**16, 4000).astype(np.uint32) << 16 | np.uint32(0x8000)).view(np.float32)
    ties_tf32 = (rng.integers(0, 2**19, 4000).astype(np.uint32) << 13 | np.uint32(0x1000)).view(np.float32)
    random = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    up, down = (np.nextafter(halfway, np.float32(to)) for to in (np.inf, -np.inf))
    some = np.concatenate([halfway, up, down, special, ties, ties_tf32, random])
    return np.concatenate([some, -some])


def test_rounding_is_what_it_is_on_the_host(machine):
    x = difficult_floats()

    def run(device):
        outs = [device.empty(x.size, d) for d in (np.float32, np.uint16, np.uint16)]
        device.kernel(VOCABULARY, "rounded", FLOAT16)(-(-x.size // 256), 256, device.to_device(x), *outs, x.size)
        return tuple(device.to_host(a) for a in outs)

    tf32, halves, bfloats = machine.check(run)
    with np.errstate(invalid="ignore"):
        assert same(tf32, to_elements(x, TF32))
        assert same(halves.view(np.float16), to_elements(x, FLOAT16))
        assert same(from_elements(bfloats, BFLOAT16), from_elements(to_elements(x, BFLOAT16), BFLOAT16))


@pytest.mark.parametrize("precision", [TF32, FLOAT16, BFLOAT16], ids=lambda p: p.name)
def test_tensor_cores_multiply_matrices(machine, precision):
    """Products of these numbers are exact in float32; each of the K additions, and C, may be off by its last place.

    Tensor cores truncate sums that the emulation rounds, hence twice the unit of rounding.
    """
    K, rows, columns = (8 if precision is TF32 else 16), 32, 24
    rng = np.random.default_rng(2)
    A, B, C = (rng.standard_normal(s, np.float32) for s in ((rows, K), (K, columns), (rows, columns)))
    a, b = to_elements(A, precision), to_elements(B, precision)
    A, B = (from_elements(e, precision).astype(np.float64) for e in (a, b))

    def run(device):
        D = device.empty((rows, columns), np.float32)
        kind = np.uint32 if precision is TF32 else np.uint16
        function = "product_tf32" if precision is TF32 else "product_16bit"
        kernel = device.kernel(VOCABULARY, function, precision)
        kernel(1, 32, *(device.to_device(e.view(kind)) for e in (a, b)), device.to_device(C), D)
        return device.to_host(D)

    D = machine.check(run)
    tolerance = (K + 1) * 2 * 2.0**-24 * (np.abs(A) @ np.abs(B) + np.abs(C))
    assert np.all(np.abs(D - (A @ B + C)) <= tolerance)


@needs_compiler
def test_tensor_cores_ignore_what_tf32_does_not_have():
    A, B = np.full((32, 8), 1 + 2.0**-11, np.float32), np.full((8, 24), -1 - 2.0**-12, np.float32)
    device = OnCpuDevice()
    D = device.empty((32, 24), np.float32)
    inputs = (device.to_device(a) for a in (A.view(np.uint32), B.view(np.uint32), np.zeros((32, 24), np.float32)))
    device.kernel(VOCABULARY, "product_tf32", TF32)(1, 32, *inputs, D)
    assert (device.to_host(D) == -8).all()


def test_ldmatrix_hands_out_matrices(machine):
    x = np.random.default_rng(3).integers(0, 2**16, (4, 8, 8), dtype=np.uint16)

    def run(device):
        plain, turned = (device.empty((4, 32), np.uint32) for _ in range(2))
        device.kernel(VOCABULARY, "matrices", FLOAT16)(1, 32, device.to_device(x), plain, turned)
        return device.to_host(plain), device.to_host(turned)

    plain, turned = machine.check(run)
    for found, matrices in ((plain, x), (turned, x.transpose(0, 2, 1))):
        pairs = matrices.reshape(4, 8, 4, 2).astype(np.uint32)  # lane 4g + t has [g][2t], [g][2t+1]
        assert (found == (pairs[..., 0] | pairs[..., 1] << 16).reshape(4, 32)).all()


def test_shuffles_fetch_from_other_lanes(machine):
    x, lane = np.arange(100, 132, dtype=np.int32), np.arange(32)

    def run(device):
        y = device.empty((6, 32), np.int32)
        device.kernel(VOCABULARY, "shuffles", FLOAT16)(1, 32, device.to_device(x), y)
        return device.to_host(y)

    y = machine.check(run)
    halves = np.where(lane < 16, lane ^ 3, np.minimum(lane + 1, 31))
    down, up = np.where(lane < 27, lane + 5, lane), np.where(lane < 3, lane, lane - 3)
    assert (y == x[np.stack([31 - lane, down, up, lane ^ 9, halves, lane ^ 1])]).all()


@pytest.mark.parametrize("n", [0, 52, 128])
def test_copies_fill_with_zeros(machine, n):
    x = np.random.default_rng(4).random(128, np.float32)

    def run(device):
        y = unwritten(device, (3, 128), np.float32)
        device.kernel(VOCABULARY, "copies", FLOAT16)(1, 32, device.to_device(x), y, n)
        return device.to_host(y)

    assert (machine.check(run) == np.where(np.arange(128) < n, x, 0)).all()


def test_threads_and_blocks_are_counted_as_in_cuda(machine):
    grid, block = (3, 2, 4), (5, 3, 2)

    def run(device):
        y = device.empty((*grid[::-1], *block[::-1]), np.int32)
        device.kernel(VOCABULARY, "coordinates", FLOAT16)(grid, block, y)
        return device.to_host(y)

    c, b, a, z, y, x = np.indices((*grid[::-1], *block[::-1]))
    assert (machine.check(run) == x + 10 * y + 100 * z + 1000 * a + 10000 * b + 100000 * c).all()


def test_declarations_of_shared_memory_are_understood(machine):
    def run(device):
        y = device.empty(5, np.float32)
        device.kernel(VOCABULARY, "declarations", FLOAT16)(1, 32, y)
        return device.to_host(y)

    assert machine.check(run).tolist() == [3, 30, 7, 1, 7]
