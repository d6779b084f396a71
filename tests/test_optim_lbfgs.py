"""L-BFGS: convergence, the Wolfe conditions at every step, bounds, evaluations, buffers."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from nstcore.errors import OptionError, RunError, ShapeError
from nstcore.optim import Vectors, minimize_lbfgs

C1, C2 = 1e-4, 0.9


def rosenbrock(x):
    """sum 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2, computed in float64, the gradient rounded to x's dtype."""
    z = x.astype("float64").ravel()
    a, b = z[:-1], z[1:]
    g = np.zeros_like(z)
    g[:-1] = -400 * a * (b - a * a) - 2 * (1 - a)
    g[1:] += 200 * (b - a * a)
    loss = np.sum(100 * (b - a * a) ** 2 + (1 - a) ** 2)
    return float(x.dtype.type(loss)), g.reshape(x.shape).astype(x.dtype)


def quadratic(condition, n=60, seed=1):
    """(x - c)' A (x - c) / 2 with eigenvalues from 1 to `condition`."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A, c = (q * np.geomspace(1, condition, n)) @ q.T, rng.standard_normal(n)

    def f(x):
        e = x.astype("float64") - c
        return float(x.dtype.type(e @ A @ e / 2)), (A @ e).astype(x.dtype)

    return f, c


def start(n, dtype="float64"):
    x0 = np.full(n, -1.2, dtype)
    x0[1::2] = 1.0
    return x0


class Recorded:
    """Collects every iterate, and checks at the end that each step is what the callback said it is."""

    def __init__(self, f):
        self.f, self.states = f, []

    def __call__(self, state):
        self.states.append((state.x.copy(), state.loss, state.search))

    def check(self, bounds=None):
        """Re-evaluates f at both ends of every step; returns how the searches ended."""
        ends = Counter()
        for (x, loss, _), (x_next, loss_next, search) in pairwise(self.states):
            phi0, g0 = self.f(x)
            phi, g = self.f(x_next)
            assert (loss, loss_next) == (phi0, phi)
            assert (search.phi0, search.phi) == (phi0, phi)
            d = (x_next.astype("float64") - x) / search.step
            dphi0, dphi = float(np.sum(g0 * d)), float(np.sum(g * d))
            eps = float(np.finfo(x.dtype).eps)
            # x_next = x + step d is rounded: the slopes are known as well as d is
            rounding = 4 * eps * float(np.sum((abs(g) + abs(g0)) * (abs(x) + abs(x_next)))) / search.step
            assert dphi0 < 0
            assert search.dphi0 == pytest.approx(dphi0, rel=1e-4, abs=rounding)
            assert search.dphi == pytest.approx(dphi, rel=1e-4, abs=rounding)
            assert phi <= phi0
            if search.end == "wolfe":
                assert phi <= phi0 + C1 * search.step * dphi0 + C1 * search.step * rounding
                assert abs(dphi) <= C2 * abs(dphi0) + rounding
            elif search.end == "approximate wolfe":
                assert phi0 - phi <= 10 * eps * abs(phi0)
                assert C2 * dphi0 - rounding <= dphi <= (2 * C1 - 1) * dphi0 + rounding
            elif search.end == "segment end":
                lo, hi = bounds
                assert phi <= phi0 + C1 * search.step * dphi0 + C1 * search.step * rounding
                assert dphi < C2 * dphi0 + rounding
                beyond = x_next + 0.1 * search.step * d
                assert beyond.min() < lo or beyond.max() > hi
            ends[search.end] += 1
        return ends


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "evaluations"), [(2, 60), (100, 800)])
def test_rosenbrock_converges_with_strong_wolfe_at_every_step(n, evaluations, dtype):
    record = Recorded(rosenbrock)
    end = minimize_lbfgs(rosenbrock, start(n, dtype), max_evaluations=evaluations, callback=record)
    assert end.converged, end.status
    np.testing.assert_allclose(end.x, 1.0, atol=1e-4)
    ends = record.check()
    assert sum(ends.values()) == end.iterations
    assert ends["wolfe"] >= 0.98 * end.iterations
    assert end.evaluations <= 1.4 * end.iterations + 10


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_quadratic_of_condition_a_million_converges_with_strong_wolfe_at_every_step(dtype):
    f, c = quadratic(1e6)
    record = Recorded(f)
    x0 = np.zeros(c.size, dtype)
    end = minimize_lbfgs(f, x0, max_evaluations=3000, callback=record)
    assert end.loss <= 1e-8 * f(x0)[0]
    assert record.check()["wolfe"] >= 0.98 * end.iterations


def test_a_history_as_long_as_the_dimension_ends_a_quadratic_soon():
    f, c = quadratic(1e3, n=12)
    end = minimize_lbfgs(f, np.zeros(12), max_evaluations=100, history=14, tolerance_gradient=1e-9)
    assert end.converged
    np.testing.assert_allclose(end.x, c, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_a_bounded_quadratic_ends_where_scipys_does(condition, dtype):
    optimize = pytest.importorskip("scipy.optimize")
    f, c = quadratic(condition)
    record = Recorded(f)
    end = minimize_lbfgs(f, np.zeros(c.size, dtype), max_evaluations=400, bounds=(-0.5, 0.5), callback=record)
    record.check((-0.5, 0.5))
    options = {"maxfun": 10000, "maxiter": 10000, "ftol": 1e-15, "gtol": 1e-10}
    expected = optimize.minimize(
        f, np.zeros(c.size), jac=True, method="L-BFGS-B", bounds=[(-0.5, 0.5)] * c.size, options=options
    )
    on_bound = np.abs(expected.x) == 0.5
    assert on_bound.sum() > 10
    assert end.loss <= expected.fun * (1 + (1e-9 if dtype == "float64" else 1e-6))
    np.testing.assert_array_equal(end.x[on_bound], expected.x[on_bound])
    assert end.evaluations < 120


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bounds", [(-2.0, 0.8), (0.2, 0.9)])
@pytest.mark.parametrize("n", [2, 100])
def test_bounded_rosenbrock_ends_in_a_minimum_of_scipys_on_the_bounds(n, bounds, dtype):
    optimize = pytest.importorskip("scipy.optimize")
    x0 = np.full(n, 0.5, dtype)
    record = Recorded(rosenbrock)
    end = minimize_lbfgs(rosenbrock, x0, max_evaluations=900, bounds=bounds, callback=record)
    record.check(bounds)
    options = {"maxfun": 20000, "maxiter": 20000, "ftol": 1e-15, "gtol": 1e-9}
    expected = optimize.minimize(
        rosenbrock, x0.astype("float64"), jac=True, method="L-BFGS-B", bounds=[bounds] * n, options=options
    )
    assert end.loss == pytest.approx(expected.fun, rel=1e-8 if dtype == "float64" else 1e-6)
    np.testing.assert_allclose(end.x, expected.x, atol=1e-3)
    assert (end.x == dtype_of(end.x)(bounds[1])).any()


def dtype_of(x):
    return x.dtype.type


def test_no_evaluation_leaves_the_box():
    seen = []

    def f(x):
        seen.append((float(x.min()), float(x.max())))
        return rosenbrock(x)

    minimize_lbfgs(f, start(50, "float32"), max_evaluations=200, bounds=(-0.25, 0.75))
    assert min(s[0] for s in seen) == -0.25
    assert max(s[1] for s in seen) == 0.75


def test_one_bound_may_be_infinite():
    end = minimize_lbfgs(rosenbrock, start(2), max_evaluations=100, bounds=(-math.inf, 0.5))
    np.testing.assert_allclose(end.x, [0.5, 0.25], atol=1e-6)


def test_an_element_that_rounding_leaves_just_short_of_its_bound_counts_as_being_on_it():
    x0 = np.random.default_rng(0).uniform(-0.19, 0.35, 500).astype("float32")
    hi = np.float32(0.8)
    assert (x0 + (hi - x0) < hi).any()
    x0[0] = -100.0  # makes the first step 1 long: all others meet their bound in it
    g = np.full(500, -1.0, "float32")
    g[0] = 0.0
    end = minimize_lbfgs(lambda x: (float(-x[1:].sum()), g), x0, max_evaluations=20, bounds=(-math.inf, float(hi)))
    assert (end.evaluations, end.converged, end.gradient_norm) == (2, True, 0.0)


def test_where_every_element_is_held_the_start_is_the_minimum():
    end = minimize_lbfgs(lambda x: (float(x.sum()), np.ones_like(x)), np.zeros(4), max_evaluations=9, bounds=(0.0, 1.0))
    assert (end.evaluations, end.converged, end.gradient_norm) == (1, True, 0.0)


# -- evaluations, callbacks, failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("c2", [0.9, 0.001])  # a strict c2 makes long searches, which the limit cuts short
@pytest.mark.parametrize("limit", [*range(1, 16), 29])
def test_f_is_called_exactly_as_often_as_allowed_and_the_loss_belongs_to_x(limit, c2):
    calls = []

    def f(x):
        calls.append(rosenbrock(x)[0])
        return rosenbrock(x)

    x0 = start(20)
    kept = x0.copy()
    end = minimize_lbfgs(f, x0, max_evaluations=limit, c2=c2)
    assert len(calls) == end.evaluations == limit
    assert end.loss == rosenbrock(end.x)[0] == min(calls)
    assert end.status == "the evaluation limit was reached"
    np.testing.assert_array_equal(x0, kept)


def test_a_gradient_buffer_that_f_uses_again_does_no_harm():
    buffer = np.empty(20)

    def reusing(x):
        loss, buffer[...] = rosenbrock(x)
        return loss, buffer

    a, b = (minimize_lbfgs(f, start(20), max_evaluations=50, bounds=(-2, 2)).x for f in (reusing, rosenbrock))
    np.testing.assert_array_equal(a, b)


def test_the_shape_of_x_makes_no_difference():
    def shaped(x):
        loss, g = rosenbrock(x.ravel())
        return loss, np.asfortranarray(g.reshape(x.shape))

    a = minimize_lbfgs(rosenbrock, start(24), max_evaluations=40, bounds=(-1, 0.9)).x
    b = minimize_lbfgs(shaped, start(24).reshape(2, 3, 4), max_evaluations=40, bounds=(-1, 0.9)).x
    np.testing.assert_array_equal(a, b.ravel())


def test_the_callback_sees_the_start_and_every_iterate_and_may_end_the_run():
    states = []

    def callback(state):
        assert state.loss == rosenbrock(state.x)[0]
        states.append(state)
        return state.iterations == 6

    end = minimize_lbfgs(rosenbrock, start(10), max_evaluations=100, callback=callback)
    assert [s.iterations for s in states] == list(range(7))
    assert states[0].search is None
    assert all(s.search.step == s.step > 0 for s in states[1:])
    assert states[-1].evaluations == 1 + sum(s.search.evaluations for s in states[1:]) == end.evaluations
    assert all(b.loss < a.loss for a, b in pairwise(states))
    assert (end.status, end.loss) == ("stopped by the callback", states[-1].loss)


def test_an_interrupt_in_f_or_in_the_callback_comes_through():
    calls = []

    def f(x):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return rosenbrock(x)

    def callback(state):
        raise KeyboardInterrupt

    for g, c in ((f, None), (rosenbrock, callback)):
        with pytest.raises(KeyboardInterrupt):
            minimize_lbfgs(g, start(5), max_evaluations=50, callback=c)


def test_a_start_that_is_not_finite_is_refused_in_one_line():
    for loss, g in ((math.nan, np.ones(3)), (1.0, np.array([0.0, math.inf, 0.0]))):
        with pytest.raises(RunError, match=r"^the starting point: expected a finite loss and gradient") as caught:
            minimize_lbfgs(lambda x, loss=loss, g=g: (loss, g), np.zeros(3), max_evaluations=5)
        assert "\n" not in str(caught.value)


def test_places_where_f_is_not_finite_are_avoided():
    # -log is NaN or infinite from 0 on; its minimum with the linear term is at 1/200
    def f(x):
        with np.errstate(all="ignore"):
            return float(np.sum(200 * x - np.log(x))), 200 - 1 / x

    end = minimize_lbfgs(f, np.array([1.0, 3.0]), max_evaluations=100)
    np.testing.assert_allclose(end.x, 1 / 200, rtol=1e-5)


def test_a_gradient_with_the_wrong_sign_ends_soon_and_says_so():
    end = minimize_lbfgs(lambda x: (float(x @ x), -2 * x), np.ones(5), max_evaluations=500)
    assert end.status == "no step along the gradient lowers the loss any more"
    assert not end.converged
    assert end.evaluations < 30
    np.testing.assert_array_equal(end.x, 1.0)


def test_a_loss_that_rounding_has_flattened_ends_the_run():
    f, c = quadratic(1e4)

    def buried(x):  # the float32 near 1e6 are 1/16 apart
        loss, g = f(x)
        return float(np.float32(1e6 + loss)), g

    end = minimize_lbfgs(buried, np.zeros(c.size, np.float32), max_evaluations=3000, tolerance_gradient=0.0)
    assert end.evaluations < 1500
    assert not end.converged
    assert end.loss <= 1e6 + 10 * np.finfo("float32").eps * 1e6


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_evaluations", 0),
        ("history", 0),
        ("bounds", (1.0, 1.0)),
        ("c1", 0.95),
        ("c2", 1.0),
        ("tolerance_gradient", -1.0),
        ("tolerance_gradient", math.nan),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option, value):
    with pytest.raises(OptionError, match=option):
        minimize_lbfgs(rosenbrock, np.zeros(3), **{"max_evaluations": 5, option: value})


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"expected the shape of x, \(3,\), got \(3, 1\)"):
        minimize_lbfgs(lambda x: (0.0, np.zeros((3, 1))), np.zeros(3), max_evaluations=5)


# -- arrays -----------------------------------------------------------------------------------------------------------


class OnlyVectors:
    """An array that nothing but `Vectors` may calculate with, as an engine's would be."""

    def __init__(self, values):
        self._values, self.shape, self.dtype = values, values.shape, values.dtype


class ForeignVectors:
    """The methods of `Vectors` on foreign arrays; counts the arrays it makes."""

    def __init__(self):
        self.inner, self.made = Vectors(), 0

    def empty_like(self, x):
        self.made += 1
        return OnlyVectors(np.full(x.shape, np.nan, x.dtype))

    def __getattr__(self, name):
        method = getattr(self.inner, name)

        def call(*args, **kwargs):
            unwrap = lambda a: a._values if isinstance(a, OnlyVectors) else a  # noqa: E731
            return method(*map(unwrap, args), **{k: unwrap(a) for k, a in kwargs.items()})

        return call


@pytest.mark.parametrize("bounds", [None, (-2.0, 0.8)])
def test_arrays_are_touched_only_through_the_vectors_and_all_made_before_the_first_evaluation(bounds):
    vectors, made = ForeignVectors(), []

    def f(x):
        made.append(vectors.made)
        loss, g = rosenbrock(x._values)
        return loss, OnlyVectors(g)

    end = minimize_lbfgs(f, OnlyVectors(start(30)), max_evaluations=90, history=5, bounds=bounds, vectors=vectors)
    expected = minimize_lbfgs(rosenbrock, start(30), max_evaluations=90, history=5, bounds=bounds)
    np.testing.assert_array_equal(end.x._values, expected.x)
    assert set(made) == {vectors.made} == {2 * 5 + 6 + (bounds is not None)}


def test_iterations_allocate_nothing_of_the_size_of_x():
    x0 = np.random.default_rng(0).random(400_000)
    scale, gradient, peaks = np.geomspace(1, 1e3, x0.size), np.empty_like(x0), []

    def f(x):
        np.subtract(x, 0.95, out=gradient)
        loss = float(np.einsum("i,i,i->", gradient, gradient, scale)) / 2
        np.multiply(gradient, scale, out=gradient)
        return loss, gradient

    def callback(state):
        if state.iterations == 2:
            tracemalloc.start()
        elif state.iterations > 2:
            peaks.append(tracemalloc.get_traced_memory()[1])

    minimize_lbfgs(f, x0, max_evaluations=14, bounds=(0.0, 0.9), history=4, callback=callback)
    tracemalloc.stop()
    assert len(peaks) > 3
    assert max(peaks) < x0.nbytes / 10
