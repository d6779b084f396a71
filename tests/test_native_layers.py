"""The native kernels of feed-forward layers by themselves, in memory exactly as large as planned.

test_operations.py has them behind the interface that all engines share.
"""

from __future__ import annotations

from ctypes import POINTER, c_double, cast

import numpy as np
import pytest

from nstcore import ops
from nstcore.engines.cpu import library
from nstcore.engines.operations import ACTIVATIONS, activation_named
from nstcore.ops.conv import PADDINGS, centred_amounts, positions

each_instructions = pytest.mark.parametrize("kernels", library.INSTRUCTIONS)
U = 2.0**-24  # a rounding of float32, relative
GUARD = 33  # floats behind every array, NaN before and after


@pytest.fixture
def native(kernels):
    return library.choose(kernels)[0]


@pytest.fixture
def crews(native):
    return [library.Crew(native, threads) for threads in (1, 2, 3)]


class Guarded:
    """NaN, followed by NaN that nothing may overwrite; `offset` floats beyond a multiple of 64 bytes."""

    def __init__(self, *shape, offset=0):
        size = int(np.prod(shape))
        block = np.full(size + GUARD + 16, np.nan, np.float32)
        start = (-block.ctypes.data % 64) // 4 + offset
        self.a = block[start : start + size].reshape(shape)
        self.behind = block[start + size :]

    def check(self):
        assert np.isnan(self.behind).all(), "written beyond the end"
        return self.a


def unaligned(x):
    guarded = Guarded(*x.shape, offset=1)
    guarded.a[...] = x
    return guarded.a


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer_of(x, w, stride=1, padding="zero", amounts=None, upsample=1, activation="none"):
    C, H, W = x.shape
    R, S = w.shape[-2:]
    amounts = amounts or centred_amounts(R, S)
    P, Q = positions((H * upsample, W * upsample), (R, S), stride, amounts)
    layer = library.Layer(C, len(w), H, W, R, S, P, Q, stride, amounts[0][0], amounts[1][0], upsample)
    layer.padding, layer.activation = PADDINGS.index(padding), ACTIVATIONS.index(activation)
    layer.depthwise = w.ndim == 3
    return layer


def forward(native, crew, x, w, b, **options):
    layer = layer_of(x, w, **options)
    packed, work = Guarded(native.layer_filters(layer)), Guarded(native.layer_work(layer, crew.threads))
    y = Guarded(layer.K, layer.P, layer.Q, offset=1)
    native.pack_layer(layer, w, b, packed.a)
    assert not np.isnan(packed.check()).any()
    native.layer_forward(crew.pointer, layer, unaligned(x), packed.a, y.a, work.a)
    work.check()
    return y.check()


def book(x, w, b, upsample=1, activation="none", **options):
    """In float64; and the sum of the magnitudes of all products, for the bound."""

    def linear(x, w, b):
        x = ops.resize_nearest_forward(x, x.shape[1] * upsample, x.shape[2] * upsample)
        convolve = ops.depthwise_forward if w.ndim == 3 else ops.conv_forward
        return convolve(x, w, b, **options)

    x, w, b = (None if a is None else a.astype(np.float64) for a in (x, w, b))
    magnitudes = linear(*(None if a is None else np.abs(a) for a in (x, w, b)))
    return activation_named(activation)(linear(x, w, b)), magnitudes


# (C, K, (H, W), (R, S), options); K None: depthwise. Sizes on both sides of what the plan decides.
CASES = [
    *((5, K, (3, 150), (3, 3), {}) for K in (*range(1, 10), 17)),  # every width of a panel, with vectors to spare
    (3, 3, (9, 500), (9, 9), {"padding": "reflect", "activation": "sigmoid"}),
    (2, 5, (1, 1), (9, 9), {"padding": "reflect"}),
    (33, 21, (40, 131), (3, 3), {"padding": "replicate", "activation": "relu"}),  # several tiles down
    (300, 9, (5, 700), (3, 3), {"activation": "relu6"}),  # and across
    (290, 70, (1, 3), (1, 1), {}),  # the filters in parts
    (30, 20, (50, 33), (1, 1), {"activation": "relu6"}),  # rows that are taken for one
    (3, 5, (7, 9), (1, 1), {"amounts": ((1, 0), (0, 2))}),  # and that cannot be
    (8, 6, (50, 67), (3, 3), {"stride": 2, "padding": "reflect"}),
    (4, 3, (31, 40), (2, 3), {"stride": 3, "amounts": ((0, 2), (5, 1)), "padding": "replicate"}),
    (6, 10, (41, 70), (3, 3), {"upsample": 2, "padding": "reflect", "activation": "sigmoid"}),
    (6, 10, (7, 19), (3, 3), {"upsample": 2, "padding": "zero", "amounts": ((0, 2), (2, 0))}),
    (3, 4, (9, 6), (5, 4), {"upsample": 3, "padding": "replicate", "amounts": ((4, 1), (0, 3))}),
    (3, 4, (9, 6), (5, 5), {"upsample": 2, "padding": "reflect"}),  # a border wider than the copies of one position
    (3, 4, (9, 6), (3, 3), {"upsample": 2, "stride": 2, "padding": "reflect"}),
    (40, None, (9, 33), (3, 3), {"activation": "relu6"}),
    (3, None, (200, 70), (3, 3), {"stride": 2, "amounts": ((0, 1), (0, 1))}),
    (2, None, (30, 300), (5, 2), {"padding": "reflect", "amounts": ((3, 0), (9, 40))}),
]


def data_of(case):
    C, K, size, kernel, options = case
    w = random(*((C,) if K is None else (K, C)), *kernel, seed=1)
    return random(C, *size), w, random(len(w), seed=2), options


@each_instructions
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_layer_equals_the_book_with_any_number_of_threads(native, crews, case):
    """Each product and each sum rounds once, on its way through at most as many sums as a filter has numbers; the
    numbers of merged filters round once more. A sigmoid is flatter than 1/4, and rounds itself."""
    x, w, b, options = data_of(case)
    first, *others = (forward(native, crew, x, w, b, **options) for crew in crews)
    expected, magnitudes = book(x, w, b, **options)
    assert (np.abs(first - expected) <= (w[0].size + 3) * U * magnitudes + 4 * U * np.abs(expected)).all()
    for y in others:
        np.testing.assert_array_equal(y, first)


@each_instructions
def test_without_a_bias_nothing_is_added(native, crews):
    x, w, _, options = data_of(CASES[5])
    nothing = np.zeros(len(w), np.float32)
    np.testing.assert_array_equal(
        forward(native, crews[0], x, w, None, **options), forward(native, crews[0], x, w, nothing, **options)
    )


@each_instructions
def test_an_enlargement_by_two_takes_16_products_for_4_values_instead_of_36(native, kernels):
    x, w = random(8, 5, 5), random(16, 8, 3, 3)
    plain = native.layer_filters(layer_of(x, w))
    enlarged = native.layer_filters(layer_of(x, w, upsample=2, padding="reflect"))
    assert (plain - 16) // 128 == 9  # the bias aside
    assert (enlarged - 16) // 128 == 16


@each_instructions
def test_a_sigmoid_is_within_three_units_in_the_last_place(native, crews):
    """Of every exponent and sign, 0, the numbers below the normal ones, infinity and NaN."""
    bits = np.random.default_rng(0).integers(0, 2**32, 2**18, np.uint32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -87.3, -103.97, -104.0, 16.6, 1e-45], np.float32)
    x = np.concatenate([bits.view(np.float32), np.linspace(-105, 20, 2**17, dtype=np.float32), special])
    x[np.isnan(x)] = np.nan  # NumPy warns of the others
    y = forward(native, crews[1], x.reshape(1, 1, -1), np.ones((1, 1, 1, 1), np.float32), None, activation="sigmoid")
    expected = ops.sigmoid_forward(x.astype(np.float64))
    unit = np.spacing(np.nan_to_num(expected).astype(np.float32)).astype(np.float64)
    np.testing.assert_array_equal(np.isnan(y.ravel()), np.isnan(x))
    assert np.nanmax(np.abs(y.ravel() - expected) / unit) <= 3
    assert y.ravel()[len(x) - 8] == 1.0  # inf
    assert y.ravel()[len(x) - 7] == 0.0  # -inf


def moments(native, crew, x):
    mean, variance = np.full((2, len(x)), np.nan)
    work = Guarded(native.moments_work(*x.shape))
    addresses = (cast(a.ctypes.data, POINTER(c_double)) for a in (mean, variance))
    native.moments(crew.pointer, unaligned(x), *x.shape, *addresses, work.a)
    work.check()
    return mean, variance


@each_instructions
@pytest.mark.parametrize("M", [1, 5, 63, 64, 8192, 8193, 600_001])
@pytest.mark.parametrize("offset", [0, 1000])
def test_moments_lose_no_digits_to_a_large_mean(native, crews, M, offset):
    """512 terms at most are added up in float32, the strips in float64, and the variance is that of differences."""
    x = random(3 if M < 9000 else 1, M) + np.float32(offset)
    (mean, variance), *others = (moments(native, crew, x) for crew in crews)
    wide = x.astype(np.float64)
    exact, around = wide.mean(axis=1), wide.var(axis=1)
    deviations = np.abs(wide - exact[:, None]).mean(axis=1)
    # The differences are from a mean in float32, and each rounds
    assert (np.abs(mean - exact) <= 512 * U * deviations + 2 * U * U * 512 * np.abs(exact)).all()
    assert (np.abs(variance - around) <= 520 * U * around).all()
    for other in others:
        np.testing.assert_array_equal(other, (mean, variance))


@each_instructions
def test_a_constant_channel_has_no_variance_and_a_broken_one_shows(native, crews):
    x = np.full((2, 10_000), 0.1, np.float32)
    x[1, 77] = np.nan
    mean, variance = moments(native, crews[1], x)
    assert mean[0] == pytest.approx(np.float32(0.1), rel=1e-9)
    assert 0 <= variance[0] <= 1e-18
    assert np.isnan([mean[1], variance[1]]).all()


@each_instructions
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 77), (2, 40_001)])
def test_normalising_may_write_over_its_argument_or_over_what_it_adds(native, crews, activation, shape):
    x, plus, (mean, factor, shift) = random(*shape), random(*shape, seed=1), random(3, shape[0], seed=2)
    wide = [a.astype(np.float64) for a in (x, mean[:, None], factor[:, None], shift[:, None])]
    normalised = (wide[0] - wide[1]) * wide[2] + wide[3]
    sizes = np.abs((wide[0] - wide[1]) * wide[2]) + np.abs(wide[3]) + np.abs(plus) + 1
    expected, number = activation_named(activation)(normalised), ACTIVATIONS.index(activation)
    for crew in crews:
        for added, over in ((None, "y"), (None, "x"), (plus, "y"), (plus, "x"), (plus, "plus")):
            arrays = {name: Guarded(*shape, offset=1) for name in ("x", "plus", "y")}
            arrays["x"].a[...], arrays["plus"].a[...] = x, plus
            y, term = arrays[over], None if added is None else arrays["plus"].a
            native.normalise(crew.pointer, arrays["x"].a, *shape, mean, factor, shift, number, term, y.a)
            error = np.abs(y.check() - (expected if added is None else expected + plus))
            assert (error <= 8 * U * sizes).all()


@each_instructions
@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 5, 7), (1, 40, 33), (7, 2, 64)])
def test_an_odd_last_row_or_column_makes_maxima_of_its_own(native, crews, shape):
    x = random(*shape)
    x[0, 0, 0] = np.nan
    C, H, W = shape
    repeated = np.pad(x, ((0, 0), (0, H % 2), (0, W % 2)), mode="edge")
    for crew in crews:
        y = Guarded(C, -(-H // 2), -(-W // 2), offset=1)
        native.max_pool(crew.pointer, unaligned(x), *shape, y.a)
        np.testing.assert_array_equal(y.check(), ops.max_pool_forward(repeated)[0])


@each_instructions
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (9, 20), (18, 40), (33, 7), (100, 41)])
def test_resizing_equals_the_book(native, crews, bilinear, size):
    x = random(3, 9, 20)
    resize = ops.resize_bilinear_forward if bilinear else ops.resize_nearest_forward
    expected, sizes = resize(x.astype(np.float64), *size), resize(np.abs(x).astype(np.float64), *size)
    for crew in crews:
        y, work = Guarded(3, *size, offset=1), Guarded(native.resize_work(20, size[1], crew.threads))
        native.resize(crew.pointer, unaligned(x), *x.shape, *size, bilinear, y.a, work.a)
        work.check()
        assert (np.abs(y.check() - expected) <= (8 * U * sizes if bilinear else 0)).all()
