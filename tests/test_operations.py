"""The single layers of every engine against the book in float64, within what rounding explains (engine_layers.py)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from engine_layers import (
    ACTIVATED,
    AWKWARD,
    DEPTHWISE,
    FEW,
    NETWORKS,
    Case,
    U,
    activated,
    assert_equals_the_book,
    assert_within,
    data_of,
    drawn,
    each_implementation,
    made,
    vector,
    wide,
)

from nstcore import ops
from nstcore.engines.operations import ACTIVATIONS
from nstcore.errors import OptionError, ShapeError


@pytest.fixture
def layers(device, kernels):
    return made(device, kernels, 2)


# -- convolutions ------------------------------------------------------------------------------------------------------


@each_implementation
@pytest.mark.parametrize("case", [*AWKWARD, *NETWORKS], ids=str)
def test_a_convolution_equals_the_book(layers, case):
    (x, w, b), expected, _ = data_of(case)
    maps = layers.maps(x)
    y = layers.conv(maps, layers.filters(w, b), upsample=case.upsample, **case.options)
    assert layers.shape(y) == expected.shape
    assert_equals_the_book(layers.numpy(y), case)
    np.testing.assert_array_equal(layers.numpy(maps), x, "x was changed")


@each_implementation
@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
def test_a_depthwise_convolution_equals_the_book(layers, case):
    (x, w, b), expected, _ = data_of(case)
    maps = layers.maps(x)
    y = layers.depthwise(maps, layers.depthwise_filters(w, b), **case.options)
    assert layers.shape(y) == expected.shape
    assert_equals_the_book(layers.numpy(y), case)
    np.testing.assert_array_equal(layers.numpy(maps), x, "x was changed")


@each_implementation
def test_filters_serve_pictures_of_any_size(layers):
    case = Case(5, 9, (20, 30), (3, 3), 1, "reflect")
    (_, w, b), *_ = data_of(case)
    filters = layers.filters(w, b)
    for size in [(20, 30), (4, 3), (20, 31), (20, 30)]:
        sized = case._replace(size=size)
        (x, _, _), *_ = data_of(sized)
        assert_equals_the_book(layers.numpy(layers.conv(layers.maps(x), filters, padding="reflect")), sized)


@each_implementation
@pytest.mark.parametrize(("C", "K"), [(1, 1), (7, 100), (1280, 100), (100, 33)])
def test_a_fully_connected_layer_equals_the_book(layers, C, K):
    x, w, b = drawn(C), drawn(K, C, seed=2), drawn(K, seed=3)
    y = layers.numpy(layers.linear(vector(layers, x), layers.filters(w[..., None, None], b)))
    expected = ops.linear_forward(*wide(x, w, b))
    sizes = ops.linear_forward(*map(np.abs, wide(x, w, b)))
    assert_within(y, expected.reshape(K, 1, 1), (C + FEW) * U * sizes.reshape(K, 1, 1))


@each_implementation
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_equals_the_book(layers, activation):
    """Behind a convolution that leaves x as it is, up to the ends of float32."""
    row = [np.nan, np.inf, -np.inf, 0.0, 6.0, 1e30, -1e30, -88.0, -100.0, 88.0, 1e-30, *np.linspace(-20, 20, 90)]
    x = np.array([[row]], np.float32)
    one, nothing = np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)
    with np.errstate(all="ignore"):
        convolved = layers.conv(layers.maps(x), layers.filters(one, nothing), activation=activation)
        each = layers.depthwise(layers.maps(x), layers.depthwise_filters(one[0], nothing), activation=activation)
    expected = ACTIVATED[activation](x.astype(np.float64))
    for y in (layers.numpy(convolved), layers.numpy(each)):
        # Below 1e-37 a number may be taken for 0
        tolerance = {"rtol": FEW * U, "atol": 1e-37} if activation == "sigmoid" else {"rtol": 0}
        np.testing.assert_allclose(y, expected, **tolerance)


# -- channels ----------------------------------------------------------------------------------------------------------

NORM_SHAPES = [(1, 1, 1), (3, 1, 2), (5, 7, 16), (8, 2, 33), (17, 16, 7), (32, 13, 18), (33, 33, 50)]


def normalised(x, epsilon):
    """Mean, sigma and n of the book in float64, and bounds of the first two, absolute and relative.

    A mean of M numbers is off by M roundings of their mean size. The sum of the squared differences from it is off by
    M + 2 roundings, and by M times the square of the mean's error; the root halves what is relative.
    """
    M = x[0].size
    x, _ = wide(x, None)
    mean = x.mean(axis=(1, 2), keepdims=True)
    variance = x.var(axis=(1, 2), keepdims=True)
    off = (M + 1) * U * np.abs(x).mean(axis=(1, 2), keepdims=True)
    relative = 0.5 * ((M + FEW) * U * variance + off**2) / (variance + epsilon) + FEW * U
    sigma = np.sqrt(variance + epsilon)
    return mean, sigma, (x - mean) / sigma, off, relative


@each_implementation
@pytest.mark.parametrize("shape", NORM_SHAPES)
@pytest.mark.parametrize(("offset", "epsilon"), [(0, 1e-5), (100, 1e-3)])
def test_instance_normalisation_equals_the_book(layers, shape, offset, epsilon):
    """Also of features that are far from 0, where a variance as the difference of two large numbers is lost."""
    x, plus = drawn(*shape, seed=1) + np.float32(offset), drawn(*shape, seed=2)
    scale, shift = drawn(shape[0], seed=3), drawn(shape[0], seed=4)
    _, sigma, n, off, relative = normalised(x, epsilon)
    scale_, shift_ = (v.astype(np.float64).reshape(-1, 1, 1) for v in (scale, shift))
    expected = ops.instance_norm_forward(*wide(x, scale, shift), epsilon)
    bound = np.abs(scale_) * (off / sigma + np.abs(n) * relative) + FEW * U * (np.abs(scale_ * n) + np.abs(shift_))
    for activation, added in [("none", None), ("relu", None), ("none", plus), ("relu", plus), ("sigmoid", plus)]:
        kept = [vector(layers, scale), vector(layers, shift), None if added is None else layers.maps(added)]
        y = layers.instance_norm(layers.maps(x), *kept[:2], epsilon, activation=activation, plus=kept[2])
        there, about = activated(expected, bound, activation)
        if added is not None:
            there = there + added
            about = about + 2 * U * np.abs(there)
        assert_within(layers.numpy(y), there, about)
        for maps, right in zip(kept, (scale, shift, added), strict=True):
            if right is not None:
                np.testing.assert_array_equal(layers.numpy(maps).ravel(), right.ravel(), "an argument was changed")


@each_implementation
@pytest.mark.parametrize("shape", NORM_SHAPES)
@pytest.mark.parametrize("offset", [0, 100])
def test_the_statistics_of_channels_equal_the_book(layers, shape, offset):
    x = drawn(*shape, seed=1) + np.float32(offset)
    mean, sigma, _, off, relative = normalised(x, 1e-5)
    maps = layers.maps(x)
    found, deviation = layers.statistics(maps, 1e-5)
    assert_within(layers.numpy(found), mean, off + U * np.abs(mean))
    assert_within(layers.numpy(deviation), sigma, sigma * relative)
    average = ops.global_average_forward(x.astype(np.float64)).reshape(-1, 1, 1)
    assert_within(layers.numpy(layers.global_average(maps)), average, off + U * np.abs(mean))
    np.testing.assert_array_equal(layers.numpy(maps), x, "x was changed")


# -- moving and adding -------------------------------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (3, 1, 2), (5, 7, 16), (8, 2, 33), (17, 16, 7), (33, 7, 50)]
each_shape = pytest.mark.parametrize("shape", SHAPES)


@each_implementation
@each_shape
def test_maps_are_a_copy_and_come_back_as_they_were(layers, shape):
    x = drawn(*shape)
    maps = layers.maps(x)
    assert layers.shape(maps) == shape
    given = x.copy()
    x[...] = 0
    back = layers.numpy(maps)
    np.testing.assert_array_equal(back, given)
    back[...] = 0
    np.testing.assert_array_equal(layers.numpy(maps), given)
    every_other = np.repeat(given, 2, axis=2).astype(np.float64)[:, :, ::2]
    np.testing.assert_array_equal(layers.numpy(layers.maps(every_other)), given)


@each_implementation
@each_shape
def test_pooling_and_sums_are_the_books_to_the_last_bit(layers, shape):
    x, y = drawn(*shape, seed=1), drawn(*shape, seed=2)
    maps = layers.maps(x)
    _, H, W = shape
    even = np.pad(x, ((0, 0), (0, H % 2), (0, W % 2)), mode="edge")
    np.testing.assert_array_equal(layers.numpy(layers.max_pool(maps)), ops.max_pool_forward(even)[0])
    np.testing.assert_array_equal(layers.numpy(maps), x, "x was changed")
    other = layers.maps(y)
    np.testing.assert_array_equal(layers.numpy(layers.add(maps, other)), x + y)
    np.testing.assert_array_equal(layers.numpy(other), y, "y was changed")


@each_implementation
@each_shape
@pytest.mark.parametrize("size", [(1, 1), (14, 32), (5, 9), (16, 50), (50, 3)])
def test_resizing_equals_the_book(layers, shape, size):
    x = drawn(*shape, seed=1)
    maps = layers.maps(x)
    nearest, bilinear = layers.resize_nearest(maps, *size), layers.resize_bilinear(maps, *size)
    np.testing.assert_array_equal(layers.numpy(nearest), ops.resize_nearest_forward(x, *size))
    exact, sizes = (ops.resize_bilinear_forward(a, *size) for a in (x.astype(np.float64), np.abs(x, dtype=np.float64)))
    # The weight t is rounded, too: by half a unit of 1, not of itself
    largest = FEW * U * np.abs(x).max(axis=(1, 2), keepdims=True)
    assert_within(layers.numpy(bilinear), exact, FEW * U * sizes + largest)
    np.testing.assert_array_equal(layers.numpy(maps), x, "x was changed")


# -- of all ------------------------------------------------------------------------------------------------------------


def everything(layers, x, plus):
    """One result of every layer, for maps x (8, H, W) and others to add."""
    filters = layers.filters(drawn(17, 8, 3, 3, seed=2), drawn(17, seed=3))
    large = layers.filters(drawn(3, 8, 9, 9, seed=2), drawn(3, seed=3))
    point = layers.filters(drawn(33, 8, 1, 1, seed=2), drawn(33, seed=3))
    depthwise = layers.depthwise_filters(drawn(8, 3, 3, seed=2), drawn(8, seed=3))
    scale, shift = (vector(layers, drawn(8, seed=seed)) for seed in (4, 5))
    calls = {
        "conv": lambda x: layers.conv(x, filters, padding="reflect", activation="relu"),
        "conv, stride 2": lambda x: layers.conv(x, filters, stride=2, activation="relu6"),
        "conv, upsample": lambda x: layers.conv(x, filters, upsample=2, padding="replicate", activation="sigmoid"),
        "conv, 9x9": lambda x: layers.conv(x, large, padding="reflect"),
        "conv, 1x1": lambda x: layers.conv(x, point),
        "depthwise": lambda x: layers.depthwise(x, depthwise, activation="relu6"),
        "depthwise, stride 2": lambda x: layers.depthwise(x, depthwise, stride=2),
        "instance_norm": lambda x: layers.instance_norm(x, scale, shift, 1e-5, activation="relu", plus=plus),
        "mean": lambda x: layers.statistics(x, 1e-5)[0],
        "deviation": lambda x: layers.statistics(x, 1e-5)[1],
        "global_average": layers.global_average,
        "max_pool": layers.max_pool,
        "add": lambda x: layers.add(x, plus),
        "resize_nearest": lambda x: layers.resize_nearest(x, 23, 50),
        "resize_bilinear": lambda x: layers.resize_bilinear(x, 50, 23),
    }
    with np.errstate(all="ignore"):
        return {name: layers.numpy(call(layers.maps(x))) for name, call in calls.items()}


@each_implementation
def test_nan_arrives_wherever_it_arrives_in_the_book(layers):
    """And in no channel that has nothing to do with it: a layer that looks at one channel spoils one."""
    x, plus = drawn(8, 19, 21), drawn(8, 19, 21, seed=1)
    x[3, 5, 6] = np.nan
    book = made("reference", None, 1)
    expected, found = everything(book, x, book.maps(plus)), everything(layers, x, layers.maps(plus))
    for name, y in found.items():
        should = np.isnan(expected[name])
        assert should.any(), name
        assert np.isnan(y[should]).all(), f"{name} hides a NaN"
        assert not np.isnan(y[~should.any(axis=(1, 2))]).any(), f"{name}: a NaN in another channel"


@each_implementation
def test_results_do_not_depend_on_the_number_of_threads(device, kernels):
    x, plus = drawn(8, 37, 41), drawn(8, 37, 41, seed=1)
    first, *others = (
        everything(layers, x, layers.maps(plus)) for layers in (made(device, kernels, threads) for threads in (1, 2, 3))
    )
    for other in others:
        for name, y in first.items():
            assert y.tobytes() == other[name].tobytes(), name


def refused():
    """What makes no sense: of layers, maps x (3, 4, 5) and filters (6, 3, 3, 3), (3, 3, 3) that would fit."""
    unknown = r"padding: expected one of zero, replicate, reflect, got 'same'"
    no_activation = r"activation: expected one of none, relu, relu6, sigmoid, got 'gelu'"
    for name in ("conv", "depthwise"):

        def call(layers, x, filters, each, name=name, **options):
            return getattr(layers, name)(x, filters if name == "conv" else each, **options)

        yield f"{name}: padding", partial(call, padding="same"), OptionError, unknown
        yield f"{name}: activation", partial(call, activation="gelu"), OptionError, no_activation
        yield f"{name}: stride", partial(call, stride=0), OptionError, "expected 1 or more"
        yield f"{name}: amounts", partial(call, amounts=((0, -1), (1, 1))), OptionError, "0 or more"

        def small(layers, x, filters, each, call=call):
            return call(layers, layers.maps(np.ones((3, 2, 5))), filters, each, amounts=((0, 0), (1, 1)))

        yield f"{name}: kernel", small, ShapeError, "expected at least 3 positions"

        def channels(layers, x, filters, each, call=call):
            return call(layers, layers.maps(np.ones((2, 4, 5))), filters, each)

        yield f"{name}: channels", channels, ShapeError, "expected .*2"

    yield "conv: upsample", lambda o, x, f, d: o.conv(x, f, upsample=0), OptionError, "expected 1 or more"
    wrong = np.ones((3, 2, 2), np.float32)
    bias = np.ones(2, np.float32)
    yield "filters: bias", lambda o, x, f, d: o.depthwise(x, o.depthwise_filters(wrong, bias)), ShapeError, r"\(3,\)"
    yield "linear: maps", lambda o, x, f, d: o.linear(x, f), ShapeError, "expected a vector"
    for name, scale, shift, plus, named in [
        ("scale", (4, 1, 1), (3, 1, 1), None, "scale"),
        ("shift", (3, 1, 1), (2, 1, 1), None, "shift"),
        ("shift as maps", (3, 1, 1), (3, 4, 5), None, "shift"),
        ("plus", (3, 1, 1), (3, 1, 1), (3, 5, 4), "plus"),
        ("plus as a vector", (3, 1, 1), (3, 1, 1), (3, 1, 1), "plus"),
    ]:

        def norm(layers, x, *_, scale=scale, shift=shift, plus=plus):
            vectors = [layers.maps(np.ones(shape)) for shape in (scale, shift)]
            return layers.instance_norm(x, *vectors, 1e-5, plus=None if plus is None else layers.maps(np.ones(plus)))

        yield f"instance_norm: {name}", norm, ShapeError, named

    def unknown_norm(layers, x, *_):
        one = layers.maps(np.ones((3, 1, 1)))
        return layers.instance_norm(x, one, one, 1e-5, activation="gelu")

    yield "instance_norm: activation", unknown_norm, OptionError, no_activation
    yield "add", lambda o, x, f, d: o.add(x, o.maps(np.ones((3, 1, 1)))), ShapeError, "expected"
    for kind in ("nearest", "bilinear"):
        yield (
            f"resize_{kind}",
            lambda o, x, f, d, kind=kind: getattr(o, f"resize_{kind}")(x, 3, 0),
            OptionError,
            "got 3, 0",
        )


@each_implementation
@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*rest, id=name) for name, *rest in refused()])
def test_what_makes_no_sense_is_refused_in_one_line(layers, call, error, message):
    x = layers.maps(np.ones((3, 4, 5)))
    filters = (
        layers.filters(np.ones((6, 3, 3, 3), np.float32)),
        layers.depthwise_filters(np.ones((3, 3, 3), np.float32)),
    )
    with pytest.raises(error, match=message) as caught:
        call(layers, x, *filters)
    assert "\n" not in str(caught.value)
