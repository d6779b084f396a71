"""The convolution that pools (kernels/cuda/conv3x3/10_pooled) and the network that lets it, against the two apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import random_weights, smooth_picture
from cuda_conv import Layer, Size, check_forward, run_forward
from cuda_devices import Machine, plant
from cuda_pooling import check_forward as check_forward_and_pooling
from cuda_pooling import forward
from cuda_sanitized import run_sanitized

from nstcore import engines, vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.engines.cuda import CudaEngine, conv, tiles
from nstcore.engines.cuda.conv import PRODUCTION, RUNGS
from nstcore.engines.cuda.on_cpu import KernelError, OnCpuDevice, problem
from nstcore.engines.cuda.plan import Plan, Pooled, choices, lives
from nstcore.engines.cuda.precision import PRECISIONS, Precision
from nstcore.engines.cuda.tiles import POOLED, Choice, Pass
from nstcore.ops.pool import POOLINGS

SHORT = POOLED.partition("/")[2]
TF32, FLOAT16, BFLOAT16 = (PRECISIONS[name] for name in ("tf32", "float16", "bfloat16"))
SLOW = pytest.mark.slow
needs_compiler = pytest.mark.skipif(problem() is not None, reason=str(problem()))
# One window; odd rows, odd columns, both; as many windows and channels as a tile has, and some more; not aligned
SIZES = [Size(8, 8, 2, 2), Size(24, 40, 3, 34), Size(8, 72, 5, 27), Size(40, 136, 4, 33), Size(3, 5, 7, 6)]


def check_same(machine: Machine, layer: Layer, kind: str, replicate: bool) -> None:
    check_forward_and_pooling(machine, layer, PRODUCTION[layer.precision.name], SHORT, kind, replicate)


# ---- the kernel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POOLINGS)
@pytest.mark.parametrize(
    ("precision", "size"),
    [
        *((TF32, size) for size in SIZES[:-1]),
        (FLOAT16, SIZES[1]),
        pytest.param(TF32, SIZES[-1], marks=SLOW),  # other forms take the stand-in's compiler long
        *(pytest.param(FLOAT16, size, marks=SLOW) for size in SIZES[2:]),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_it_gives_the_bits_of_a_convolution_and_a_pooling(machine, precision, size, kind):
    check_same(machine, Layer(size, precision), kind, replicate=kind == "average")


@SLOW
@pytest.mark.parametrize("kind", POOLINGS)
def test_bfloat16_gives_the_same_bits(machine, kind):
    check_same(machine, Layer(Size(24, 72, 9, 27), BFLOAT16), kind, replicate=True)


def test_alone_it_is_the_book_s_convolution(machine):
    layer = Layer(Size(24, 72, 5, 19), TF32)
    got = machine.check(lambda d: run_forward(layer, d, SHORT, True, True))
    check_forward(layer, got, SHORT, True)


@SLOW
def test_no_tile_changes_a_bit(machine, monkeypatch):
    layer, results = Layer(Size(40, 136, 7, 70), TF32), []
    for tile in tiles.TILES:
        monkeypatch.setattr(tiles, "chosen", lambda p, tile=tile: Choice(tile))
        results.append(machine.check(lambda d: forward(layer, d, SHORT, "max", False, fused=True)))
    for other in results[1:]:
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(results[0], other, strict=True))


BUGS = {
    "a window that begins a row too far down": ("(int)(window / wide) * 2 +", "(int)(window / wide) * 2 + 1 +"),
    "two values of a window exchanged": ("m % 4 / 2, q", "m % 4 % 2, q"),
    "one window in a row too few": ("(W + 1) / 2};", "W / 2};"),
    "pooled before it is rounded": ("to_float(to_element(sums[i][e]))", "sums[i][e]"),
    "pooled before the ReLU": ("sums[i][e] = relu(sums[i][e]);", ";"),
    "an incomplete window leaves no choice": ("if (choices) store", "if (choices && row < H / 2) store"),
    "what lies outside has a say": ("inside ? to_float", "true ? to_float"),
}


@SLOW
@pytest.mark.parametrize("bug", ["none", *BUGS])
def test_a_planted_bug_shows(unoptimised, monkeypatch, bug):
    layer = Layer(Size(8, 16, 5, 9), FLOAT16)
    if bug == "none":
        check_same(unoptimised, layer, "average", False)
        return
    plant(monkeypatch, POOLED, *BUGS[bug])
    with pytest.raises((AssertionError, KernelError)):
        check_same(unoptimised, layer, "average", False)


def small_layers(build: str) -> None:
    """What a sanitizer watches: incomplete windows, a tile that is not full; elements copied one by one."""
    device = OnCpuDevice(build=build)
    layers = [Layer(Size(24, 40, 3, 17), TF32)]
    if build == "asan":
        layers += [Layer(Size(3, 5, 4, 17), BFLOAT16), Layer(Size(8, 16, 5, 2), FLOAT16)]
    for layer in layers:
        for kind in ("max", "l2"):
            check_same(Machine([device]), layer, kind, True)


@SLOW
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_it_does_not_leave_its_memory_or_race(build):
    done = run_sanitized(build, "from test_cuda_fused_pool import small_layers\nsmall_layers(BUILD)\nprint('done')")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# ---- which layers ---------------------------------------------------------------------------------------------------


def test_it_takes_the_place_of_the_production_rungs_but_where_sums_are_split_or_09_was_faster(monkeypatch):
    def asked(precision: Precision, channels: int, side: int, rung: str | None = None) -> bool:
        found = RUNGS[rung or PRODUCTION[precision.name]].pools
        return found is not None and found(Pass(channels, channels, side, side, precision)) is not None

    for precision in (TF32, FLOAT16, BFLOAT16):
        assert all(asked(precision, *layer) for layer in ((64, 512), (128, 256), (256, 128), (512, 64)))
        assert not asked(precision, 512, 32)  # split
    assert not asked(PRECISIONS["float32"], 64, 512)
    assert not any(asked(FLOAT16, 64, 512, rung) for rung in ("07_wgmma", "08_split_sum", "09_halo_tile"))
    monkeypatch.setattr(tiles, "chosen", lambda p: Choice((256, 64), rung=tiles.HALO_TILE))
    assert not asked(FLOAT16, 64, 512)


def test_every_form_that_a_layer_can_get_is_among_the_variants_that_are_checked():
    checked = {(v.rung, v.precision, *v.defines.items()) for v in conv.variants() if v.production}
    for precision in (TF32, FLOAT16, BFLOAT16):
        for channels in (8, 64, 100, 512, 513):
            launch = tiles.pooled(Pass(channels, 2 * channels, 40, 65, precision))
            assert launch.rung == POOLED
            assert (POOLED, precision, *launch.defines.items()) in checked


# ---- the network ----------------------------------------------------------------------------------------------------

PIXELS = np.ascontiguousarray(smooth_picture(21, 27).transpose(2, 0, 1).astype(np.float32))
USUAL = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")


@pytest.fixture
def weights(monkeypatch):
    """Three blocks of a few channels, so that a sum is not split; an odd picture, and an odd one after a pooling."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((2, 8), (2, 16), (1, 24)))
    monkeypatch.setattr(tiles, "PROCESSORS", 2)
    return random_weights(deepest="conv3_1")


def evaluated(weights, precision: str, pooling: str, taps, fused: bool, monkeypatch):
    """Features, decisions and gradient; the names of the kernels that were launched for it."""
    name, device, launched = PRODUCTION[precision], OnCpuDevice(), []
    kernel = device.kernel
    monkeypatch.setattr(device, "kernel", lambda rung, *more, **d: (launched.append(rung), kernel(rung, *more, **d))[1])
    with monkeypatch.context() as patch:
        patch.setitem(RUNGS, name, RUNGS[name] if fused else replace(RUNGS[name], pools=None))
        engine = CudaEngine(device, precision)
        network = engine.network(weights, taps, pooling)
    network.forward(engine.array(PIXELS))
    features = {tap: network.features(tap) for tap in taps}
    found = network.decisions()
    sent = {tap: [TapGradient(engine.array(np.eye(len(F), dtype=np.float32)))] for tap, F in features.items()}
    return features, found, engine.numpy(network.backward(sent)), launched, network


@needs_compiler
@pytest.mark.parametrize(
    ("precision", "pooling"),
    [
        ("tf32", "max"),
        pytest.param("tf32", "average", marks=SLOW),
        pytest.param("tf32", "l2", marks=SLOW),
        pytest.param("float16", "max", marks=SLOW),
    ],
)
def test_a_network_gives_the_same_bits_whether_its_convolutions_pool_or_not(weights, monkeypatch, precision, pooling):
    for taps in (("relu1_1", "relu3_1"), ("conv1_2", "relu1_2", "pool1", "relu2_2", "relu3_1")):
        asked = weights, precision, pooling, taps
        features, decided, gradient, launched, _ = evaluated(*asked, True, monkeypatch)
        others, decided_apart, gradient_apart, launched_apart, _ = evaluated(*asked, False, monkeypatch)
        assert POOLED in launched
        assert POOLED not in launched_apart
        assert all(np.array_equal(features[tap], others[tap]) for tap in taps)
        assert np.array_equal(gradient, gradient_apart)
        assert gradient.any()
        assert decided.keys() == decided_apart.keys()
        assert all(np.array_equal(decided[name], decided_apart[name]) for name in decided)


@needs_compiler
def test_the_gradient_is_the_book_s_with_the_decisions_that_the_choices_tell(weights, monkeypatch):
    """Features before a pooling are written nowhere, but where somebody asks for them."""
    features, decided, gradient, _, network = evaluated(weights, "tf32", "max", ("relu3_1",), True, monkeypatch)
    network.forward(network.device.to_device(PIXELS))
    assert not {"relu1_2", "relu2_2"} & set(network.buffers)
    np.testing.assert_array_equal(network.features("relu1_2") > 0, decided["relu1_2"])
    book = engines.create("reference", "float64").network(weights, ("relu3_1",), "max")
    book.forward(PIXELS, decided)
    assert set(decided) == {"relu1_1", "relu1_2", "pool1", "relu2_1", "relu2_2", "pool2", "relu3_1"}
    assert relative_error(features["relu3_1"], book.features("relu3_1")) <= 4 * TF32.unit
    eye = np.eye(len(features["relu3_1"]))
    assert relative_error(gradient, book.backward({"relu3_1": [TapGradient(eye)]})) <= 10 * TF32.unit


# ---- memory ---------------------------------------------------------------------------------------------------------


def planned(size: tuple[int, int], element, pooled: Pooled) -> tuple[Plan, set[str]]:
    steps, plan = vgg.steps_for("vgg19", USUAL), Plan()
    shapes = {step.output: vgg.shape("vgg19", step.output, *size) for step in steps}
    names = set()
    for name, shape, first, end in lives(steps, USUAL, shapes, pooled):
        plan.add(name, shape, element, first, end)
        names.add(name)
    for name, shape, first, end in choices(steps, shapes, pooled):
        plan.add(name, shape, np.uint8, first, end)
    return plan, names


@pytest.mark.parametrize("element", [np.float32, np.uint16])
@pytest.mark.parametrize("size", [(512, 512), (1024, 768), (97, 131)])
def test_features_that_a_pooling_took_are_not_kept_which_saves_a_third(size, element):
    """Left: relu1_1 and the gradients on both sides of conv1_2; VGG's other features take no more than that."""
    fused = {f"conv{block}_{n}" for block, n in ((1, 2), (2, 2), (3, 4), (4, 4))}
    before, every = planned(size, element, Pooled())
    after, _ = planned(size, element, Pooled(True))
    without, names = planned(size, element, Pooled(True, fused))
    assert every - names == {"relu1_2", "relu2_2", "relu3_4", "relu4_4"}
    assert without.bytes <= after.bytes < 0.72 * before.bytes
    assert after.bytes < 1.12 * 3 * 64 * size[0] * size[1] * np.dtype(element).itemsize
