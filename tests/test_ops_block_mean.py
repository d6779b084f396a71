"""The book's block means against the definition, one block after another, and their gradient as the adjoint."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstcore import ops
from nstcore.checks.gradcheck import check_every_element
from nstcore.errors import OptionError, ShapeError

# (C, H, W), k: sizes that k divides and that it does not, blocks of one pixel, a block larger than the picture
CASES = [
    *(((3, 6, 8), 2), ((3, 7, 8), 2), ((3, 6, 9), 2), ((2, 7, 10), 3), ((1, 5, 5), 4), ((3, 4, 9), 4)),
    *(((3, 5, 6), 1), ((3, 5, 6), 6), ((3, 5, 6), 10**12), ((2, 1, 7), 3), ((2, 7, 1), 3), ((1, 1, 1), 2)),
]
each_case = pytest.mark.parametrize(("shape", "k"), CASES)
U = 2.0**-53


def picture(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def by_definition(x, k):
    """Each block by itself."""
    _, H, W = x.shape
    blocks = [[x[:, p : p + k, q : q + k].mean(axis=(1, 2)) for q in range(0, W, k)] for p in range(0, H, k)]
    return np.array(blocks).transpose(2, 0, 1)


@each_case
def test_each_value_is_the_mean_of_its_block(shape, k):
    x = picture(shape)
    y = ops.block_mean_forward(x, k)
    assert y.shape == (shape[0], -(-shape[1] // k), -(-shape[2] // k))
    np.testing.assert_allclose(y, by_definition(x, k), rtol=0, atol=40 * U * np.abs(x).max())


@each_case
def test_the_backward_is_the_gradient_of_the_forward(shape, k):
    x = picture(shape)
    u = picture(ops.block_mean_forward(x, k).shape, seed=1)
    gradient = ops.block_mean_backward(u, k, shape)
    check_every_element(lambda a: float(np.vdot(u, ops.block_mean_forward(a, k))), gradient, x)


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.integers(1, 45))
def test_the_backward_is_the_adjoint_of_the_forward_for_any_size(channels, height, width, k):
    x = picture((channels, height, width))
    y = ops.block_mean_forward(x, k)
    dy = picture(y.shape, seed=1)
    there, back = np.vdot(dy, y), np.vdot(ops.block_mean_backward(dy, k, x.shape), x)
    assert abs(there - back) <= 1e-12 * np.linalg.norm(dy) * np.linalg.norm(y)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 33))
def test_blocks_weighed_by_their_pixels_keep_the_mean_of_the_picture(height, width, k):
    x = picture((3, height, width))
    pixels = [np.minimum(k, n - np.arange(0, n, k)) for n in (height, width)]
    total = np.einsum("chw,h,w->c", ops.block_mean_forward(x, k), *pixels)
    np.testing.assert_allclose(total, x.sum(axis=(1, 2)), rtol=0, atol=1e-13 * np.abs(x).sum())


def test_a_constant_picture_stays_that_constant_and_its_gradient_that_of_a_share():
    x = np.full((3, 7, 5), 0.75)
    y = ops.block_mean_forward(x, 3)
    np.testing.assert_array_equal(y, np.full((3, 3, 2), 0.75))
    dx = ops.block_mean_backward(np.ones_like(y), 3, x.shape)
    expected = np.outer([1 / 3] * 6 + [1], [1 / 3] * 3 + [1 / 2] * 2)
    np.testing.assert_allclose(dx, np.broadcast_to(expected, x.shape), rtol=4 * U)


def test_blocks_of_one_pixel_are_the_picture_itself_in_a_new_array():
    x = picture((3, 4, 5))
    y, dx = ops.block_mean_forward(x, 1), ops.block_mean_backward(x, 1, x.shape)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(dx, x)
    assert not np.shares_memory(y, x)
    assert not np.shares_memory(dx, x)


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_the_float_type_is_kept_and_arrays_are_contiguous(dtype, k):
    x = picture((3, 7, 8)).astype(dtype)
    y = ops.block_mean_forward(x, k)
    dx = ops.block_mean_backward(y, k, x.shape)
    for a in (y, dx):
        assert a.dtype == dtype
        assert a.flags.c_contiguous
    assert dx.shape == x.shape


def test_float32_stays_within_the_rounding_of_its_sums():
    x, k = picture((3, 67, 45)).astype(np.float32), 8
    wide, error = x.astype(np.float64), 2.0**-24
    # At most 7 additions and a division for the rows, and as many for the columns
    difference = np.abs(ops.block_mean_forward(x, k) - ops.block_mean_forward(wide, k))
    assert np.all(difference <= 16.01 * error * ops.block_mean_forward(np.abs(wide), k))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.block_mean_forward(np.ones((3, 4, 4)), 0), OptionError, "k: expected blocks of 1 pixel or more"),
        (lambda: ops.block_mean_backward(np.ones((3, 4, 4)), -2, (3, 4, 4)), OptionError, "got -2"),
        (lambda: ops.block_mean_forward(np.ones((4, 4)), 2), ShapeError, r"x: expected \(C, H, W\), got shape"),
        (lambda: ops.block_mean_forward(np.ones((3, 0, 4)), 2), ShapeError, "at least 1 row and 1 column"),
        (lambda: ops.block_mean_forward(np.ones((3, 4, 4), int), 2), ShapeError, "x: expected a floating-point"),
        (
            lambda: ops.block_mean_backward(np.ones((3, 2, 2)), 2, (3, 4, 5)),
            ShapeError,
            r"dy: expected \(3, 2, 3\) for blocks of 2 x 2 in \(3, 4, 5\), got \(3, 2, 2\)",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
