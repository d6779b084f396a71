"""The script that measures on a GPU, rehearsed without one: what it measures, what it leaves out, what it writes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import bench
import gpu_bench
import gpu_check
import gpu_steps
import gpu_tables
import pytest
from bench_common import random_vgg19
from conftest import ROOT
from gpu_results import results

from nstcore.bench.layers import MAKERS
from nstcore.engines.cuda import conv, gpu, on_cpu


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

        def pass_by(self, seconds):
            self.now += seconds

    found = Clock()
    monkeypatch.setattr(gpu_bench.time, "monotonic", found)
    monkeypatch.setattr(gpu_bench.time, "perf_counter", found)
    return found


@pytest.fixture
def budget(clock):
    return gpu_bench.Budget(100.0, start=0.0)


# -- time --------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_the_time_is_left_out_and_named(budget, clock):
    assert budget.allows(100, "a")
    clock.pass_by(70)
    assert not budget.allows(31, "b")
    assert budget.allows(30, "c")
    clock.pass_by(50)
    assert not budget.allows(1, "d")
    assert budget.left_out == ["b (about 31 s needed, 30 s left)", "d (about 1 s needed, 0 s left)"]


def test_short_launches_are_repeated_within_one_measurement(clock):
    launches = []

    def timed(run):
        start = clock.now
        run()
        return clock.now - start

    def run():
        launches.append(1)
        clock.pass_by(0.001)

    assert gpu_bench.repeated(timed, run, 3) == pytest.approx([0.001] * 3)
    assert len(launches) == 2 + 3 * 10


def test_steps_take_turns_and_the_first_of_a_turn_is_not_timed(clock):
    calls = []

    def step(name, seconds):
        def run():
            first = calls[-1:] != [name]
            calls.append(name)
            clock.pass_by(10 * seconds if first else seconds)

        return run

    found = gpu_bench.turns({"a": step("a", 1.0), "b": step("b", 0.02)}, 2)
    assert found["a"] == pytest.approx([1.0, 1.0])
    assert found["b"] == pytest.approx([0.02, 0.02])
    assert calls == (["a"] * 2 + ["b"] * 4) * 2


def test_the_largest_sizes_are_left_out_first(budget, clock, monkeypatch):
    weights = random_vgg19()

    def forms(weights, device, size, precisions, compiled, budget, quick):
        clock.pass_by(5)  # whatever the size
        return {"nstcore float32": lambda: clock.pass_by(size**2 / 1e5) or 1.0}, {"nstcore float32": size}, []

    monkeypatch.setattr(gpu_steps, "forms", forms)
    found, problems = gpu_steps.steps(weights, "cuda-on-cpu", [2048, 256, 1024, 512], ["float32"], 1, True, budget)
    assert problems == []
    assert [row["size"] for row in found] == [256, 512, 1024]
    assert [row["bytes"] for row in found] == [256, 512, 1024]
    assert len(budget.left_out) == 1
    assert budget.left_out[0].startswith("the step at 2048x2048 (about ")


# -- rungs -------------------------------------------------------------------------------------------------------------


def test_every_kind_of_layer_is_timed_once():
    assert list(gpu_bench.shapes(512)) == [
        *(("conv1_2", 64, 64, 512), ("conv2_1", 64, 128, 256), ("conv2_2", 128, 128, 256)),
        *(("conv3_1", 128, 256, 128), ("conv3_2", 256, 256, 128)),
        *(("conv4_1", 256, 512, 64), ("conv4_2", 512, 512, 64), ("conv5_1", 512, 512, 32)),
    ]


def test_every_rung_of_the_ladder_is_timed_and_production_in_each_of_its_precisions():
    timed = list(gpu_bench.ladder(quick=False))
    assert {short for short, _ in timed} == set(conv.RUNGS)
    pairs = {(short, precision.name) for short, precision in timed}
    assert pairs >= {(short, name) for name, short in conv.PRODUCTION.items()}
    assert all(name in conv.RUNGS[short].precisions for short, name in pairs)


@pytest.fixture
def stand_in():
    if on_cpu.problem():
        pytest.skip(on_cpu.problem())
    return on_cpu.OnCpuDevice()


def test_rungs_are_timed_on_layers_that_are_computed(stand_in, monkeypatch):
    monkeypatch.setattr(conv, "RUNGS", {"01_naive": conv.RUNGS["01_naive"]})
    monkeypatch.setattr(gpu_bench, "shapes", lambda size: [("conv1_2", 3, 5, size)])
    forward, backward = gpu_bench.layers(stand_in, 4, 2, False, gpu_bench.Budget(100.0))
    assert (forward["pass"], backward["pass"]) == ("forward", "backward")
    assert forward["operations"] == backward["operations"] == 2 * 9 * 3 * 5 * 16
    assert (forward["rung"], forward["precision"], forward["side"]) == ("01_naive", "float32", 4)
    assert len(forward["seconds"]) == 2


def test_without_pytorch_only_the_copy_has_a_peak_of_its_own(stand_in):
    found = gpu_bench.peaks(stand_in, 1, quick=True)
    assert set(found) == {"copy"}
    assert 0 < found["copy"] < math.inf


def test_a_pytorch_without_the_gpu_takes_no_part(monkeypatch):
    for available in (True, False):
        torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda there=available: there))
        monkeypatch.setattr(gpu_bench, "torch_or_none", lambda torch=torch: torch)
        assert gpu_bench.torch_on_gpu() is (torch if available else None)


def test_a_rung_that_was_found_unfit_is_not_tried_in_another_precision(stand_in, monkeypatch, budget):
    asked = []
    monkeypatch.setattr(gpu_bench, "unfit", lambda device, short, precision: asked.append(short) or "it hangs")
    assert gpu_bench.layers(stand_in, 4, 1, False, budget) == []
    assert len(asked) == len(set(asked)) == len(conv.RUNGS)
    assert budget.unfit == set(conv.RUNGS)


# -- tests on a GPU ----------------------------------------------------------------------------------------------------


def pytest_says(monkeypatch, said, code):
    def run(command, **options):
        assert command[1:3] == ["-m", "pytest"]
        assert "gpu and not slow" in command
        assert options["timeout"] == 60
        if code is None:
            raise subprocess.TimeoutExpired(command, 60, output=said.encode())
        return subprocess.CompletedProcess(command, code, said, "")

    monkeypatch.setattr(gpu_check.subprocess, "run", run)


@pytest.mark.parametrize(
    ("code", "exit_code", "summary"),
    [(0, 0, "9 passed in 1.0s"), (1, 1, "9 passed in 1.0s"), (None, 124, "not finished after 60 s")],
)
def test_the_gpu_tests_verdict_is_kept(monkeypatch, capsys, code, exit_code, summary):
    pytest_says(monkeypatch, "......\nF\n9 passed in 1.0s\n", code)
    found = gpu_check.run_tests(60)
    assert (found["exit"], found["summary"]) == (exit_code, summary)
    assert ("......" in capsys.readouterr().out) == bool(exit_code)


@pytest.mark.parametrize("there", [True, False])
def test_the_gpu_tests_run_side_by_side_where_they_can(monkeypatch, there):
    asked = []
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: name if there else None)
    monkeypatch.setattr(gpu_check.os, "cpu_count", lambda: 16)
    done = subprocess.CompletedProcess([], 0, "9 passed", "")
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda command, **_: asked.extend(command) or done)
    assert gpu_check.run_tests(60)["exit"] == 0
    assert asked[-3:] == (["tests", "-n", "8"] if there else ["-p", "no:cacheprovider", "tests"])


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--device", "cuda-on-cpu", "--out", "results.json"],
        ["--quick", "--out", "results.json"],
        ["--write"],
        ["--write-tiles"],
        ["--out", "no/such/folder/results.json"],
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_check, "measure", None)
    assert gpu_check.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_one_line_says_what_is_missing(capsys):
    problem = gpu.problem()
    if problem is None:
        pytest.skip("there is a GPU")
    assert gpu_check.main([]) == 2
    said = capsys.readouterr()
    assert said.err == f"gpu_check: device cuda: {problem}\n"
    assert said.out == ""


@pytest.mark.parametrize("problems", [[], ["nstcore tf32 at 64x64: expected the loss 1"]])
def test_results_are_written_and_problems_end_in_exit_code_1(tmp_path, monkeypatch, capsys, problems):
    found = results(problems=problems)
    monkeypatch.setattr(gpu_check, "measure", lambda args, keep: keep(found) or found)
    path = tmp_path / "results.json"
    assert gpu_check.main(["--out", str(path)]) == len(problems)
    assert json.loads(path.read_text()) == results(problems=problems)
    assert capsys.readouterr().err == "".join(f"gpu_check: {line}\n" for line in problems)


def test_a_part_that_fails_takes_no_other_with_it_and_results_are_kept_after_each(monkeypatch, stand_in):
    def fails(*_):
        raise RuntimeError("a kernel failed")

    kept = []
    monkeypatch.setattr(gpu_check.gpu_bench, "peaks", lambda *_: {"copy": 1.0})
    monkeypatch.setattr(gpu_check.gpu_bench, "layers", fails)
    monkeypatch.setattr(gpu_check.gpu_bench, "network_layers", lambda *_: (["a row"], ["a wrong one"]))
    monkeypatch.setattr(gpu_check, "measured_tiles", fails)
    monkeypatch.setattr(gpu_check, "whole_steps", lambda *_: (["a step"], []))
    arguments = ["--device", "cuda-on-cpu", "--quick", "--parts", "rungs,layers,tiles,steps", "--commit", "1"]
    found = gpu_check.measure(gpu_check.parser().parse_args(arguments), lambda found: kept.append(json.dumps(found)))
    assert (found["layers"], found["steps"], found["passes"]) == (["a row"], ["a step"], [])
    failed = "RuntimeError: a kernel failed"
    assert found["problems"] == [f"rungs: {failed}", "a wrong one", f"tiles: {failed}"]
    assert len(kept) == len(gpu_check.PARTS)
    assert json.loads(kept[1])["layers"] == ["a row"]
    assert json.loads(kept[-1]) == found


def test_no_table_stands_in_the_readme_without_results():
    """What is printed there comes from a file of results, and none is in the repository."""
    text = bench.README.read_text(encoding="utf-8")
    for name in gpu_tables.TABLES:
        before, after = bench.split(bench.README, name, "gpu")
        assert text == before + after or list(ROOT.glob("kernels/*.json"))


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu_goes_through_everything_and_calls_its_figures_none(tmp_path):
    if on_cpu.problem():
        pytest.skip(on_cpu.problem())
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--device", "cuda-on-cpu", "--quick"]
    done = subprocess.run(
        [*command, "--sizes", "16", "--precisions", "float32,tf32"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(gpu_check.REHEARSAL)
    assert done.stdout.endswith(f"{gpu_check.REHEARSAL}\n")
    for name, short in conv.PRODUCTION.items():
        assert f"| conv3x3/{short} | {name} | forward |" in done.stdout
    assert "| 16x16 | nstcore float32 |" in done.stdout
    assert "| 16x16 | nstcore tf32 |" in done.stdout
    assert "| 16x16 | nstcore tf32, measured tiles |" in done.stdout
    assert "| 64-64 and pooling | 256 | tf32 |" in done.stdout
    for operation in MAKERS:
        assert f"| {operation} " in done.stdout
    assert "relative to nstcore |" in done.stdout
    assert list(tmp_path.iterdir()) == []
