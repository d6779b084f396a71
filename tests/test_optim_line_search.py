"""The strong Wolfe line search on functions of one variable."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nstcore.optim.line_search import strong_wolfe


def more_thuente_1(a, beta=2.0):
    """-a / (a^2 + beta), minimum at sqrt(beta); function 1 of More & Thuente (1994)."""
    return -a / (a * a + beta), (a * a - beta) / (a * a + beta) ** 2


def more_thuente_2(a, beta=0.004):
    """(a + beta)^5 - 2 (a + beta)^4, minimum at 1.6 - beta; function 2."""
    t = a + beta
    return t**5 - 2 * t**4, 5 * t**4 - 8 * t**3


def more_thuente_3(a, beta=0.01, n=39):
    """|a - 1| smoothed, with oscillations on top; function 3."""
    phi = 1 - a if a <= 1 - beta else a - 1 if a >= 1 + beta else (a - 1) ** 2 / (2 * beta) + beta / 2
    slope = -1.0 if a <= 1 - beta else 1.0 if a >= 1 + beta else (a - 1) / beta
    w = n * math.pi / 2
    return phi + 2 * (1 - beta) / (n * math.pi) * math.sin(w * a), slope + (1 - beta) * math.cos(w * a)


def yanai(a, b1, b2):
    """Two slopes that meet: steep on one side, flat on the other; functions 4 to 6."""

    def gamma(b):
        return math.sqrt(1 + b * b) - b

    left, right = math.hypot(1 - a, b2), math.hypot(a, b1)
    return gamma(b1) * left + gamma(b2) * right, -gamma(b1) * (1 - a) / left + gamma(b2) * a / right


FUNCTIONS = {
    "1": more_thuente_1,
    "2": more_thuente_2,
    "3": more_thuente_3,
    "4": lambda a: yanai(a, 0.001, 0.001),
    "5": lambda a: yanai(a, 0.01, 0.001),
    "6": lambda a: yanai(a, 0.001, 0.01),
}


class Counted:
    def __init__(self, phi):
        self.phi, self.alphas = phi, []

    def __call__(self, alpha):
        self.alphas.append(alpha)
        return self.phi(alpha)


@pytest.mark.parametrize("c2", [0.9, 0.1])
@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_of_more_and_thuente_end_in_strong_wolfe_points(name, first, c2):
    phi = Counted(FUNCTIONS[name])
    phi0, dphi0 = phi.phi(0.0)
    search = strong_wolfe(phi, phi0, dphi0, first, c1=1e-4, c2=c2)
    assert search.end == "wolfe"
    value, slope = phi.phi(search.step)
    assert (search.phi, search.dphi, search.evaluations) == (value, slope, len(phi.alphas))
    assert value <= phi0 + 1e-4 * search.step * dphi0
    assert abs(slope) <= c2 * abs(dphi0)
    assert search.evaluations <= 14


def test_a_first_step_that_is_good_costs_one_evaluation():
    search = strong_wolfe(lambda a: ((a - 1.2) ** 2, 2 * (a - 1.2)), 1.44, -2.4)
    assert (search.step, search.evaluations, search.end) == (1.0, 1, "wolfe")


def test_the_cubic_finds_the_minimum_of_a_cubic_at_once():
    # phi = a^3 - 3 a has its minimum at 1; from the bracket [0, 3] one interpolation is exact
    phi = Counted(lambda a: (a**3 - 3 * a, 3 * a * a - 3))
    search = strong_wolfe(phi, 0.0, -3.0, 3.0, c2=1e-6)
    np.testing.assert_allclose(phi.alphas, [3.0, 1.0], rtol=1e-12)
    assert search.end == "wolfe"


def test_a_slope_that_stays_steep_to_the_end_of_the_segment_is_accepted_there_and_reported():
    phi = Counted(lambda a: (-a, -1.0))
    search = strong_wolfe(phi, 0.0, -1.0, 0.1, alpha_max=2.5)
    assert (search.step, search.end) == (2.5, "segment end")
    assert max(phi.alphas) == 2.5


def test_a_minimum_before_the_end_of_the_segment_is_a_wolfe_point():
    search = strong_wolfe(lambda a: ((a - 0.5) ** 2, 2 * (a - 0.5)), 0.25, -1.0, 1.0, c2=0.1, alpha_max=1.0)
    assert search.end == "wolfe"
    assert search.step == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_stepped_back_from(bad):
    search = strong_wolfe(lambda a: ((a - 1) ** 2, 2 * (a - 1)) if a < 1.5 else (bad, bad), 1.0, -2.0, 1000.0)
    assert search.end == "wolfe"
    assert search.step < 1.5


def test_a_finite_value_with_a_slope_that_is_not_is_no_place_to_stop():
    search = strong_wolfe(lambda a: ((a - 1) ** 2, 2 * (a - 1) if a < 0.7 else math.nan), 1.0, -2.0, 1.0)
    assert 0 < search.step < 0.7


@pytest.mark.parametrize("budget", [1, 2, 3, 5])
def test_the_budget_is_never_exceeded_and_the_lowest_point_seen_is_given(budget):
    phi = Counted(more_thuente_3)
    phi0, dphi0 = phi.phi(0.0)
    search = strong_wolfe(phi, phi0, dphi0, 1e-4, c2=1e-3, budget=budget)
    assert len(phi.alphas) == search.evaluations == budget
    assert search.end == "decrease"
    assert search.phi == min(phi.phi(a)[0] for a in phi.alphas)
    assert search.phi == phi.phi(search.step)[0]


def test_a_high_point_from_which_phi_falls_again_is_stepped_back_from():
    # a wave on a rising slope: at 0.62 phi is above phi(0) and falling
    phi = Counted(lambda a: (0.5 * a - 0.1 * math.sin(10 * a), 0.5 - math.cos(10 * a)))
    assert phi(0.62)[0] > 0 > phi(0.62)[1]
    search = strong_wolfe(phi, 0.0, -0.5, 0.62)
    assert search.end == "wolfe"
    assert search.step < 0.2
    assert max(phi.alphas) == 0.62


def test_a_minimum_at_the_foot_of_a_wall_is_closed_in_on():
    # the cubic sees the height of the wall at 1, and stays far away from its foot
    for steepness, foot, evaluations in ((1e2, 0.7, 8), (1e4, 0.95, 14)):

        def phi(a, k=steepness, foot=foot):
            beyond = max(0.0, a - foot)
            return -a + k * beyond**2, -1 + 2 * k * beyond

        search = strong_wolfe(phi, 0.0, -1.0, 1.0)
        assert search.end == "wolfe"
        assert search.evaluations <= evaluations


def test_a_direction_that_only_rises_fails_without_a_step():
    search = strong_wolfe(lambda a: (1 + a, -1.0), 1.0, -1.0, budget=8)
    assert (search.step, search.phi, search.end, search.evaluations) == (0.0, 1.0, "failed", 8)


def test_rounding_near_a_minimum_does_not_hide_a_good_slope():
    # around 1000 the values of float32 are 6e-5 apart: phi(0) - phi(1) = 5e-6 cannot be seen, the slopes can
    def phi(a):
        return float(np.float32(1000 + 5e-6 * (a - 1) ** 2)), 1e-5 * (a - 1)

    noise = 10 * float(np.finfo(np.float32).eps) * 1000
    search = strong_wolfe(phi, *phi(0.0), 0.8, noise=noise)
    assert (search.step, search.end, search.evaluations) == (0.8, "approximate wolfe", 1)
    assert strong_wolfe(phi, *phi(0.0), 0.8).end == "failed"  # not so without knowing of the rounding


def test_rounding_is_no_excuse_for_a_steep_slope_or_a_higher_value():
    too_short = strong_wolfe(lambda a: (0.0, -1e-9 if a < 2 else 0.0), 0.0, -1e-9, 1.0, noise=1e-6)
    assert too_short.step >= 2
    higher = strong_wolfe(lambda a: (1e-7, 0.0), 0.0, -1e-9, 1.0, noise=1e-6)
    assert higher.end == "failed"
