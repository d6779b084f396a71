"""Runs cut in two, and states carried to another size."""

from __future__ import annotations

import numpy as np
import pytest

from nstcore.engines.cpu import library
from nstcore.engines.cpu.library import Crew
from nstcore.engines.cpu.vectors import NativeVectors
from nstcore.errors import ShapeError
from nstcore.optim import AdamState, LBFGSState, Vectors, minimize_adam, minimize_lbfgs
from nstcore.optim.pairs import Pairs


def native():
    chosen = library.choose()[0]
    if chosen is None:
        pytest.skip("the native kernels are not built")
    return NativeVectors(chosen, Crew(chosen, 1))


each_vectors = pytest.mark.parametrize("make", [Vectors, native], ids=["numpy", "native"])
each_bounds = pytest.mark.parametrize("bounds", [None, (-0.8, 0.7)])


def valley(x):
    """Rosenbrock's function along x, in float64, the gradient rounded to x's dtype."""
    z = x.astype("float64").ravel()
    a, b = z[:-1], z[1:]
    g = np.zeros_like(z)
    g[:-1] = -400 * a * (b - a * a) - 2 * (1 - a)
    g[1:] += 200 * (b - a * a)
    return float(np.sum(100 * (b - a * a) ** 2 + (1 - a) ** 2)), g.reshape(x.shape).astype(x.dtype)


def start():
    return np.random.default_rng(0).uniform(-1, 1, (3, 20)).astype("float32")


class Trace(list):
    """Every iterate; ends the run after `iterations` of them."""

    def __init__(self, iterations=None):
        self.iterations = iterations

    def __call__(self, state):
        self.append((state.x.copy(), state.loss))
        return state.iterations == self.iterations


def same(one, cut):
    assert len(one) == len(cut)
    for (x, loss), (x_cut, loss_cut) in zip(one, cut, strict=True):
        np.testing.assert_array_equal(x_cut, x)
        assert loss_cut == loss


# -- Adam -------------------------------------------------------------------------------------------------------------


@each_vectors
@each_bounds
@pytest.mark.parametrize("cut", [1, 2, 30])
def test_adam_cut_in_two_makes_the_iterates_of_one_run_bit_for_bit(cut, bounds, make):
    one, first, second = Trace(), Trace(), Trace()
    options = {"bounds": bounds, "vectors": make()}
    whole = minimize_adam(valley, start(), max_evaluations=50, callback=one, **options)
    end = minimize_adam(valley, start(), max_evaluations=cut, callback=first, **options)
    assert end.state.t == end.iterations == cut - 1
    last = minimize_adam(valley, end.x, max_evaluations=51 - cut, state=end.state, callback=second, **options)
    same(one, first + second[1:])
    same(first[-1:], second[:1])
    assert last.state is end.state
    assert last.state.t == whole.state.t == 49
    np.testing.assert_array_equal(last.state.m, whole.state.m)
    np.testing.assert_array_equal(last.state.v, whole.state.v)
    assert (last.evaluations, last.iterations) == (51 - cut, 50 - cut)


def test_a_state_from_zero_is_no_state_and_is_updated_in_place():
    state = AdamState.zero(start())
    m, v = state.m, state.v
    a = minimize_adam(valley, start(), max_evaluations=20, state=state)
    b = minimize_adam(valley, start(), max_evaluations=20)
    np.testing.assert_array_equal(a.x, b.x)
    assert (state.t, state.m, state.v) == (19, m, v)
    np.testing.assert_array_equal(m, b.state.m)


def test_map_carries_adams_state_to_another_size_and_leaves_the_old_one():
    end = minimize_adam(valley, start(), max_evaluations=20)
    m, v = end.state.m.copy(), end.state.v.copy()
    grown = end.state.map(lambda a: np.repeat(a, 2, axis=1) / 2, lambda a: np.repeat(a, 2, axis=1) / 4)
    np.testing.assert_array_equal(grown.m[:, ::2], m / 2)
    np.testing.assert_array_equal(grown.v[:, 1::2], v / 4)
    assert grown.t == end.state.t == 19
    minimize_adam(valley, np.repeat(end.x, 2, axis=1), max_evaluations=5, state=grown)
    assert (grown.t, end.state.t) == (23, 19)
    np.testing.assert_array_equal(end.state.m, m)
    np.testing.assert_array_equal(end.state.v, v)


def test_adams_step_with_a_carried_state_is_that_of_the_equations():
    g, m, v, t = np.array([0.3, -2.0, 0.1]), np.array([1.0, -1.0, 0.0]), np.array([4.0, 1.0, 0.25]), 9
    end = minimize_adam(lambda x: (0.0, g), np.zeros(3), max_evaluations=2, state=AdamState(m.copy(), v.copy(), t))
    m_hat = (0.9 * m + 0.1 * g) / (1 - 0.9**10)
    v_hat = (0.99 * v + 0.01 * g**2) / (1 - 0.99**10)
    np.testing.assert_allclose(end.x, -0.02 * m_hat / (np.sqrt(v_hat) + 1e-8), rtol=1e-13)


# -- L-BFGS -----------------------------------------------------------------------------------------------------------


@each_vectors
@each_bounds
@pytest.mark.parametrize("cut", [0, 1, 3, 12])  # of 4 pairs: none, some, all places taken
def test_lbfgs_cut_between_two_steps_makes_the_iterates_of_one_run_bit_for_bit(cut, bounds, make):
    one, first, second = Trace(25), Trace(cut), Trace(25 - cut)
    options = {"bounds": bounds, "history": 4, "vectors": make(), "max_evaluations": 200}
    whole = minimize_lbfgs(valley, start(), callback=one, **options)
    end = minimize_lbfgs(valley, start(), callback=first, **options)
    assert len(end.state.pairs) == min(cut, 4)
    last = minimize_lbfgs(valley, end.x, state=end.state, callback=second, **options)
    same(one, first + second[1:])
    assert last.evaluations + end.evaluations == whole.evaluations + 1
    assert last.state is end.state
    for (s, y), (s_whole, y_whole) in zip(last.state.pairs, whole.state.pairs, strict=True):
        np.testing.assert_array_equal(s, s_whole)
        np.testing.assert_array_equal(y, y_whole)


def test_the_state_holds_the_last_steps_oldest_first():
    seen = Trace(6)
    end = minimize_lbfgs(valley, start().astype("float64"), max_evaluations=100, history=3, callback=seen)
    steps = np.diff([x for x, _ in seen], axis=0)[-3:]
    turns = np.diff([valley(x)[1] for x, _ in seen], axis=0)[-3:]
    assert len(end.state.pairs) == 3
    for (s, y), step, turn in zip(end.state.pairs, steps, turns, strict=True):
        np.testing.assert_array_equal(s, step)
        np.testing.assert_array_equal(y, turn)


def test_a_shorter_history_takes_the_newest_pairs_of_a_state():
    newest = minimize_lbfgs(valley, start(), max_evaluations=100, history=5, callback=Trace(9))
    some = LBFGSState([(s.copy(), y.copy()) for s, y in newest.state.pairs[-2:]])
    a, b = (
        minimize_lbfgs(valley, newest.x, max_evaluations=20, history=2, state=state) for state in (newest.state, some)
    )
    np.testing.assert_array_equal(a.x, b.x)


def test_the_arrays_of_a_state_become_the_runs_own_and_only_the_missing_ones_are_made():
    made = []

    class Counting(Vectors):
        def empty_like(self, x):
            made.append(x.shape)
            return super().empty_like(x)

    end = minimize_lbfgs(valley, start(), max_evaluations=100, callback=Trace(2))
    kept = list(end.state.pairs)
    last = minimize_lbfgs(
        valley, end.x, max_evaluations=3, history=4, state=end.state, callback=Trace(1), vectors=Counting()
    )
    assert len(made) == 6 + 2 * (4 - 2)
    for (s, y), (s_kept, y_kept) in zip(last.state.pairs, kept, strict=False):
        assert s is s_kept
        assert y is y_kept


def test_map_carries_the_pairs_and_those_it_leaves_without_curvature_are_passed_over():
    end = minimize_lbfgs(valley, start(), max_evaluations=100, history=4, callback=Trace(6))
    grown = end.state.map(lambda s: np.repeat(s, 2, axis=1), lambda y: np.repeat(y, 2, axis=1) / 2)
    for (s, y), (s_grown, y_grown) in zip(end.state.pairs, grown.pairs, strict=True):
        np.testing.assert_array_equal(s_grown[:, ::2], s)
        np.testing.assert_array_equal(y_grown[:, 1::2], y / 2)
    s, y = grown.pairs[1]
    grown.pairs[1] = s, -y
    pairs = Pairs(Vectors(), s, 4, grown)
    assert (len(pairs), grown.pairs) == (3, [])
    pairs.give_back(grown)
    assert len(grown.pairs) == 3
    assert not any(kept is s for kept, _ in grown.pairs)


def test_after_an_interrupt_a_state_has_no_pairs_that_a_run_has_overwritten():
    end = minimize_lbfgs(valley, start(), max_evaluations=100, callback=Trace(3))

    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimize_lbfgs(valley, end.x, max_evaluations=20, state=end.state, callback=interrupt)
    assert end.state.pairs == []


# -- both -------------------------------------------------------------------------------------------------------------


def test_a_state_of_another_shape_is_refused_in_one_line_and_left_as_it_was():
    x, wrong = np.zeros(3), np.ones((3, 1))
    pairs = LBFGSState([(x, x), (x, wrong)])
    for minimize, state, name in (
        (minimize_adam, AdamState(x, wrong, 1), "v"),
        (minimize_adam, AdamState(wrong, x, 1), "m"),
        (minimize_lbfgs, pairs, "y"),
    ):
        with pytest.raises(ShapeError, match=rf"state: expected {name} .* \(3,\), got \(3, 1\); carry it") as caught:
            minimize(lambda x: (0.0, x), x, max_evaluations=5, state=state)
        assert "\n" not in str(caught.value)
    assert len(pairs.pairs) == 2


# -- taken while a run goes on ----------------------------------------------------------------------------------------


@each_vectors
@each_bounds
@pytest.mark.parametrize("minimize", [minimize_adam, minimize_lbfgs])
def test_what_a_callback_copies_goes_on_bit_for_bit_as_the_run_itself(minimize, bounds, make):
    copies, whole, rest = [], Trace(), Trace()

    def copying(state):
        whole(state)
        if state.iterations == 12:
            kept = state.state.map(np.copy, np.copy)
            if minimize is minimize_lbfgs:
                kept.first_norm, kept.flat = state.state.first_norm, state.state.flat
            copies.append((state.x.copy(), kept, state.evaluations))

    options = {"bounds": bounds, "vectors": make()}
    end = minimize(valley, start(), max_evaluations=60, callback=copying, **options)
    (x, state, evaluations), *_ = copies
    last = minimize(valley, x, max_evaluations=61 - evaluations, state=state, callback=rest, **options)
    same(whole[12:], rest)
    assert (last.status, last.converged) == (end.status, end.converged)
    np.testing.assert_array_equal(last.x, end.x)
