"""Kernels between the picture and the network (kernels/cuda/pixels) against the book."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cuda_devices import elements, notices, unwritten
from cuda_sanitized import run_sanitized

from nstcore.engines.cuda import pixels as picture
from nstcore.engines.cuda import source
from nstcore.engines.cuda.precision import FLOAT32, PRECISIONS, from_elements, to_elements
from nstcore.errors import ShapeError
from nstcore.ops.conv import conv_backward
from nstcore.ops.preprocess import preprocess_backward, preprocess_forward
from nstcore.pretrained import Preprocessing

U = 2.0**-24  # largest relative error of one float32 operation
CAFFE = Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
TORCH = Preprocessing("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNEVEN = Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (58.0, 57.1, 57.4))

each_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
each_preprocessing = pytest.mark.parametrize("preprocessing", [CAFFE, TORCH, UNEVEN], ids=["caffe", "torch", "uneven"])
each_border = pytest.mark.parametrize("replicate", [False, True], ids=["zero", "replicate"])
SHAPES = [(1, 1, 1), (3, 1, 5), (5, 2, 1), (4, 3, 2), (64, 17, 33), (13, 16, 32), (9, 35, 31)]  # (K, H, W)
LARGE = [(8, 67, 131), (513, 5, 4), (64, 48, 64), (2, 1, 97), (7, 97, 1)]


def facts(preprocessing: Preprocessing) -> tuple:
    """As the functions of the book take it."""
    return preprocessing.channel_order, preprocessing.range, preprocessing.mean, preprocessing.std


def backward(device, dy, w, preprocessing, scale, replicate, precision) -> np.ndarray:
    up, filters = elements(device, dy.transpose(1, 2, 0), precision), device.to_device(picture.turned_filters(w))
    gradient = unwritten(device, (3, *dy.shape[1:]), np.float32)
    picture.backward(device, precision, up, filters, gradient, preprocessing, scale, replicate)
    return device.to_host(gradient)


def check_backward(machine, shape, preprocessing, replicate, precision=FLOAT32):
    K = shape[0]
    rng = np.random.default_rng(K)
    dy = from_elements(to_elements(rng.standard_normal(shape), precision), precision).astype(np.float64)
    w = rng.standard_normal((K, 3, 3, 3)).astype(np.float32).astype(np.float64)
    scale = 2.0**-7
    gradient = machine.check(lambda device: backward(device, dy, w, preprocessing, scale, replicate, precision))
    padding = "replicate" if replicate else "zero"
    expected = scale * preprocess_backward(conv_backward(dy, w, padding), *facts(preprocessing))
    # 9 K products for each of the positions that a pixel stands for: itself, and up to 3 x 3 with a replicated border
    terms = 9 * K * (9 if replicate else 1)
    sizes = scale * preprocess_backward(conv_backward(np.abs(dy), np.abs(w), padding), *facts(preprocessing))
    assert np.all(np.abs(gradient - expected) <= (terms + 4) * U * sizes)


@each_precision
@each_preprocessing
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (19, 31)], ids=str)
def test_the_prepared_picture_is_the_books_to_the_last_bit(machine, size, preprocessing, precision):
    pixels = np.random.default_rng(0).random((3, *size), np.float32)

    def run(device):
        x = unwritten(device, (*size, picture.PREPARED), precision.dtype)
        picture.prepare(device, precision, device.to_device(pixels), x, preprocessing)
        return device.to_host(x)

    x = machine.check(run)
    expected = preprocess_forward(pixels, *facts(preprocessing)).transpose(1, 2, 0)
    assert x[..., :3].tobytes() == to_elements(expected, precision).tobytes()
    assert not x[..., 3:].any()


@each_border
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gradient_at_the_pixels_is_the_books(machine, shape, replicate):
    check_backward(machine, shape, UNEVEN, replicate)


@each_border
@each_precision
@pytest.mark.parametrize("K", [6, 16])
def test_every_precision_reaches_the_pixels(machine, K, precision, replicate):
    check_backward(machine, (K, 7, 9), TORCH, replicate, precision)


@pytest.mark.slow
@each_border
@each_precision
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_large_pictures_reach_the_pixels(machine, shape, precision, replicate):
    check_backward(machine, shape, CAFFE, replicate, precision)


def test_filters_are_turned_by_180_degrees():
    w = np.arange(2 * 27, dtype=np.float32).reshape(2, 3, 3, 3)
    turned = picture.turned_filters(w)
    assert turned.shape == (9, 2, 3)
    assert turned.dtype == np.float32
    assert turned.flags.c_contiguous
    for r in range(3):
        for s in range(3):
            assert np.array_equal(turned[3 * r + s], w[:, :, 2 - r, 2 - s])


def test_what_does_not_fit_is_refused(machine):
    device = machine.devices[0]
    pixels, x = unwritten(device, (3, 4, 5), np.float32), unwritten(device, (4, 5, 8), np.float32)
    with pytest.raises(ShapeError, match=r"x: expected \(4, 5, 8\) for pixels \(3, 4, 5\)"):
        picture.prepare(device, FLOAT32, pixels, x.reshape(5, 4, 8), CAFFE)
    with pytest.raises(ShapeError, match=r"pixels: expected a picture \(3, H, W\)"):
        picture.prepare(device, FLOAT32, x, x, CAFFE)
    w = unwritten(device, (9, 8, 3), np.float32)
    with pytest.raises(ShapeError, match=r"w: expected \(9, 8, 3\)"):
        picture.backward(device, FLOAT32, x, w.reshape(9, 3, 8), pixels, CAFFE, 1.0, False)
    with pytest.raises(ShapeError, match=r"dy: expected \(4, 5, K\)"):
        picture.backward(device, FLOAT32, x.reshape(5, 4, 8), w, pixels, CAFFE, 1.0, False)


# ---- what these tests would notice -----------------------------------------------------------------------------------

BUGS = {
    "nothing": ("// op:", "// op:"),
    "no barrier before the next channels overwrite the last": ("__syncthreads();  // the last", "// the last"),
    "no barrier after the channels are written": ("__syncthreads();\n\n    for (int quad", "\n    for (int quad"),
    "a column too far": ("q < W && k < K", "q <= W && k < K"),
    "a border that is not replicated": ("if (!replicate) continue;", "continue;"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(unoptimised, monkeypatch, bug):
    read, sound, (there, planted) = source.read, source.read(picture.RUNG), BUGS[bug]
    assert sound.text.replace("#pragma unroll 1\n", "").count(there) == 1
    text = sound.text.replace("#pragma unroll 1\n", "").replace(there, planted)
    broken = dataclasses.replace(sound, text=text)
    monkeypatch.setattr(source, "read", lambda name: broken if name == picture.RUNG else read(name))
    notices(bug, lambda: check_backward(unoptimised, (17, 18, 33), TORCH, True))


SANITIZED = """
import numpy as np
from nstcore.engines.cuda import pixels, pool
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.pretrained import Preprocessing

device, facts = OnCpuDevice(build=BUILD), Preprocessing("bgr", 255.0, (104.0, 117.0, 124.0), (1.0, 1.0, 1.0))
# By 16 bytes in either precision, by elements in one: they are indices of the same text. Who writes what depends on
# neither, so ThreadSanitizer watches one
cases = ("float32", 16, 17, 4), ("float16", 16, 17, 4), ("float32", 9, 3, 33)
for name, K, H, W in cases[: 1 if BUILD == "tsan" else None]:
    precision = PRECISIONS[name]
    picture, gradient = (device.to_device(np.ones((3, H, W), np.float32)) for _ in range(2))
    x, dy, dx = (device.to_device(np.ones((H, W, C), precision.dtype)) for C in (8, K, K))
    w = device.to_device(np.ones((9, K, 3), np.float32))
    pixels.prepare(device, precision, picture, x, facts)
    pixels.backward(device, precision, dy, w, gradient, facts, 1.0, True)
    y = device.to_device(np.ones((H // 2, W // 2, K), precision.dtype))
    choices = device.to_device(np.zeros(pool.choices_size(K, H, W), np.uint8))
    for rung in pool.RUNGS:
        pool.forward(device, precision, dy, y, K, H, W, "max", True, choices, rung)
        kind = "average" if rung == pool.CHOICES else "l2"
        pool.backward(device, precision, y, dy, dx, K, H, W, kind, True, choices, rung)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_neither_pixels_nor_pooling_leaves_its_memory_or_races(build):
    done = run_sanitized(build, SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
