"""The benchmark: what it counts, that its tables are whole, and that it writes only where it may."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys

import bench
import bench_common
import bench_fast
import bench_rungs
import gpu_bench
import numpy as np
import pytest
from bench_common import pictures, planes
from bench_flops import convolution, work
from conftest import ROOT

from nstcore import engines, fast, vgg
from nstcore.bench import Size, clock, layers, measuring, rungs
from nstcore.engines.cpu import library
from nstcore.engines.cuda import on_cpu
from nstcore.errors import OptionError, RunError

try:
    import torch  # noqa: F401
except ImportError:
    TORCH = False
else:
    TORCH = True
needs_torch = pytest.mark.skipif(not TORCH, reason="PyTorch is not installed: nothing to compare with")
needs_kernels = pytest.mark.skipif(not library.available(), reason="the native kernels are not built")
TEXT = "# Title\n\nBefore.\n\n<!-- bench:{0} -->\nold table\n<!-- /bench:{0} -->\n\nAfter.\n"


@pytest.fixture
def run(tmp_path):
    """Runs the tool as its users do: run(*arguments, torch=False) hides PyTorch. No weights are in the cache."""

    def start(*arguments, torch=False):
        environment = {**os.environ, "NSTCORE_HOME": str(tmp_path)}
        if not torch:
            (tmp_path / "torch.py").write_text("raise ImportError")
            environment["PYTHONPATH"] = str(tmp_path)
        command = [sys.executable, str(ROOT / "tools" / "bench.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    return start


def table(done):
    """The rows of the table that was printed, by column."""
    assert done.returncode == 0, done.stderr
    lines = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def prose(done):
    """What was printed, on one line."""
    return " ".join(done.stdout.split())


def numbers(rows, *columns):
    """Figures of these columns, which must be finite and above 0."""
    values = [float(row[column]) for row in rows for column in columns]
    assert values
    assert all(math.isfinite(v) and v > 0 for v in values), values
    return values


# -- the work ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "gflop"), [(256, 94.7), (512, 378.7), (1024, 1514.8)])
def test_the_convolutions_of_a_step_are_counted_in_direct_form(size, gflop):
    assert round(work("vgg19", size, size).direct / 1e9, 1) == gflop


def test_gram_matrices_in_full_and_their_gradients_are_18_gflop_at_512():
    assert 2 * work("vgg19", 512, 512).gram_gradient / 1e9 == pytest.approx(18.3, abs=0.05)


def test_the_gram_matrices_count_half_of_the_product():
    counted = work("vgg19", 256, 256)
    assert 0.5 < counted.gram / counted.gram_gradient < 0.51


def test_winograd_multiplies_a_quarter_but_in_the_first_layer():
    counted = work("vgg19", 256, 256)
    assert 4 * counted.winograd == counted.direct - counted.first
    assert counted.limit == counted.first + counted.winograd + counted.gram + counted.gram_gradient


def test_a_tile_over_the_edge_is_multiplied_whole():
    step = vgg.find("vgg19", "conv2_1")  # 64 -> 128 channels at half the size: 5x9 outputs in 2x3 tiles
    assert convolution(step, 10, 18) == (2 * 9 * 64 * 128 * 5 * 9, 2 * 36 * 64 * 128 * 2 * 3)


# -- turns ------------------------------------------------------------------------------------------------------------


def test_candidates_take_turns(monkeypatch):
    monkeypatch.setattr(bench_common, "PAUSE", 0.0)
    calls = []
    seconds = bench_common.interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert "".join(calls) == "ab" + 3 * "aabb"  # first calls, then in every turn an untimed one and a timed one
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize("loss", [1.01, math.nan])
def test_programs_with_different_losses_are_not_compared(loss):
    bench_common.check_agreement({"one": lambda: 1.0, "another": lambda: 1.0001})
    with pytest.raises(RunError, match="another: expected the loss 1 of one"):
        bench_common.check_agreement({"one": lambda: 1.0, "another": lambda: loss})


# -- tables, without PyTorch ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_step_is_measured_beside_its_limit(run):
    done = run("step", "--sizes", "64,48", "--rounds", "1", "--threads", "1")
    rows = table(done)
    assert [row["size"] for row in rows] == ["64x64", "64x64", "48x48", "48x48"]
    assert rows[0]["form"].startswith("nstcore cpu (")
    assert rows[1]["form"].startswith("limit: 1.7 GFLOP at ")
    numbers(rows, "median, ms", "relative to nstcore")
    numbers(rows[::2], "fastest, ms")
    assert "PyTorch is not installed" in prose(done)
    assert "random VGG19" in prose(done)
    assert "`python tools/bench.py step --sizes 64,48 --threads 1 --rounds 1`" in prose(done)


@needs_kernels
def test_every_pass_of_every_layer_is_measured(run):
    rows = table(run("layers", "--sizes", "64", "--rounds", "2"))
    found = {(row["layer"], row["pass"].split()[0]): row for row in rows if row["pass"]}
    steps = vgg.steps_for("vgg19", ["relu5_1"])
    assert {(s.name, p) for s in steps for p in ("forward", "backward")} <= found.keys()
    convolutions = [row for (layer, _), row in found.items() if layer.startswith("conv")]
    numbers(convolutions, "ms", "GFLOP/s direct", "GFLOP/s Winograd")
    assert found["conv1_2", "forward"]["pass"] == "forward + pool1"
    assert found["conv4_2", "backward"]["pass"] == "backward + losses at relu4_1"
    parts = sum(float(row["ms"]) for row in rows if row["ms"] != "-" and row["pass"] != "both")
    assert parts == pytest.approx(float(found["the whole step", "both"]["ms"]), rel=0.3)  # medians of each


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(run):
    rows = table(run("memory", "--sizes", "64,96"))
    assert [row["form"] for row in rows] == ["nstcore", "nstcore"]
    peaks, before = numbers(rows, "peak RSS, MB"), numbers(rows, "before the run, MB")
    assert all(b + 50 < p for b, p in zip(before, peaks, strict=True))  # the filters alone are 52 MB


@pytest.mark.slow
def test_the_ladder_has_every_rung_and_each_names_code_that_is_there(run):
    rows = table(run("ladder", "--size", "32", "--rounds", "1"))
    assert len(rows) == 3 + len(library.available())
    assert all((ROOT / row["code"]).is_file() for row in rows)
    numbers(rows, "step, ms", "times as fast as the first")


def test_scaling_is_relative_to_the_first_size(run):
    rows = table(run("scaling", "--sizes", "48,64", "--rounds", "1"))
    ratios = numbers(rows, "relative to 48x48")
    assert ratios[0] == 1
    per_pixel = numbers(rows, "ms per megapixel")
    assert per_pixel[1] / per_pixel[0] == pytest.approx(ratios[1], rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in library.available(), reason="the avx2 kernels are not built, or not for this machine")
def test_both_sides_can_be_kept_to_an_instruction_set(run):
    done = run("step", "--sizes", "32", "--rounds", "1", "--instructions", "avx2")
    assert "native avx2" in table(done)[0]["form"]
    assert "native avx2 kernels" in prose(done)


# -- every rung by itself ---------------------------------------------------------------------------------------------


@pytest.fixture
def two_operations(monkeypatch):
    """Two of the operations, in small, on a machine whose peaks are found at once."""
    chosen = {name: bench_rungs.OPERATIONS[name] for name in ("style", "adam")}
    for module, name, value in (
        (bench_rungs, "OPERATIONS", chosen),
        (clock, "PRODUCT", 64),
        (clock, "COPY", 1 << 16),
        (measuring, "PAUSE", 0.0),
    ):
        monkeypatch.setattr(module, name, value)


def test_every_rung_of_an_operation_is_measured_and_the_table_is_then_fresh(two_operations, tmp_path, capsys):
    path = tmp_path / "copy.md"
    path.write_text(TEXT.format("rungs"))
    assert bench_rungs.stale(path) != []
    assert bench.main(["rungs", "--rounds", "1", "--threads", "1", "--write", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "`python tools/bench.py rungs --threads 1 --rounds 1`" in " ".join(printed.split())
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    header, _, *rows = lines
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    assert {row["operation"] for row in rows} == {"style", "adam"}
    assert len(rows) == 2 * (1 + len(library.available()))
    numbers(rows, "GFLOP", "MB at least", "ms", "times as fast as the first")
    assert bench_rungs.stale(path) == []


def test_the_readmes_table_of_rungs_is_that_of_now():
    assert bench_rungs.stale(bench.README) == [], "python tools/bench.py rungs --write"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("one product for all nine taps", "one product", "missing: conv [cpu1_im2col]"),
        ("[cpu1_pairs]", "[cpu1_couples]", "unknown: lbfgs [cpu1_couples]"),
        ("| update |", "| forward |", "missing: adam [cpu0_book]"),
    ],
)
def test_a_table_of_other_rungs_is_stale(tmp_path, old, new, said):
    path = tmp_path / "copy.md"
    text = bench.README.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert any(line.startswith(said) for line in bench_rungs.stale(path))


# -- one-pass networks on a GPU (gpu_bench) ---------------------------------------------------------------------------


@pytest.fixture
def stand_in():
    if on_cpu.problem():
        pytest.skip(on_cpu.problem())
    return on_cpu.OnCpuDevice()


def test_a_layer_is_verified_and_timed_in_every_rung(stand_in, monkeypatch):
    monkeypatch.setattr(gpu_bench, "STANDARD", [("global-average", Size(5, 4, 3, 3))])
    budget = gpu_bench.Budget(100.0)
    (row,), problems = gpu_bench.network_layers(stand_in, 2, False, {"copy": 1e9}, budget)
    assert (row["rung"], row["pass"], row["operations"]) == ("instance_norm/01_two_stage", "forward", 3 * 5 * 4)
    assert row["layer"] == "global-average 5x4 positions, 3 channels"
    assert row["bytes"] == 4 * (3 * 5 * 4 + 3)
    assert len(row["seconds"]) == 2
    assert (problems, budget.left_out) == ([], [])


def test_a_layer_that_is_wrong_is_a_problem_and_is_not_timed(stand_in, monkeypatch):
    monkeypatch.setattr(gpu_bench, "STANDARD", [("global-average", Size(5, 4, 3, 3))])
    monkeypatch.setattr(gpu_bench, "rungs", lambda *names: [off_by_a_thousandth(rung) for rung in rungs(*names)])
    rows, (line,) = gpu_bench.network_layers(stand_in, 1, False, {"copy": 1e9}, gpu_bench.Budget(100.0))
    assert rows == []
    assert "01_two_stage forward: expected the book's within" in line


def off_by_a_thousandth(rung):
    def make(problem, machine):
        runs = rung.make(problem, machine)
        for run in runs.values():
            sound = run.result
            run.result = lambda sound=sound: {name: 1.001 * a for name, a in sound().items()}
        return runs

    return dataclasses.replace(rung, make=make)


def test_every_operation_with_layers_of_its_own_is_timed_and_in_a_rehearsal_once():
    assert {operation for operation, _ in gpu_bench.cases(quick=False)} == set(layers.MAKERS)
    assert sorted(operation for operation, _ in gpu_bench.cases(quick=True)) == sorted(layers.MAKERS)


@pytest.mark.parametrize("off", [0.0, 0.01, math.nan])
def test_a_form_that_paints_another_picture_is_found(off):
    picture = np.full((3, 4, 4), 0.5)
    results = {"nstcore float32": picture, "PyTorch eager TF32": picture + off, "PyTorch float32": picture + off}
    wrong = gpu_bench.apart(results, 64)
    assert list(wrong) == {0.0: [], 0.01: ["PyTorch float32"]}.get(off, ["PyTorch eager TF32", "PyTorch float32"])
    for line in wrong.values():
        assert "a pass over 64x64: expected the picture of nstcore float32 within" in line


@needs_torch
def test_pytorchs_network_paints_our_picture():
    import gpu_torch_peer

    weights = bench_fast.weights_for("magenta")
    net = fast.network(weights, engines.create("cpu", "float32"))
    content, style, _ = (planes(p) for p in pictures(32))
    look = net.look(style)
    for form in (form for form in gpu_torch_peer.FAST_FORMS if form.graph is None):
        painted = gpu_torch_peer.painter(form, weights, content, look, device="cpu")().numpy()
        assert gpu_bench.apart({"nstcore": net.paint(content, look), form.name: painted}, 32, 1e-4) == {}


# -- tables, beside PyTorch -------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow(reason="compiles for a minute"))]
)
def test_a_step_is_measured_beside_every_form_of_pytorch(run, compiled):
    arguments = ["step", "--sizes", "64", "--rounds", "1", *([] if compiled else ["--no-compile"])]
    done = run(*arguments, torch=True)
    forms = [row["form"] for row in table(done)]
    assert forms[1:3] == ["PyTorch eager, NCHW", "PyTorch eager, channels_last"]
    for layout in ("NCHW", "channels_last"):
        form = f"PyTorch torch.compile, {layout}"
        assert (form in forms or f"{form}: not measured" in prose(done)) == compiled
    numbers(table(done), "median, ms", "relative to nstcore")


@needs_torch
@needs_kernels
def test_every_layer_is_measured_beside_pytorchs(run):
    rows = table(run("layers", "--sizes", "64", "--rounds", "1", torch=True))
    layers = [row for row in rows if row["layer"].startswith(("conv", "pool", "all"))]
    numbers(layers, "PyTorch, ms")
    numbers([row for row in layers if row["ms"] != "-"], "relative to nstcore")


@needs_torch
def test_memory_is_relative_to_pytorchs_better_form(run):
    rows = table(run("memory", "--sizes", "64", torch=True))
    assert [row["form"] for row in rows] == ["nstcore", "PyTorch eager, NCHW", "PyTorch eager, channels_last"]
    ratios = numbers(rows, "relative to PyTorch's better")
    assert min(ratios[1:]) == 1


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_table_replaces_what_is_between_its_markers_and_nothing_else(run, tmp_path):
    path = tmp_path / "copy.md"
    path.write_text(TEXT.format("scaling") + TEXT.format("step"))
    done = run("scaling", "--sizes", "32", "--rounds", "1", "--write", str(path))
    assert done.returncode == 0, done.stderr
    expected = TEXT.format("scaling").replace("old table\n", f"\n{done.stdout}\n") + TEXT.format("step")
    assert path.read_text() == expected
    bench.write(path, "scaling", done.stdout)  # once more: the same
    assert path.read_text() == expected
    assert [p.name for p in tmp_path.glob(".copy*")] == []


@pytest.mark.parametrize(
    "text",
    [
        "no markers\n",
        "<!-- bench:step -->\nonly one\n",
        "<!-- /bench:step -->\n<!-- bench:step -->\n",
        TEXT.format("step") * 2,
        TEXT.format("avx2"),
    ],
)
def test_a_file_without_the_two_markers_is_refused_before_anything_is_measured(tmp_path, capsys, monkeypatch, text):
    monkeypatch.setattr(bench, "measure", lambda args: pytest.fail("measured"))
    monkeypatch.setattr(bench, "prepare", lambda instructions, threads: None)
    path = tmp_path / "copy.md"
    path.write_text(text)
    assert bench.main(["step", "--write", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "<!-- bench:step -->" in error
    assert path.read_text() == text


def test_tables_for_an_instruction_set_have_markers_of_their_own():
    sections = [bench.section(bench.parser().parse_args(a)) for a in (["step", "--instructions", "avx2"], ["step"])]
    assert sections == ["avx2", "step"]


def test_every_table_has_its_place_in_the_readme():
    for name in (*bench.SIZES, *bench.RESTRICTED):
        before, after = bench.split(bench.README, name)
        assert before.endswith(f"<!-- bench:{name} -->\n")
        assert after.startswith(f"<!-- /bench:{name} -->")


def test_a_missing_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(OptionError, match="expected a text file"):
        bench.split(tmp_path / "none.md", "step")


@pytest.mark.parametrize(
    "arguments", [["step", "--sizes", "8"], ["layers", "--sizes", "64,64"], ["ladder", "--size", "a"]]
)
def test_sizes_that_cannot_be_measured_are_refused(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        bench.parser().parse_args(arguments)
    assert stopped.value.code == 2
    assert "size" in capsys.readouterr().err
