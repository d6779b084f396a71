"""Block means and their gradient (kernels/cuda/block_mean) against the book in float64."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_devices import notices, plant, unwritten
from cuda_sanitized import run_sanitized

from nstcore.engines.cuda import block_mean
from nstcore.errors import OptionError, ShapeError
from nstcore.ops import block_mean_backward, block_mean_forward

U = 2.0**-24  # largest relative error of one float32 operation
GUARD = 16  # elements of NaN behind every array: nothing may read or write them
# (C, H, W), k: sizes that k divides and that it does not, blocks of one pixel, blocks larger than the picture, rows of
# means and of pixels that one block of threads does not hold
CASES = [
    *(((1, 1, 1), 1), ((3, 5, 7), 1), ((3, 8, 12), 4), ((3, 9, 13), 4), ((2, 7, 8), 3), ((3, 1, 17), 2)),
    *(((3, 17, 1), 2), ((3, 4, 9), 5), ((3, 6, 5), 10**12), ((2, 3, 515), 2), ((1, 2, 257), 1)),
    pytest.param((3, 131, 67), 8, marks=pytest.mark.slow),
    pytest.param((1, 40, 2051), 7, marks=pytest.mark.slow),
]
each_case = pytest.mark.parametrize(("shape", "k"), CASES)


def values(shape, seed=0):
    """Numbers that float32 holds, as float64."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(np.float64)


def guarded(device, a):
    """A float32 copy on the device with NaN behind it; and the array of both."""
    whole = unwritten(device, a.size + GUARD, np.float32)
    device.copy(device.to_device(a.astype(np.float32).reshape(-1)), whole[: a.size])
    return whole[: a.size].reshape(a.shape), whole


def forward(device, x, k):
    y, whole = guarded(device, np.full(block_mean.small(x.shape, k), np.nan))
    block_mean.forward(device, guarded(device, x)[0], k, y)
    assert np.isnan(device.to_host(whole)[-GUARD:]).all()
    return device.to_host(y)


def backward(device, dy, k, before):
    dx, whole = guarded(device, before)
    block_mean.backward(device, guarded(device, dy)[0], k, dx)
    assert np.isnan(device.to_host(whole)[-GUARD:]).all()
    return device.to_host(dx)


def check_forward(machine, shape, k):
    x = values(shape)
    y = machine.check(lambda device: forward(device, x, k))
    rows, columns = min(k, shape[1]), min(k, shape[2])
    # A row's sum, the sum of the rows (a first addition to 0 is exact), the number of pixels rounded, the division
    roundings = (columns - 1) + (rows - 1) + 2
    assert np.all(np.abs(y - block_mean_forward(x, k)) <= 1.01 * roundings * U * block_mean_forward(np.abs(x), k))


def check_backward(machine, shape, k):
    dy, before = values(block_mean.small(shape, k), 1), values(shape, 2)
    dx = machine.check(lambda device: backward(device, dy, k, before))
    added = block_mean_backward(dy, k, shape)
    # The number of pixels rounded, the division; then the sum
    assert np.all(np.abs(dx - (before + added)) <= 1.01 * U * (2 * np.abs(added) + np.abs(before + added)))


@each_case
def test_the_means_are_the_books(machine, shape, k):
    check_forward(machine, shape, k)


@each_case
def test_the_gradient_is_the_books_added_to_what_was_there(machine, shape, k):
    check_backward(machine, shape, k)


def test_blocks_of_one_pixel_are_the_picture_itself(machine):
    x = values((3, 5, 9))
    np.testing.assert_array_equal(machine.check(lambda device: forward(device, x, 1)), x)
    np.testing.assert_array_equal(machine.check(lambda device: backward(device, x, 1, np.zeros(x.shape))), x)


def test_means_of_whole_numbers_are_exact_where_blocks_hold_a_power_of_two(machine):
    x = np.random.default_rng(0).integers(-8, 9, (3, 10, 18)).astype(np.float64)
    np.testing.assert_array_equal(machine.check(lambda device: forward(device, x, 4)), block_mean_forward(x, 4))


def test_nan_shows_in_its_block_and_nowhere_else(machine):
    x = np.ones((3, 7, 8))
    x[1, 6, 5] = np.nan
    y = machine.check(lambda device: forward(device, x, 3))
    dx = machine.check(lambda device: backward(device, y, 3, np.zeros(x.shape)))
    assert np.argwhere(np.isnan(y)).tolist() == [[1, 2, 1]]
    assert np.argwhere(np.isnan(dx)).tolist() == [[1, 6, 3], [1, 6, 4], [1, 6, 5]]


def test_what_does_not_fit_is_refused_in_one_line(machine):
    device = machine.devices[0]
    x, y, flat = (unwritten(device, shape, np.float32) for shape in ((3, 4, 5), (3, 2, 3), (4, 5)))
    for call, error, message in (
        (lambda: block_mean.forward(device, x, 3, y), ShapeError, r"y: expected \(3, 2, 2\) for blocks of 3 x 3 in"),
        (lambda: block_mean.backward(device, x, 2, x), ShapeError, r"dy: expected \(3, 2, 3\) .* got \(3, 4, 5\)"),
        (lambda: block_mean.forward(device, flat, 2, y), ShapeError, r"expected a picture \(C, H, W\)"),
        (lambda: block_mean.forward(device, x, 0, y), OptionError, "k: expected blocks of 1 pixel or more, got 0"),
    ):
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


# ---- what these tests would notice -----------------------------------------------------------------------------------

BUGS = {
    "nothing": ("// op:", "// op:"),
    "a row of means that ends too late": ("if (j >= w) return;", "if (j > w) return;"),
    "a row of pixels that ends too late": ("if (q >= W) return;", "if (q > W) return;"),
    "blocks that reach below the picture": ("min(k, H - p)", "k"),
    "blocks that reach over the right edge": ("min(k, W - q)", "k"),
    "a share of a whole block at the edge": ("min(k, W - j * k)", "k"),
    "a gradient that is not added": ("* W + q] +=", "* W + q] ="),
    "means of the next channel": ("channel * h + i", "(channel + 1) * h + i"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(stand_in, monkeypatch, bug):
    plant(monkeypatch, block_mean.RUNG, *BUGS[bug])

    def check():
        check_forward(stand_in, (3, 9, 13), 4)
        check_backward(stand_in, (3, 9, 13), 4)

    notices(bug, check)


SANITIZED = """
import numpy as np
from nstcore.engines.cuda import block_mean
from nstcore.engines.cuda.on_cpu import OnCpuDevice

device = OnCpuDevice(build=BUILD)
shapes = ((1, 1, 300), 7), ((2, 3, 5), 2), ((3, 9, 13), 4), ((2, 5, 300), 7), ((3, 4, 9), 10**12)
for shape, k in shapes[: 2 if BUILD == "tsan" else None]:  # several blocks in a row, several rows of several channels
    x = device.to_device(np.ones(shape, np.float32))
    y = device.empty(block_mean.small(shape, k), np.float32)
    block_mean.forward(device, x, k, y)
    assert (device.to_host(y) == 1).all()
    block_mean.backward(device, y, k, x)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_kernel_leaves_its_memory_or_races(build):
    done = run_sanitized(build, SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
