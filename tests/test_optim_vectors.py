"""Vectors: each operation against plain NumPy, on sizes around the blocks' borders."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nstcore.engines.cpu import library
from nstcore.engines.cpu.library import Crew
from nstcore.engines.cpu.vectors import NativeVectors
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
    v.clip(z, -0.1, 0.2)
    same(z, np.clip(x, -0.1, 0.2))
    v.step(x, 0.25, y, -0.5, 0.5, out=z)
    same(z, np.clip(x + 0.25 * y, -0.5, 0.5))
    s, yy = v.empty_like(x), v.empty_like(x)
    v.pair(x, y, g, x, s, yy)
    same(s, g - x)
    same(yy, x - y)
    v.combine(0.5, x, abs(g), (0.25, -2.0), y, g, out=z)
    same(z, abs(g) * (0.5 * x + 0.25 * y - 2.0 * g))
    v.copy(x, out=z)
    m, w = y.copy(), abs(y)
    v.adam(
        *(z, g, m, w), betas=(0.9, 0.99), corrections=(0.5, 0.25), learning_rate=0.02, epsilon=1e-3, lo=-0.5, hi=0.75
    )
    same(m, 0.9 * y + 0.1 * g)
    same(w, 0.99 * abs(y) + 0.01 * g * g)
    same(z, np.clip(x - 0.04 * m / (np.sqrt(4 * w) + 1e-3), -0.5, 0.75))
    assert v.max_abs(x) == abs(x).max()
    assert v.epsilon(x) == np.finfo(dtype).eps


def native():
    chosen = library.choose()[0]
    if chosen is None:
        pytest.skip("the native kernels are not built")
    return NativeVectors(chosen, Crew(chosen, 2))


@pytest.mark.parametrize("make", [Vectors, native], ids=["numpy", "native"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_combination_may_take_the_place_of_the_vector_that_it_begins_with(shape, make):
    many = arrays(shape, 7, "float32")
    q, free, *others = many
    vectors, c = make(), (0.25, -2.0, 3.0, 0.5, -1.0)
    for weights in (None, abs(free)):
        expected, place = np.empty_like(q), q.copy()
        vectors.combine(0.5, q, weights, c, *others, out=expected)
        vectors.combine(0.5, place, weights, c, *others, out=place)
        np.testing.assert_array_equal(place, expected)


def test_a_dot_product_of_millions_of_float32_keeps_its_digits():
    x = np.random.default_rng(0).random(3_000_000, np.float32)
    y = np.random.default_rng(1).random(3_000_000, np.float32)
    exact = float(np.dot(x.astype("float64"), y.astype("float64")))
    assert abs(v.dot(x, y) / exact - 1) < 1e-7


@pytest.mark.parametrize("free", [False, True])
def test_the_products_of_pairs_are_those_of_the_whole_matrices(free):
    m = 3
    *rows, q = arrays((3, 70, 131), 2 * m + 1)
    weights = (arrays(q.shape, 1, seed=1)[0] > 0).astype(float) if free else np.ones(q.shape)
    flat = np.array([a.reshape(-1) for a in (*rows, q)])
    expected = (flat[:-1] * weights.reshape(-1)) @ flat[m:].T
    expected[:m, :m] = np.triu(expected[:m, :m])
    np.testing.assert_allclose(v.pair_products(q, weights if free else None, *rows), expected, rtol=0, atol=1e-9)


def test_a_strided_array_can_be_read_but_not_written_to():
    x = np.arange(12.0).reshape(3, 4)
    assert v.dot(x.T, x.T) == np.sum(x * x)
    with pytest.raises(ValueError, match="C-contiguous"):
        v.step(x.T, 1.0, x.T, 0.0, 1.0, out=np.zeros((3, 4)).T)


def test_the_largest_magnitude_of_an_array_with_nan_is_nan():
    x = np.ones(20_000)
    x[12_345] = np.nan
    assert np.isnan(v.max_abs(x))


def test_elements_are_held_only_on_a_bound_and_only_against_an_outward_pull():
    x = np.array([0.0, 0.0, 0.5, 1.0, 1.0, 0.0])
    g = np.array([1.0, -1.0, 1.0, -1.0, 1.0, 0.0])
    out = np.empty(6)
    assert v.free_elements(x, 3 * g, 0.0, 1.0, out=out) == (2, 3.0)
    assert v.free_elements(x, 3 * g - 2, 0.0, 1.0, out=np.empty(6)) == (2, 5.0)
    np.testing.assert_array_equal(out, [0, 1, 1, 0, 1, 1])


def test_the_longest_step_ends_on_the_first_bound_met():
    x, g = np.array([0.5, 0.25, 0.0, 1.0]), np.ones(4)

    def shortened(*d, lo=0.0, hi=1.0):
        d = np.array(d, float)
        return (*v.shorten(d, x, g, lo, hi), d.tolist())

    assert shortened(0.125, -0.125, 0, 0) == (2.0, 0.0, [0.125, -0.125, 0, 0])
    assert shortened(2, 0, -3, 0) == (1.0, 0.5, [0.5, 0, 0, 0])
    assert shortened(0, 0, 0, 0) == (np.inf, 0.0, [0, 0, 0, 0])
    assert shortened(9, 9, 9, 9, lo=-np.inf, hi=np.inf) == (np.inf, 36.0, [9, 9, 9, 9])


def test_no_operation_makes_a_temporary_as_large_as_its_arrays():
    x, y, g = arrays((1_000_000,), 3)
    m, w = g.copy(), abs(g)

    def everything():
        v.dot(x, y)
        v.max_abs(x)
        v.clip(x, -2.0, 2.0)
        v.free_elements(x, y, -2.0, 2.0, out=g)
        v.step(x, 0.1, y, -2.0, 2.0, out=g)
        v.shorten(y, x, g, -2.0, 2.0)
        v.pair(x, y, y, x, g, w)
        v.pair_products(x, m, y, g)
        v.combine(0.5, x, m, (0.1, 0.2), y, g, out=w)
        v.adam(
            *(x, y, m, abs_of(w)),
            betas=(0.9, 0.99),
            corrections=(0.1, 0.01),
            learning_rate=0.1,
            epsilon=1e-8,
            lo=0.0,
            hi=1.0,
        )

    everything()  # the scratch blocks come into being
    tracemalloc.start()
    everything()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 10


def abs_of(x):
    return np.abs(x, out=x)
