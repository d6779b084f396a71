"""The two-loop recursion against the dense BFGS inverse Hessian."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nstcore.optim import Vectors
from nstcore.optim.pairs import GAMMA_FACTOR, Pairs


def pairs_of_a_walk(n, count, length, seed=0):
    rng = np.random.default_rng(seed)
    A = (lambda q: (q * np.geomspace(1, 50, n)) @ q.T)(np.linalg.qr(rng.standard_normal((n, n)))[0])
    pairs, kept = Pairs(Vectors(), np.empty(n), length), []
    for _ in range(count):
        x, x_next = rng.standard_normal((2, n))
        assert pairs.add(x, A @ x, x_next, A @ x_next)
        kept.append((x_next - x, A @ x_next - A @ x))
    return pairs, kept[-length:], rng


def dense_inverse(kept, n):
    """H by the BFGS update of the whole matrix (equation 6.17), from gamma I."""
    s, y = kept[-1]
    H = np.eye(n) * GAMMA_FACTOR * (s @ y) / (y @ y)
    for s, y in kept:
        V = np.eye(n) - np.outer(y, s) / (y @ s)
        H = V.T @ H @ V + np.outer(s, s) / (y @ s)
    return H


@pytest.mark.parametrize("count", [1, 4, 7, 23])
def test_the_two_loop_recursion_is_the_product_with_the_dense_bfgs_inverse(count):
    pairs, kept, rng = pairs_of_a_walk(n=30, count=count, length=7)
    g = rng.standard_normal(30)
    q = np.full(30, np.nan)
    assert pairs.multiply(1.0, g, out=q)
    expected = dense_inverse(kept, 30) @ g
    np.testing.assert_allclose(q, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_with_held_elements_it_is_the_dense_inverse_of_the_free_part():
    pairs, kept, rng = pairs_of_a_walk(n=30, count=9, length=7)
    free = rng.random(30) < 0.9
    usable = [(s[free], y[free]) for s, y in kept if s[free] @ y[free] > 1e-3]
    assert len(usable) == len(kept)
    g = rng.standard_normal(30)
    q = np.full(30, np.nan)
    assert pairs.multiply(-2.0, g, free.astype(float), out=q)
    expected = -2 * dense_inverse(usable, free.sum()) @ g[free]
    np.testing.assert_allclose(q[free], expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    np.testing.assert_array_equal(q[~free], 0.0)


def test_a_pair_without_curvature_on_the_free_elements_is_passed_over():
    pairs = Pairs(Vectors(), np.empty(3), 4)
    zero = np.zeros(3)
    assert pairs.add(zero, zero, np.array([1.0, 1.0, 0.0]), np.array([5.0, -2.0, 0.0]))
    out = np.array([7.0, 7.0, 7.0])
    assert not pairs.multiply(1.0, np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 1.0]), out=out)
    np.testing.assert_array_equal(out, 7.0)


@pytest.mark.parametrize("y", [[-1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [math.nan, 0.0]])
def test_a_pair_without_positive_curvature_is_not_kept(y):
    pairs = Pairs(Vectors(), np.empty(2), 3)
    assert not pairs.add(np.zeros(2), np.zeros(2), np.array([1.0, 0.0]), np.array(y))
    assert len(pairs) == 0
