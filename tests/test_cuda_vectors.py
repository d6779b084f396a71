"""The GPU's vector operations against `Vectors` in float64, in three thread orders, on awkward sizes."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_sanitized import run_sanitized

from nstcore.engines.cuda import source, vectors
from nstcore.engines.cuda.vectors import LONGEST, VECTOR, CudaVectors
from nstcore.errors import OptionError, ShapeError
from nstcore.optim import Vectors, minimize_adam, minimize_lbfgs

SHAPES = [(n,) for n in (1, 2, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 8193)] + [(3, 67, 131)]
LARGE = pytest.param((3, 256, 257), marks=pytest.mark.slow, id="large")
each_shape = pytest.mark.parametrize("shape", [*(pytest.param(s, id=str(s)) for s in SHAPES), LARGE])
LO, HI = -0.5, 1.25
UNIT = 2.0**-24  # of float32: the largest relative error of one operation
SUM = (VECTOR + 2) * UNIT  # of a sum, relative to that of the magnitudes: see vectors.py
ADAM = {"betas": (0.875, 0.96875), "corrections": (0.25, 0.5), "learning_rate": 0.0625, "epsilon": 2.0**-20}
ADAM |= {"lo": LO, "hi": HI}  # all of them exact in float32
GUARD = 8  # floats of NaN behind every array: nothing may read or write them


def guarded(device, a):
    """A float32 copy on the device with NaN behind it; and the array of both."""
    a = np.asarray(a, np.float32)
    whole = device.to_device(np.concatenate([a.reshape(-1), np.full(GUARD, np.nan, np.float32)]))
    return whole[: a.size].reshape(a.shape), whole


def random(shape, count, seed=0):
    """Multiples of 1/1024 between -4 and 4: sums and differences of two are exact in float32."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-4096, 4097, shape) / 1024 for _ in range(count)]


class Case:
    """One call of every method: what it returns and writes, by name."""

    def __init__(self, shape, pairs=5, whole_numbers=False):
        self.shape = shape
        x, g, d, x_next, g_next, free, *many = random(shape, 6 + 2 * pairs)
        self.reads = [np.clip(x, LO, HI), g, d, x_next, g_next, (free > -1).astype(float), *many]
        if whole_numbers:
            self.reads = [np.round(a) for a in self.reads]
        self.c = np.random.default_rng(1).integers(-8, 9, 2 * pairs) / 4

    def on(self, device):
        """As a tuple of arrays, for `Machine.check`."""
        wholes = []

        def new(a=None):
            out, whole = guarded(device, np.full(self.shape, np.nan) if a is None else a)
            wholes.append(whole)
            return out

        found = self(CudaVectors(device), [guarded(device, a)[0] for a in self.reads], new)
        assert all(np.isnan(device.to_host(whole)[-GUARD:]).all() for whole in wholes)
        self.names = list(found)
        return tuple(np.asarray(device.to_host(a) if device.owns(a) else a) for a in found.values())

    def in_float64(self):
        return self(Vectors(), self.reads, lambda a=None: np.full(self.shape, np.nan) if a is None else np.array(a))

    def __call__(self, v, reads, new):
        x, g, d, x_next, g_next, free, *many = reads
        read_x, _, read_d, read_x_next, *_ = self.reads
        found = {}
        found["copy"] = new()
        v.copy(x, out=found["copy"])
        found["fill"] = new()
        v.fill(found["fill"], 0.75)
        found["dot"], found["max_abs"] = v.dot(x, g), v.max_abs(g)
        found["clip"] = new(self.reads[1])
        v.clip(found["clip"], LO, HI)
        found["free"] = new()
        found["held"], found["norm"] = v.free_elements(x, g, LO, HI, out=found["free"])
        for name, lo, hi in (("step", LO, HI), ("step without bounds", -np.inf, np.inf)):
            found[name] = new()
            v.step(x, 0.375, d, lo, hi, out=found[name])
        found["shortened"] = new(read_d)
        found["longest"], found["slope"] = v.shorten(found["shortened"], x, g, LO, HI)
        found["s"], found["y"] = new(), new()
        found["sy"], found["ss"], found["yy"] = v.pair(x, g, x_next, g_next, found["s"], found["y"])
        for name, weights in (("all", None), ("free", free)):
            found[f"products, {name}"] = v.pair_products(g, weights, *many)
            found[f"combined, {name}"] = new()
            v.combine(-0.25, g, weights, self.c, *many, out=found[f"combined, {name}"])
        found["combined, all, in place"] = end = new(self.reads[1])
        v.combine(-0.25, end, None, self.c, *many, out=end)
        found["steepest"] = new()
        v.combine(-0.25, g, None, (), out=found["steepest"])
        found["mixed"], found["mixed, free"] = new(self.reads[1]), new()
        v.combine(0.25, found["mixed"], None, (0.75,), x, out=found["mixed"])
        v.combine(0.25, g, free, (0.75,), x, out=found["mixed, free"])
        found["x"], found["m"], found["v"] = new(read_x), new(read_d), new(abs(read_x_next))
        v.adam(found["x"], g, found["m"], found["v"], **ADAM)
        return found

    def tolerances(self, book):
        """How far off each may be, from the operations that make it; 0 for all others."""
        x, g, d, _, _, free, *many = (abs(a) for a in self.reads)
        s, y, short = (abs(book[name]) for name in ("s", "y", "shortened"))
        m = len(many) // 2
        rows = np.array([a.reshape(-1) for a in (*many, g)])
        weighted, terms = rows * free.reshape(-1), np.tensordot(abs(self.c), many, 1) + 0.25 * g
        products = [a[:-1] @ a[m:].T for a in (rows, weighted)]
        found = {
            "dot": SUM * np.sum(x * g),
            "slope": SUM * np.sum(g * short),
            "longest": 2 * UNIT * book["longest"] if np.isfinite(book["longest"]) else 0,
            **{name: SUM * np.sum(a) for name, a in (("sy", s * y), ("ss", s * s), ("yy", y * y))},
            "products, all": (LONGEST + 2) * UNIT * products[0],
            "products, free": (LONGEST + 2) * UNIT * products[1],
            "step": 2 * UNIT * (x + 0.375 * d),
            "step without bounds": 2 * UNIT * (x + 0.375 * d),
            **dict.fromkeys(("combined, all", "combined, all, in place"), (len(many) + 2) * UNIT * terms),
            "combined, free": (len(many) + 2) * UNIT * terms * free,
            "mixed": 3 * UNIT * (0.25 * g + 0.75 * x),
            "mixed, free": 3 * UNIT * (0.25 * g + 0.75 * x) * free,
        }
        beta, (k1, k2) = ADAM["betas"][0], ADAM["corrections"]
        mean = beta * d + (1 - beta) * g
        found["m"], found["v"] = 3 * UNIT * mean, 4 * UNIT * book["v"]
        # The quotient: 4 units of v make 2 of its root; five more operations, and those of m
        rate = ADAM["learning_rate"] / k1 / (np.sqrt(book["v"] / k2) + ADAM["epsilon"])
        found["x"] = UNIT * (x + rate * mean) + 10 * UNIT * rate * mean
        return found


def agree(mine, book, tolerances):
    for name, expected in book.items():
        found, tolerance = np.asarray(mine[name], np.float64), tolerances.get(name, 0.0)
        if np.array_equal(found, expected):  # two infinities, too
            continue
        error = abs(found - expected)
        assert np.all(error <= tolerance), f"{name}: off by {np.max(error)}"


@each_shape
def test_every_operation_agrees_with_numpy_in_float64(machine, shape):
    case = Case(shape)
    mine, book = machine.check(case.on), case.in_float64()
    agree(dict(zip(case.names, mine, strict=True)), book, case.tolerances(book))


@each_shape
def test_sums_and_combinations_of_whole_numbers_are_exact(machine, shape):
    case = Case(shape, whole_numbers=True)
    mine, book = machine.check(case.on), case.in_float64()
    del book["x"]
    agree(dict(zip(case.names, mine, strict=True)), book, {"longest": 2 * UNIT * 8})


@pytest.mark.parametrize("m", [1, 2, 3, 4, 11, 20, 36, pytest.param(75, marks=pytest.mark.slow)])
def test_products_of_any_number_of_pairs_are_exact_for_whole_numbers(machine, m):
    size = 2500  # several pieces
    rng = np.random.default_rng(m)
    rows = rng.integers(-3, 4, (2 * m + 1, size)).astype(np.float32)
    free = rng.integers(0, 2, size).astype(np.float32)
    expected = (rows[:-1] * free).astype(float) @ rows[m:].T
    expected[:m, :m] = np.triu(expected[:m, :m])

    def run(device):
        v = CudaVectors(device)
        *many, q = (guarded(device, row)[0] for row in rows)
        weights = guarded(device, free)[0]
        first = v.pair_products(q, weights, *many)
        v.pair_products(weights, None, *many[:1], many[m])  # fewer pairs in the same scratch
        return first, v.pair_products(q, weights, *many)

    for got in machine.check(run):
        np.testing.assert_array_equal(got, expected)


def test_the_products_read_as_much_as_fits_into_shared_memory():
    for m in (1, 20, 35, 36, 73, 100, 500, vectors.MOST_PAIRS):
        chunk, shared = vectors._chunk(m)
        assert shared <= vectors.CHUNK_BYTES
        assert chunk == 128 or 4 * (2 * m + 1) * 2 * chunk > 0.9 * vectors.CHUNK_BYTES
    with pytest.raises(OptionError, match="at most 539 pairs on a GPU, got 540"):
        vectors._chunk(540)


def test_a_sum_that_nearly_cancels_keeps_its_digits(machine):
    rng = np.random.default_rng(0)
    x = np.concatenate([np.ones(500_000), rng.standard_normal(9), np.ones(500_000)]).astype(np.float32)
    y = np.concatenate([np.ones(500_000), np.full(9, 1e-3), -np.ones(500_000)]).astype(np.float32)
    exact = float(np.dot(x[500_000:500_009].astype(float), y[500_000:500_009].astype(float)))
    got = machine.check(lambda device: np.array(CudaVectors(device).dot(*(device.to_device(a) for a in (x, y)))))
    # Only the 4 products of a load are added in float32, and 9 + 3 of them are no whole numbers
    assert abs(got - exact) <= SUM * 12


@pytest.mark.parametrize("size", [5, 2001])
def test_nan_stays_nan(machine, size):
    def run(device):
        v, found = CudaVectors(device), []
        for at in (0, size // 2, size - 1):
            bad, good, out, m, s = (guarded(device, np.full(size, a))[0] for a in (1, 0.5, np.nan, 0, 0))
            values = np.ones(size, np.float32)
            values[at] = np.nan
            bad = guarded(device, values)[0]
            found += [v.max_abs(bad), v.dot(good, bad), v.free_elements(good, bad, 0.0, 1.0, out=out)[1]]
            found += [v.shorten(guarded(device, values)[0], good, good, 0.0, 1.0)[1]]
            v.step(good, 0.25, bad, 0.0, 1.0, out=out)
            v.clip(bad, 0.0, 0.75)
            v.adam(good, guarded(device, values)[0], m, s, **ADAM)
            for a in (out, bad, good):
                assert np.flatnonzero(np.isnan(device.to_host(a))).tolist() == [at]
            assert (np.delete(device.to_host(bad), at) == 0.75).all()
        return np.array(found)

    assert np.isnan(machine.check(run)).all()


def test_the_largest_magnitude_is_exact_for_every_number(machine):
    tiny, huge = np.float32(2.0**-149), np.finfo(np.float32).max
    for values, expected in (
        ([0, -tiny, tiny / 2], tiny),
        ([-0.0, 0], 0),
        ([1, -huge, 2], huge),
        ([1, -np.inf, 2], np.inf),
        ([1, -np.nan, np.inf], np.nan),
    ):
        a = np.array(values * 100, np.float32)
        got = machine.check(lambda device, a=a: np.array(CudaVectors(device).max_abs(device.to_device(a))))
        np.testing.assert_array_equal(got, expected)


def test_elements_are_held_only_on_a_bound_and_only_against_an_outward_pull(machine):
    x, g = [0.0, 0.0, 0.5, 1.0, 1.0, 0.0], np.array([1.0, -1.0, 1.0, -1.0, 1.0, 0.0])

    def run(device):
        v, out = CudaVectors(device), guarded(device, np.full(6, np.nan))[0]
        first = v.free_elements(guarded(device, x)[0], guarded(device, 3 * g)[0], 0.0, 1.0, out=out)
        second = v.free_elements(guarded(device, x)[0], guarded(device, g)[0], -np.inf, np.inf, out=out)
        v.free_elements(guarded(device, x)[0], guarded(device, g)[0], 0.0, 1.0, out=out)
        return np.array(first), np.array(second), device.to_host(out)

    first, second, out = machine.check(run)
    assert (*first, *second) == (2, 3.0, 0, 1.0)
    np.testing.assert_array_equal(out, [0, 1, 1, 0, 1, 1])


def test_a_step_ends_on_the_first_bound_met(machine):
    def shortened(*steps, lo=0.0, hi=1.0):
        def run(device):
            d, x, g = (guarded(device, a)[0] for a in (steps, [0.5, 0.25, 0.0, 1.0], np.ones(4)))
            longest, slope = CudaVectors(device).shorten(d, x, g, lo, hi)
            return np.array([longest, slope, *device.to_host(d)])

        return machine.check(run).tolist()

    assert shortened(0.125, -0.125, 0, 0) == [2.0, 0.0, 0.125, -0.125, 0, 0]
    assert shortened(2, 0, -3, 0) == [1.0, 0.5, 0.5, 0, 0, 0]
    assert shortened(0, 0, 0, 0) == [np.inf, 0.0, 0, 0, 0, 0]
    assert shortened(9, 9, 9, 9, lo=-np.inf, hi=np.inf) == [np.inf, 36.0, 9, 9, 9, 9]
    assert shortened(-1, 0, 0, 4, lo=-np.inf, hi=3.0) == [1.0, 1.0, -1, 0, 0, 2]


def test_no_bound_is_met_beyond_the_end_of_an_array(machine):
    def run(device):  # a box without 0, and one element more than a thread takes at a time
        d, x, g = (guarded(device, np.full(VECTOR + 1, a))[0] for a in (0.0625, 0.5, 2))
        return np.array(CudaVectors(device).shorten(d, x, g, 0.25, 0.75))

    assert machine.check(run).tolist() == [4.0, 0.125 * (VECTOR + 1)]


def test_arrays_that_the_kernels_would_misread_are_refused(machine):
    device = machine.devices[0]
    v, x = CudaVectors(device), device.to_device(np.zeros((4, 8), np.float32))
    wrong = {
        "got <class 'numpy.ndarray'>": np.zeros((4, 8), np.float32),
        "got float64": device.to_device(np.zeros((4, 8))),
        "with strides": device.to_device(np.zeros((4, 16), np.float32))[:, ::2],
        "multiples of 16 bytes": device.to_device(np.zeros(33, np.float32))[1:].reshape(4, 8),
    }
    for message, bad in wrong.items():
        for call in (
            lambda a: v.empty_like(a),
            lambda a: v.copy(x, a),
            lambda a: v.copy(a, x),
            lambda a: v.fill(a, 1.0),
            lambda a: v.dot(x, a),
            lambda a: v.step(x, 1.0, x, 0.0, 1.0, out=a),
            lambda a: v.pair_products(x, a, x, x),
            lambda a: v.pair_products(x, None, a, x),
            lambda a: v.combine(1.0, x, None, (1.0,), a, out=x),
        ):
            with pytest.raises(TypeError, match=message) as caught:
                call(bad)
            assert "\n" not in str(caught.value)
    with pytest.raises(ShapeError, match=r"one shape, \(4, 8\), got \(8, 4\)"):
        v.dot(x, x.reshape(8, 4))


# Of both: everything is loaded before anything is multiplied, and multiplied before the next chunk is loaded
BARRIERS = {
    "after": ("    }\n    __syncthreads();\n    if (share < sharers)", "    }\n    if (share < sharers)"),
    "before": (
        "{\n    __syncthreads();\n    for (int i = threadIdx.x; i < (2",
        "{\n    for (int i = threadIdx.x; i < (2",
    ),
    "neither": ("", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("missing", BARRIERS)
def test_a_missing_barrier_around_a_chunk_is_caught(stand_in, tmp_path, missing):
    read, (there, gone) = source.read(vectors.PAIRS), BARRIERS[missing]
    assert there in read.text
    (tmp_path / "broken.cu").write_text(read.text.replace(there, gone))
    rung = read if missing == "neither" else source.parse(tmp_path / "broken.cu", "broken/01_planted")
    m, rows = 2, np.arange(5 * 700).reshape(5, 700) % 7

    def run(device):
        arrays = [guarded(device, row)[0] for row in rows]
        table = device.to_device(np.array([device.address(a) for a in arrays]))
        products = device.to_device(np.full((1, 2, 16), np.nan))
        first = device.kernel(rung, "pair_products", THREADS=256, CHUNK=128)
        first((1, 1), 256, table, None, products, m, 2, 700, shared=vectors._chunk(m)[1])
        return device.to_host(products)

    def sound():
        return np.array_equal(stand_in.check(run)[0, 1].reshape(4, 4)[:2, :3], rows[2:4] @ rows[2:].T)

    if missing == "neither":
        assert sound()
    else:
        with pytest.raises(AssertionError):
            assert sound()


SANITIZED = """
import numpy as np
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from test_cuda_vectors import Case

device = OnCpuDevice(build=BUILD)
for size in (1, 33, 1025, 4097) if BUILD == "asan" else (1, 2049):  # races need several blocks
    Case((size,), pairs=6).on(device)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_operation_leaves_its_memory_or_races(build):
    done = run_sanitized(build, SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# ---- the optimizers, which touch arrays only through these ---------------------------------------------------------


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


def minimized(minimize, f, x0, device=None, **options):
    """The losses of all states, and the last x; on the host without a device."""
    losses, v = [], CudaVectors(device) if device else Vectors()

    def evaluate(x):
        loss, g = f(device.to_host(x) if device else x)
        return loss, device.to_device(g) if device else g

    start = device.to_device(x0) if device else x0
    found = minimize(evaluate, start, vectors=v, callback=lambda state: losses.append(state.loss), **options)
    return np.array(losses), device.to_host(found.x) if device else found.x


@pytest.mark.parametrize(("f", "bounds"), [(quadratic, None), (quadratic, (-0.5, 1.5)), (rosenbrock, (-2.0, 0.75))])
def test_lbfgs_takes_the_same_path_and_reaches_the_same_minimum(machine, f, bounds):
    x0 = np.full(50, -0.25, np.float32)
    options = {"max_evaluations": 200, "bounds": bounds, "tolerance_gradient": 1e-6, "history": 7}
    losses, x = machine.check(lambda device: minimized(minimize_lbfgs, f, x0, device, **options))
    book, x_book = minimized(minimize_lbfgs, f, x0, **options)
    np.testing.assert_allclose(losses[:5], book[:5], rtol=1e-5)
    assert losses[-1] == pytest.approx(book[-1], rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(x, x_book, rtol=0, atol=1e-3)


@pytest.mark.parametrize("f", [quadratic, rosenbrock])
def test_adam_takes_the_same_path(machine, f):
    x0 = np.full(50, -0.25, np.float32)
    options = {"max_evaluations": 100, "bounds": (-0.5, 0.75)}
    losses, x = machine.check(lambda device: minimized(minimize_adam, f, x0, device, **options))
    book, x_book = minimized(minimize_adam, f, x0, **options)
    np.testing.assert_allclose(losses[:10], book[:10], rtol=1e-5)
    np.testing.assert_allclose(x, x_book, rtol=0, atol=1e-3)
