"""Pooling kernels (kernels/cuda/pool) against the book in float64."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_devices import elements, floats, unwritten

from nstcore.engines.cuda import pool
from nstcore.engines.cuda.precision import FLOAT32, PRECISIONS, from_elements, to_elements
from nstcore.errors import OptionError, ShapeError
from nstcore.ops.pool import POOLINGS, max_pool_forward, pool_backward, pool_forward
from nstcore.ops.relu import relu_backward

U = 2.0**-24  # largest relative error of one float32 operation
SMALLEST = 2.0**-14  # float16's smallest normal number: below it, rounding errors shrink no further

each_rung = pytest.mark.parametrize("rung", pool.RUNGS)
# The gradient of an L2 norm needs the values
FORMS = [(rung, kind) for rung in pool.RUNGS for kind in POOLINGS if (rung, kind) != (pool.CHOICES, "l2")]
each_form = pytest.mark.parametrize(("rung", "kind"), FORMS)
each_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
each_shape = pytest.mark.parametrize(
    "shape", [(1, 2, 2), (3, 5, 7), (8, 2, 3), (64, 9, 8), (513, 3, 4), (4, 67, 131)], ids=str
)


def numbers(shape: tuple[int, ...], precision, seed: int) -> np.ndarray:
    """(C, H, W) float64, all of them elements; many equal neighbours, negative numbers, and a window of zeros."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape) * 2
    a = np.where(rng.random(shape) < 0.5, np.round(a), a)
    a[0, :2, :2] = 0
    return from_elements(to_elements(a, precision), precision).astype(np.float64)


def both(device, x: np.ndarray, kind: str, mask: bool, precision, rung: str):
    """x, y and the choices on the device: (H, W, C), (H/2, W/2, C) and a window more where H or W is odd."""
    C, H, W = x.shape
    down = elements(device, x.transpose(1, 2, 0), precision)
    y = unwritten(device, (H // 2, W // 2, C), precision.dtype)
    choices = unwritten(device, ((H + 1) // 2, (W + 1) // 2, C), np.uint8)
    if min(H, W) > 1:
        pool.forward(device, precision, down, y, C, H, W, kind, mask, choices, rung)
    return down, y, choices


def forward(device, x: np.ndarray, kind: str, precision, rung: str) -> np.ndarray:
    return floats(device, both(device, x, kind, True, precision, rung)[1], precision).transpose(2, 0, 1)


def backward(device, dy: np.ndarray, x: np.ndarray, kind: str, mask: bool, precision, rung: str) -> np.ndarray:
    C, H, W = x.shape
    up, dx = elements(device, dy.transpose(1, 2, 0), precision), unwritten(device, (H, W, C), precision.dtype)
    down, _, choices = both(device, x, kind, mask, precision, rung)
    pool.backward(device, precision, up, down, dx, C, H, W, kind, mask, choices, rung)
    return floats(device, dx, precision).transpose(2, 0, 1)


def book_backward(dy: np.ndarray, x: np.ndarray, kind: str, mask: bool) -> np.ndarray:
    if min(x.shape[1:]) < 2:  # nothing was pooled
        return np.zeros_like(x)
    dx = pool_backward(dy, x, *pool_forward(x, kind), kind)
    return relu_backward(dx, x) if mask else dx


def check_forward(machine, shape, kind, precision, rung):
    x = numbers(shape, precision, 0)
    y = machine.check(lambda device: forward(device, x, kind, precision, rung))
    expected = pool_forward(x, kind)[0]
    if kind == "max":
        assert np.array_equal(y, expected)
        return
    # Three additions and an exact factor; or four products, three additions (halved by the root) and the root
    rounding = 3 * U * pool_forward(np.abs(x), "average")[0] if kind == "average" else 4 * U * expected
    assert np.all(np.abs(y - expected) <= (1 + precision.unit) * rounding + precision.unit * _size(expected))


def check_backward(machine, shape, kind, mask, precision, rung):
    C, H, W = shape
    x, dy = numbers(shape, precision, 1), numbers((C, max(H // 2, 2), max(W // 2, 2)), precision, 2)
    dy = dy[:, : H // 2, : W // 2]
    dx = machine.check(lambda device: backward(device, dy, x, kind, mask, precision, rung))
    expected = book_backward(dy, x, kind, mask)
    if kind == "max":
        assert np.array_equal(dx, expected)
        return
    # dy / 4 is exact before it is an element; the norm, the quotient and the product are six operations
    rounding = 0 if kind == "average" else 6 * U * np.abs(expected)
    assert np.all(np.abs(dx - expected) <= (1 + precision.unit) * rounding + precision.unit * _size(expected))


def _size(expected: np.ndarray) -> np.ndarray:
    return np.where(expected == 0, 0, np.maximum(np.abs(expected), SMALLEST))


@each_shape
@each_form
def test_the_forward_pass_is_the_books(machine, shape, kind, rung):
    check_forward(machine, shape, kind, FLOAT32, rung)


@each_precision
@each_form
@pytest.mark.parametrize("channels", [7, 16])
def test_every_precision_pools_forward_and_backward(machine, channels, kind, precision, rung):
    check_forward(machine, (channels, 5, 6), kind, precision, rung)
    check_backward(machine, (channels, 6, 5), kind, True, precision, rung)
    check_backward(machine, (channels, 5, 5), kind, False, precision, rung)


@each_shape
@each_form
@pytest.mark.parametrize("mask", [False, True])
def test_the_backward_pass_is_the_books_and_writes_everything(machine, shape, kind, mask, rung):
    check_backward(machine, shape, kind, mask, FLOAT32, rung)


@each_rung
@pytest.mark.parametrize("shape", [(5, 1, 1), (4, 1, 6), (3, 7, 1)], ids=str)
def test_a_single_row_or_column_gets_no_gradient(machine, shape, rung):
    C, H, W = shape
    x = numbers((C, 7, 7), FLOAT32, 3)[:, :H, :W]
    dy = np.zeros((C, H // 2, W // 2))
    dx = machine.check(lambda device: backward(device, dy, x, "max", False, FLOAT32, rung))
    assert np.array_equal(dx, np.zeros(shape))


@each_rung
def test_what_nothing_wrote_shows_in_the_result(machine, rung):
    x = np.ones((4, 4, 4))
    x[1, 0, 0] = x[2, 3, 2] = np.nan
    for kind in (k for r, k in FORMS if r == rung):
        y = machine.check(lambda device, kind=kind: forward(device, x, kind, FLOAT32, rung))
        assert np.isnan(y[1, 0, 0])
        assert np.isnan(y[2, 1, 1])
        assert np.isnan(y).sum() == 2


def test_what_does_not_fit_is_refused(machine):
    device = machine.devices[0]
    x, y = (unwritten(device, shape, np.float32) for shape in ((4, 4, 3), (2, 2, 3)))
    choices = unwritten(device, 12, np.uint8)
    with pytest.raises(OptionError, match="expected one of max, average, l2, got 'mean'"):
        pool.forward(device, FLOAT32, x, y, 3, 4, 4, "mean", True)
    with pytest.raises(ShapeError, match="y: expected 12 elements, got 48"):
        pool.forward(device, FLOAT32, x, x, 3, 4, 4, "max", True, choices)
    with pytest.raises(ShapeError, match="at least 2 rows and 2 columns to pool, got 1 x 16"):
        pool.forward(device, FLOAT32, x, y, 3, 1, 16, "max", True, choices)
    with pytest.raises(ShapeError, match="dx: expected 48 elements, got 12"):
        pool.backward(device, FLOAT32, y, None, y, 3, 4, 4, "max", True, choices)
    with pytest.raises(OptionError, match="expected max or average for 03_choices, got 'l2'; take 02_vector"):
        pool.forward(device, FLOAT32, x, y, 3, 4, 4, "l2", True, choices, pool.CHOICES)
    for given in (None, choices[:9]):
        with pytest.raises(ShapeError, match=r"choices: expected 12 elements, got (none|9 in shape)"):
            pool.backward(device, FLOAT32, y, None, x, 3, 4, 4, "average", True, given)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("precision", [FLOAT32, PRECISIONS["float16"]], ids=["float32", "float16"])
def test_a_gradient_by_choices_is_that_by_values_bit_by_bit(machine, kind, precision):
    """Where x was told to be 0 or less, and where it was never written, too."""
    x, dy = numbers((8, 7, 9), precision, 4), numbers((8, 3, 4), precision, 5)
    x[3, :2, 2] = np.nan
    for mask in (False, True):
        by_values, by_choices = (
            machine.check(lambda device, r=rung, m=mask: backward(device, dy, x, kind, m, precision, r))
            for rung in ("02_vector", pool.CHOICES)
        )
        assert by_values.tobytes() == by_choices.tobytes()


def test_choices_tell_what_was_decided_everywhere(machine):
    x = numbers((5, 5, 7), FLOAT32, 6)

    def choices(device):
        return device.to_host(both(device, x, "max", True, FLOAT32, pool.CHOICES)[2])

    found = machine.check(choices)
    assert np.array_equal(pool.passed(found, 5, 7), x > 0)
    assert np.array_equal(pool.largest(found, 5, 7), max_pool_forward(x)[1])
