"""`bench`: every rung computes what the book does, a wrong one is told, and what is printed and written."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import types

import numpy as np
import pytest
from command_desk import main, one_line
from fake_cupy import fake_cupy
from fast_nets import random_fast_weights

from nstcore import bench, ops
from nstcore.bench import book, clock, ladder, measuring, numpy_form, problems
from nstcore.bench.im2col import im2col_backward, im2col_forward
from nstcore.bench.runs import Machine
from nstcore.bench.traffic import traffic
from nstcore.bench.two_loops import two_loops
from nstcore.commands import bench as command
from nstcore.engines.cpu import library, winograd
from nstcore.engines.cuda import gpu, nvrtc, on_cpu, on_cpu_build, source
from nstcore.engines.cuda.precision import FLOAT32, PRECISIONS
from nstcore.errors import OptionError
from nstcore.optim import Vectors
from nstcore.optim.pairs import Pairs
from nstcore.optim.states import LBFGSState

SMALL = bench.Size(9, 14, 32, 64)
NO_OPERATION = [("border", "replicate"), ("features", "tile"), ("gates", "direct")]
CUDA = [(name, rung) for name in bench.OPERATIONS for rung in bench.rungs(name, "cuda")]
QUICK = {("conv", "01_naive"), ("total-variation", "01_two_stage"), ("adam", "01_elementwise")}


@pytest.fixture
def fast(monkeypatch):
    """Peaks that are found at once, and no pauses."""
    monkeypatch.setattr(clock, "PRODUCT", 64)
    monkeypatch.setattr(clock, "COPY", 1 << 16)
    monkeypatch.setattr(measuring, "PAUSE", 0.0)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "problem", lambda: "CuPy is not installed; install it")


# -- the rungs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", bench.OPERATIONS)
def test_every_rung_of_the_cpu_computes_what_the_book_does(operation):
    every = bench.rungs(operation, "cpu")
    for threads in (1, 3):
        found = bench.measure(every, SMALL, Machine(threads), rounds=0)
        assert [(row.rung.name, row.name, row.error) for row in found.wrong] == []
        assert {row.rung.name for row in found.rows} == {
            rung.name for rung in every if rung.instructions in ("", *library.available())
        }
        assert {row.name for row in found.rows} <= set(problems.make(operation, SMALL, FLOAT32).passes)


@pytest.mark.parametrize("geometry", [(1, 1, 1), (9, 1, 1), (3, 2, 1), (3, 1, 2), (5, 3, 2)])
@pytest.mark.parametrize("operation", ["general-conv", "depthwise"])
def test_convolutions_of_any_kernel_stride_and_enlargement_are_those_of_the_book(operation, geometry):
    found = bench.measure(bench.rungs(operation, "cpu"), bench.Size(9, 14, 6, 5, *geometry), Machine(2), rounds=0)
    assert [(row.rung.name, row.error) for row in found.wrong] == []
    assert len(found.rows) == 1 + len(library.available())


@pytest.mark.parametrize(
    ("operation", "rung"),
    [pytest.param(n, r, marks=() if (n, r.name) in QUICK else pytest.mark.slow, id=f"{n}-{r.name}") for n, r in CUDA],
)
def test_every_rung_of_the_gpu_computes_what_the_book_does(operation, rung):
    """In the precision that it is for, and the 16-bit convolution in both: their own tests have all of them."""
    if on_cpu.problem():
        pytest.skip(on_cpu.problem())
    machine = Machine(2, on_cpu.OnCpuDevice(threads=2))
    for precision in rung.precisions[: 2 if rung.name == "06_tensor_core_16bit" else 1]:
        found = bench.measure([rung], bench.Size(7, 10, 24, 40), machine, 0, precision)
        assert [(row.name, row.precision, row.error, row.bound) for row in found.wrong] == []
        assert found.rows


def test_the_bounds_are_tight_enough_to_see_a_missing_product():
    """Of each operation that sums, one number among its inputs set to zero is noticed."""
    for operation, name in (
        *(("conv", "w"), ("gram", "F"), ("content", "F"), ("style", "G"), ("total-variation", "x")),
        *(("general-conv", "w"), ("depthwise", "w"), ("linear", "w"), ("instance-norm", "x"), ("global-average", "x")),
        *(("maxima", "x"), ("resize", "x")),
    ):
        problem = problems.make(operation, SMALL, FLOAT32)
        problem.inputs[name].flat[np.argmax(np.abs(problem.inputs[name]))] = 0
        rung = bench.rungs(operation, "cpu")[0]
        runs = rung.make(problem, Machine(1))
        assert any(not measuring.verified(rung, problem, p, run).passed for p, run in runs.items()), operation


@pytest.mark.parametrize("padding", ["zero", "replicate"])
def test_im2col_is_the_convolution_of_the_book(padding):
    rng = np.random.default_rng(0)
    x, w, b, dy = (rng.standard_normal(shape) for shape in ((3, 7, 5), (4, 3, 3, 3), (4,), (4, 7, 5)))
    assert measuring.relative_error(im2col_forward(x, w, b, padding), ops.conv_forward(x, w, b, padding)) < 1e-14
    assert measuring.relative_error(im2col_backward(dy, w, padding), ops.conv_backward(dy, w, padding)) < 1e-14


def test_the_two_loops_give_the_direction_of_the_optimizer():
    problem = problems.make("lbfgs", SMALL, FLOAT32)
    q, s, y = (problem.inputs[name] for name in "qsy")
    vectors, out, expected = Vectors(), np.empty_like(q), np.empty_like(q)
    two_loops(vectors, q, s, y, out)
    assert Pairs(vectors, q, len(s), LBFGSState(list(zip(s, y, strict=True)))).multiply(1.0, q, out=expected)
    assert measuring.relative_error(out, expected) < 1e-13


def test_winograd_enlarges_the_roundings_of_random_numbers_by_about_what_is_said():
    """F(4x4, 3x3) by some ten, in the worst of its outputs; F(2x2, 3x3) not at all."""
    four = winograd.BT, winograd.G, winograd.AT
    assert ladder.enlargement(*four) == pytest.approx(10.5, abs=0.1)
    assert ladder.enlargement(*ladder.F2_MATRICES) == 1
    rng = np.random.default_rng(0)
    for BT, G, AT in (four, ladder.F2_MATRICES):  # both are the convolution, in one dimension
        d, g = rng.standard_normal(len(BT)), rng.standard_normal(3)
        assert np.allclose(AT @ ((G @ g) * (BT @ d)), np.correlate(d, g), atol=1e-12)


# -- what is wrong is told ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda y: y * 1.01,
        lambda y: np.where(y == y.max(), np.nan, y),
        lambda y: y[:, 1:],
        lambda y: np.full_like(y, np.inf),
    ],
    ids=["off", "NaN", "shape", "infinite"],
)
def test_a_wrong_rung_is_found_and_not_timed(fast, damage):
    rung = bench.rungs("conv", "cpu")[0]

    def make(problem, machine):
        found = book.conv(problem, machine)
        result = found["forward"].result
        found["forward"].result = lambda: {"y": damage(result()["y"])}
        return found

    found = bench.measure([dataclasses.replace(rung, make=make)], SMALL, Machine(1), 1)
    forward, backward = found.rows
    assert (forward.passed, backward.passed) == (False, True)
    assert (len(forward.seconds), len(backward.seconds)) == (0, 1)
    assert found.wrong == [forward]


def test_the_command_fails_for_a_wrong_rung_and_says_by_how_much(fast, monkeypatch, capsys, tmp_path):
    def without_bias(x, w, b, padding):
        return im2col_forward(x, w, 0 * b, padding)

    monkeypatch.setattr(numpy_form, "im2col_forward", without_bias)
    arguments = ["conv", "--rung", "im2col", "--size", "8", "--rounds", "1", "--quiet", "--json", tmp_path / "a.json"]
    assert main("bench", *arguments) == 1
    said = capsys.readouterr()
    assert "FAILS    cpu1_im2col forward" in said.out
    assert said.err.startswith("nstcore: bench conv: off from the book: cpu1_im2col forward by ")
    assert said.err.count("\n") == 1
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [(row["passed"], len(row["seconds"])) for row in rows] == [(False, 0), (True, 1)]


@pytest.mark.slow
def test_a_bug_planted_in_a_kernel_is_found(fast, monkeypatch, no_gpu, capsys):
    if on_cpu.problem():
        pytest.skip(on_cpu.problem())
    read, sound = source.read, source.read("conv3x3/01_naive")
    assert sound.text.count("tap < 9") == 1
    broken = dataclasses.replace(sound, text=sound.text.replace("tap < 9", "tap < 8"))
    monkeypatch.setattr(source, "read", lambda name: broken if name == sound.name else read(name))
    assert main("bench", "conv", "--rung", "01", "--size", "5", "--channels", "3", "--filters", "4", "--quiet") == 1
    assert "01_naive forward" in capsys.readouterr().err


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_a_number_is_that_of_a_file_on_every_machine(monkeypatch, there):
    monkeypatch.setattr(gpu, "problem", lambda: None if there else "none")
    on_gpu = "cuda" if there else "cuda-on-cpu"
    for word in ("02", "2", "02_shared_tile", "shared-tile", "Shared_Tile"):
        (rung,), device = bench.choose("conv", word, "auto")
        assert (rung.name, device) == ("02_shared_tile", on_gpu)
    for word in ("cpu2", "cpu2_winograd", "im2col", "book"):
        (rung,), device = bench.choose("conv", word, "auto")
        assert (rung.device, device) == ("cpu", "cpu")
    every, device = bench.choose("conv", "all", "auto")
    assert (device, {rung.device for rung in every}) == (("cuda", {"cuda"}) if there else ("cpu", {"cpu"}))
    (rung,), device = bench.choose("conv", "2", "cpu")
    assert (rung.name, device) == ("cpu2_winograd", "cpu")


def test_a_name_that_two_rungs_have_is_refused():
    with pytest.raises(OptionError, match="winograd, which is 04_winograd and cpu2_winograd"):
        bench.choose("conv", "winograd", "auto")


def test_every_file_of_a_ladder_is_a_rung_but_those_that_are_no_operation():
    files = {f"kernels/cuda/{name}.cu" for name in source.rungs()}
    # The border comes with the convolution; the others only turn what a part of the network takes and leaves
    assert {rung.code for _, rung in CUDA} == files - {f"kernels/cuda/{n}/01_{m}.cu" for n, m in NO_OPERATION}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["con"], "operation: expected one of conv, pool, gram, "),
        (["total-variatoin"], "the nearest is total-variation"),
        (["conv", "--rung", "19"], "--rung: expected all or one of 01_naive, 02_shared_tile, "),
        (["conv", "--rung", "cpu1_im2kol"], "the nearest is cpu1_im2col"),
        (["conv", "--size", "0"], "--size: expected a side of 2 to 65536 or HxW, as 128 or 96x128, got '0'"),
        (["conv", "--size", "3x4x5"], "--size: expected a side"),
        (["conv", "--channels", "0"], "--channels: expected 1 or more, got 0"),
        (["gram", "--filters", "64"], "--filters: expected --size, --channels for gram"),
        (["depthwise", "--upsample", "2"], "--upsample: expected --size, --channels, --kernel, --stride for depthwise"),
        (["general-conv", "--kernel", "0"], "--kernel: expected 1 or more, got 0"),
        (["conv", "--rounds", "0"], "--rounds: expected 1 or more"),
        (["conv", "--rung", "cpu0", "--precision", "float16"], "cpu0_book: it has float32, not float16"),
        (["conv", "--rung", "cpu0", "--json", "no/such/x.json"], "no/such/x.json: the folder"),
        (["conv", "--device", "tpu"], "--device"),
        (["gram", "--device", "cuda"], "device cuda: CuPy is not installed"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(no_gpu, monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(gpu, "_problem", lambda index: gpu.problem())
    assert main("bench", *arguments) == 2
    assert said in one_line(capsys)


@pytest.mark.skipif(not library.available(), reason="the native kernels are not built")
def test_a_size_that_a_kernel_cannot_take_is_told(fast, capsys):
    assert main("bench", "gram", "--rung", "baseline", "--channels", "33", "--size", "8") == 2
    assert "cpu2_baseline: it needs channels in multiples of 32" in one_line(capsys)
    assert main("bench", "gram", "--device", "cpu", "--channels", "33", "--size", "8", "--rounds", "1", "--quiet") == 0
    assert "left out cpu2_baseline: it needs channels in multiples of 32" in capsys.readouterr().out


def test_a_kernel_too_large_for_a_rungs_shared_memory_is_told():
    naive, tiled, split = bench.rungs("general-conv", "cuda")
    machine = Machine(1, types.SimpleNamespace(architecture=90))
    small, large = (bench.Size(8, 8, 4, 8, kernel) for kernel in (9, 33))
    assert [rung.refusal(small, None, machine) for rung in (naive, tiled, split)] == [None] * 3
    assert [rung.refusal(large, None, machine) for rung in (naive, split)] == [None] * 2
    assert tiled.refusal(large, None, machine) == "it needs a kernel that fits 49152 bytes"


def test_without_a_compiler_one_line_says_so(no_gpu, monkeypatch, capsys):
    monkeypatch.setattr(on_cpu_build, "compiler", list)
    assert main("bench", "conv", "--rung", "02") == 2
    assert "no C++ compiler" in one_line(capsys)


# -- what is printed and written ---------------------------------------------------------------------------------------


def test_without_an_operation_all_of_them_are_listed_with_their_rungs(capsys):
    assert main("bench") == 0
    printed = capsys.readouterr().out
    for name in bench.OPERATIONS:
        assert f"\n{name} " in printed
        for device in ("cpu", "cuda"):
            assert all(rung.name in printed for rung in bench.rungs(name, device))
    assert max(map(len, printed.splitlines())) <= 100


def test_a_ladder_is_printed_with_its_napkin_and_written_for_programs(fast, no_gpu, tmp_path, capsys):
    path = tmp_path / "gram.json"
    assert main("bench", "gram", "--size", "6x7", "--rounds", "3", "--threads", "1", "--json", path) == 0
    said = capsys.readouterr()
    assert "6x7 positions, 64 channels; cpu, 1 thread; medians of 3 rounds" in said.out
    assert "GFLOP/s in a float32 matrix product, " in said.out
    assert "cpu1_numpy            over cpu0: channels last" in said.out
    found = json.loads(path.read_text())
    assert found["size"] == {"H": 6, "W": 7, "C": 64}
    assert (found["operation"], found["device"], found["rounds"]) == ("gram", "cpu", 3)
    forward = found["rows"][0]
    assert (forward["rung"], forward["pass"]) == ("cpu0_book", "forward")
    assert forward["operations"] == 2 * 64 * 64 * 42
    assert forward["least_bytes"] == 4 * (64 * 42 + 64 * 64)
    lines = [line.split() for line in said.out.splitlines() if line.startswith("cpu") and "float32" in line]
    assert [line[0] for line in lines] == [row["rung"] for row in found["rows"]]
    for row, line in zip(found["rows"], lines, strict=True):
        assert row["passed"]
        assert len(row["seconds"]) == 3
        assert all(math.isfinite(s) and s > 0 for s in row["seconds"])
        assert float(line[5]) == pytest.approx(1e3 * sorted(row["seconds"])[1], rel=0.01, abs=6e-4)
    assert found["peaks"]["product_flops"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["gram.json"]


def test_a_layers_kernel_stride_and_enlargement_are_among_its_sizes(fast, tmp_path, capsys):
    path = tmp_path / "layer.json"
    geometry = ["--kernel", "5", "--stride", "2", "--upsample", "3"]
    sizes = ["--size", "8", "--channels", "3", "--filters", "4"]
    command = ["general-conv", "--rung", "cpu0", *sizes, *geometry, "--rounds", "1", "--threads", "1", "--quiet"]
    assert main("bench", *command, "--json", path) == 0
    said = "8x8 positions, 3 channels, 4 filters, 5x5 kernel, stride 2, enlarged 3 times; cpu, 1 thread; one round"
    assert said in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["size"] == {"H": 8, "W": 8, "C": 3, "K": 4, "kernel": 5, "stride": 2, "upsample": 3}
    (row,) = found["rows"]
    assert row["operations"] == 2 * 4 * 12 * 12 * 3 * 5 * 5  # 24x24 positions, every second row and column
    assert row["least_bytes"] == 4 * (3 * 8 * 8 + 4 * 12 * 12 + 4 * 3 * 5 * 5 + 4)


def test_a_number_alone_runs_on_the_stand_in_and_says_so(no_gpu, capsys):
    if on_cpu.problem():
        pytest.skip(on_cpu.problem())
    arguments = ["--size", "5", "--channels", "4", "--filters", "3", "--rounds", "1", "--threads", "1", "--quiet"]
    assert main("bench", "conv", "--rung", "01", *arguments) == 0
    said = capsys.readouterr()
    prose = " ".join(said.out.split())
    assert "no GPU here (CuPy is not installed): g++ compiles the file" in prose
    assert "times say nothing about a GPU" in prose
    assert " ".join(source.read("conv3x3/01_naive").head["napkin"].split()) in prose
    assert "01_naive float32 forward" in prose
    assert said.err == ""


def test_rates_and_the_limit_follow_from_the_napkin():
    row = measuring.Row(
        bench.rungs("gram", "cpu")[0], "forward", "float32", 0.0, 1.0, 4_000_000, 1000, [2e-3, 4e-3, 1e-3]
    )
    assert row.median == 2e-3
    assert row.spread == pytest.approx(1.5)
    assert row.limit(bench.Peaks(8e9, 1e9)) == pytest.approx(0.5e-3)  # the arithmetic
    assert row.limit(bench.Peaks(8e12, 1e6)) == pytest.approx(1e-3)  # the memory
    assert row.limit(bench.Peaks(None, 1e9)) is None


def test_a_pass_over_512_pixels_has_the_work_that_its_layers_have():
    """A layer by hand, and the whole."""
    found = traffic(random_fast_weights("magenta"), 512, 512)
    at = 512 * 512
    assert found[0] == (2 * 3 * 8 * 81 * at, 4 * (3 * at + 8 * (3 * 81 + 1) + 8 * at))
    operations, moved = (sum(column) for column in zip(*found, strict=True))
    assert operations / 2 == pytest.approx(3.3e9, rel=0.02)
    assert 0.1e9 < moved < 0.3e9


def test_a_gpu_without_cublas_has_a_copys_peak_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setattr(gpu, "_problem", lambda index: None)
    monkeypatch.setattr(nvrtc, "find", lambda cuda=None: type("Compiler", (), {"architectures": (90,)})())
    monkeypatch.setattr(clock, "COPY_GPU", 1 << 12)
    monkeypatch.setattr(clock, "PRODUCT", 8)
    device = gpu.GpuDevice()
    monkeypatch.setattr(type(device), "seconds", lambda self, run: run() or 1.0)
    product, copy = clock.gpu_peaks(device)
    assert product is None
    assert copy == pytest.approx(2 * (1 << 12))


def test_the_words_of_the_parser_are_those_of_the_engines():
    """They are written out twice, because --help must not wait for NumPy."""
    assert command.DEVICES == bench.DEVICES
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    text = " ".join(parser._subparsers._group_actions[0].choices["bench"].format_help().split())
    assert ", ".join(PRECISIONS) in text
