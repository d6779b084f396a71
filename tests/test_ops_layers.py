"""The book's layers of feed-forward networks against their definitions, written out term by term."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstcore import ops
from nstcore.errors import OptionError, ShapeError
from nstcore.ops import conv

RNG = np.random.default_rng(11)
U = 2.0**-53
DTYPES = [np.float16, np.float32, np.float64, np.longdouble]

# (C, K), (H, W), (R, S), stride, ((top, bottom), (left, right)): odd and even, a border wider than the picture
GEOMETRIES = [
    ((1, 1), (1, 1), (1, 1), 1, None),
    ((2, 3), (3, 4), (3, 3), 1, None),
    ((3, 2), (5, 4), (1, 1), 2, None),
    ((1, 2), (6, 5), (3, 3), 2, ((0, 1), (1, 1))),
    ((2, 1), (5, 7), (2, 3), 3, ((1, 0), (2, 3))),
    ((1, 1), (3, 2), (5, 9), 1, None),
    ((1, 2), (1, 2), (3, 3), 1, ((4, 7), (9, 0))),
    ((2, 2), (4, 5), (4, 5), 1, ((0, 0), (0, 0))),
]


def drawn(*shape):
    return RNG.standard_normal(shape)


def mirrored(i, n):
    """Where a ball that starts in 0 and bounces off 0 and n - 1 is after i steps."""
    while n > 1 and not 0 <= i < n:
        i = -i if i < 0 else 2 * (n - 1) - i
    return i if n > 1 else 0


def at(x, c, i, j, padding):
    """x[c, i, j], also outside."""
    _, H, W = x.shape
    if padding == "zero":
        return x[c, i, j] if 0 <= i < H and 0 <= j < W else 0.0
    if padding == "replicate":
        return x[c, min(max(i, 0), H - 1), min(max(j, 0), W - 1)]
    return x[c, mirrored(i, H), mirrored(j, W)]


def sum_of(x, filters, channels, p, q, stride, padding, amounts):
    """One number of y, without the bias: filters (channels, R, S)."""
    _, R, S = filters.shape
    (top, _), (left, _) = amounts or ((R // 2, R // 2), (S // 2, S // 2))
    return sum(
        filters[n, r, s] * at(x, c, stride * p + r - top, stride * q + s - left, padding)
        for n, c in enumerate(channels)
        for r in range(R)
        for s in range(S)
    )


# -- convolutions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ops.PADDINGS)
@pytest.mark.parametrize(("channels", "size", "kernel", "stride", "amounts"), GEOMETRIES)
def test_a_convolution_equals_its_sum_term_by_term(channels, size, kernel, stride, amounts, padding):
    C, K = channels
    x, w, b = drawn(C, *size), drawn(K, C, *kernel), drawn(K)
    y = ops.conv_forward(x, w, b, padding, stride, amounts)
    around = amounts or tuple((n // 2, n // 2) for n in kernel)
    assert y.shape == (K, *((n + sum(a) - k) // stride + 1 for n, k, a in zip(size, kernel, around, strict=True)))
    for k, p, q in np.ndindex(y.shape):
        expected = b[k] + sum_of(x, w[k], range(C), p, q, stride, padding, amounts)
        assert y[k, p, q] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("padding", ops.PADDINGS)
@pytest.mark.parametrize(("channels", "size", "kernel", "stride", "amounts"), GEOMETRIES)
def test_a_depthwise_convolution_equals_its_sum_term_by_term(channels, size, kernel, stride, amounts, padding):
    C = max(channels)
    x, w, b = drawn(C, *size), drawn(C, *kernel), drawn(C)
    y = ops.depthwise_forward(x, w, b, padding, stride, amounts)
    for c, p, q in np.ndindex(y.shape):
        expected = b[c] + sum_of(x, w[c : c + 1], [c], p, q, stride, padding, amounts)
        assert y[c, p, q] == pytest.approx(expected, rel=1e-12, abs=1e-12)
    # The same as filters that are 0 for every channel but one
    full = np.zeros((C, C, *kernel))
    full[np.arange(C), np.arange(C)] = w
    np.testing.assert_allclose(y, ops.conv_forward(x, full, b, padding, stride, amounts), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_same_is_as_many_outputs_as_steps_fit_and_no_more_border_than_that_needs(H, W, R, S, stride):
    for n, kernel, amounts in zip((H, W), (R, S), conv.same_amounts(H, W, R, S, stride), strict=True):
        before, after = amounts
        outputs = -(-n // stride)
        assert conv.outputs(n, kernel, stride, amounts) == outputs
        assert after - before in (0, 1)
        assert before + after == 0 or (outputs - 1) * stride + kernel == n + before + after


def test_same_puts_the_odd_position_behind():
    assert conv.same_amounts(224, 225, 3, 3, 2) == ((0, 1), (1, 1))
    assert conv.same_amounts(5, 5, 1, 2, 1) == ((0, 0), (0, 1))


AMOUNTS = st.tuples(*[st.tuples(st.integers(0, 9), st.integers(0, 9))] * 2)


@given(st.sampled_from(ops.PADDINGS), st.integers(1, 5), st.integers(1, 5), AMOUNTS)
def test_a_border_and_its_backward_are_adjoint_however_wide_it_is(padding, H, W, amounts):
    x = np.random.default_rng(0).standard_normal((2, H, W))
    xp = conv.pad(x, padding, amounts)
    (top, _), (left, _) = amounts
    for c, i, j in np.ndindex(xp.shape):
        assert xp[c, i, j] == at(x, c, i - top, j - left, padding)
    dxp = np.random.default_rng(1).standard_normal(xp.shape)
    assert np.vdot(xp, dxp) == pytest.approx(np.vdot(x, conv.unpad(dxp, padding, amounts)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("size", [(4, 5), (5, 5), (5, 6)])
def test_steps_leave_out_positions_and_these_get_no_gradient(size):
    """Several sizes have one y; the backward pass is told which."""
    w = drawn(2, 3, 1, 1)
    y = ops.conv_forward(drawn(3, *size), w, None, "zero", 2)
    dx = ops.conv_backward(np.ones_like(y), w, "zero", 2, size=size)
    assert dx.shape == (3, *size)
    assert dx[:, ::2, ::2].all()
    assert not dx[:, 1::2].any()
    assert not dx[:, :, 1::2].any()


# -- activations -------------------------------------------------------------------------------------------------------


def test_activations_keep_nan_and_end_where_they_should():
    x = np.array([-np.inf, -1.0, 0.0, 5.5, 6.0, 7.0, np.inf, np.nan])
    np.testing.assert_array_equal(ops.relu6_forward(x), [0, 0, 0, 5.5, 6, 6, 6, np.nan])
    np.testing.assert_array_equal(ops.relu6_backward(np.ones(7), ops.relu6_forward(x[:7])), [0, 0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(ops.sigmoid_forward(x[[0, 2, 6, 7]]), [0, 0.5, 1, np.nan])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sigmoid_is_its_definition_for_every_x(dtype):
    lowest = np.log(np.finfo(dtype).tiny)
    x = np.concatenate([np.linspace(lowest, -lowest, 20001), RNG.standard_normal(1000)]).astype(dtype)
    with np.errstate(over="raise", invalid="raise"):
        y = ops.sigmoid_forward(x)
        ops.sigmoid_forward(np.array([-1e30, 1e30], dtype))
    exact = 1 / (1 + np.exp(-x.astype(np.longdouble)))
    # Half a unit for the sum and for the quotient, at most one for the exponential in both of them
    assert np.all(np.abs(y - exact) <= 3.01 * np.finfo(dtype).eps * exact)


@given(st.floats(-300, 300))
def test_the_sigmoid_turned_round_is_what_is_missing_to_one(x):
    y, turned = ops.sigmoid_forward(np.array([x, -x]))
    assert abs(y + turned - 1) <= 2 * U
    dx = ops.sigmoid_backward(np.ones(2), np.array([y, turned]))
    assert abs(dx[0] - y * turned) <= 6 * U * y, "1 - y is off by the three roundings of y, and two products"


# -- normalisation -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1e-5, 1e-3, 1.0]))
def test_a_normalised_channel_has_the_mean_and_the_deviation_it_is_told_to_have(C, H, W, epsilon):
    rng = np.random.default_rng(C * 49 + H * 7 + W)
    x, scale, shift = rng.standard_normal((C, H, W)) * 3 + 2, rng.standard_normal(C), rng.standard_normal(C)
    y = ops.instance_norm_forward(x, scale, shift, epsilon)
    variance = x.var(axis=(1, 2))
    np.testing.assert_allclose(y.mean(axis=(1, 2)), shift, rtol=0, atol=1e-13)
    np.testing.assert_allclose(
        y.std(axis=(1, 2)), np.abs(scale) * np.sqrt(variance / (variance + epsilon)), rtol=1e-12, atol=1e-12
    )
    wide = x.astype(np.longdouble)
    for c in range(C):
        mean = wide[c].sum() / (H * W)
        sigma = np.sqrt(((wide[c] - mean) ** 2).sum() / (H * W) + epsilon)
        np.testing.assert_allclose(y[c], scale[c] * (wide[c] - mean) / sigma + shift[c], rtol=1e-12, atol=1e-11)


def test_scaled_and_shifted_as_another_picture_it_is_adain():
    content, style = drawn(3, 8, 9), 2 * drawn(3, 5, 4) + 1
    y = ops.instance_norm_forward(content, style.std(axis=(1, 2)), style.mean(axis=(1, 2)), 0.0)
    np.testing.assert_allclose(y.mean(axis=(1, 2)), style.mean(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(y.std(axis=(1, 2)), style.std(axis=(1, 2)), rtol=1e-12)
    for first, second in zip(y, content, strict=True):
        assert np.corrcoef(first.ravel(), second.ravel())[0, 1] == pytest.approx(1, abs=1e-12), "where is what stays"


def test_normalisation_does_not_see_brightness_and_contrast_nor_does_its_gradient():
    x, scale, shift, dy = drawn(2, 6, 7), drawn(2), drawn(2), drawn(2, 6, 7)
    y = ops.instance_norm_forward(x, scale, shift, 0.0)
    np.testing.assert_allclose(ops.instance_norm_forward(3 * x + 5, scale, shift, 0.0), y, rtol=0, atol=1e-12)
    dx = ops.instance_norm_backward(dy, x, scale, 0.0)[0]
    assert np.all(np.abs(dx.sum(axis=(1, 2))) < 1e-12), "brighter everywhere changes nothing"
    assert np.all(np.abs((dx * x).sum(axis=(1, 2))) < 1e-12), "and neither does more contrast"


def test_a_constant_channel_becomes_its_shift():
    y = ops.instance_norm_forward(np.full((2, 3, 4), 0.75), np.array([5.0, -1.0]), np.array([2.0, 3.0]), 1e-5)
    np.testing.assert_array_equal(y, np.broadcast_to([[[2.0]], [[3.0]]], y.shape))
    dx, dscale, _ = ops.instance_norm_backward(np.ones((2, 3, 4)), np.full((2, 3, 4), 0.75), np.ones(2), 1e-5)
    assert not dx.any()
    assert not dscale.any()


# -- resizing, averages, vectors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "row", "count", "expected"),
    [
        ("nearest", [1, 2], 4, [1, 1, 2, 2]),
        ("nearest", [1, 2], 3, [1, 1, 2]),
        ("nearest", [1, 2, 3], 2, [1, 2]),
        ("nearest", [1, 2, 3, 4, 5, 6, 7], 3, [1, 3, 5]),
        ("nearest", [5], 3, [5, 5, 5]),
        ("bilinear", [0, 4], 4, [0, 1, 3, 4]),
        ("bilinear", [0, 6], 3, [0, 3, 6]),
        ("bilinear", [0, 4, 8], 2, [1, 7]),
        ("bilinear", [1, 2, 3, 9], 1, [2.5]),
        ("bilinear", [0, 2, 8], 6, [0, 0.5, 1.5, 3.5, 6.5, 8]),
        ("bilinear", [5], 3, [5, 5, 5]),
    ],
)
def test_a_small_picture_is_resized_as_by_hand(kind, row, count, expected):
    forward = {"nearest": ops.resize_nearest_forward, "bilinear": ops.resize_bilinear_forward}[kind]
    x = np.array([[row]], np.float64)  # (1, 1, W)
    np.testing.assert_allclose(forward(x, 1, count), [[expected]], rtol=4 * U)
    np.testing.assert_allclose(forward(x.transpose(0, 2, 1), count, 1)[..., 0], [expected], rtol=4 * U)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
def test_enlarging_by_a_whole_factor_repeats_each_value(H, W, factor):
    x = np.random.default_rng(0).standard_normal((2, H, W))
    y = ops.resize_nearest_forward(x, factor * H, factor * W)
    np.testing.assert_array_equal(y, x.repeat(factor, axis=1).repeat(factor, axis=2))


@given(st.integers(1, 9), st.integers(1, 9))
def test_resizing_to_the_same_size_is_the_picture_in_a_new_array(H, W):
    x = np.random.default_rng(0).standard_normal((2, H, W))
    for forward in (ops.resize_nearest_forward, ops.resize_bilinear_forward):
        y = forward(x, H, W)
        np.testing.assert_array_equal(y, x)
        assert not np.shares_memory(y, x)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 30), st.integers(1, 30))
def test_bilinear_resizing_is_exact_for_a_plane_away_from_the_edges(H, W, height, width):
    x = (3 * np.arange(H)[:, None] - 2 * np.arange(W) + 5.0)[None]
    rows, columns = ((np.arange(count) + 0.5) * n / count - 0.5 for n, count in ((H, height), (W, width)))
    inside = np.outer((rows >= 0) & (rows <= H - 1), (columns >= 0) & (columns <= W - 1))
    y = ops.resize_bilinear_forward(x, height, width)[0]
    np.testing.assert_allclose(y[inside], (3 * rows[:, None] - 2 * columns + 5)[inside], rtol=0, atol=1e-12)
    assert x.min() <= y.min() + 1e-12
    assert y.max() - 1e-12 <= x.max()


def test_a_hole_in_a_picture_stays_a_hole_of_its_size():
    x = np.zeros((1, 8, 8))
    x[0, 3, 4] = np.nan
    assert np.isnan(ops.resize_bilinear_forward(x, 16, 16)).sum() == 16, "4 rows and 4 columns lie nearer than 1 to it"
    assert np.isnan(ops.resize_nearest_forward(x, 16, 16)).sum() == 4


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
def test_a_global_average_is_the_block_mean_of_one_block(C, H, W):
    x = np.random.default_rng(0).standard_normal((C, H, W))
    one_block = ops.block_mean_forward(x, max(H, W))
    np.testing.assert_allclose(ops.global_average_forward(x), one_block.reshape(C), rtol=0, atol=1e-15)
    dx = ops.global_average_backward(np.arange(1.0, C + 1), (H, W))
    np.testing.assert_allclose(dx.sum(axis=(1, 2)), np.arange(1.0, C + 1), rtol=1e-14)


def test_a_fully_connected_layer_is_the_convolution_of_one_position():
    x, w, b, dy = drawn(5), drawn(3, 5), drawn(3), drawn(3)
    as_conv = ops.conv_forward(x[:, None, None], w[..., None, None], b).ravel()
    np.testing.assert_allclose(ops.linear_forward(x, w, b), as_conv, rtol=1e-13)
    by_hand = [sum(w[k, c] * x[c] for c in range(5)) for k in range(3)]
    np.testing.assert_allclose(ops.linear_forward(x, w), by_hand, rtol=1e-13)
    dw, db = ops.conv_backward_filters(dy[:, None, None], x[:, None, None], kernel=(1, 1))
    for found, expected in zip(ops.linear_backward_filters(dy, x), (dw[..., 0, 0], db), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-13)


# -- of all ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layer_keeps_the_float_type_and_its_arguments(dtype):
    x, w, b = (drawn(*shape).astype(dtype) for shape in ((3, 5, 6), (4, 3, 2, 3), (4,)))
    before = [a.copy() for a in (x, w, b)]
    vector, matrix, scale = x[0, 0], w[:, :, 0, 0], b[:3]
    results = []
    for padding in ops.PADDINGS:
        y = ops.conv_forward(x, w, b, padding, 2)
        results += [y, ops.conv_backward(y, w, padding, 2, size=(5, 6))]
        results += ops.conv_backward_filters(y, x, padding, 2, kernel=(2, 3))
        y = ops.depthwise_forward(x, w[0], scale, padding, 2)
        results += [y, ops.depthwise_backward(y, w[0], padding, 2, size=(5, 6))]
        results += ops.depthwise_backward_filters(y, x, padding, 2, kernel=(2, 3))
    for activation in ("relu6", "sigmoid"):
        results += [getattr(ops, f"{activation}_forward")(x), getattr(ops, f"{activation}_backward")(x, x)]
    results += [ops.instance_norm_forward(x, scale, scale, 1e-3), *ops.instance_norm_backward(x, x, scale, 1e-3)]
    for kind in ("nearest", "bilinear"):
        y = getattr(ops, f"resize_{kind}_forward")(x, 7, 3)
        results += [y, getattr(ops, f"resize_{kind}_backward")(y, (5, 6))]
    results += [ops.global_average_forward(x), ops.global_average_backward(b, (2, 3))]
    results += [ops.linear_forward(vector[:3], matrix, b), ops.linear_backward(b, matrix)]
    results += ops.linear_backward_filters(b, vector)
    assert {r.dtype for r in results} == {np.dtype(dtype)}
    for a, old in zip((x, w, b), before, strict=True):
        np.testing.assert_array_equal(a, old)
        assert not any(np.shares_memory(a, r) for r in results)


X, W4, W3 = np.ones((3, 5, 6)), np.ones((4, 3, 3, 3)), np.ones((3, 3, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.conv_forward(X[:, :1], W4, amounts=((0, 0), (1, 1))), ShapeError, "at least 3 positions .* got 1"),
        (lambda: ops.conv_forward(X[:, :0], W4), ShapeError, "at least 1 positions"),
        (lambda: ops.conv_forward(X, W4, stride=0), OptionError, "stride, amounts: expected 1 or more"),
        (lambda: ops.conv_forward(X, W4, amounts=((1, -1), (0, 0))), OptionError, "0 or more, got 1"),
        (lambda: ops.conv_backward(np.ones((4, 3, 3)), W4, stride=2), ShapeError, "stride 2 does not tell"),
        (lambda: ops.conv_backward(np.ones((4, 3, 3)), W4, "zero", 2, size=(7, 6)), ShapeError, "pass the size of x"),
        (lambda: ops.conv_backward_filters(np.ones((4, 5, 5)), X), ShapeError, r"dy: expected \(4, 5, 6\)"),
        (lambda: ops.depthwise_forward(X, W3[:2]), ShapeError, r"w: expected \(3, 3, 3\) for x"),
        (lambda: ops.depthwise_forward(X, W4), ShapeError, r"w: expected \(C, R, S\)"),
        (lambda: ops.depthwise_forward(X, W3, np.ones(2)), ShapeError, r"b: expected \(3,\)"),
        (lambda: ops.depthwise_forward(X, W3, padding="same"), OptionError, "zero, replicate, reflect, got 'same'"),
        (lambda: ops.depthwise_backward(np.ones((4, 5, 6)), W3), ShapeError, r"w: expected \(4, 3, 3\)"),
        (lambda: ops.depthwise_backward(X, W3, stride=2), ShapeError, "stride 2 does not tell"),
        (lambda: ops.depthwise_backward_filters(X[:, :3], X), ShapeError, r"dy: expected \(3, 5, 6\)"),
        (lambda: ops.relu6_backward(X[:2], X), ShapeError, "dy: expected"),
        (lambda: ops.sigmoid_forward(np.ones(3, int)), ShapeError, "x: expected a floating-point"),
        (lambda: ops.sigmoid_backward(X[:2], X), ShapeError, "dy: expected"),
        (lambda: ops.instance_norm_forward(X, np.ones(3), np.ones((3, 1)), 0.1), ShapeError, r"shift: expected \(3,\)"),
        (lambda: ops.instance_norm_forward(X[:, :0], *[np.ones(3)] * 2, 0.1), ShapeError, "at least 1 row"),
        (lambda: ops.instance_norm_backward(X[:, 1:], X, np.ones(3), 0.1), ShapeError, "dy: expected"),
        (lambda: ops.resize_nearest_forward(X[0], 3, 3), ShapeError, r"x: expected \(C, H, W\)"),
        (lambda: ops.resize_nearest_forward(X, 0, 3), OptionError, "height, width: expected 1 or more, got 0, 3"),
        (lambda: ops.resize_bilinear_forward(X[:, :, :0], 3, 3), ShapeError, "at least 1 row"),
        (lambda: ops.resize_bilinear_backward(X, (3, 0)), OptionError, "expected 1 or more, got 3, 0"),
        (lambda: ops.global_average_forward(X[:, :0]), ShapeError, "at least 1 row"),
        (lambda: ops.global_average_backward(X, (3, 3)), ShapeError, r"dy: expected \(C,\)"),
        (lambda: ops.linear_forward(np.ones(3), np.ones((2, 4))), ShapeError, r"w: expected \(2, 3\)"),
        (lambda: ops.linear_forward(np.ones(3), np.ones((2, 3)), np.ones(3)), ShapeError, r"b: expected \(2,\)"),
        (lambda: ops.linear_backward(np.ones(3), np.ones((2, 3))), ShapeError, r"dy: expected \(2,\)"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
