"""Gates on the cuda engine (kernels/cuda/gates): words of features and of choices, and back; tiles that go by them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_weights, smooth_picture
from cuda_devices import elements, floats, notices, plant, unwritten
from cuda_sanitized import run_sanitized
from test_gates import CASES, from_features_and_gates, gradients_of, inputs

from nstcore import vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import gates as book
from nstcore.engines.cuda import CudaEngine, gates, loss_scale, pool
from nstcore.engines.cuda.on_cpu import OnCpuDevice, problem
from nstcore.engines.cuda.precision import FLOAT32, PRECISIONS
from nstcore.engines.tiled import TiledEngine, Tiling
from nstcore.errors import ShapeError
from nstcore.objective import Objective
from nstcore.vgg import Part

needs_compiler = pytest.mark.skipif(problem() is not None, reason=str(problem()))
slowly = [pytest.param(name, marks=pytest.mark.slow) for name in ("tf32", "float16", "bfloat16")]
each_precision = pytest.mark.parametrize("precision", ["float32", *slowly])
each_kind = pytest.mark.parametrize("kind", ["max", "average"])
SHAPES = [(1, 1, 1), (16, 5, 7), (17, 4, 6), (48, 3, 131), (15, 131, 3)]  # (C, H, W)
WINDOWS = [(slice(None), slice(None)), (slice(1, 3), slice(2, None)), (slice(-1, None), slice(0, 1))]


def numbers(shape) -> np.ndarray:
    """(C, H, W); equal ones in many windows, zeros of both signs, and one that is no number."""
    found = np.random.default_rng(sum(shape)).integers(-2, 3, shape).astype(np.float32)
    found[found == -2] *= 0
    found[0, -1, -1] = np.nan
    return found


def channels_last(F, device, precision):
    return elements(device, np.ascontiguousarray(F.transpose(1, 2, 0)), precision)


def check_features(machine, shape, precision):
    F = numbers(shape)
    for window in WINDOWS:
        found = machine.check(
            lambda device, w=window: gates.of_features(device, precision, channels_last(F, device, precision), w)
        )
        np.testing.assert_array_equal(found, book.words(F > 0)[:, *window])


def check_open_features(machine, shape, precision):
    C, H, W = shape
    given = np.random.default_rng(C).random(shape) < 0.5

    def run(device):
        F = unwritten(device, (H, W, C), precision.dtype)
        gates.open_features(device, precision, book.words(given), F)
        return floats(device, F, precision)

    np.testing.assert_array_equal(machine.check(run), given.transpose(1, 2, 0))


def choices_of(device, F, kind, precision):
    """As the pooling leaves them."""
    C, H, W = F.shape
    choices = unwritten(device, (-(-H // 2), -(-W // 2), C), np.uint8)
    y = unwritten(device, (H // 2, W // 2, C), precision.dtype)
    pool.forward(device, precision, channels_last(F, device, precision), y, C, H, W, kind, True, choices)
    return choices


def passing(device, choices, shape, kind, precision):
    """What the pooling sends back of gradients 1."""
    C, H, W = shape
    dx = unwritten(device, (H, W, C), precision.dtype)
    dy = elements(device, np.ones((H // 2, W // 2, C), np.float32), precision)
    pool.backward(device, precision, dy, None, dx, C, H, W, kind, True, choices)
    return floats(device, dx, precision).transpose(2, 0, 1)


def check_choices(machine, shape, kind, precision):
    """Gates are where the gradient passes, and from them it passes there."""
    F = numbers(shape)

    def run(device, window):
        choices = choices_of(device, F, kind, precision)
        found = gates.of_choices(device, precision, choices, *shape[1:], kind, window)
        again = unwritten(device, choices.shape, np.uint8)
        if window == WINDOWS[0]:
            gates.open_choices(device, precision, found, again)
            return found, *(passing(device, c, shape, kind, precision) for c in (choices, again))
        return found, found, found

    whole, passes, passes_again = machine.check(lambda device: run(device, WINDOWS[0]))
    expected = passes > 0
    if kind == "average":  # a gradient passes into no incomplete window, whatever the ReLU decided there
        expected = ~(F <= 0)
    np.testing.assert_array_equal(whole, book.words(expected))
    np.testing.assert_array_equal(passes_again, passes)
    assert np.any(passes)
    for window in WINDOWS[1:]:
        found, *_ = machine.check(lambda device, w=window: run(device, w))
        np.testing.assert_array_equal(found, whole[:, *window])


# ---- kernels ---------------------------------------------------------------------------------------------------------


@each_precision
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_feature_above_0_is_a_gate(machine, shape, precision):
    check_features(machine, shape, PRECISIONS[precision])


@each_precision
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_open_feature_is_1(machine, shape, precision):
    check_open_features(machine, shape, PRECISIONS[precision])


@each_kind
@each_precision
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_the_gradient_passes_a_pooling_at_its_gates(machine, shape, kind, precision):
    check_choices(machine, shape, kind, PRECISIONS[precision])


def test_choices_of_gates_are_the_books(machine):
    given = np.random.default_rng(3).random((17, 5, 7)) < 0.3

    def run(device):
        choices = unwritten(device, (3, 4, 17), np.uint8)
        gates.open_choices(device, FLOAT32, book.words(given), choices)
        return device.to_host(choices)

    windows = np.pad(given, ((0, 0), (0, 1), (0, 1)))
    passes = sum(windows[:, i // 2 :: 2, i % 2 :: 2].astype(np.uint8) << 2 + i for i in range(4))
    np.testing.assert_array_equal(machine.check(run), (passes | book.choice_of(windows)).transpose(1, 2, 0))


def test_what_does_not_fit_is_refused(machine):
    device = machine.devices[0]
    F, choices = unwritten(device, (4, 5, 17), np.float32), unwritten(device, (2, 3, 17), np.uint8)
    with pytest.raises(ShapeError, match=r"gates: expected uint16 \(2, 4, 5\) for 17 channels, got uint16 \(1, 4, 5\)"):
        gates.open_features(device, FLOAT32, np.zeros((1, 4, 5), np.uint16), F)
    with pytest.raises(ShapeError, match=r"gates: expected uint16 .* got int32"):
        gates.open_choices(device, FLOAT32, np.zeros((2, 4, 5), np.int32), choices)
    with pytest.raises(ShapeError, match=r"choices: expected \(2, 2, 17\) for gates of 4x4 positions, got \(2, 3"):
        gates.open_choices(device, FLOAT32, np.zeros((2, 4, 4), np.uint16), choices)
    with pytest.raises(ShapeError, match=r"choices: expected \(2, 2, 17\)"):
        gates.of_choices(device, FLOAT32, choices, 4, 4, "max")
    assert gates.of_features(device, FLOAT32, F, (slice(2, 2), slice(None))).shape == (2, 0, 5)


# ---- of a network ----------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(monkeypatch):
    """Five blocks of a few channels, one border replicated."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((2, 8), (2, 16), (1, 24), (1, 16), (1, 8)))
    return random_weights(padding="replicate")


@each_precision
@pytest.mark.parametrize("pooling", ["max", "average", "l2"])
def test_the_gradient_from_gates_is_that_from_features(weights, machine, precision, pooling):
    engine = CudaEngine(machine.devices[0], precision)
    for part, taps in CASES:
        network = engine.network(weights, taps, pooling, part)
        from_features, from_gates, _ = from_features_and_gates(engine, network, *inputs(part, (37, 34)))
        assert np.any(from_features)
        np.testing.assert_array_equal(from_gates, from_features)


@needs_compiler
@pytest.mark.slow
def test_a_gradient_beyond_float16_is_computed_again_from_gates(weights, monkeypatch):
    """Which, all of them shut, let nothing pass of what comes from above; the features would."""
    engine, found, lowered = CudaEngine(OnCpuDevice(), "float16"), [], []
    x, above = inputs(Part(1, 2), (37, 34))
    lower = loss_scale.LossScale.lower
    monkeypatch.setattr(loss_scale.LossScale, "lower", lambda self: lowered.append(self) or lower(self))
    for attempts in (loss_scale.ATTEMPTS, (-17, -11)):
        monkeypatch.setattr(loss_scale, "ATTEMPTS", attempts)
        network = engine.network(weights, ["relu1_1"], "max", Part(1, 2))
        network.forward(engine.array(x))
        gradients = gradients_of(network, engine)
        network.reopen(engine.array(x), {step.name: 0 * network.gates(step) for step in network.gated})
        found.append(engine.numpy(network.backward(gradients, engine.array(above))))
    assert len(lowered) == 1
    assert np.any(found[0])
    assert relative_error(found[1], found[0]) <= 4 * engine.elements.unit


@needs_compiler
def test_tiles_compute_nothing_behind_the_deepest_tap_twice(weights):
    content, style = smooth_picture(70, 52), smooth_picture(48, 48)
    engine, found = CudaEngine(OnCpuDevice(), "float32"), []
    x = np.random.default_rng(1).random((3, 70, 52)).astype(np.float32)
    for machine in (engine, TiledEngine(engine, Tiling(32, cuts=(2,)))):
        options = {"style_layers": ["relu1_1", "relu2_1", "relu3_1"], "content_layers": ["relu3_1"]}
        objective = Objective(weights, content, style, engine=machine, **options)
        terms, gradient = objective(machine.array(x))
        found.append((terms.total, machine.numpy(gradient)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert relative_error(found[1][1], found[0][1]) <= 1e-3  # elements near ties, whose rounding another sum decides
    network, seen = objective.network, []
    assert {plan.network.part.last: list(plan.gates) for plan in network.plans} == {2: ["conv2_2"], None: []}
    network.watch(lambda layer, way, _: seen.append((layer, way)))
    objective(machine.array(x))
    tiles = len(network.plans[0].backward)
    assert tiles == 6
    assert {layer: seen.count((layer, "forward")) for layer in ("conv1_1", "conv2_1", "conv2_2")} == {
        "conv1_1": 2 * tiles,
        "conv2_1": 2 * tiles,
        "conv2_2": tiles,
    }


# ---- proofs of the proofs --------------------------------------------------------------------------------------------

BUGS = {
    "nothing": ("// op:", "// op:"),
    "0 is a gate": ("v[e] > 0.f", "v[e] >= 0.f"),
    "no first row": ("(top + i) * W + left", "i * W + left"),
    "a channel too many": ("load_elements<VECTOR>(v, from + k, c + k < C)", "load_elements<VECTOR>(v, from + k, true)"),
    "rows and columns exchanged": ("p % 2 * 2 + q % 2", "q % 2 * 2 + p % 2"),
    "gates of windows that are not whole": ("kind == POOL_AVERAGE || (p / 2 < H / 2 && q / 2 < W / 2)", "true"),
    "fewer windows in a row": ("(p / 2) * ((W + 1) / 2)", "(p / 2) * (W / 2)"),
    "a gate beyond the picture": ("row < H && column < W ? words", "row <= H && column <= W ? words"),
    "one bit for all": ("v[e] = (float)(word >> (k + e) & 1)", "v[e] = (float)(word & 1)"),
    "the last in place of the first": ("passes & 1 ? 0 : passes & 2 ? 1", "passes & 2 ? 1 : passes & 1 ? 0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(unoptimised, monkeypatch, bug):
    plant(monkeypatch, gates.RUNG, *BUGS[bug])

    def check():
        check_features(unoptimised, (17, 5, 7), FLOAT32)
        check_open_features(unoptimised, (17, 5, 7), FLOAT32)
        for kind in ("max", "average"):
            check_choices(unoptimised, (17, 5, 7), kind, FLOAT32)
        test_choices_of_gates_are_the_books(unoptimised)

    notices(bug, check)


SANITIZED = """
import numpy as np
from nstcore.engines.cuda import gates
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from nstcore.engines.cuda.precision import PRECISIONS

device, precision = OnCpuDevice(build=BUILD), PRECISIONS["float16"]
for C, H, W in ((17, 3, 5), (16, 2, 131))[: 1 if BUILD == "tsan" else 2]:  # by elements, by 16 bytes
    words = np.random.default_rng(0).integers(0, 1 << 16, (-(-C // 16), H, W), np.uint16)
    words[C // 16 :] &= (1 << C % 16) - 1
    F = device.empty((H, W, C), precision.dtype)
    gates.open_features(device, precision, words, F)
    assert np.array_equal(gates.of_features(device, precision, F), words)
    choices = device.empty((-(-H // 2), -(-W // 2), C), np.uint8)
    gates.open_choices(device, precision, words, choices)
    assert np.array_equal(gates.of_choices(device, precision, choices, H, W, "average"), words)
    corner = slice(H - 1, None), slice(W - 2, None)
    assert np.array_equal(gates.of_choices(device, precision, choices, H, W, "average", corner), words[:, *corner])
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_kernel_leaves_its_memory_or_races(build):
    done = run_sanitized(build, SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
