"""The book: every operation against its equation, its gradient against differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstcore import ops
from nstcore.checks.gradcheck import check_every_element, relative_error
from nstcore.checks.layers import PREPROCESSING
from nstcore.checks.operations import cases
from nstcore.checks.samples import distinct
from nstcore.errors import OptionError, ShapeError

RNG = np.random.default_rng(7)
X = distinct(RNG, 3, 5, 6)
W = RNG.standard_normal((4, 3, 3, 3))
B = RNG.standard_normal(4)
F = distinct(RNG, 3, 10)
P = RNG.standard_normal((3, 10))
A = P @ P.T
PRE = PREPROCESSING
CASES = cases(seed=7)  # name of the backward -> (loss of x, its gradient, x)


@pytest.mark.parametrize("name", CASES)
def test_every_backward_is_the_gradient_of_its_forward(name):
    f, backward, x = CASES[name]
    check_every_element(f, backward(), x)


@pytest.mark.parametrize("name", CASES)
def test_a_flipped_sign_is_found(name):
    f, backward, x = CASES[name]
    with pytest.raises(AssertionError, match="relative error"):
        check_every_element(f, -backward(), x)


def test_every_backward_of_the_book_is_checked():
    checked = {name.split(",")[0] for name in CASES} | {"pool_backward"}
    assert {n for n in ops.__all__ if "_backward" in n} == checked


@pytest.mark.parametrize("padding", ops.PADDINGS)
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (3, 7), (8, 5)])
def test_convolution_and_its_backward_are_adjoint(padding, size):
    x = RNG.standard_normal((3, *size))
    dy = RNG.standard_normal((4, *size))
    left = np.vdot(ops.conv_forward(x, W, padding=padding), dy)
    right = np.vdot(x, ops.conv_backward(dy, W, padding))
    assert left == pytest.approx(right, rel=1e-12)


def test_average_pooling_and_preprocessing_are_adjoint_to_their_backward():
    x, dy = RNG.standard_normal((3, 5, 7)), RNG.standard_normal((3, 2, 3))
    left = np.vdot(ops.average_pool_forward(x), dy)
    assert left == pytest.approx(np.vdot(x, ops.average_pool_backward(dy, x.shape)), rel=1e-12)
    linear = ("bgr", 255.0, (0.0, 0.0, 0.0), (2.0, 3.0, 4.0))
    left = np.vdot(ops.preprocess_forward(x, *linear), x)
    assert left == pytest.approx(np.vdot(x, ops.preprocess_backward(x, *linear)), rel=1e-12)


def test_replicated_border_is_the_nearest_value():
    constant = np.full((3, 4, 4), 2.0)
    y = ops.conv_forward(constant, W, padding="replicate")
    np.testing.assert_allclose(y, np.broadcast_to(2 * W.sum(axis=(1, 2, 3))[:, None, None], y.shape), rtol=1e-12)


def test_of_equal_values_max_pooling_chooses_the_first():
    y, choice = ops.max_pool_forward(np.ones((1, 2, 2)))
    assert choice.item() == 0
    np.testing.assert_array_equal(ops.max_pool_backward(y, choice, (1, 2, 2)), [[[1, 0], [0, 0]]])


@pytest.mark.parametrize("kind", ops.POOLINGS)
def test_an_odd_last_row_and_column_get_no_gradient(kind):
    x = distinct(RNG, 2, 5, 7)
    y, choice = ops.pool_forward(x, kind)
    assert y.shape == (2, 2, 3)
    dx = ops.pool_backward(np.ones_like(y), x, y, choice, kind)
    assert not dx[:, 4].any()
    assert not dx[:, :, 6].any()


def test_l2_pooling_of_zeros_has_gradient_zero():
    zeros = np.zeros((1, 4, 4))
    y = ops.l2_pool_forward(zeros)
    assert not ops.l2_pool_backward(np.ones_like(y), zeros, y).any()


def test_relu_keeps_nan_so_that_it_is_noticed():
    assert np.isnan(ops.relu_forward(np.array([np.nan]))).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_every_operation_keeps_the_float_type(dtype):
    x, w, f = X.astype(dtype), W.astype(dtype), F.astype(dtype)
    y = ops.conv_forward(x, w, B.astype(dtype))
    g = ops.gram_forward(f)
    results = [y, ops.conv_backward(y, w), *ops.conv_backward_filters(y, x), ops.relu_forward(x), g]
    results += [ops.relu_backward(x, x), ops.gram_backward(g, f), ops.content_backward(f, f, 0.5)]
    results += [ops.style_backward(g, 3, g, 4, 0.5), ops.total_variation_backward(x, 0.5)]
    results += [ops.preprocess_forward(x, *PRE), ops.preprocess_backward(x, *PRE)]
    for kind in ops.POOLINGS:
        pooled, choice = ops.pool_forward(x, kind)
        results += [pooled, ops.pool_backward(pooled, x, pooled, choice, kind)]
    assert {r.dtype for r in results} == {np.dtype(dtype)}


@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_gram_is_symmetric_positive_and_blind_to_position(n, m, seed):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, m))
    G = ops.gram_forward(features)
    np.testing.assert_allclose(G, G.T, atol=1e-12)
    assert np.linalg.eigvalsh(G).min() >= -1e-10 * max(1, np.trace(G))
    shuffled = features[:, rng.permutation(m)]
    np.testing.assert_allclose(ops.gram_forward(shuffled), G, atol=1e-10)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(-10, 10))
def test_total_variation_of_a_constant_is_zero(height, width, value):
    x = np.full((3, height, width), value)
    assert ops.total_variation_forward(x, 3.0, 0.5) == 0
    assert not ops.total_variation_backward(x, 3.0, 0.5).any()


@given(st.integers(2, 9), st.integers(2, 9))
def test_pooling_takes_any_size(height, width):
    x = np.random.default_rng(0).random((2, height, width))
    for kind in ops.POOLINGS:
        y, choice = ops.pool_forward(x, kind)
        assert y.shape == (2, height // 2, width // 2)
        assert ops.pool_backward(y, x, y, choice, kind).shape == x.shape


def test_float32_stays_within_rounding_of_float64():
    y = ops.conv_forward(X, W, B)
    single = ops.conv_forward(*(a.astype(np.float32) for a in (X, W, B)))
    assert relative_error(single, y) < 27 * np.finfo(np.float32).eps


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.conv_forward(X, W[:, :2]),
        lambda: ops.conv_forward(X[0], W),
        lambda: ops.conv_forward(X, W, B[:2]),
        lambda: ops.conv_forward((X * 10).astype(np.int64), W),
        lambda: ops.conv_backward(X, W),
        lambda: ops.gram_backward(A[:2], F),
        lambda: ops.gram_forward(X),
        lambda: ops.content_forward(F, P[:, :4], 1.0),
        lambda: ops.max_pool_forward(X[:, :1]),
        lambda: ops.preprocess_forward(X[:2], *PRE),
        lambda: ops.relu_backward(X[:2], X),
    ],
)
def test_shapes_that_do_not_fit_are_refused_in_one_line(call):
    with pytest.raises(ShapeError, match=r"expected .* got") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.conv_forward(X, W, padding="mirror"),
        lambda: ops.conv_backward(ops.conv_forward(X, W), W, "mirror"),
        lambda: ops.pool_forward(X, "median"),
        lambda: ops.pool_backward(X, X, X, None, "median"),
        lambda: ops.pool_backward(X, X, X, None, "max"),
        lambda: ops.preprocess_forward(X, "rbg", *PRE[1:]),
    ],
)
def test_unknown_names_are_refused(call):
    with pytest.raises(OptionError, match=r"expected|needs"):
        call()
