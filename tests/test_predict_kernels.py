"""The predictions for a GPU that is not here: that its launches are the engine's, and that the arithmetic is right."""

from __future__ import annotations

import dataclasses
import json
import math

import bench_flops
import predict_kernels
import predict_memory
import predict_times
import predict_together
import pytest
from bench_common import pictures, planes, random_vgg19
from conftest import ROOT
from predict_launches import READ, Launch, Recorder, grouped, record_step
from predict_times import Gpu, blocks_per_processor, predict, work_of

from nstcore import Objective
from nstcore.engines.cuda import CudaEngine, nvrtc, on_cpu
from nstcore.engines.cuda.nvrtc import Resources
from nstcore.engines.cuda.precision import FLOAT16, FLOAT32
from nstcore.engines.memory import held_memory
from nstcore.errors import OptionError

pytestmark = [pytest.mark.slow, pytest.mark.skipif(on_cpu.problem() is not None, reason=str(on_cpu.problem()))]
LAYERS = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1", "relu2_1"]}
H200 = Gpu()
TAKEN = Resources(registers=128, shared=0, stack=0, spill_stores=0, spill_loads=0)


@pytest.fixture(scope="module")
def weights():
    return random_vgg19()


@pytest.fixture
def no_compiler(monkeypatch):
    """Every kernel takes as much."""
    monkeypatch.setattr(predict_times, "resources_of", lambda launch, gpu: TAKEN)


@pytest.fixture(scope="module")
def steps(weights):
    """A step at 512 pixels in each painting precision."""
    return {precision: record_step(weights, precision, 512, recorder()) for precision in ("tf32", "float16")}


def recorder():
    return Recorder(90, 132, "a GPU on paper")


def test_what_is_recorded_is_what_the_engine_launches_on_a_device_that_computes(weights, monkeypatch):
    """One evaluation of each, kernel by kernel, with grids, blocks and sizes."""
    launched = []
    launch = on_cpu.OnCpuKernel._launch

    def spy(kernel, grid, block, arguments, shared):
        sizes = tuple(a.nbytes for a in arguments if isinstance(a, on_cpu.DeviceArray))
        launched.append((kernel.name, grid, block, shared, sizes))
        launch(kernel, grid, block, arguments, shared)

    monkeypatch.setattr(on_cpu.OnCpuKernel, "_launch", spy)
    device, paper = on_cpu.OnCpuDevice(), recorder()
    device.processors = paper.processors
    content, style, start = pictures(20)
    for one in (device, paper):
        objective = Objective(weights, content, style, engine=CudaEngine(one, "float32"), **LAYERS)
        launched.clear()
        paper.launches.clear()
        objective(planes(start))
        if one is device:
            computed = launched.copy()
    assert launched == []  # on paper
    recorded = [
        (f"{f.rung} {f.kernel}", f.grid, f.block, f.shared, tuple(a.nbytes for a in f.arrays.values()))
        for f in paper.launches
        if f.rung
    ]
    assert recorded == computed
    assert len(recorded) > 15


def test_nothing_is_computed_and_no_memory_touched(weights):
    """A step at 640 pixels would take minutes and as many gigabytes as its arrays have together."""
    before = held_memory()
    launches = record_step(weights, "float32", 640, recorder())
    after = held_memory()
    assert sum(a.nbytes for found in launches for a in found.arrays.values()) > 2e9
    if before and after:
        assert after[0] - before[0] < 500e6  # filters and pictures are real


def test_the_operations_are_those_of_the_network(steps):
    """As they are counted from the layers alone."""
    counted = bench_flops.work("vgg19", 512, 512)
    products = [f for f in steps["tf32"] if f.kernel.startswith(("conv3x3", "pixels_backward", "gram_"))]
    without_style = [dataclasses.replace(f, arguments={**f.arguments, "S": None}) for f in products]
    plain, style = (sum(work_of(f).operations for f in found) for found in (without_style, products))
    assert plain == counted.direct + counted.gram
    assert style - plain == counted.gram_gradient
    assert all(work_of(f).issued >= work_of(f).operations for f in products)


def test_the_largest_layer_moves_half_the_bytes_in_sixteen_bits(steps):
    tf32, float16 = (max(work_of(f).bytes for f in steps[p] if f.rung.startswith("conv3x3")) for p in steps)
    assert float16 / tf32 == pytest.approx(0.5, abs=1e-3)


def test_equal_launches_are_one_row(steps):
    found = list(grouped(steps["tf32"]))
    assert sum(n for _, n in found) == len(steps["tf32"])
    assert [n for one, n in found if one.kernel == "conv3x3_forward"].count(2) == 2  # conv3_2, conv3_3; conv4_2, 4_3


def test_the_losses_of_a_step_are_read_in_one_copy_which_takes_the_gpu_no_time(steps):
    reads = [found for found in steps["tf32"] if found.kernel == READ]
    assert len(reads) == 1
    assert work_of(reads[0]).bytes == 0


# -- what a block takes of a processor --------------------------------------------------------------------------------


def launch_of(threads=256, shared=0, blocks=132):
    return Launch("k", {}, "vectors/01_elementwise", FLOAT32, {}, (blocks, 1, 1), (threads, 1, 1), shared)


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "resident"),
    [
        (32, 1024, 0, 2),  # threads: 2048 of a processor
        (32, 32, 0, 32),  # blocks
        (64, 256, 0, 4),
        (65, 256, 0, 3),  # registers in steps of 8: 72 x 32, 7 warps of a quarter's 16384
        (255, 128, 0, 2),
        (128, 256, 0, 2),
        (32, 128, 48 * 1024, 4),  # 49 KB of 228 each
        (32, 128, 227 * 1024, 1),
    ],
)
def test_what_limits_the_blocks_of_a_processor(registers, threads, shared, resident):
    """As NVIDIA's occupancy calculator has it for sm_90."""
    taken = dataclasses.replace(TAKEN, registers=registers)
    assert blocks_per_processor(launch_of(threads, shared), taken, H200) == resident


def of_work(monkeypatch, work, blocks=132):
    monkeypatch.setattr(predict_times, "work_of", lambda launch: work)
    return predict(launch_of(blocks=blocks), H200)


def test_the_longest_of_memory_cache_and_arithmetic_is_the_limit(no_compiler, monkeypatch):
    work = predict_times.Work(bytes=43 * 10**6, cached=10**6, operations=10**6, issued=10**6)
    found = of_work(monkeypatch, work)
    assert found.limit == "memory"
    assert found.seconds == pytest.approx(10e-6 + H200.launch)
    assert found.floor == pytest.approx(10e-6)
    found = of_work(monkeypatch, dataclasses.replace(work, cached=650 * 10**6))
    assert (found.limit, found.floor) == ("cache", pytest.approx(10e-6))
    assert found.parts["cache"] == pytest.approx(90e-6)
    tensor = dataclasses.replace(work, operations=495 * 10**7, issued=2 * 495 * 10**7, unit="tf32")
    found = of_work(monkeypatch, tensor)
    assert found.limit == "arithmetic"
    assert found.seconds - H200.launch == pytest.approx(20e-6 / 0.62)
    assert found.parts["padding"] == pytest.approx(10e-6)
    assert found.parts["rate"] == pytest.approx(20e-6 / 0.62 - 20e-6)
    assert found.floor + sum(found.parts.values()) == pytest.approx(found.seconds)


def test_a_last_wave_that_is_nearly_empty_costs_a_whole_one(no_compiler, monkeypatch):
    work = predict_times.Work(bytes=43 * 10**6)
    even, one_more = of_work(monkeypatch, work, 132), of_work(monkeypatch, work, 133)
    assert (even.tail, even.waves) == (1, 0.5)  # two blocks of 256 threads and 128 registers fit
    assert one_more.tail == pytest.approx(2 * 132 / 133)
    assert even.lone - H200.launch == pytest.approx(2 * (even.seconds - H200.launch))
    assert one_more.lone == pytest.approx(one_more.seconds)


def test_a_tile_of_a_convolution_reads_its_operands_from_the_cache(steps):
    """conv3_2 at 512x512 in float16: 128 x 2 tiles, 72 chunks of 16 KB, and what the epilogue writes."""
    forward = [f for f in steps["float16"] if f.kernel == "conv3x3_forward"]
    layer = next(f for f in forward if f.arguments["C"] == f.arguments["K"] == 256)
    m, n = int(layer.defines["TILE_M"]), int(layer.defines["TILE_N"])
    work = work_of(layer)
    operands = math.ceil(128 * 128 / m) * math.ceil(256 / n) * 72 * (m + n) * 64
    assert operands + layer.arrays["y"].nbytes <= work.cached <= 1.2 * operands
    assert work.operations == work.issued == 2 * 9 * 256 * 256 * 128 * 128
    assert layer.precision is FLOAT16


# -- memory -----------------------------------------------------------------------------------------------------------


def test_the_memory_of_a_run_is_what_its_buffers_come_to(weights):
    found = predict_memory.need(weights, "float16", 96, "3:2", recorder())
    assert found.size == (64, 96)
    features = sum(K * 64 * 96 // stride**2 for K, stride in ((64, 1), (64, 1), (128, 2), (128, 2))) * 2
    assert found.plan.needed > found.filters + features
    assert found.per_pixel * 64 * 96 + found.filters == pytest.approx(found.plan.needed)
    assert "fits" in predict_memory.verdict(found)
    double = predict_memory.need(weights, "tf32", 96, "3:2", recorder())
    assert double.filters == pytest.approx(2 * found.filters, rel=0.01)


def test_a_run_that_is_too_large_for_the_card_is_marked(weights):
    found = predict_memory.need(weights, "float32", 5120, "square", recorder())
    assert not found.fits(predict_memory.CARD)
    assert " *" in predict_memory.table([found])
    assert "does not fit, by" in predict_memory.verdict(found)


# -- the command ------------------------------------------------------------------------------------------------------


def test_another_gpu_is_described_by_what_differs(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "Mine", "processors": 66, "peaks": {"tf32": 1e14}}))
    found = Gpu.read(path)
    assert (found.name, found.processors, found.architecture) == ("Mine", 66, 90)
    assert found.peaks == {**H200.peaks, "tf32": 1e14}


@pytest.mark.parametrize(
    "text",
    ['{"cores": 3}', '{"processors": 0}', '{"processors": 1.5}', '{"peaks": {"fp8": 1.0}}', '{"name": 3}', "[1]", "{"],
)
def test_a_file_that_describes_no_gpu_is_refused_in_one_line(tmp_path, capsys, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert predict_kernels.main(["--gpu", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"predict_kernels: {path}: expected a JSON object with some of name, architecture")
    assert said.count("\n") == 1
    with pytest.raises(OptionError):
        Gpu.read(path)


def test_the_tables_are_written_whole_or_not_at_all(tmp_path, capsys):
    path = tmp_path / "README.md"
    path.write_text("no markers\n")
    assert predict_kernels.main(["--sizes", "64", "--write", str(path)]) == 2
    assert "expected the whole prediction" in capsys.readouterr().err
    assert predict_kernels.main(["--write", str(path)]) == 2
    assert "<!-- predictions:launches -->" in capsys.readouterr().err
    assert path.read_text() == "no markers\n"


def test_the_tables_say_what_they_are(no_compiler, monkeypatch, capsys):
    if problem := nvrtc.problem():
        pytest.skip(problem)
    monkeypatch.setattr(predict_kernels, "SIDES", (64,))
    monkeypatch.setattr(predict_together, "SIZES", (64,))
    assert predict_kernels.main(["--sizes", "64", "--precisions", "float16", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("**Predictions, not measurements")
    step = predict_kernels.step_of(random_vgg19(), 64, "float16", H200)
    assert f"| 64x64 | float16 | {step.launches} | {step.reads} | {1e3 * step.seconds:.2f} |" in said
    seconds = [row.seconds for row in step.rows]
    assert seconds == sorted(seconds, reverse=True)
    for row in step.rows:
        assert row.gap == pytest.approx(row.count * sum(row.prediction.parts.values()))
    assert " 512 -> 512, 8x8" in said
    assert "64x64 in float16 takes" in said
    assert predict_together.seconds(step, 1) == pytest.approx(step.seconds)
    assert predict_together.seconds(step, 1, lone=True) == pytest.approx(
        sum(r.count * r.prediction.lone for r in step.rows)
    )
    for lone in (False, True):
        times = [predict_together.seconds(step, count, lone) for count in predict_together.COUNTS]
        assert times == sorted(times, reverse=True), "pictures that are painted at once fill a GPU better"
        work = sum(r.count * (r.prediction.seconds - H200.launch) / r.prediction.tail for r in step.rows)
        assert work < times[-1] < 1.5 * work
    assert f"| 64x64 | float16 | {1e3 * sum(r.count * r.prediction.floor for r in step.rows):.2f} |" in said


@pytest.mark.slow
def test_the_resources_are_those_of_the_compiled_kernel(weights):
    if problem := nvrtc.problem():
        pytest.skip(problem)
    launches = record_step(weights, "float16", 64, recorder())
    adam = next(found for found in launches if found.kernel == "adam")
    found = predict(adam, H200)
    assert found.resources is not None
    assert 16 <= found.resources.registers <= 64
    assert 4 <= found.resident <= 8  # of 256 threads, with 64 registers or with 32
    assert found.work.bytes == 28 * 3 * 64 * 64


def test_the_sections_are_in_the_readme():
    text = (ROOT / "kernels" / "README.md").read_text()
    for name in ("launches", "memory"):
        before, after = predict_kernels.bench.split(ROOT / "kernels" / "README.md", name, predict_kernels.GROUP)
        section = text[len(before) : len(text) - len(after)]
        assert "tools/predict_kernels.py" in section, "run tools/predict_kernels.py --write"
    assert text.count("**Predictions, not measurements") == 1
