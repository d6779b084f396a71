"""Moments under guides and their gradient (kernels/cuda/moments) against the book in float64."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_devices import elements, floats, notices, plant, unwritten
from cuda_sanitized import run_sanitized

from nstcore.engines import TapGradient
from nstcore.engines.cuda import moments
from nstcore.engines.cuda.later import LaterArray
from nstcore.engines.cuda.loss_scale import LossScale
from nstcore.engines.cuda.losses import Losses
from nstcore.engines.cuda.moments import Moments, make_guide
from nstcore.engines.cuda.precision import FLOAT32, PRECISIONS, from_elements, to_elements
from nstcore.errors import ShapeError
from nstcore.ops import moments_backward, moments_forward, relu_backward

U = 2.0**-24  # largest relative error of one float32 operation
GROUP = 8  # positions that are added in float32
SMALLEST = 2.0**-14  # float16's smallest normal number: below it, rounding errors shrink no further
SHAPES = [(1, 1), (3, 5), (8, 33), (65, 129)]  # (N, M)
each_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=lambda p: p.name)


def features(N, M, precision=FLOAT32, seed=0):
    """(M, N) float64, all of them elements, some below zero and some zero."""
    a = np.random.default_rng(seed).standard_normal((M, N))
    a[np.abs(a) < 0.1] = 0
    return from_elements(to_elements(a, precision), precision).astype(np.float64)


def weights(M, largest=3.0):
    """(1, M) float64 that float32 can hold: some 0, some far below the others."""
    rng = np.random.default_rng(7)
    w = largest * rng.random(M) ** 4
    w[rng.random(M) < 0.2] = 0
    w[-1] = largest
    return w.astype(np.float32).astype(np.float64)[None]


def check_sums(machine, N, M, precision=FLOAT32, guided=True):
    F, w = features(N, M, precision), weights(M)

    def run(device):
        guide = make_guide(device, "relu1_1", w, N) if guided else None
        mine, f = Moments(device, precision), elements(device, F, precision)
        s = unwritten(device, N, np.float64)
        mine.sums_into(f, guide, s)
        found = mine.sums(f, guide)
        np.testing.assert_array_equal(device.to_host(s), found)
        return found

    found, w = machine.check(run), w[0] if guided else np.ones(M)
    assert found.dtype == np.float64
    exact = moments_forward(F.T, w)[1]
    assert np.all(np.abs(found - exact) <= (GROUP + 1) * U * (w @ np.abs(F)))


@each_precision
@pytest.mark.parametrize("guided", [False, True], ids=["all", "guided"])
@pytest.mark.parametrize(("N", "M"), [*SHAPES, pytest.param(130, 67 * 131, marks=pytest.mark.slow)])
def test_sums_over_positions_are_the_books(machine, N, M, precision, guided):
    check_sums(machine, N, M, precision, guided)


def test_sums_over_many_pieces_are_the_books(machine):
    check_sums(machine, 2, 9001)


def test_sums_take_memory_for_their_pieces_once(stand_in, monkeypatch):
    """Launches that are recorded know where they lie, whatever else is added up in between."""
    device = stand_in.devices[0]
    mine, s = Moments(device, FLOAT32), [device.empty(N, np.float64) for N in (1, 300)]
    arrays = [unwritten(device, shape, np.float32) for shape in ((5, 1), (70001, 1), (2100, 300))]
    mine.sums_into(arrays[0], None, s[0])
    monkeypatch.setattr(device, "empty", None)
    mine.sums_into(arrays[1], None, s[0])
    mine.sums_into(arrays[2], None, s[1])


@each_precision
@pytest.mark.parametrize("largest", [0.25, 3.0, 1e-30, 1e30])
def test_guided_features_are_those_times_the_root_in_their_range(machine, precision, largest):
    N, M = 7, 67
    F, w = features(N, M, precision), weights(M, largest)

    def run(device):
        guide = make_guide(device, "relu1_1", w, N)
        Y = unwritten(device, F.shape, precision.dtype)
        Moments(device, precision).weigh(elements(device, F, precision), guide, Y)
        return floats(device, Y, precision), np.array(guide.most), device.to_host(guide.w)

    Y, most, normal = machine.check(run)
    assert most / 2 < largest <= most
    np.testing.assert_array_equal(most * normal.astype(np.float64), w[0])
    root = np.sqrt(w[0] / most).astype(np.float32)
    expected = from_elements(to_elements(root[:, None] * F.astype(np.float32), precision), precision)
    np.testing.assert_array_equal(Y, expected)


def test_a_guide_that_is_nowhere_gives_zeros(machine):
    F, nothing = features(5, 40), np.zeros((4, 10))

    def run(device):
        guide, f = make_guide(device, "relu1_1", nothing, 5), elements(device, F)
        Y, g = unwritten(device, F.shape, np.float32), elements(device, F)
        mine = Moments(device, FLOAT32)
        mine.weigh(f, guide, Y)
        mine.backward(elements(device, np.full(F.shape, np.inf)), np.ones(5), f, guide, False, g)
        return device.to_host(Y), mine.sums(f, guide), device.to_host(g)

    Y, s, g = machine.check(run)
    assert not Y.any()
    assert not s.any()
    np.testing.assert_array_equal(g, F.astype(np.float32))


def check_backward(machine, N, M, precision=FLOAT32, *, style=True, sums=True, guided=True, mask=True):
    F, S, g = (features(*shape, precision, seed) for seed, shape in enumerate([(N, M), (N, N), (N, M)]))
    T = from_elements(to_elements(F @ (S + S.T), precision), precision).astype(np.float64)
    ds, w = np.random.default_rng(3).standard_normal(N).astype(np.float32).astype(np.float64), weights(M)

    def run(device):
        guide = make_guide(device, "relu1_1", w, N) if guided else None
        f, t, out = (elements(device, a, precision) for a in (F, T, g))
        most = guide.most if guided else 1.0
        # As the network calls it: T and the sums' gradient already times `most`, here a power of two above 1
        t = elements(device, most * T, precision)
        mine, again = Moments(device, precision), elements(device, g, precision)
        mine.backward(t if style else None, most * ds if sums else None, f, guide, mask, out)
        there = LaterArray(device.to_device(ds.astype(np.float32)))
        mine.backward(t if style else None, most * there if sums else None, f, guide, mask, again)
        assert device.to_host(again).tobytes() == device.to_host(out).tobytes(), "wherever ds lies"
        return floats(device, out, precision)

    found, w = machine.check(run), w[0] if guided else np.ones(M)
    none = np.zeros((N, N))
    more = moments_backward(none, ds * sums, F.T, w).T + style * w[:, None] * T
    expected = g + (relu_backward(more, F) if mask else more)
    # A sum, a product, a sum with what was there; then it becomes an element
    off = 3 * U * (w[:, None] * (np.abs(T) * style + np.abs(ds) * sums) + np.abs(g))
    assert np.all(np.abs(found - expected) <= 1.01 * off + precision.unit * np.maximum(np.abs(expected), SMALLEST))


@each_precision
@pytest.mark.parametrize(("N", "M"), SHAPES)
def test_the_gradient_is_the_books(machine, N, M, precision):
    check_backward(machine, N, M, precision)


@pytest.mark.parametrize("mask", [False, True], ids=["all", "mask"])
@pytest.mark.parametrize(("style", "sums", "guided"), [(True, False, True), (False, True, True), (False, True, False)])
def test_each_part_of_the_gradient_may_be_missing(machine, style, sums, guided, mask):
    check_backward(machine, 7, 35, style=style, sums=sums, guided=guided, mask=mask)


def test_float16s_scale_does_not_depend_on_where_the_gradient_of_the_sums_lies(stand_in):
    device, precision = stand_in.devices[0], PRECISIONS["float16"]
    F, ds = elements(device, features(5, 12, precision).reshape(3, 4, 5), precision), np.linspace(1, 3, 5)
    there = LaterArray(device.to_device(ds.astype(np.float32)), 2.0**-9)
    rows = []
    for given in (2.0**-9 * ds, there):
        scale = LossScale(Losses(device, precision))
        rows.append(device.to_host(scale.measure({"relu1_1": [TapGradient(ds=given)]}, {"relu1_1": F}).of()))
    np.testing.assert_array_equal(*rows)
    assert rows[0][1] == 2.0**7


def test_nan_shows(machine):
    bad = np.ones((70, 3), np.float32)
    bad[69, 2] = np.nan

    def run(device):
        mine, f, g = Moments(device, FLOAT32), device.to_device(bad), device.to_device(np.zeros_like(bad))
        guide = make_guide(device, "relu1_1", np.ones((1, 70)), 3)
        mine.backward(f, None, device.to_device(np.ones_like(bad)), guide, True, g)
        return mine.sums(f, guide), device.to_host(g)

    s, g = machine.check(run)
    assert np.isnan(s).tolist() == [False, False, True]
    assert np.isnan(g).sum() == 1


def test_what_does_not_fit_together_is_refused_in_one_line(machine):
    device = machine.devices[0]
    mine, guide = Moments(device, FLOAT32), make_guide(device, "relu1_1", np.ones((2, 3)), 5)
    F, other = unwritten(device, (6, 5), np.float32), unwritten(device, (7, 5), np.float32)
    for call, message in (
        (lambda: mine.sums(other, guide), "guide: expected weights of the 7 positions of relu1_1, got 6"),
        (lambda: mine.weigh(F, guide, other), r"Y: expected the shape of F \(6, 5\), got \(7, 5\)"),
        (lambda: mine.backward(None, np.ones(4), F, guide, True, F), r"ds: expected \(5,\)"),
        (lambda: mine.backward(None, LaterArray(other[0, :4]), F, guide, True, F), r"ds: expected \(5,\)"),
        (lambda: mine.backward(other, None, F, guide, True, F), "T: expected the shape"),
        (lambda: mine.backward(F, None, F, guide, True, other), "g: expected the shape"),
    ):
        with pytest.raises(ShapeError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


# ---- what these tests would notice -----------------------------------------------------------------------------------

BARRIER = "[lane] = v;\n  __syncthreads();\n"
BUGS = {
    "nothing": ("// op:", "// op:"),
    "no barrier after the warps' sums are written": (BARRIER, "[lane] = v;\n"),
    "a position too many in every piece": ("begin + length, M)", "begin + length + 1, M)"),
    "a channel of the next position": ("if (++c == N) c = 0;", ""),
    "a gradient without its weight": ("weight[e] * (ds ?", "(ds ?"),
    "sums without the guide's power of two": ("s[c] = factor * sum;", "s[c] = sum;"),
    "a gradient of sums without its factor": ("Factor{factor, scales", "Factor{1.f, scales"),
    "features without their weight": ("f[e] *= weight[e];", "f[e] *= 1.f;"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(unoptimised, monkeypatch, bug):
    plant(monkeypatch, moments.RUNG, *BUGS[bug])

    def check():
        check_sums(unoptimised, 40, 70)
        check_backward(unoptimised, 7, 35)
        test_guided_features_are_those_times_the_root_in_their_range(unoptimised, FLOAT32, 3.0)

    notices(bug, check)


SANITIZED = """
import numpy as np
from nstcore.engines.cuda.moments import Moments, make_guide
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from nstcore.engines.cuda.precision import PRECISIONS

device = OnCpuDevice(build=BUILD)
some = 1 if BUILD == "tsan" else None  # where threads wait does not depend on the precision
for precision in (PRECISIONS["float32"], PRECISIONS["float16"])[:some]:
    for N, M in ((5, 67), (33, 3), (1, 1))[: some and 2]:
        mine, guide = Moments(device, precision), make_guide(device, "relu1_1", np.ones((1, M)), N)
        F, Y, g = (device.to_device(np.ones((M, N), precision.dtype)) for _ in range(3))
        assert (mine.sums(F, guide) == M).all()
        mine.weigh(F, guide, Y)
        mine.backward(Y, np.ones(N), F, guide, True, g), mine.backward(None, np.ones(N), F, None, False, g)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_kernel_leaves_its_memory_or_races(build):
    done = run_sanitized(build, SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
