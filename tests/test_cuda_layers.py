"""Layers of feed-forward networks on a GPU (kernels/cuda/conv, depthwise, instance_norm, resize, maxima) against the
book in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from cuda_conv import LAMBDA, U

from nstcore.engines.cuda import CudaEngine, general_conv
from nstcore.engines.cuda.operations import CudaOperations
from nstcore.engines.cuda.vectors import CudaVectors
from nstcore.engines.operations import ACTIVATIONS, BookOperations
from nstcore.errors import OptionError, ShapeError
from nstcore.ops.conv import PADDINGS, Amounts, same_amounts

BOOK = BookOperations(np.dtype(np.float64))
# Every rung of the convolution, and every form of it
RUNGS = [("01_naive", None), *(("02_register_tile", form) for form in general_conv.FORMS), ("03_split_sum", None)]
each_rung = pytest.mark.parametrize(("rung", "form"), RUNGS, ids=lambda v: str(v).replace(" ", ""))


@pytest.fixture
def machine(machine, monkeypatch):
    """The one of cuda_devices, with NaN in all memory that a layer asks for, on a GPU too."""
    for device in machine.devices:
        empty = device.empty

        def unwritten(shape, dtype, device=device, empty=empty):
            a = empty(shape, dtype)
            device.fill_bytes(a, 255)
            return a

        monkeypatch.setattr(device, "empty", unwritten)
    return machine


def operations(device) -> CudaOperations:
    return CudaOperations(device, CudaVectors(device))


def layer(machine, run):
    """What run(operations) returns as numpy arrays, after it gave the same bits on every device."""
    return machine.check(lambda device: run(operations(device)))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """float64 numbers that float32 holds."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32).astype(np.float64)


@dataclass(frozen=True)
class Conv:
    """One convolution."""

    C: int
    K: int
    H: int
    W: int
    R: int = 3
    S: int = 3
    stride: int = 1
    padding: str = "reflect"
    amounts: Amounts | None = None
    upsample: int = 1
    activation: str = "none"

    def __str__(self) -> str:
        return f"{self.C}-{self.K}x{self.H}x{self.W}-{self.R}x{self.S}-{self.padding}"

    def options(self) -> dict:
        return {name: getattr(self, name) for name in ("stride", "padding", "amounts", "activation")}

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scale = np.float32(1 / math.sqrt(self.C * self.R * self.S)).astype(np.float64)
        w = (numbers(self.K, self.C, self.R, self.S, seed=1) * scale).astype(np.float32).astype(np.float64)
        return numbers(self.C, self.H, self.W), w, numbers(self.K, seed=2)


def activated(rounding: np.ndarray, y: np.ndarray, activation: str) -> np.ndarray:
    """What is left of a rounding error behind an activation. Sigmoid: its slope; exp (2 ulp), the sum, the quotient."""
    return rounding / 4 + 6 * U * y if activation == "sigmoid" else rounding


def run_conv(device, case: Conv, rung: str | None = None, form: tuple[int, int] | None = None) -> np.ndarray:
    x, w, b = case.data()
    ops = operations(device)
    maps, filters = ops.maps(x), ops.filters(w, b)
    how = {"upsample": case.upsample, **case.options()}
    return ops.numpy(
        ops.conv(maps, filters, **how)
        if rung is None
        else general_conv.conv(device, maps, filters, rung=rung, form=form, **how)
    )


def check_conv(case: Conv, y: np.ndarray) -> None:
    """The sum of n products and the bias; those of Higham's and Mary's bound, as in cuda_conv."""
    x, w, b = case.data()
    how = {"upsample": case.upsample, **case.options()}
    n = case.C * case.R * case.S
    sizes = BOOK.conv(np.abs(x), BOOK.filters(np.abs(w)), **how | {"activation": "none"})
    rounding = U * (min(n, LAMBDA * math.sqrt(n)) * sizes + sizes + np.abs(b)[:, None, None])
    expected = BOOK.conv(x, BOOK.filters(w, b), **how)
    assert y.shape == expected.shape
    assert np.all(np.abs(y - expected) <= 1.01 * activated(rounding, expected, case.activation))


# Those of the networks, smaller; what is larger than the picture, single, even, one too many for a tile or a vector
CASES = [
    Conv(3, 8, 13, 20, 9, 9, activation="relu"),
    Conv(8, 3, 7, 18, 9, 9, activation="sigmoid"),
    Conv(8, 16, 9, 11, stride=2, activation="relu"),
    Conv(32, 32, 5, 9),
    Conv(16, 8, 5, 6, upsample=2),
    Conv(3, 32, 13, 10, stride=2, padding="zero", amounts=same_amounts(13, 10, 3, 3, 2), activation="relu6"),
    Conv(36, 20, 5, 7, 1, 1, padding="zero", activation="relu6"),
    Conv(1280, 100, 1, 1, 1, 1),
    Conv(5, 7, 2, 3, 5, 7, amounts=((6, 7), (8, 3))),
    Conv(1, 1, 1, 1, 3, 2, stride=2, amounts=((2, 3), (4, 0)), upsample=3),
    Conv(6, 20, 4, 3, 2, 4, stride=3, padding="replicate", amounts=((0, 5), (1, 2))),
    pytest.param(Conv(7, 33, 21, 67, upsample=2), marks=pytest.mark.slow),
    pytest.param(Conv(67, 130, 9, 33, 1, 1, activation="relu"), marks=pytest.mark.slow),
]


@each_rung
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rung_convolves_as_the_book(machine, case, rung, form):
    check_conv(case, machine.check(lambda device: run_conv(device, case, rung, form)))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_engine_chooses_a_rung_that_convolves_as_the_book(machine, padding, activation):
    case = Conv(5, 9, 6, 7, padding=padding, activation=activation)
    check_conv(case, machine.check(lambda device: run_conv(device, case)))


def test_what_is_launched_follows_from_the_shape():
    def launched(case: Conv) -> tuple:
        filters = general_conv.Filters(None, None, case.K, case.C, case.R, case.S)
        how = {"upsample": case.upsample, **case.options()}
        layer = general_conv.describe((case.H, case.W, case.C), filters, **how).flat()
        rung, tile = general_conv.best(layer)
        return rung, tile and tile.form

    assert launched(Conv(3, 8, 512, 512, 9, 9)) == ("02_register_tile", (4, 8))
    assert launched(Conv(32, 32, 128, 128)) == ("02_register_tile", (2, 8))
    assert launched(Conv(32, 32, 256, 256)) == ("02_register_tile", (4, 8))
    assert launched(Conv(8, 3, 512, 512, 9, 9)) == ("02_register_tile", (4, 4))
    assert launched(Conv(192, 32, 32, 32, 1, 1)) == ("03_split_sum", None)
    assert launched(Conv(960, 160, 8, 8, 1, 1)) == ("03_split_sum", None)
    assert launched(Conv(3, 8, 512, 512, 61, 61)) == ("03_split_sum", None)  # its rectangle would fit nowhere


def test_every_tile_covers_its_outputs_and_fits_where_every_gpu_has_room():
    for C, K, size, kernel, stride in product((1, 3, 960), (1, 8, 9, 31, 32), (1, 8, 9, 200), (1, 3, 9), (1, 2)):
        filters = general_conv.Filters(None, None, K, C, kernel, kernel)
        layer = general_conv.describe((size, 3 * size, C), filters, stride, "zero", None, 1, "none").flat()
        for form in general_conv.FORMS:
            tile = general_conv.tile(layer, form)
            if tile is None:
                assert kernel == 9
                continue
            rows = 32 * form[0] * general_conv.WARPS // tile.groups // tile.columns
            covered = tile.grid[0] * tile.columns, tile.grid[1] * rows, tile.grid[2] * tile.groups * form[1]
            assert all(a >= b for a, b in zip(covered, (layer.Q, layer.P, K), strict=True))
            assert tile.shared <= general_conv.SHARED_BYTES
            assert all(n > 0 and n & (n - 1) == 0 for n in (rows, tile.columns, tile.groups, tile.deep))


@pytest.mark.parametrize(
    "case",
    [
        Conv(8, 8, 7, 9, padding="zero", amounts=((0, 1), (0, 1)), stride=2, activation="relu6"),
        Conv(7, 7, 5, 6, padding="reflect", activation="relu"),
        Conv(12, 12, 1, 2, 5, 3, padding="reflect", amounts=((4, 3), (5, 2)), activation="sigmoid"),
        Conv(960, 960, 2, 3, padding="replicate"),
        Conv(3, 3, 2, 301, 2, 2, stride=3, padding="zero", amounts=((1, 1), (0, 0))),
    ],
    ids=str,
)
def test_depthwise_convolution_is_the_books(machine, case):
    check_depthwise(machine, case)


def check_depthwise(machine, case: Conv) -> None:
    x, b = numbers(case.C, case.H, case.W), numbers(case.C, seed=2)
    w = numbers(case.C, case.R, case.S, seed=1)

    y = layer(machine, lambda ops: ops.numpy(ops.depthwise(ops.maps(x), ops.depthwise_filters(w, b), **case.options())))
    expected = BOOK.depthwise(x, BOOK.depthwise_filters(w, b), **case.options())
    options = case.options() | {"activation": "none"}
    sizes = BOOK.depthwise(np.abs(x), BOOK.depthwise_filters(np.abs(w), np.abs(b)), **options)
    assert y.shape == expected.shape
    rounding = (case.R * case.S + 1) * U * sizes
    assert np.all(np.abs(y - expected) <= 1.01 * activated(rounding, expected, case.activation))


# ---- statistics ------------------------------------------------------------------------------------------------------

# (C, H, W): rows of one, some and all channels; more channels than threads; several pieces, the last one shorter
STATISTICS = [(3, 5, 7), (8, 33, 20), (32, 1, 1), (100, 6, 5), (256, 2, 4), (513, 2, 3), (1, 41, 103)]
EPSILON = 1e-5


def bright(shape: tuple[int, ...]) -> np.ndarray:
    """Channels of other means and deviations; the last one is nearly constant, and far from 0."""
    C = shape[0]
    x = numbers(*shape) * np.linspace(0.1, 3, C)[:, None, None] + np.linspace(-2, 2, C)[:, None, None]
    x[-1] = 300 + 0.5 * numbers(*shape)[-1]
    return x.astype(np.float32).astype(np.float64)


def mean_error(x: np.ndarray) -> np.ndarray:
    """8 terms in float32, the rest in float64, and the result as float32."""
    return 9 * U * np.abs(x).mean(axis=(1, 2), keepdims=True)


def sigma_error(x: np.ndarray) -> np.ndarray:
    """Relative: half of 2 for x - mean, 1 for its square and 7 for sums; 1 as float32; and what the mean is off."""
    _, sigma = BOOK.statistics(x, EPSILON)
    return 6 * U + mean_error(x) ** 2 / (2 * sigma**2)


def check_statistics(machine, shape) -> None:
    x = bright(shape)

    def run(ops):
        maps = ops.maps(x)
        return ops.numpy(ops.global_average(maps)), *map(ops.numpy, ops.statistics(maps, EPSILON))

    average, mean, sigma = layer(machine, run)
    expected, deviation = BOOK.statistics(x, EPSILON)
    assert np.array_equal(average, mean)
    assert mean.shape == sigma.shape == (shape[0], 1, 1)
    assert np.all(np.abs(mean - expected) <= 1.01 * mean_error(x))
    assert np.all(np.abs(sigma / deviation - 1) <= 1.01 * sigma_error(x))


def check_instance_norm(machine, shape, activation="none", plus=False) -> None:
    C = shape[0]
    x, scale, shift, more = bright(shape), numbers(C, 1, 1, seed=1), numbers(C, 1, 1, seed=2), numbers(*shape, seed=3)

    def run(ops):
        given = {"activation": activation, "plus": ops.maps(more) if plus else None}
        return ops.numpy(ops.instance_norm(ops.maps(x), ops.maps(scale), ops.maps(shift), EPSILON, **given))

    y = layer(machine, run)
    expected = BOOK.instance_norm(x, scale, shift, EPSILON, activation=activation)
    mean, sigma = BOOK.statistics(x, EPSILON)
    n = np.abs(x - mean) / sigma
    # x - mean rounds once, the quotient of scale and sigma once, the sum once
    rounding = np.abs(scale) * (mean_error(x) / sigma * (1 + U) + n * (sigma_error(x) + 2 * U))
    rounding = rounding + U * (np.abs(scale) * n + np.abs(shift))
    tolerance = activated(rounding, expected, activation)
    if plus:
        expected = expected + more
        tolerance = tolerance + U * np.abs(expected)
    assert y.shape == expected.shape
    assert np.all(np.abs(y - expected) <= 1.01 * tolerance)


@pytest.mark.parametrize("shape", STATISTICS, ids=str)
def test_means_and_deviations_are_the_books(machine, shape):
    check_statistics(machine, shape)


@pytest.mark.parametrize("shape", STATISTICS, ids=str)
def test_instance_normalisation_is_the_books(machine, shape):
    check_instance_norm(machine, shape)


@pytest.mark.parametrize(("activation", "plus"), [*product(ACTIVATIONS[1:], [False]), ("relu", True)])
def test_what_stands_behind_a_normalisation_comes_with_it(machine, activation, plus):
    check_instance_norm(machine, (6, 7, 9), activation, plus)


def test_a_constant_channel_becomes_its_shift(machine):
    x, scale, shift = np.full((4, 9, 5), 77.5), np.full((4, 1, 1), 3.0), numbers(4, 1, 1)

    y = layer(machine, lambda ops: ops.numpy(ops.instance_norm(*map(ops.maps, (x, scale, shift)), EPSILON)))
    np.testing.assert_array_equal(y, np.broadcast_to(shift, x.shape))


# ---- sizes, sums, NaN ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 6, 10), (3, 5, 7), (5, 1, 1), (4, 1, 6), (7, 3, 300)], ids=str)
def test_maxima_of_an_odd_last_row_and_column_are_the_books(machine, shape):
    check_maxima(machine, shape)


def check_maxima(machine, shape) -> None:
    x = numbers(*shape)
    y = layer(machine, lambda ops: ops.numpy(ops.max_pool(ops.maps(x))))
    np.testing.assert_array_equal(y, BOOK.max_pool(x))


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (6, 7), (12, 14), (13, 5), (2, 999)], ids=str)
@pytest.mark.parametrize("channels", [3, 8])
def test_another_size_is_the_books(machine, channels, size):
    check_sizes(machine, channels, size)


def check_sizes(machine, channels: int, size: tuple[int, int]) -> None:
    x = numbers(channels, 6, 7)

    def run(ops):
        maps = ops.maps(x)
        return ops.numpy(ops.resize_nearest(maps, *size)), ops.numpy(ops.resize_bilinear(maps, *size))

    nearest, bilinear = layer(machine, run)
    np.testing.assert_array_equal(nearest, BOOK.resize_nearest(x, *size))
    # Along each axis both weights, a product and a sum
    np.testing.assert_allclose(bilinear, BOOK.resize_bilinear(x, *size), rtol=0, atol=8 * U * np.abs(x).max())


def test_the_sum_of_maps_is_exact_to_the_last_bit(machine):
    x, y = numbers(5, 3, 7), numbers(5, 3, 7, seed=1)
    x[0, 0, 0], y[1, 1, 1] = np.inf, np.nan
    got = layer(machine, lambda ops: ops.numpy(ops.add(ops.maps(x), ops.maps(y))))
    np.testing.assert_array_equal(got, (x + y).astype(np.float32))


def test_nan_shows_where_it_belongs_and_nowhere_else(machine):
    x = numbers(3, 5, 7)
    x[1, 4, 6] = np.nan

    def run(ops):
        one = ops.maps(np.ones((3, 1, 1)))
        filters = ops.filters(np.ones((2, 3, 3, 3)))
        each = ops.depthwise_filters(np.ones((3, 3, 3)))
        layers = [ops.conv(ops.maps(x), filters, activation=a) for a in ACTIVATIONS]
        more = [ops.depthwise(ops.maps(x), each, activation="relu6"), ops.instance_norm(ops.maps(x), one, one, EPSILON)]
        sizes = [ops.max_pool(ops.maps(x)), ops.resize_nearest(ops.maps(x), 5, 7), ops.global_average(ops.maps(x))]
        return tuple(map(ops.numpy, (*layers, *more, *sizes)))

    *layers, each, normal, largest, nearest, average = (np.isnan(y) for y in layer(machine, run))
    corner = np.zeros((5, 7), bool)
    corner[3:, 5:] = True
    for found in layers:
        np.testing.assert_array_equal(found, np.broadcast_to(corner, (2, 5, 7)))
    assert np.argwhere(largest).tolist() == [[1, 2, 3]]
    assert np.argwhere(nearest).tolist() == [[1, 4, 6]]
    for found, sure in ((each, corner), (normal, True), (average, True)):
        assert np.array_equal(found[1], np.broadcast_to(sure, found[1].shape))
        assert not found[[0, 2]].any()


# ---- the interface ---------------------------------------------------------------------------------------------------


def test_no_layer_reads_anything_back(machine, monkeypatch):
    device = machine.devices[0]
    ops = operations(device)
    x, vector, w = ops.maps(numbers(4, 5, 6)), ops.maps(numbers(4, 1, 1)), ops.filters(numbers(4, 4, 3, 3))
    each, matrix = ops.depthwise_filters(numbers(4, 3, 3)), ops.filters(numbers(2, 4, 1, 1))

    def refuse(*_):
        raise AssertionError("a layer waits for the device")

    for name in ("to_host", "synchronize", "to_device"):
        monkeypatch.setattr(device, name, refuse)
    y = ops.depthwise(ops.conv(x, w), each)
    mean, sigma = ops.statistics(y, EPSILON)
    y = ops.add(ops.instance_norm(y, sigma, mean, EPSILON, plus=x), x)
    y = ops.resize_bilinear(ops.resize_nearest(ops.max_pool(y), 7, 4), 3, 3)
    assert ops.shape(ops.linear(ops.global_average(y), matrix)) == (2, 1, 1)
    assert ops.shape(vector) == (4, 1, 1)


def test_the_engine_has_them_in_float32_whatever_its_precision(stand_in):
    ops = CudaEngine(stand_in.devices[0]).operations()
    x = numbers(3, 4, 5)
    np.testing.assert_array_equal(ops.numpy(ops.maps(x)), x)
    assert ops.numpy(ops.maps(x)).flags.c_contiguous
    assert ops.shape(ops.maps(x)) == x.shape


def test_what_only_this_engine_has_to_refuse_is_refused_in_one_line(stand_in):
    """The rest is in test_operations.py."""
    ops = operations(stand_in.devices[0])
    x, w, each = ops.maps(numbers(4, 5, 6)), ops.filters(numbers(4, 4, 3, 3)), ops.depthwise_filters(numbers(4, 3, 3))
    large = replace(CASES[0], R=61, S=61)
    for call, error, message in (
        (lambda: ops.conv(x, each), ShapeError, "filters: expected those that `filters` prepares"),
        (lambda: ops.depthwise(x, w), ShapeError, "filters: expected those that `depthwise_filters` prepares"),
        (lambda: ops.resize_bilinear(x, 3, 2**30), OptionError, "height, width: expected 1 to"),
        (lambda: run_conv(ops.device, large, "02_register_tile"), ShapeError, "a kernel that fits 49152 bytes"),
    ):
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
