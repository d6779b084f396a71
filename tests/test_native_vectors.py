"""The native vector operations against `Vectors` in float64, for every instruction set, on awkward arrays."""

from __future__ import annotations

import numpy as np
import pytest

from nstcore.engines.cpu import CpuEngine, library
from nstcore.engines.cpu.library import Crew
from nstcore.engines.cpu.vectors import NativeVectors
from nstcore.optim import Vectors, minimize_adam, minimize_lbfgs

each_instructions = pytest.mark.parametrize("kernels", library.INSTRUCTIONS)
SHAPES = [(1,), (7,), (8191,), (8193,), (3, 37, 50), (3, 401, 700)]  # the last one: strips of several pieces
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
LO, HI = -0.5, 1.25  # exact in float32
EPSILON = float(np.finfo("float32").eps)
ADAM = {"betas": (0.9, 0.99), "corrections": (0.3, 0.2), "learning_rate": 0.02, "epsilon": 1e-8, "lo": LO, "hi": HI}


@pytest.fixture
def native(kernels):
    return vectors_of(kernels, 2)


def vectors_of(kernels, threads):
    chosen = library.choose(kernels)[0]
    return NativeVectors(chosen, Crew(chosen, threads))


def unaligned(shape):
    """Four bytes beyond a multiple of 64, followed by NaN that nothing may read or write; returns that, too."""
    size = int(np.prod(shape))
    block = np.full(size + 33, np.nan, np.float32)
    start = (-block.ctypes.data % 64) // 4 + 1
    return block[start : start + size].reshape(shape), block[start + size :]


def arrays(shape, count, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        found.append(unaligned(shape)[0])
        found[-1][...] = rng.standard_normal(shape)
    return found


def inside(x):
    """In the box, a good part of it on the bounds."""
    np.clip(x, LO, HI, out=x)
    return x


class Case:
    """One call of every method; what it returns and writes, by name."""

    def __init__(self, shape, dtype="float32", strided=False, pairs=5):
        self.shape, self.dtype = shape, dtype
        x, g, d, x_next, g_next, free, *many = arrays(shape, 6 + 2 * pairs)
        inside(x)
        free[...] = free > -1
        self.reads = [self.prepared(a, strided) for a in (x, g, d, x_next, g_next, free, *many)]

    def prepared(self, a, strided):
        if self.dtype != "float32":
            return a.astype(self.dtype)
        return np.repeat(a[..., None], 2, axis=-1)[..., 0] if strided else a

    def out(self, a=None):
        if self.dtype != "float32":
            return np.full(self.shape, np.nan, self.dtype) if a is None else np.array(a)
        new, guard = unaligned(self.shape)
        self.guards.append(guard)
        new[...] = np.nan if a is None else a
        return new

    def __call__(self, v):
        self.guards = []
        x, g, d, x_next, g_next, free, *many = self.reads
        found = {}
        found["copy"] = self.out()
        v.copy(x, out=found["copy"])
        found["fill"] = self.out()
        v.fill(found["fill"], 0.75)
        found["dot"], found["max_abs"] = v.dot(x, g), v.max_abs(g)
        found["clip"] = self.out(g)
        v.clip(found["clip"], LO, HI)
        found["free"] = self.out()
        found["held"], found["norm"] = v.free_elements(x, g, LO, HI, out=found["free"])
        for name, lo, hi in (("step", LO, HI), ("step without bounds", -np.inf, np.inf)):
            found[name] = self.out()
            v.step(x, 0.375, d, lo, hi, out=found[name])
        found["shortened"] = self.out(d)
        found["longest"], found["slope"] = v.shorten(found["shortened"], x, g, LO, HI)
        found["s"], found["y"] = self.out(), self.out()
        found["sy"], found["ss"], found["yy"] = v.pair(x, g, x_next, g_next, found["s"], found["y"])
        c = np.random.default_rng(1).standard_normal(len(many))
        for name, weights in (("all", None), ("free", free)):
            found[f"products, {name}"] = v.pair_products(g, weights, *many)
            found[f"combined, {name}"] = self.out()
            v.combine(-0.25, g, weights, c, *many, out=found[f"combined, {name}"])
        found["steepest"] = self.out()
        v.combine(-0.25, g, None, (), out=found["steepest"])
        found["x"], found["m"], found["v"] = self.out(x), self.out(d), self.out(abs(x_next))
        v.adam(found["x"], g, found["m"], found["v"], **ADAM)
        assert all(np.isnan(guard).all() for guard in self.guards)
        return found


# What is a sum over all elements: its error is measured against the sum of the magnitudes, about 0.6 per element.
SUMS = ("dot", "slope", "sy", "ss", "yy", "products, all", "products, free")


@each_instructions
@each_shape
@pytest.mark.parametrize("strided", [False, True])
def test_every_operation_agrees_with_numpy_in_float64(kernels, native, shape, strided):
    mine, book = Case(shape, strided=strided)(native), Case(shape, "float64")(Vectors())
    for name, expected in book.items():
        tolerance = (2 if name in SUMS else 20) * EPSILON * (np.prod(shape) if name in SUMS else 1)
        np.testing.assert_allclose(mine[name], expected, rtol=4 * EPSILON, atol=tolerance, err_msg=name)
    for name in ("copy", "fill", "held", "norm", "free"):
        np.testing.assert_array_equal(mine[name], book[name], err_msg=name)


@each_instructions
@each_shape
def test_the_bits_do_not_depend_on_the_number_of_threads(kernels, shape):
    one, *others = (Case(shape)(vectors_of(kernels, threads)) for threads in (1, 2, 3))
    for other in others:
        for name, expected in one.items():
            np.testing.assert_array_equal(other[name], expected, err_msg=name)


@each_instructions
@pytest.mark.parametrize("pairs", [1, 2, 3, 4, 11, 20, 33])
def test_products_and_combination_of_any_number_of_pairs(kernels, native, pairs):
    q, free, *many = arrays((3, 50, 61), 2 + 2 * pairs)
    free[...] = free > 0
    rows = np.array([a.reshape(-1) for a in (*many, q)], "float64")
    expected = (rows[:-1] * free.reshape(-1)) @ rows[pairs:].T
    expected[:pairs, :pairs] = np.triu(expected[:pairs, :pairs])
    for v in (native, Vectors()):
        for _ in range(2):  # the second time in used scratch
            got = v.pair_products(q, free, *many)
        np.testing.assert_allclose(got, expected, rtol=0, atol=EPSILON * q.size)
    c = np.random.default_rng(0).standard_normal(2 * pairs)
    combined = (c @ rows[:-1] + 0.5 * rows[-1]).reshape(q.shape) * free
    native.combine(0.5, q, free, c, *many, out=q)
    np.testing.assert_allclose(q, combined, rtol=0, atol=40 * EPSILON * np.sqrt(pairs))


@each_instructions
def test_a_dot_product_of_millions_of_floats_keeps_its_digits(kernels, native):
    x, y = np.random.default_rng(0).random((2, 3_000_000), np.float32)
    exact = float(np.dot(x.astype("float64"), y.astype("float64")))
    assert abs(native.dot(x, y) / exact - 1) < 1e-7


@each_instructions
@pytest.mark.parametrize("size", [5, 20_001])
def test_nan_stays_nan(kernels, native, size):
    for at in (0, size // 2, size - 1):
        bad, good = np.ones(size, np.float32), np.full(size, 0.5, np.float32)
        bad[at] = np.nan
        out = np.empty_like(bad)
        assert np.isnan(native.max_abs(bad))
        assert np.isnan(native.dot(good, bad))
        assert np.isnan(native.free_elements(good, bad, 0.0, 1.0, out=out)[1])
        assert np.isnan(native.shorten(bad.copy(), good, good, 0.0, 1.0)[1])
        native.step(good, 0.25, bad, 0.0, 1.0, out=out)
        assert np.flatnonzero(np.isnan(out)).tolist() == [at]
        native.clip(bad, 0.0, 0.75)
        assert np.flatnonzero(np.isnan(bad)).tolist() == [at]
        assert bad[at - 1] == 0.75
        native.adam(good, bad, np.zeros_like(bad), np.zeros_like(bad), **ADAM)
        assert np.flatnonzero(np.isnan(good)).tolist() == [at]


@each_instructions
def test_a_step_ends_on_the_first_bound_met(kernels, native):
    x, g = np.array([0.5, 0.25, 0.0, 1.0], np.float32), np.ones(4, np.float32)

    def shortened(*d, lo=0.0, hi=1.0):
        d = np.array(d, np.float32)
        return (*native.shorten(d, x, g, lo, hi), d.tolist())

    assert shortened(0.125, -0.125, 0, 0) == (2.0, 0.0, [0.125, -0.125, 0, 0])
    assert shortened(2, 0, -3, 0) == (1.0, 0.5, [0.5, 0, 0, 0])
    assert shortened(0, 0, 0, 0) == (np.inf, 0.0, [0, 0, 0, 0])
    assert shortened(9, 9, 9, 9, lo=-np.inf, hi=np.inf) == (np.inf, 36.0, [9, 9, 9, 9])


@each_instructions
def test_arrays_that_the_kernels_cannot_take_are_left_to_numpy(kernels, native):
    for name, expected in Case((3, 37, 50), "float64")(Vectors()).items():
        np.testing.assert_array_equal(Case((3, 37, 50), "float64")(native)[name], expected)
    x, y = arrays((4, 6), 2)
    with pytest.raises(ValueError, match="C-contiguous"):
        native.step(x, 1.0, y, 0.0, 1.0, out=np.empty((6, 4), np.float32).T)


@each_instructions
def test_the_engine_brings_its_own_vectors_in_float32_only(kernels):
    assert isinstance(CpuEngine("float32").vectors, NativeVectors)
    assert not isinstance(CpuEngine("float64").vectors, NativeVectors)


def quadratic(x):
    scale = np.geomspace(1, 100, x.size, dtype=np.float32)
    d = x - np.linspace(-1, 2, x.size, dtype=np.float32)
    return 0.5 * float(np.sum(scale * d * d, dtype="float64")), scale * d


def rosenbrock(x):
    z = x.astype("float64")
    a, b = z[1:] - z[:-1] ** 2, 1 - z[:-1]
    g = np.zeros_like(z)
    g[1:] += 200 * a
    g[:-1] -= 400 * a * z[:-1] + 2 * b
    return float(np.sum(100 * a * a + b * b)), g.astype(x.dtype)


@each_instructions
@pytest.mark.parametrize(("f", "bounds"), [(quadratic, None), (quadratic, (-0.5, 1.5)), (rosenbrock, (-2.0, 0.75))])
def test_lbfgs_reaches_the_same_minimum(kernels, native, f, bounds):
    x0 = np.full(50, -0.25, np.float32)
    options = {"max_evaluations": 400, "bounds": bounds, "tolerance_gradient": 1e-6, "history": 7}
    mine, book = (minimize_lbfgs(f, x0, vectors=v, **options) for v in (native, Vectors()))
    assert mine.loss == pytest.approx(book.loss, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(mine.x, book.x, rtol=0, atol=1e-3)
    assert mine.evaluations <= 1.5 * book.evaluations + 5


@each_instructions
def test_the_first_iterates_of_lbfgs_are_the_same_up_to_rounding(kernels, native):
    def iterates(v):
        seen = []
        minimize_lbfgs(
            quadratic,
            np.full(9000, 0.5, np.float32),
            max_evaluations=15,
            bounds=(-0.5, 1.5),
            callback=lambda state: seen.append(state.x.copy()),
            vectors=v,
        )
        return np.array(seen)

    mine, book = iterates(native), iterates(Vectors())
    assert len(mine) > 8
    np.testing.assert_allclose(mine, book, rtol=0, atol=1e-4)


@each_instructions
@pytest.mark.parametrize("f", [quadratic, rosenbrock])
def test_adam_makes_the_same_steps(kernels, native, f):
    x0 = np.full(50, -0.25, np.float32)
    options = {"max_evaluations": 300, "bounds": (-0.5, 0.75)}
    mine, book = (minimize_adam(f, x0, vectors=v, **options) for v in (native, Vectors()))
    np.testing.assert_allclose(mine.x, book.x, rtol=0, atol=1e-3)
    assert mine.loss == pytest.approx(book.loss, rel=1e-3)
