"""Adam against the paper's equations, written here a second time."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from nstcore.errors import OptionError, RunError, ShapeError
from nstcore.optim import minimize_adam, minimize_lbfgs


def valley(x):
    """A smooth function of any shape with its minimum off the origin."""
    scale = np.linspace(0.5, 40, x.size).reshape(x.shape)
    e = x - np.linspace(-1, 1, x.size).reshape(x.shape)
    return float(np.sum(scale * e * e / 2 + np.cos(3 * e))), (scale * e - 3 * np.sin(3 * e)).astype(x.dtype)


def algorithm_1(gradient_of, theta, steps, alpha, beta1, beta2, epsilon, lo, hi):
    """Algorithm 1 of Kingma & Ba for one scalar parameter, as printed."""
    m = v = 0.0
    trace = [theta]
    for t in range(1, steps + 1):
        g = gradient_of(theta)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        theta = theta - alpha * m_hat / (math.sqrt(v_hat) + epsilon)
        theta = min(max(theta, lo), hi)
        trace.append(theta)
    return trace


@pytest.mark.parametrize("bounds", [None, (-0.2, 0.3)])
@pytest.mark.parametrize("epsilon", [1e-8, 0.1])
def test_every_iterate_is_that_of_the_papers_algorithm(bounds, epsilon):
    centres, scales, start = [0.7, -0.4, 0.05], [1.0, 30.0, 1e-3], [0.1, 0.2, -0.1]

    def f(x):
        g = np.array(scales) * (x - centres) + np.cos(5 * x)
        return float(np.sum(np.array(scales) * (x - centres) ** 2 / 2 + np.sin(5 * x) / 5)), g

    seen = []
    options = {"learning_rate": 0.03, "betas": (0.8, 0.95), "epsilon": epsilon, "bounds": bounds}
    minimize_adam(f, np.array(start), max_evaluations=60, callback=lambda s: seen.append(s.x.copy()), **options)
    lo, hi = bounds or (-math.inf, math.inf)
    for i in range(3):
        expected = algorithm_1(
            lambda z, i=i: scales[i] * (z - centres[i]) + math.cos(5 * z),
            start[i],
            59,
            0.03,
            0.8,
            0.95,
            epsilon,
            lo,
            hi,
        )
        np.testing.assert_allclose([x[i] for x in seen], expected, rtol=0, atol=1e-12)


def test_the_first_step_has_the_length_of_the_learning_rate():
    x = minimize_adam(lambda x: (0.0, np.array([5.0, -1e-3])), np.zeros(2), max_evaluations=2, learning_rate=0.1).x
    np.testing.assert_allclose(x, [-0.1, 0.1], rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_finds_the_minimum_of_an_ill_conditioned_bowl(dtype):
    scale = np.geomspace(1, 1e4, 50).reshape(2, 25).astype(dtype)
    f = lambda x: (float(np.sum(scale * (x - 0.5) ** 2)), 2 * scale * (x - 0.5))  # noqa: E731
    end = minimize_adam(f, np.zeros((2, 25), dtype), max_evaluations=600)
    assert end.x.dtype == dtype
    np.testing.assert_allclose(end.x, 0.5, atol=1e-3)


def test_the_loss_belongs_to_the_x_that_is_returned_and_f_is_called_exactly_as_often_as_allowed():
    for n in (1, 2, 17):
        calls = []
        x0 = np.linspace(-2, 2, 12).reshape(3, 4)
        kept = x0.copy()
        end = minimize_adam(lambda x, calls=calls: (calls.append(1), valley(x))[1], x0, max_evaluations=n)
        assert len(calls) == end.evaluations == n
        assert end.iterations == n - 1
        assert end.loss == valley(end.x)[0]
        np.testing.assert_array_equal(x0, kept)


def test_a_gradient_buffer_that_f_uses_again_does_no_harm():
    buffer = np.empty(12)

    def reusing(x):
        loss, buffer[...] = valley(x)
        return loss, buffer

    x0 = np.linspace(-2, 2, 12)
    a, b = (minimize_adam(f, x0, max_evaluations=30).x for f in (reusing, valley))
    np.testing.assert_array_equal(a, b)


def test_no_evaluation_is_outside_the_bounds_not_even_the_first():
    seen = []

    def f(x):
        seen.append((x.min(), x.max()))
        return valley(x)

    minimize_adam(f, np.linspace(-2, 2, 12), max_evaluations=80, bounds=(-0.5, 0.25), learning_rate=0.3)
    assert min(s[0] for s in seen) == -0.5
    assert max(s[1] for s in seen) == 0.25


def test_the_callback_sees_every_evaluation_and_may_end_the_run():
    states = []

    def callback(state):
        states.append((state.evaluations, state.iterations, state.loss))
        return state.evaluations == 7

    end = minimize_adam(valley, np.zeros(5), max_evaluations=100, callback=callback)
    assert [s[:2] for s in states] == [(i + 1, i) for i in range(7)]
    assert (end.evaluations, end.loss, end.status) == (7, states[-1][2], "stopped by the callback")


def test_an_interrupt_in_f_or_in_the_callback_comes_through():
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimize_adam(interrupt, np.zeros(3), max_evaluations=5)
    with pytest.raises(KeyboardInterrupt):
        minimize_adam(valley, np.zeros(3), max_evaluations=5, callback=interrupt)


def test_a_loss_that_is_not_finite_ends_the_run_with_one_line():
    def f(x):
        return (math.nan if x[0] < -0.05 else 1.0), np.ones(3)

    with pytest.raises(RunError, match=r"^the loss became nan at evaluation 4: .*lower the learning rate") as caught:
        minimize_adam(f, np.zeros(3), max_evaluations=50)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_evaluations", 0),
        ("max_evaluations", 2.5),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("betas", (0.9, 1.0)),
        ("epsilon", 0.0),
        ("bounds", (1.0, 0.0)),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option, value):
    with pytest.raises(OptionError, match=option):
        minimize_adam(valley, np.zeros(3), **{"max_evaluations": 5, option: value})


@pytest.mark.parametrize("x0", [[0.0, 0.0, 0.0], np.zeros(3, int)], ids=["list", "integers"])
@pytest.mark.parametrize("minimize", [minimize_adam, minimize_lbfgs])
def test_a_start_that_steps_would_be_rounded_in_is_refused(minimize, x0):
    with pytest.raises(ShapeError, match=r"x0: expected a floating-point ndarray, got (list|int64); pass"):
        minimize(valley, x0, max_evaluations=5)


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"expected the shape of x, \(3,\), got \(4,\)"):
        minimize_adam(lambda x: (0.0, np.zeros(4)), np.zeros(3), max_evaluations=5)


def test_iterations_allocate_nothing_of_the_size_of_x():
    x0 = np.full(500_000, 0.3)
    gradient = np.empty_like(x0)

    def f(x):
        np.subtract(x, 0.5, out=gradient)
        return float(np.dot(gradient, gradient)) / 2, gradient

    peaks = []

    def callback(state):
        if state.evaluations == 3:
            tracemalloc.start()
        elif state.evaluations > 3:
            peaks.append(tracemalloc.get_traced_memory()[1])

    minimize_adam(f, x0, max_evaluations=8, bounds=(0.0, 1.0), callback=callback)
    tracemalloc.stop()
    assert max(peaks) < x0.nbytes / 10
