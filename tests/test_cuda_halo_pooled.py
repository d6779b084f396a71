"""The convolution by rectangles that pools, both ways (kernels/cuda/conv3x3/12), against 09 and a pooling apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import random_weights, smooth_picture
from cuda_conv import Layer, Size, check_backward, check_forward, run_backward, run_forward
from cuda_devices import Machine, plant, unwritten
from cuda_pooling import check_backward as check_gradient
from cuda_pooling import check_forward as check_pooling
from cuda_sanitized import run_sanitized

from nstcore import vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.engines.cuda import CudaEngine, conv, on_cpu, source, tiles
from nstcore.engines.cuda.conv import RUNGS
from nstcore.engines.cuda.nvrtc import Resources
from nstcore.engines.cuda.on_cpu import KernelError, OnCpuDevice
from nstcore.engines.cuda.plan import Plan, Pooled, choices, lives
from nstcore.engines.cuda.poolings import poolings
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.engines.cuda.tile_launches import HALO_POOLED, HALO_TILE, HALO_TILES, POOLED
from nstcore.engines.cuda.tiles import Choice, Pass
from nstcore.errors import DeviceError
from nstcore.ops.pool import POOLINGS

SHORT, APART = "12_halo_pooled", "09_halo_tile"
TF32, FLOAT16, BFLOAT16 = (PRECISIONS[name] for name in ("tf32", "float16", "bfloat16"))
SLOW = pytest.mark.slow
needs_compiler = pytest.mark.skipif(on_cpu.problem() is not None, reason=str(on_cpu.problem()))
# One window; an odd last row, column, both; chunks that are not full; several rectangles each way and tiles of filters
SIZES = [Size(8, 8, 2, 2), Size(40, 24, 3, 34), Size(8, 72, 35, 5), Size(24, 40, 17, 19)]


def check_same(machine: Machine, layer: Layer, kind: str, losses: str = "SP") -> None:
    check_pooling(machine, layer, APART, SHORT, kind, replicate=kind == "average")
    if kind != "l2":
        check_gradient(machine, layer, APART, SHORT, kind, losses)


# ---- the kernels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POOLINGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_both_ways_it_gives_the_bits_of_09_and_a_pooling(machine, size, kind):
    check_same(machine, Layer(size, TF32), kind)


@SLOW
@pytest.mark.parametrize("precision", [FLOAT16, BFLOAT16], ids=lambda p: p.name)
def test_in_16_bits_too(machine_unoptimised, precision):
    for kind in POOLINGS if precision is FLOAT16 else ("max",):
        check_same(machine_unoptimised, Layer(Size(72, 40, 7, 19), precision), kind)


@SLOW
def test_and_of_channels_that_begin_anywhere(machine_unoptimised):
    check_same(machine_unoptimised, Layer(Size(3, 37, 5, 18), FLOAT16), "max")


@SLOW
def test_no_tile_changes_a_bit(machine_unoptimised, monkeypatch):
    """With one loss, and with none: the first rectangle then comes before any other step."""
    one = Machine(machine_unoptimised.devices[:1])  # in what order threads run is looked at above
    layer = Layer(Size(8, 72, 17, 18), TF32)
    for tile in HALO_TILES:
        monkeypatch.setattr(tiles, "halo", lambda p, tile=tile: Choice(tile, rung=HALO_TILE))
        check_same(one, layer, "max", losses="S")


def test_without_a_pooling_it_is_the_book_s_convolution(machine):
    layer = Layer(Size(24, 40, 5, 19), TF32)
    check_forward(layer, machine.check(lambda d: run_forward(layer, d, SHORT, True, True)), SHORT, True)
    got = machine.check(lambda d: run_backward(layer, d, SHORT, True, "SP", True))
    check_backward(layer, got, SHORT, True, "SP", True)


PROBE = """// requires: sm_80
#include "common.cuh"
__device__ int stored[256];  // by each thread
// Instead of elements: who stores here, and as its how many-th
template <int N>
__device__ __forceinline__ void note(element* to, const float (&)[N]) {
  reinterpret_cast<int*>(to)[0] = threadIdx.x, reinterpret_cast<int*>(to)[1] = stored[threadIdx.x]++;
}
#define store_elements note
#include "12_halo_pooled.cu"

extern "C" __global__ void fill(const element* dpooled, const uint8_t* choices, int* found, int H, int W) {
  extern __shared__ __align__(128) unsigned char shared[];
  UnpooledHalo halo = {dpooled, choices, POOL_MAX, CHUNK, H, W, Rectangle(TILE_N, W)};
  for (int step = 0; step < 3; ++step) {
    stored[threadIdx.x] = 100 * step;
    halo.begin(shared, 0, step), halo.end(shared, step);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < HALO_BYTES / 4; i += THREADS) found[i] = reinterpret_cast<int*>(shared)[i];
}
"""


@SLOW
def test_stores_of_a_rectangle_meet_in_no_bank_and_leave_nothing_out(unoptimised, tmp_path):
    read = source.read(HALO_POOLED)
    for name, text in {"12_halo_pooled.cu": read.text, **read.headers, "probe.cu": PROBE}.items():
        (tmp_path / name).write_text(text)
    probe = source.parse(tmp_path / "probe.cu", "probe")

    def run(device):
        found, side = unwritten(device, (18 * 18 * 4, 4), np.int32), 16
        dpooled, choices = (unwritten(device, (side // 2, side // 2, 16), kind) for kind in (np.float32, np.uint8))
        device.kernel(probe, "fill", TF32)(1, 256, dpooled, choices, found, side, side, shared=18 * 18 * 64)
        return device.to_host(found)

    thread, when = unoptimised.check(run)[:, :2].T  # of every 16 bytes
    assert (thread >= 0).all()
    groups: dict[tuple[int, int, int], list[int]] = {}
    for place, key in enumerate(zip(when // 100, when % 100, thread // 8, strict=True)):
        groups.setdefault(key, []).append(place % 8)
    # 8 threads that make all four of their stores; at the edges some are left out
    whole = [[groups[step, n, who] for n in range(4)] for step, last, who in groups if last == 3]
    whole = [stores for stores in whole if all(len(banks) == 8 for banks in stores)]
    assert len(whole) == 8 * 3  # a row has ten windows, two for such threads, and the first and last pair are at edges
    assert all(len(set(banks)) == 8 for stores in whole for banks in stores)


BUGS = {
    "a window a row too far down": ("place.top / 2 - 1 +", "place.top / 2 +"),
    "a window whose choice is its neighbour's": ("p * ((W + 1) / 2) + q)", "p * (W / 2) + q)"),
    "a part of the rectangle that nobody makes": ("step < STEPS; ++step)", "step < STEPS - 1; ++step)"),
    "an incomplete window that sends something": ("(unsigned)(W / 2);", "(unsigned)((W + 1) / 2);"),
    "a column of the border left out": ("(unsigned)right < HALO_COLUMNS", "(unsigned)right < HALO_COLUMNS - 1"),
    "the rectangle that is read is overwritten": ("halo_of(step + 3)", "halo_of(step)"),
    "the left column for the right": ("at % 2;", "1 - at % 2;"),
    "every chunk of channels the first": ("halo.begin(to, next, column)", "halo.begin(to, 0, column)"),
    "stored before the others have read": ("    __syncthreads();  // what", "    // what"),
    "rows of windows exchanged": ("i / 2 * COLUMNS + column", "(1 - i / 2) * COLUMNS + column"),
}


@SLOW
@pytest.mark.parametrize("bug", ["none", *BUGS])
def test_a_planted_bug_shows_in_the_bits_or_in_their_order(unoptimised, monkeypatch, bug):
    layer = Layer(Size(8, 40, 15, 19), TF32)
    if bug == "none":
        check_same(unoptimised, layer, "max")
        return
    plant(monkeypatch, HALO_POOLED, *BUGS[bug])
    with pytest.raises((AssertionError, KernelError)):
        check_same(unoptimised, layer, "max")


def small_layers(build: str) -> None:
    """What a sanitizer watches: incomplete windows, a tile that is not full; elements copied one by one."""
    device = OnCpuDevice(build=build)
    layers = [Layer(Size(24, 40, 3, 17), TF32)]
    if build == "asan":  # ThreadSanitizer would see nothing else in it
        layers.append(Layer(Size(3, 5, 4, 17), BFLOAT16))
    for layer in layers:
        check_same(Machine([device]), layer, "max")


@SLOW
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_it_does_not_leave_its_memory_or_race(build):
    done = run_sanitized(build, "from test_cuda_halo_pooled import small_layers\nsmall_layers(BUILD)\nprint('done')")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# ---- which layers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tiles_json):
    """Writes kernels/tiles.json, elsewhere."""
    return lambda *layers: tiles_json({"layers": layers})


def line(inputs: int, outputs: int, precision: str = "tf32", **facts) -> dict:
    """By 12, of any number of positions."""
    layer = {"architecture": 90, "precision": precision, "inputs": inputs, "outputs": outputs, "positions": 1}
    return layer | {"parts": 1, "tile": [256, 64], "rung": HALO_POOLED, "pooled": False} | facts


def test_it_is_chosen_by_a_table_alone_forward_and_backward_apart(table):
    forward, backward = Pass(64, 128, 40, 50, TF32), Pass(128, 64, 40, 50, TF32)
    assert tiles.pools(forward).rung == POOLED
    assert tiles.unpools(backward) is None
    table(line(64, 128, pooled=True))
    assert tiles.pools(forward) == Choice((256, 64), rung=HALO_POOLED).launch(forward)
    assert tiles.pools(replace(forward, replicate=True)).rung == HALO_POOLED
    assert tiles.unpools(backward) is None
    table(line(128, 64, unpools=True))
    assert tiles.unpools(backward) == Choice((256, 64), rung=HALO_POOLED).launch(backward)
    assert tiles.pools(forward).rung == POOLED
    table(line(128, 64, unpools=True, rung=HALO_TILE), line(64, 128, pooled=True, rung=HALO_TILE))
    assert tiles.pools(forward) is tiles.unpools(backward) is None  # 09 and a pooling were faster
    for p in (forward, backward):
        assert tiles.chosen(p).rung is None
        assert tiles.pools(replace(p, inputs=65)).defines["ALIGNED"] == 0


@pytest.mark.parametrize("facts", [{}, {"pooled": True, "unpools": True}, {"unpools": 1}, {"parts": 2, "pooled": True}])
def test_a_table_that_asks_for_it_where_nothing_is_pooled_is_refused(table, facts):
    table(line(64, 128, **facts))
    with pytest.raises(DeviceError, match=r"^[^\n]*: expected what tools/tune_tiles.py writes, got [^\n]*$"):
        tiles.chosen(Pass(64, 128, 40, 50, TF32))


def test_a_gradient_is_made_where_it_is_read_but_at_a_replicated_border_and_by_l2():
    steps = vgg.steps_for("vgg19", ["relu3_1"])
    shapes = {step.output: vgg.shape("vgg19", step.output, 64, 48) for step in steps}

    def found(choosing: bool, replicates: str = "", rung: str = SHORT) -> Pooled:
        return poolings(steps, shapes, RUNGS[rung], TF32, 90, choosing, lambda step: step.name == replicates)

    both = {"conv1_2", "conv2_2"}
    assert found(True) == Pooled(True, both, both)
    assert found(False) == Pooled(False, both, set())
    assert found(True, "conv2_2") == Pooled(True, both, {"conv1_2"})
    assert found(True, rung=APART) == Pooled(True, set(), set())


def test_a_layer_that_is_told_to_pool_and_cannot_says_so():
    if problem := on_cpu.problem():
        pytest.skip(problem)
    for asked in ({"pooling": "max"}, {"unpooling": "max"}):
        with pytest.raises(DeviceError, match=r"^(un)?pooling: expected a layer [^\n]*; do it apart, see pool.py$"):
            conv.Convolution(OnCpuDevice(), TF32, APART, 8, 8, 4, 4, False, **asked)


def test_every_form_that_a_layer_can_get_is_among_the_variants_that_are_checked():
    checked = {(v.rung, v.precision, *v.defines.items()) for v in conv.variants()}
    for precision in (TF32, FLOAT16, BFLOAT16):
        for channels in (8, 64, 100, 512, 513):
            launch = tiles.halo_pooled(Pass(channels, 2 * channels, 40, 65, precision))
            assert launch.rung == HALO_POOLED
            assert (HALO_POOLED, precision, *launch.defines.items()) in checked
    assert not any(v.production for v in conv.variants() if v.rung == HALO_POOLED)


# ---- the network ----------------------------------------------------------------------------------------------------

PIXELS = np.ascontiguousarray(smooth_picture(21, 27).transpose(2, 0, 1).astype(np.float32))
BLOCKS = ((2, 8), (2, 16), (1, 24))
PASSES = ((8, 8), (8, 16), (16, 8), (16, 16), (16, 24), (24, 16))


@pytest.fixture
def weights(monkeypatch):
    """Three blocks of a few channels, so that no sum is split; an odd picture, and an odd one after a pooling."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", BLOCKS)
    monkeypatch.setattr(tiles, "PROCESSORS", 2)
    return random_weights(deepest="conv3_1")


def evaluated(weights, precision: str, pooling: str, taps, sent, monkeypatch):
    """Features, decisions and gradient; the kernels that were launched for it; the network."""
    launched, engine = [], CudaEngine(OnCpuDevice(build="debug"), precision)
    launch = on_cpu.OnCpuKernel._launch
    with monkeypatch.context() as patch:
        patch.setattr(on_cpu.OnCpuKernel, "_launch", lambda k, *more: (launched.append(k.name), launch(k, *more))[1])
        network = engine.network(weights, taps, pooling)
        network.forward(engine.array(PIXELS))
        features = {tap: network.features(tap) for tap in taps}
        decided = network.decisions()
        back = {tap: [TapGradient(engine.array(np.eye(len(features[tap]), dtype=np.float32)))] for tap in sent}
        gradient = engine.numpy(network.backward(back))
    return features, decided, gradient, launched, network


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
def test_a_network_gives_the_bits_of_09_alone_and_what_05_and_06_give_within_rounding(
    weights, table, monkeypatch, precision, pooling
):
    """A loss between a convolution and the pooling above it, and the gradient is made apart, in that pass."""
    alone = [line(*both, precision, rung=HALO_TILE) for both in PASSES]
    apart = [line(*both, precision, rung=HALO_TILE, **{how: True}) for both in PASSES for how in ("pooled", "unpools")]
    fused = [line(*both, precision, **{how: True}) for both in PASSES for how in ("pooled", "unpools")]
    made = 0 if pooling == "l2" else 2
    for taps, sent, expected in (
        (("relu1_1", "relu3_1"), ("relu1_1", "relu3_1"), made),
        (("conv1_2", "relu2_2", "relu3_1"), ("relu2_2", "relu3_1"), made // 2),
        (("conv1_2", "relu2_2", "relu3_1"), ("conv1_2", "relu3_1"), made // 2),
    ):
        found = []
        for lines in ([], alone + apart, alone + fused):
            table(*lines)
            found.append(evaluated(weights, precision, pooling, taps, sent, monkeypatch))
        (usual, _, from_usual, *_), mine, (features, decided, gradient, launched, network) = found
        assert all(np.array_equal(features[tap], mine[0][tap]) for tap in taps)
        assert all(np.array_equal(decided[name], mine[1][name]) for name in decided)
        assert np.array_equal(gradient, mine[2])
        unit = PRECISIONS[precision].unit
        assert all(relative_error(features[tap], usual[tap]) <= 4 * unit for tap in taps)
        assert relative_error(gradient, from_usual) <= 40 * unit
        assert not any(HALO_POOLED in name for name in mine[3])
        assert launched.count(f"{HALO_POOLED} conv3x3_forward") == 2
        assert launched.count(f"{HALO_POOLED} conv3x3_backward") == expected
        assert sum("pool_backward" in name for name in launched) == 2 - expected
        assert not any("pool_forward" in name for name in launched)
        between = {"relu1_2", "relu2_2"} - {tap.replace("conv", "relu") for tap in taps}
        kept = {name for name in between if f"{name}:gradient" in network.buffers}
        assert kept == (between if pooling == "l2" else set())


# ---- memory ---------------------------------------------------------------------------------------------------------

USUAL = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")


def test_a_gradient_that_is_nowhere_takes_no_memory_and_what_it_comes_from_stays_until_it_is_read():
    steps, below = vgg.steps_for("vgg19", USUAL), ("conv1_2", "conv2_2", "conv3_4", "conv4_4")
    shapes = {step.output: vgg.shape("vgg19", step.output, 512, 512) for step in steps}
    plans = {}
    for unpooling in ((), below):
        plan = plans[bool(unpooling)] = Plan()
        pooled = Pooled(True, set(below), set(unpooling))
        for name, shape, first, last in (*lives(steps, USUAL, shapes, pooled), *choices(steps, shapes, pooled)):
            plan.add(name, shape, np.uint16 if "choices" not in name else np.uint8, first, last)
    apart, made = (plans[made].places() for made in (False, True))
    assert set(apart) - set(made) == {f"relu{name[4:]}:gradient" for name in below}
    assert plans[True].bytes < plans[False].bytes
    buffers = plans[True]._buffers
    for pool, layer in (("pool1", "relu1_1"), ("pool4", "relu4_3")):
        for name in (f"{pool}:gradient", f"{pool}:choices"):
            assert buffers[name].meets(buffers[f"{layer}:gradient"])
    assert "relu1_2:gradient" in dict.fromkeys(
        name for name, *_ in lives(steps, ("conv1_2", *USUAL), shapes, Pooled(True, set(), set(below)))
    )


# ---- what is predicted ----------------------------------------------------------------------------------------------


def test_of_a_gradient_that_is_made_a_block_reads_windows_and_their_choices():
    """conv3_4 of 512 x 512 in float16: 64 x 2 tiles, 8 chunks of 32 channels, on paper."""
    import predict_launches
    import predict_steps
    import predict_times

    paper = predict_launches.Recorder(90, 132, "a GPU on paper")
    layer = conv.Convolution(paper, FLOAT16, SHORT, 256, 256, 128, 128, False, unpooling="max")
    dpooled, F, dx = (paper.empty((side, side, 256), np.float16) for side in (64, 128, 128))
    choices = paper.empty((64, 64, 256), np.uint8)
    layer.backward(
        dpooled, paper.empty((256, 9, 256), np.float16), None, F, None, 1.0, None, 0.0, True, dx, choices=choices
    )
    (launch,) = paper.launches
    work = predict_times.work_of(launch)
    assert (launch.rung, launch.blocks) == (HALO_POOLED, 128)
    assert predict_steps.name_of(launch) == "conv3x3 backward 256 -> 256, 128x128 + pool"
    assert work.cached == 128 * 8 * (10 * 10 * (64 + 32) + 9 * 128 * 64) + F.nbytes + dx.nbytes
    assert work.operations == work.issued == 2 * 9 * 256 * 256 * 128 * 128


@SLOW
def test_a_step_by_09_and_12_alone_has_no_launch_of_a_pooling_s_own(monkeypatch):
    import predict_rungs
    import predict_steps
    import predict_times
    from bench_common import random_vgg19

    monkeypatch.setattr(predict_times, "resources_of", lambda *_: Resources(220, 0, 0, 0, 0))
    step = predict_steps.step_of(random_vgg19(), 128, "float16", predict_times.Gpu())
    alone, ruled = predict_rungs._others(random_vgg19(), step)
    for found, pooled in ((alone, {HALO_POOLED}), (ruled, {HALO_POOLED, POOLED})):
        assert sum(row.count for row in found.rows if row.prediction.launch.rung == HALO_POOLED) > 0
        names = [predict_steps.name_of(row.prediction.launch) for row in found.rows]
        rungs = {row.prediction.launch.rung for row, n in zip(found.rows, names, strict=True) if n.endswith("+ pool")}
        assert rungs <= pooled
    assert not any(row.prediction.launch.rung.startswith("pool/") for row in alone.rows)
    assert sum(row.count for row in alone.rows if row.prediction.launch.rung == HALO_POOLED) == 8
