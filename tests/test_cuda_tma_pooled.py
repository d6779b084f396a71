"""Pooling where conv3x3/11 finishes its sums, against 11 and a pooling apart; a network that is 11 everywhere."""

from __future__ import annotations

from dataclasses import replace

import cuda_pooling
import numpy as np
import pytest
from conftest import random_weights, smooth_picture
from cuda_conv import Layer, Size, check_backward, check_forward, run_backward, run_forward
from cuda_devices import Machine, plant
from cuda_sanitized import run_sanitized

from nstcore import engines, vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.engines.cuda import CudaEngine, conv, filters, tiles
from nstcore.engines.cuda.conv import PRODUCTION, RUNGS
from nstcore.engines.cuda.on_cpu import KernelError, OnCpuDevice, problem
from nstcore.engines.cuda.precision import BFLOAT16, FLOAT16, PRECISIONS, TF32
from nstcore.engines.cuda.tile_launches import BOX_TILES, BOXES, POOLED, Pass
from nstcore.errors import DeviceError
from nstcore.ops.pool import POOLINGS

SHORT = BOXES.partition("/")[2]
SLOW = pytest.mark.slow
needs_compiler = pytest.mark.skipif(problem() is not None, reason=str(problem()))
# One window; an odd row; an odd column, and several tiles; both, and windows that no tile is full of
SIZES = [Size(8, 8, 2, 2), Size(24, 40, 3, 34), Size(8, 72, 18, 11), Size(72, 16, 17, 9)]


@pytest.fixture
def hopper(machine):
    """Where 11 runs: the CPU's stand-in, or a GPU of sm_90."""
    if machine.devices[0].architecture != 90:
        pytest.skip(f"expected sm_90, got sm_{machine.devices[0].architecture}")
    return machine


def check_same(machine: Machine, layer: Layer, kind: str, together: str = SHORT) -> None:
    cuda_pooling.check_forward(machine, layer, SHORT, together, kind, replicate=False)


# ---- the kernel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POOLINGS)
@pytest.mark.parametrize(
    ("precision", "size"),
    [
        *((FLOAT16, size) for size in SIZES),
        # other forms take the stand-in's compiler long
        *(pytest.param(TF32, size, marks=SLOW) for size in (Size(4, 12, 5, 9), *SIZES[2:])),
        pytest.param(BFLOAT16, SIZES[1], marks=SLOW),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_it_gives_the_bits_of_a_convolution_and_a_pooling(hopper, precision, size, kind):
    check_same(hopper, Layer(size, precision), kind)


@SLOW
@pytest.mark.parametrize("tile", BOX_TILES, ids=str)
def test_every_tile_gives_the_same_bits_and_is_right_at_its_edges(hopper, monkeypatch, tile):
    """Two rows, a column and 8 channels more than the largest tiles have."""
    forced = replace(RUNGS[SHORT], pools=lambda p: tiles.Choice(tile, rung=BOXES).launch(p))
    monkeypatch.setitem(RUNGS, "forced", forced)
    check_same(hopper, Layer(Size(8, 136, 34, 9), FLOAT16), "max", "forced")


BUGS = {
    "none": ("", ""),
    "a window that begins a column off": ("column = at / QUADS * 2,", "column = at / QUADS,"),
    "two values of a window exchanged": ("i / 2 * COLUMNS + column + i % 2", "i % 2 * COLUMNS + column + i / 2"),
    "windows of other rows": ("place.top + first / COLUMNS, place.left + column", "place.top, place.left + column"),
}


@SLOW
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows(unoptimised, monkeypatch, bug):
    layer = Layer(Size(8, 16, 5, 9), FLOAT16)
    if bug == "none":
        check_same(unoptimised, layer, "average")
        return
    plant(monkeypatch, BOXES, *BUGS[bug])
    with pytest.raises((AssertionError, KernelError)):
        check_same(unoptimised, layer, "average")


def small_layer(build: str) -> None:
    """What a sanitizer watches of all of 11: a layer that ends inside a tile, and inside a window."""
    device, layer = OnCpuDevice(build=build), Layer(Size(24, 40, 3, 9), TF32 if build == "asan" else BFLOAT16)
    check_forward(layer, run_forward(layer, device, SHORT, False, True), SHORT, False)
    check_backward(layer, run_backward(layer, device, SHORT, False, "SP", True), SHORT, False, "SP", True)
    check_same(Machine([device]), layer, "max")


@SLOW
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_it_does_not_leave_its_memory_or_race(build):
    done = run_sanitized(build, "from test_cuda_tma_pooled import small_layer\nsmall_layer(BUILD)\nprint('done')")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# ---- which layers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tiles_json):
    """Writes kernels/tiles.json, elsewhere: 11 for those passes."""

    def write(*passes: Pass) -> None:
        same = {"architecture": 90, "parts": 1, "rung": BOXES, "tile": [128, 64]}
        names = "inputs", "outputs", "positions", "pooled"
        lines = [{**same, "precision": p.precision.name, **{n: getattr(p, n) for n in names}} for p in passes]
        tiles_json({"layers": lines})

    return write


def test_a_layer_pools_by_it_where_the_table_says_so_and_by_10_at_a_border_that_repeats(table):
    p, short = Pass(64, 64, 200, 200, TF32), PRODUCTION["tf32"]
    assert RUNGS[short].pools(p).rung == POOLED
    table(replace(p, pooled=True))
    found = RUNGS[short].pools(p)
    assert (found.rung, found.defines) == (BOXES, tiles.boxes_with(p, (128, 64)).defines)
    assert RUNGS[short].pools(replace(p, replicate=True)).rung == POOLED
    assert RUNGS[short].pools(replace(p, precision=FLOAT16)).rung == POOLED
    assert RUNGS[short].pools(replace(p, architecture=100)).rung == POOLED
    table(p)  # alone it is faster, and nobody has measured it together with the pooling
    assert RUNGS[short].pools(p) is None


@SLOW
def test_alone_it_pools_what_boxes_can_copy_and_leaves_the_rest_to_07_and_a_pooling(stand_in):
    device, p = stand_in.devices[0], Pass(8, 16, 4, 6, FLOAT16)
    assert RUNGS[SHORT].pools(p) == replace(tiles.boxes(p), rung=BOXES)
    assert RUNGS[SHORT].pools(replace(p, outputs=12, precision=TF32)) is not None
    for asked in ((8, 12, 4, 6, False), (8, 16, 4, 6, True)):
        assert RUNGS[SHORT].pools(Pass(*asked[:4], FLOAT16, replicate=asked[4])) is None
        with pytest.raises(DeviceError, match=r"^pooling: expected a layer that conv3x3/11_tma_wgmma does it with"):
            conv.Convolution(device, FLOAT16, SHORT, *asked, None, "max")


def test_what_a_pooled_layer_moves_and_multiplies_in_tf32():
    """conv3_4 of 512 x 512: 64 x 2 tiles, 8 chunks of 32 channels, on paper; y is written nowhere."""
    import predict_launches
    import predict_steps
    import predict_times

    paper = predict_launches.Recorder(90, 132, "a GPU on paper")
    layer = conv.Convolution(paper, TF32, SHORT, 256, 256, 128, 128, False, None, "max")
    x, pooled = paper.empty((128, 128, 256), np.float32), paper.empty((64, 64, 256), np.float32)
    w, b = paper.empty((256, 9, 256), np.float32), paper.empty(256, np.float32)
    layer.forward(x, w, b, None, None, pooled, paper.empty(pooled.shape, np.uint8))
    (launch,) = paper.launches
    work = predict_times.work_of(launch)
    written = pooled.nbytes + pooled.size
    assert predict_steps.name_of(launch) == "conv3x3 forward 256 -> 256, 128x128 + pool"
    assert work.bytes == x.nbytes + w.nbytes + b.nbytes + written
    assert work.cached == 128 * 8 * (3 * 34 * 8 + 9 * 128) * 128 + b.nbytes + written
    assert work.operations == work.issued == 2 * 9 * 256 * 256 * 128 * 128
    gpu = predict_times.Gpu()
    assert (work.unit, gpu.peaks[work.unit], gpu.rates[work.unit]) == ("wgmma tf32", 495e12, 0.75)


# ---- the network ----------------------------------------------------------------------------------------------------

PIXELS = np.ascontiguousarray(smooth_picture(21, 27).transpose(2, 0, 1).astype(np.float32))
TAPS = ("relu1_1", "relu2_2", "relu3_1")


@pytest.fixture
def weights(monkeypatch):
    """Three blocks of a few channels, so that a sum is not split; an odd picture, and an odd one after a pooling."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((2, 8), (2, 16), (1, 24)))
    monkeypatch.setattr(tiles, "PROCESSORS", 2)
    return random_weights(deepest="conv3_1")


def every_pass(precision) -> list[Pass]:
    """Of the network, but for the gradient of the pixels, which has a kernel of its own."""
    found, steps = [], vgg.steps_for("vgg19", TAPS)
    for i, step in enumerate(steps):
        if step.kind == "conv":
            K, H, W = vgg.shape("vgg19", step.output, *PIXELS.shape[1:])
            forward = Pass(filters.inputs(step), K, H, W, precision)
            found += [forward, replace(forward, inputs=K, outputs=forward.inputs)]
            if i + 1 < len(steps) and steps[i + 1].kind == "pool":
                found.append(replace(forward, pooled=True))
    return found


def evaluated(weights, precision: str, pooling: str, monkeypatch, fused: bool):
    """Features, decisions and gradient; and (rung, kernel) of all that was launched for it."""
    name, device, launched = PRODUCTION[precision], OnCpuDevice(), []
    kernel = device.kernel
    monkeypatch.setattr(device, "kernel", lambda *asked, **d: (launched.append(asked[:2]), kernel(*asked, **d))[1])
    with monkeypatch.context() as patch:
        if not fused:
            patch.setitem(RUNGS, name, replace(RUNGS[name], pools=None))
        engine = CudaEngine(device, precision)
        network = engine.network(weights, TAPS, pooling)
    network.forward(engine.array(PIXELS))
    features, found = {tap: network.features(tap) for tap in TAPS}, network.decisions()
    sent = {tap: [TapGradient(engine.array(np.eye(len(F), dtype=np.float32)))] for tap, F in features.items()}
    return features, found, engine.numpy(network.backward(sent)), launched


@needs_compiler
@SLOW
@pytest.mark.parametrize(("precision", "pooling"), [("tf32", "max"), ("float16", "max"), ("tf32", "l2")])
def test_a_network_by_11_everywhere_is_the_book_s_and_pools_to_the_same_bits(
    weights, monkeypatch, table, precision, pooling
):
    table(*every_pass(PRECISIONS[precision]))
    features, decided, gradient, launched = evaluated(weights, precision, pooling, monkeypatch, True)
    others, decided_apart, gradient_apart, launched_apart = evaluated(weights, precision, pooling, monkeypatch, False)
    assert {kernel for rung, kernel in launched if rung == BOXES} == {
        *("conv3x3_forward", "conv3x3_pooled", "conv3x3_backward")
    }
    assert {rung for rung, _ in launched if rung.startswith("conv3x3/")} == {BOXES}
    assert (BOXES, "conv3x3_pooled") not in launched_apart
    assert all(np.array_equal(features[tap], others[tap]) for tap in TAPS)
    assert np.array_equal(gradient, gradient_apart)
    assert all(np.array_equal(decided[name], decided_apart[name]) for name in decided)
    book, unit = engines.create("reference", "float64").network(weights, TAPS, pooling), PRECISIONS[precision].unit
    book.forward(PIXELS, decided)
    sent = {tap: [TapGradient(np.eye(len(F)))] for tap, F in features.items()}
    assert all(relative_error(F, book.features(tap)) <= 4 * unit for tap, F in features.items())
    assert relative_error(gradient, book.backward(sent)) <= 10 * unit
