"""Every rung of conv3x3 that multiplies in float32, against the book: forward and backward, in three thread orders."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_conv import (
    LAMBDA,
    Layer,
    Size,
    U,
    check_backward,
    check_forward,
    run_backward,
    run_forward,
)

from nstcore.engines.cuda import source
from nstcore.engines.cuda.conv import PRODUCTION, RUNGS, Pass
from nstcore.engines.cuda.precision import BFLOAT16, FLOAT16, FLOAT32, PRECISIONS, TF32
from nstcore.errors import DeviceError

LADDER = ("01_naive", "02_shared_tile", "03_register_tile", "04_winograd")

# Channels from 1 to 513, aligned and not, at the edges of the tiles (8, 32, 64 and 128 channels; 4x4 and 2x2 positions,
# 32 tiles, 128 positions) and one beyond
SMALL = [
    Size(1, 1, 1, 1),
    Size(3, 8, 1, 7),
    Size(8, 64, 16, 8),
    Size(64, 3, 5, 3),
    Size(9, 65, 16, 17),
    Size(65, 130, 5, 3),
    Size(130, 64, 1, 7),
    Size(128, 128, 4, 4),
    Size(12, 36, 33, 18),
    Size(513, 1, 2, 2),
    Size(1, 513, 3, 1),
]
LARGE = [
    Size(8, 64, 67, 131),
    Size(64, 3, 67, 131),
    Size(64, 65, 33, 18),
    Size(128, 130, 16, 16),
    Size(130, 64, 33, 18),
    Size(513, 128, 5, 3),
    Size(64, 513, 16, 16),
    Size(513, 513, 1, 1),
]

each_rung = pytest.mark.parametrize("rung", LADDER)
each_small = pytest.mark.parametrize("size", SMALL, ids=str)
each_large = pytest.mark.parametrize("size", LARGE, ids=str)


def forward_agrees(machine, rung, size, replicate, linear, precision=FLOAT32):
    layer = Layer(size, precision)
    got = machine.check(lambda device: run_forward(layer, device, rung, replicate, linear))
    check_forward(layer, got, rung, replicate)
    return got


def backward_agrees(machine, rung, size, replicate=False, losses="", mask=False, precision=FLOAT32):
    layer = Layer(size, precision)
    got = machine.check(lambda device: run_backward(layer, device, rung, replicate, losses, mask))
    check_backward(layer, got, rung, replicate, losses, mask)


@each_rung
@each_small
def test_forward_agrees_with_the_book_at_either_border(machine, rung, size):
    for replicate in (False, True):
        both = forward_agrees(machine, rung, size, replicate, linear=True)
        alone = forward_agrees(machine, rung, size, replicate, linear=False)
        assert np.array_equal(both[0], alone[0])


@each_rung
@each_small
def test_backward_agrees_with_the_book(machine, rung, size):
    backward_agrees(machine, rung, size)
    backward_agrees(machine, rung, size, losses="SP", mask=True)


@each_rung
@pytest.mark.parametrize("mask", [False, True], ids=["linear", "masked"])
@pytest.mark.parametrize("losses", ["", "S", "P", "SP"], ids=["none", "style", "content", "both"])
def test_backward_adds_what_the_losses_send_back(machine, rung, losses, mask):
    backward_agrees(machine, rung, Size(20, 9, 6, 7), losses=losses, mask=mask)
    backward_agrees(machine, rung, Size(9, 20, 6, 7), losses=losses, mask=mask)


@each_rung
@pytest.mark.parametrize("size", [Size(5, 6, 1, 1), Size(4, 8, 1, 6), Size(8, 4, 5, 2)], ids=str)
def test_backward_of_a_replicated_border_agrees_with_the_book(machine, rung, size):
    backward_agrees(machine, rung, size, replicate=True)
    backward_agrees(machine, rung, size, replicate=True, losses="SP", mask=True)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [TF32, FLOAT16, BFLOAT16], ids=lambda p: p.name)
@pytest.mark.parametrize("rung", LADDER[:3])
@pytest.mark.parametrize("size", [Size(8, 72, 5, 7), Size(13, 3, 9, 6)], ids=str)
def test_shorter_elements_cost_their_own_rounding_only(machine, rung, size, precision):
    forward_agrees(machine, rung, size, replicate=True, linear=True, precision=precision)
    backward_agrees(machine, rung, size, replicate=True, losses="SP", mask=True, precision=precision)


@pytest.mark.slow
@each_rung
@each_large
def test_large_layers_agree_with_the_book(machine, rung, size):
    forward_agrees(machine, rung, size, replicate=size.C > size.K, linear=False)
    backward_agrees(machine, rung, size, losses="SP", mask=True)


@each_rung
def test_backward_is_the_adjoint_of_forward(machine, rung):
    """<conv(x), dy> = <x, conv_backward(dy)>, neither of them the book's."""
    for replicate in (False, True):
        layer = Layer(Size(21, 34, 7, 10), FLOAT32)
        layer.b[:] = 0
        _, y = machine.check(lambda device, a=layer, r=replicate: run_forward(a, device, rung, r, True)).astype(float)
        dx = machine.check(lambda device, a=layer, r=replicate: run_backward(a, device, rung, r)).astype(float)
        x, dy = layer.x.transpose(1, 2, 0), layer.dy.transpose(1, 2, 0)
        # Each value of y and dx is within LAMBDA sqrt(n) u of the sum of its products' magnitudes, 4 times that for
        # what Winograd's transforms add up; those are below 2 sqrt(n) for these numbers, and errors are independent
        n = 9 * 34
        explained = 8 * LAMBDA * U * n * np.sqrt((dy**2).sum() + (x**2).sum())
        assert abs((y * dy).sum() - (x * dx).sum()) <= explained


@each_rung
def test_a_picture_beyond_the_first_of_many_blocks_is_read_where_it_lies(machine, rung):
    """One position and channel is not zero, so that any other that is read instead shows."""
    layer = Layer(Size(40, 136, 13, 21), FLOAT32)
    layer.x[:] = 0
    layer.x[37, 11, 19] = 1
    got = machine.check(lambda device: run_forward(layer, device, rung, False, True))
    check_forward(layer, got, rung, False)
    assert np.count_nonzero(got[1] - layer.b) <= 9 * 136


def test_the_rungs_of_the_table_are_the_files_of_the_ladder():
    assert [rung.name for rung in RUNGS.values()] == [n for n in source.rungs() if n.startswith("conv3x3/")]
    for precision, rung in PRODUCTION.items():
        assert precision in RUNGS[rung].precisions
    assert set(PRODUCTION) == set(PRECISIONS)


def test_a_precision_that_a_rung_lacks_is_refused_in_one_line(machine):
    layer = Layer(Size(8, 8, 2, 2), FLOAT16)
    with pytest.raises(DeviceError, match=r"expected one of float32 for conv3x3/04_winograd, got float16"):
        layer.kernel(machine.devices[0], "04_winograd")


def test_a_filter_is_packed_tap_by_tap_and_turned_for_the_backward():
    w = np.arange(2 * 3 * 9, dtype=np.float32).reshape(2, 3, 3, 3)
    forward, turned = RUNGS["01_naive"].filters(w, FLOAT32), RUNGS["01_naive"].turned(w, FLOAT32)
    assert forward.shape == (9, 3, 2)
    assert turned.shape == (9, 2, 3)
    assert forward[3 * 2 + 1, 2, 1] == w[1, 2, 2, 1]
    assert turned[3 * 2 + 1, 1, 2] == w[1, 2, 0, 1]


COUNTED = """
static int64_t multiplications = 0;
static inline float counted(float a, float b, float c) {
  __atomic_fetch_add(&multiplications, 1, __ATOMIC_RELAXED);
  return a * b + c;
}
extern "C" __global__ void read_count(int64_t* count) { *count = multiplications; }
"""


@pytest.mark.parametrize(("rung", "each"), [("03_register_tile", 9), ("04_winograd", 4)])
def test_winograd_multiplies_four_times_for_an_output_and_the_others_nine(stand_in, rung, each, tmp_path):
    device, real = stand_in.devices[0], source.read(f"conv3x3/{rung}")
    size = Size(16, 64, 16, 8)  # fills every tile of both
    include = '#include "conv3x3.cuh"\n'
    text = real.text.replace(include, include + COUNTED).replace("__fmaf_rn(", "counted(")
    assert text.count("counted(") > 1
    path = tmp_path / "counted.cu"
    path.write_text(text)
    counted = source.parse(path, f"conv3x3/{rung}")
    layer = Layer(size, FLOAT32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "read", lambda name: counted)
        got = run_forward(layer, device, rung, False, False)
    check_forward(layer, got, rung, False)
    defines = RUNGS[rung].launch(Pass(size.C, size.K, size.H, size.W, FLOAT32)).defines
    count = device.to_device(np.zeros(1, np.int64))
    device.kernel(counted, "read_count", FLOAT32, **defines)(1, 1, count)
    assert device.to_host(count)[0] == each * size.C * size.K * size.H * size.W
