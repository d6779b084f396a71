"""Vectors: each operation against plain NumPy, on sizes around the blocks' borders."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nstcore.optim import Vectors

SHAPES = [(1,), (8191,), (8192,), (3, 70, 131), (2, 8192)]
v = Vectors()


def arrays(shape, count, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_operation_agrees_with_plain_numpy(shape, dtype):
    x, y, g = arrays(shape, 3, dtype)
    rtol = 8 * np.finfo(dtype).eps

    def same(got, expected):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol)

    z = v.empty_like(x)
    assert z.shape == shape
    v.copy(x, out=z)
    same(z, x)
    v.fill(z, 2.5)
    same(z, np.full(shape, 2.5))
    v.copy(x, out=z)
    v.scale(-0.3, z)
    same(z, -0.3 * x)
    v.axpy(1.7, y, z)
    same(z, -0.3 * x + 1.7 * y)
    v.add_scaled(x, 0.25, y, out=z)
    same(z, x + 0.25 * y)
    v.multiply(x, y, out=z)
    same(z, x * y)
    v.clip(z, -0.1, 0.2)
    same(z, np.clip(x * y, -0.1, 0.2))
    v.copy(x, out=z)
    v.average(z, 0.9, g)
    same(z, 0.9 * x + 0.1 * g)
    v.copy(abs(x), out=z)
    v.average_squares(z, 0.99, g)
    same(z, 0.99 * abs(x) + 0.01 * g * g)
    v.copy(x, out=z)
    v.subtract_ratio(z, 0.02, y, 1.5, abs(g), 1e-3)
    same(z, x - 0.02 * y / (np.sqrt(1.5 * abs(g)) + 1e-3))
    assert v.max_abs(x) == abs(x).max()
    assert v.epsilon(x) == np.finfo(dtype).eps


def test_a_dot_product_of_millions_of_float32_keeps_its_digits():
    x = np.random.default_rng(0).random(3_000_000, np.float32)
    y = np.random.default_rng(1).random(3_000_000, np.float32)
    exact = float(np.dot(x.astype("float64"), y.astype("float64")))
    assert abs(v.dot(x, y) / exact - 1) < 1e-7


def test_a_strided_array_can_be_read_but_not_written_to():
    x = np.arange(12.0).reshape(3, 4)
    assert v.dot(x.T, x.T) == np.sum(x * x)
    with pytest.raises(ValueError, match="C-contiguous"):
        v.axpy(1.0, x.T, np.zeros((3, 4)).T)


def test_the_largest_magnitude_of_an_array_with_nan_is_nan():
    x = np.ones(20_000)
    x[12_345] = np.nan
    assert np.isnan(v.max_abs(x))


def test_elements_are_held_only_on_a_bound_and_only_against_an_outward_pull():
    x = np.array([0.0, 0.0, 0.5, 1.0, 1.0, 0.0])
    g = np.array([1.0, -1.0, 1.0, -1.0, 1.0, 0.0])
    out = np.empty(6)
    assert v.free_elements(x, g, 0.0, 1.0, out=out) == 2
    np.testing.assert_array_equal(out, [0, 1, 1, 0, 1, 1])


def test_the_longest_step_ends_on_the_first_bound_met():
    x = np.array([0.5, 0.2, 0.0, 1.0])
    assert v.longest_step(x, np.array([0.1, -0.1, 0.0, 0.0]), 0.0, 1.0) == pytest.approx(2.0)
    assert v.longest_step(x, np.array([0.0, 0.0, -1.0, 0.0]), 0.0, 1.0) == 0.0
    assert v.longest_step(x, np.zeros(4), 0.0, 1.0) == np.inf
    assert v.longest_step(x, np.ones(4), -np.inf, np.inf) == np.inf


def test_no_operation_makes_a_temporary_as_large_as_its_arrays():
    x, y, g = arrays((1_000_000,), 3)
    v.average(x, 0.9, g)  # the scratch blocks come into being
    tracemalloc.start()
    v.dot(x, y)
    v.max_abs(x)
    v.longest_step(x, y, -9.0, 9.0)
    v.scale(0.5, x)
    v.axpy(0.1, y, x)
    v.add_scaled(x, 0.1, y, out=g)
    v.multiply(x, y, out=g)
    v.clip(x, -2.0, 2.0)
    v.free_elements(x, y, -2.0, 2.0, out=g)
    v.average(x, 0.9, y)
    v.average_squares(x, 0.9, y)
    v.subtract_ratio(y, 0.1, g, 1.0, abs_of(x), 1e-8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 10


def abs_of(x):
    return np.abs(x, out=x)
