"""Features between the book's layout and the engine's (kernels/cuda/features), to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_weights
from cuda_devices import notices, plant, unwritten
from cuda_sanitized import run_sanitized

from nstcore import vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.engines.cuda import CudaEngine, features
from nstcore.engines.cuda.on_cpu import OnCpuDevice, problem
from nstcore.engines.cuda.precision import FLOAT16, FLOAT32, PRECISIONS, from_elements, to_elements
from nstcore.engines.reference import ReferenceEngine
from nstcore.errors import LayerError, ShapeError

needs_compiler = pytest.mark.skipif(problem() is not None, reason=str(problem()))
each_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
GUARD = 128  # zeros behind every array: nothing may write them
SHAPES = [(1, 1, 1), (3, 5, 7), (32, 4, 8), (33, 1, 65), (64, 9, 5), (7, 11, 3)]  # (C, H, W)
WINDOWS = [((0, 0), (1, 1)), ((0, 0), (5, 7)), ((2, 1), (3, 4)), ((4, 0), (1, 7)), ((0, 6), (5, 1))]  # first, (h, w)


def planes(shape) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def guarded(device, size, dtype):
    """NaN, then zeros."""
    whole = unwritten(device, size + GUARD, dtype)
    device.fill_bytes(whole[size:], 0)
    return whole


def check_enter(machine, shape, precision, factor=1.0):
    y, (C, H, W) = planes(shape), shape

    def run(device):
        whole = guarded(device, y.size, precision.dtype)
        x = whole[:-GUARD].reshape(H, W, C)
        features.enter(device, precision, device.to_device(y), x, factor)
        assert not device.to_host(whole)[-GUARD:].any()
        return device.to_host(x)

    x = machine.check(run)
    assert x.tobytes() == to_elements((np.float32(factor) * y).transpose(1, 2, 0), precision).tobytes()


def check_leave(machine, shape, first, size, precision, factor=1.0):
    x = to_elements(planes(shape).transpose(1, 2, 0), precision)

    def run(device):
        whole = guarded(device, shape[0] * size[0] * size[1], np.float32)
        y = whole[:-GUARD].reshape(shape[0], *size)
        features.leave(device, precision, device.to_device(x), y, *first, factor)
        assert not device.to_host(whole)[-GUARD:].any()
        return device.to_host(y)

    window = from_elements(x, precision)[first[0] : first[0] + size[0], first[1] : first[1] + size[1]]
    np.testing.assert_array_equal(machine.check(run), np.float32(factor) * window.transpose(2, 0, 1))


@each_precision
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_features_enter_as_the_elements_that_they_round_to(machine, shape, precision):
    check_enter(machine, shape, precision)
    check_enter(machine, shape, precision, 2.0**-3)


@each_precision
@pytest.mark.parametrize(("first", "size"), WINDOWS, ids=str)
def test_a_window_of_features_leaves_as_it_is(machine, first, size, precision):
    for channels in (3, 32, 33):
        check_leave(machine, (channels, 5, 7), first, size, precision)
    check_leave(machine, (5, 5, 7), first, size, precision, 2.0**4)


@each_precision
def test_every_element_that_leaves_comes_back_as_itself(machine, precision):
    bits = np.arange(65536, dtype=np.uint16)
    x = bits.view(np.float16) if precision is FLOAT16 else bits if precision.dtype.itemsize == 2 else None
    if x is None:
        x = to_elements(np.random.default_rng(0).integers(0, 2**32, 65536, np.uint32).view(np.float32), precision)
    x = x[np.isfinite(from_elements(x, precision))][:63000].reshape(14, 50, -1)

    def run(device):
        there, back = device.to_device(x), unwritten(device, x.shape, precision.dtype)
        y = unwritten(device, (x.shape[2], *x.shape[:2]), np.float32)
        features.leave(device, precision, there, y)
        features.enter(device, precision, y, back)
        return device.to_host(back)

    assert machine.check(run).tobytes() == x.tobytes()


def test_what_does_not_fit_is_refused(machine):
    device = machine.devices[0]
    y, x = unwritten(device, (3, 4, 5), np.float32), unwritten(device, (4, 5, 3), np.float32)
    with pytest.raises(ShapeError, match=r"x: expected \(H, W, C\) for y \(C, H, W\), got \(5, 4, 3\)"):
        features.enter(device, FLOAT32, y, x.reshape(5, 4, 3))
    with pytest.raises(ShapeError, match=r"y: expected \(3, h, w\)"):
        features.leave(device, FLOAT32, x, y.reshape(4, 3, 5))
    for first in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        with pytest.raises(ShapeError, match="expected a window within"):
            features.leave(device, FLOAT32, x, y, *first)


# ---- of a network ----------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    ("precision", "pooling"),
    [("tf32", "max"), ("float32", "l2"), pytest.param("float16", "average", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    "part", [vgg.WHOLE, pytest.param(vgg.Part(2, 2), marks=pytest.mark.slow)], ids=["whole", "part"]
)
def test_every_layer_that_is_computed_tells_its_features_kept_or_not(precision, pooling, part):
    """The bits of a network of which all of them are taps, and of the book; in any order, before the way back."""
    weights, size = random_weights(deepest="conv2_2"), (17, 18)
    deepest = "relu2_1" if part == vgg.WHOLE else "pool2"
    layers = [layer for step in vgg.steps_for("vgg19", [deepest], part) for layer in step.layers]
    engine = CudaEngine(OnCpuDevice(), precision)
    networks = [engine.network(weights, taps, pooling, part) for taps in (["relu2_1"], layers)]
    x = np.random.default_rng(0).random((networks[0].steps[0].in_channels, *size), np.float32)
    book = ReferenceEngine().network(weights, ["relu2_1"], pooling, part)
    for network in (*networks, book):
        network.forward(x.astype(np.float64) if network is book else engine.array(x))
    one, every = networks
    assert set(layers) - (set(one.buffers) - one._gone), "some are not kept"
    for layer in reversed(layers):
        found = one.features(layer)
        np.testing.assert_array_equal(found, every.features(layer))
        window = slice(1, 4), slice(2, None)
        np.testing.assert_array_equal(one.features(layer, window), found[:, *window])
        if "relu" in layer or "pool" in layer:
            assert relative_error(found, book.features(layer)) <= max(2e-5, 4 * engine.elements.unit), layer
    G, expected = (engine.numpy(network.gram("relu2_1")) for network in networks)
    np.testing.assert_array_equal(G, expected)
    for layer in ("conv2_2" if part == vgg.WHOLE else "relu1_2", "pool3"):
        with pytest.raises(LayerError, match=f"{layer}: expected a layer from conv{part.first}_1 to {deepest}, which"):
            one.features(layer)
    with pytest.raises(LayerError, match="fc6"):
        one.features("fc6")
    one.backward({})
    with pytest.raises(RuntimeError, match="call forward first"):
        one.features("relu1_1")


BUGS = {
    "nothing": ("// op:", "// op:"),
    "no barrier before the tile is read across": (
        "__syncthreads();\n#pragma unroll\n  for (int r = threadIdx.y; r < TILE; r += ROWS)\n    if (first + r < M",
        "for (int r = threadIdx.y; r < TILE; r += ROWS)\n    if (first + r < M",
    ),
    "a position too many on the way in": ("if (first + r < M", "if (first + r <= M"),
    "a channel too many on the way out": (
        "if (channel + r < C && first + lane < pos",
        "if (channel + r <= C && first + lane < pos",
    ),
    "a tile of one channel": ("y[(channel + r) * M + first + lane];", "y[channel * M + first + lane];"),
    "rows as long as the window's": ("(row * W + column)", "(row * w + column)"),
    "no first column": ("left + (first", "(first"),
    "a gradient that is scaled twice": ("= tile[lane][r];", "= factor * tile[lane][r];"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(stand_in, monkeypatch, bug):
    plant(monkeypatch, features.RUNG, *BUGS[bug])

    def check():
        check_enter(stand_in, (33, 5, 7), FLOAT32, 0.5)
        check_leave(stand_in, (33, 5, 7), (2, 1), (3, 4), FLOAT32, 0.5)

    notices(bug, check)


SANITIZED = """
import numpy as np
from nstcore.engines.cuda import features
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from nstcore.engines.cuda.precision import PRECISIONS

device, precision = OnCpuDevice(build=BUILD), PRECISIONS["float16"]
for C, H, W in ((33, 5, 7), (1, 1, 1), (64, 9, 5))[: 1 if BUILD == "tsan" else None]:  # several blocks each way
    y, x = device.to_device(np.ones((C, H, W), np.float32)), device.empty((H, W, C), precision.dtype)
    features.enter(device, precision, y, x)
    features.leave(device, precision, x, y, factor=2.0)
    assert (device.to_host(y) == 2).all()
    features.leave(device, precision, x, device.empty((C, 1, 1), np.float32), H - 1, W - 1)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_kernel_leaves_its_memory_or_races(build):
    done = run_sanitized(build, SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
