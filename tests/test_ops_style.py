"""The book's statistics of style: moments under a guide, covariance, matrix square root, and the losses made of them.

Their gradients are checked in test_ops.py, with those of every other operation.
"""

from __future__ import annotations

import numpy as np
import pytest

from nstcore import ops
from nstcore.checks.gradcheck import check_every_element, relative_error
from nstcore.checks.operations import EPSILON, StatisticsLoss
from nstcore.errors import ShapeError

RNG = np.random.default_rng(11)
N, M = 4, 15
F = RNG.standard_normal((N, M)) + 0.5
P = RNG.standard_normal((N, M))
GUIDE = RNG.random(M) * (np.arange(M) % 3 > 0)
DG, DS = RNG.standard_normal((N, N)), RNG.standard_normal(N)


def per_position(F, w=None):
    """Second moment and mean."""
    G, s = ops.moments_forward(F, w)
    total = F.shape[1] if w is None else w.sum()
    return G / total, s / total


SECOND, MEAN = per_position(F)
TARGET_SECOND, TARGET_MEAN = per_position(P + 0.3)
SHAPE = ops.covariance_forward(SECOND, MEAN)  # symmetric, positive definite
ROTATION = np.linalg.qr(DG)[0]
REPEATED = (ROTATION * [2.0, 2.0, 2.0, 1.0]) @ ROTATION.T


def loss_of(name, eps=EPSILON):
    return StatisticsLoss(name, TARGET_SECOND, TARGET_MEAN, eps)


LOSSES = {name: loss_of(name) for name in ("centred", "mean_std", "w2")}
each_loss = pytest.mark.parametrize("name", LOSSES)


@each_loss
@pytest.mark.parametrize("w", [None, GUIDE], ids=["whole", "guided"])
def test_a_loss_of_statistics_reaches_the_features_with_the_right_gradient(name, w):
    total = M if w is None else w.sum()
    dsecond, dmean = LOSSES[name].backward(*per_position(F, w))
    dF = ops.moments_backward(dsecond / total, dmean / total, F, w)
    check_every_element(lambda F: LOSSES[name].forward(*per_position(F, w)), dF, F)
    if w is not None:
        assert not dF[:, w == 0].any()


def test_moments_are_the_gram_matrix_of_what_the_guide_leaves():
    G, s = ops.moments_forward(F, GUIDE)
    np.testing.assert_allclose(G, ops.gram_forward(np.sqrt(GUIDE) * F), rtol=1e-12)
    hard = (GUIDE > 0.5).astype(np.float64)
    region = F[:, hard > 0]
    G, s = ops.moments_forward(F, hard)
    np.testing.assert_allclose(G, region @ region.T, rtol=1e-12)
    np.testing.assert_allclose(s, region.sum(axis=1), rtol=1e-12)
    G, s = ops.moments_forward(F)
    np.testing.assert_array_equal(G, ops.gram_forward(F))
    np.testing.assert_array_equal(ops.moments_backward(DG, np.zeros(N), F), ops.gram_backward(DG, F))


@pytest.mark.parametrize("w", [None, GUIDE], ids=["whole", "guided"])
def test_moments_and_their_backward_are_adjoint(w):
    """G is quadratic: its derivative along V is the difference of two values, exactly."""
    V = RNG.standard_normal(F.shape)
    (G, s), (below, low) = ops.moments_forward(F + V, w), ops.moments_forward(F - V, w)
    left = np.vdot((G - below) / 2, DG) + (s - low) @ DS / 2
    assert left == pytest.approx(np.vdot(V, ops.moments_backward(DG, DS, F, w)), rel=1e-12)


def test_a_covariance_is_the_gram_matrix_of_the_centred_features():
    centred = F - F.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(SHAPE, ops.gram_forward(centred) / M, rtol=1e-12)
    # a constant added to a channel changes nothing
    np.testing.assert_allclose(ops.covariance_forward(*per_position(F + 3)), SHAPE, rtol=1e-10)


@pytest.mark.parametrize("C", [SHAPE, REPEATED, np.eye(3), np.diag([4.0, 0.0, 1.0]), np.zeros((2, 2)), np.ones((5, 5))])
def test_a_matrix_square_root_squares_to_the_matrix(C):
    S, (U, root) = ops.matrix_sqrt_forward(C)
    np.testing.assert_allclose(S @ S, C, atol=1e-14 * max(1, np.abs(C).max()) * len(C))
    np.testing.assert_array_equal(S, S.T)
    assert root.min() >= 0
    assert np.isfinite(ops.matrix_sqrt_backward(np.ones_like(C), (U, root))).all()


def test_the_gradient_of_a_matrix_square_root_solves_the_lyapunov_equation_and_is_its_own_adjoint():
    S, roots = ops.matrix_sqrt_forward(SHAPE)
    D, E = DG + DG.T, np.outer(DS, DS)
    X = ops.matrix_sqrt_backward(D, roots)
    np.testing.assert_allclose(S @ X + X @ S, D, atol=1e-12 * np.abs(D).max())
    assert np.vdot(X, E) == pytest.approx(np.vdot(D, ops.matrix_sqrt_backward(E, roots)), rel=1e-12)


def test_where_a_matrix_square_root_has_no_derivative_the_gradient_is_zero():
    _, roots = ops.matrix_sqrt_forward(np.diag([4.0, 0.0, 0.0]))
    np.testing.assert_allclose(
        ops.matrix_sqrt_backward(np.ones((3, 3)), roots), [[1 / 4, 1 / 2, 1 / 2], [1 / 2, 0, 0], [1 / 2, 0, 0]]
    )


def test_eigenvalues_that_rounding_made_are_taken_as_zero():
    """A rank-one matrix of 200 channels: the other 199 eigenvalues are noise of either sign."""
    v = np.random.default_rng(0).standard_normal(200)
    _, (_, root) = ops.matrix_sqrt_forward(np.outer(v, v))
    assert np.count_nonzero(root) == 1


@each_loss
def test_a_style_has_distance_zero_from_itself(name):
    loss = LOSSES[name]
    size = float(np.square(TARGET_SECOND).sum())
    assert abs(loss.forward(TARGET_SECOND, TARGET_MEAN)) <= 1e-14 * size
    for gradient in loss.backward(TARGET_SECOND, TARGET_MEAN):
        np.testing.assert_allclose(gradient, 0, atol=1e-12)


def w2(first, second, eps=0.0):
    """Squared Wasserstein distance of two Gaussians (covariance, mean)."""
    (C, mean), (C_target, target) = first, second
    R, trace = ops.w2_target(C_target + np.outer(target, target), target, eps)
    return ops.w2_forward(C + np.outer(mean, mean), mean, R, target, trace, 1.0, eps)[0]


def test_the_wasserstein_distance_is_symmetric():
    a, b = (SHAPE, MEAN), (ops.covariance_forward(TARGET_SECOND, TARGET_MEAN), TARGET_MEAN)
    assert w2(a, b) == pytest.approx(w2(b, a), rel=1e-10)
    assert w2(a, b) > 0.1


def test_the_wasserstein_distance_of_commuting_covariances_compares_standard_deviations():
    a, b = np.array([4.0, 1.0, 0.25, 9.0]), np.array([1.0, 2.0, 0.0, 9.0])
    first, second = ((ROTATION * values) @ ROTATION.T for values in (a, b))
    expected = np.square(np.sqrt(a) - np.sqrt(b)).sum() + np.square(MEAN - TARGET_MEAN).sum()
    assert w2((first, MEAN), (second, TARGET_MEAN)) == pytest.approx(expected, rel=1e-12)


@each_loss
@pytest.mark.parametrize("eps", [0.0, EPSILON])
@pytest.mark.parametrize("case", ["nothing at all", "a constant", "one constant channel"])
def test_features_that_do_not_vary_have_a_finite_gradient(name, eps, case):
    flat = {"nothing at all": np.zeros((N, M)), "a constant": np.full((N, M), 0.1), "one constant channel": F.copy()}[
        case
    ]
    flat[0] = flat[0, 0]
    loss = loss_of(name, eps)
    assert np.isfinite(loss.forward(*per_position(flat)))
    for gradient in loss.backward(*per_position(flat)):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() < 1e3


def test_total_variation_of_a_diagonal_edge_counts_both_diagonals_inside_the_picture_only():
    x = np.zeros((1, 3, 3))
    x[0, 0, 0] = 2.0
    assert ops.total_variation_forward(x, 1.0) == 2 * 4
    assert ops.total_variation_forward(x, 1.0, 0.5) == 2 * 4 + 0.5 * 4
    x = np.zeros((1, 3, 3))
    x[0, 1, 1] = 2.0
    assert ops.total_variation_forward(x, 1.0, 0.5) == 4 * 4 + 0.5 * 4 * 4


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_statistics_keep_the_float_type(dtype):
    f, w, mean, dG, ds, second = (a.astype(dtype) for a in (F, GUIDE, MEAN, DG, DS, SECOND))
    C = ops.covariance_forward(second, mean)
    S, roots = ops.matrix_sqrt_forward(C)
    R, trace = ops.w2_target(second, mean, 0.5)
    sigma = ops.standard_deviations(second, mean, 0.5)
    _, cache = ops.w2_forward(second, mean, R, mean, trace, 0.5, 0.5)
    results = [*ops.moments_forward(f, w), ops.moments_backward(dG, ds, f, w), ops.content_backward(f, f, 0.5, w)]
    results += [C, *ops.covariance_backward(C, mean), S, ops.matrix_sqrt_backward(S, roots), R, sigma]
    results += [
        *ops.centred_backward(second, mean, C, 0.5),
        *ops.mean_std_backward(second, mean, mean, sigma, 0.5, 0.5),
    ]
    results += [*ops.w2_backward(cache), ops.total_variation_backward(f[None], 0.5, 0.5)]
    assert {r.dtype for r in results} == {np.dtype(dtype)}


@each_loss
def test_float32_stays_within_rounding_of_float64(name):
    """The loss of a thousandth of the style's size is not lost in rounding."""
    single = [a.astype(np.float32) for a in (SECOND, MEAN)]
    assert LOSSES[name].forward(*single) == pytest.approx(LOSSES[name].forward(SECOND, MEAN), rel=1e-5)
    for mine, exact in zip(LOSSES[name].backward(*single), LOSSES[name].backward(SECOND, MEAN), strict=True):
        assert relative_error(mine, exact) <= 1e-5


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.moments_forward(F, GUIDE[:3]),
        lambda: ops.moments_backward(DG[:2], DS, F),
        lambda: ops.moments_backward(DG, DS[:2], F),
        lambda: ops.content_forward(F, P, 1.0, GUIDE[:3]),
        lambda: ops.covariance_forward(SECOND, MEAN[:2]),
        lambda: ops.covariance_backward(DG[:2], MEAN),
        lambda: ops.matrix_sqrt_forward(F),
        lambda: ops.matrix_sqrt_backward(DG[:2], ops.matrix_sqrt_forward(SHAPE)[1]),
        lambda: ops.centred_forward(SECOND, MEAN, SHAPE[:2], 1.0),
        lambda: ops.mean_std_forward(SECOND, MEAN, TARGET_MEAN[:2], MEAN, 1.0, EPSILON),
        lambda: ops.mean_std_backward(SECOND, MEAN, TARGET_MEAN, MEAN[:2], 1.0, EPSILON),
        lambda: ops.w2_forward(SECOND, MEAN, SHAPE[:2], TARGET_MEAN, 1.0, 1.0, EPSILON),
        lambda: ops.w2_forward(SECOND, MEAN, SHAPE, TARGET_MEAN[:2], 1.0, 1.0, EPSILON),
    ],
)
def test_shapes_that_do_not_fit_are_refused_in_one_line(call):
    with pytest.raises(ShapeError, match=r"expected .* got") as caught:
        call()
    assert "\n" not in str(caught.value)
