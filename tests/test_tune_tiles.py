"""The tool that finds the fastest tiles on a GPU, without one: what it tries, what it leaves out, what it writes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import tune_tiles
from tune_tiles import Trial

from nstcore import engines, vgg
from nstcore.engines.cuda import gpu, tiles
from nstcore.engines.cuda.conv import PRODUCTION, RUNGS
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.engines.cuda.tile_launches import SPLIT_SUM
from nstcore.engines.cuda.tiles import BOXES, HALO_POOLED, HALO_TILE, POOLED, WGMMA, Choice, Pass

TF32, FLOAT16, BFLOAT16 = (PRECISIONS[name] for name in ("tf32", "float16", "bfloat16"))


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """kernels/tiles.json, elsewhere."""
    path = tmp_path / "tiles.json"
    monkeypatch.setattr(tiles, "file", lambda: path)
    tiles.measured.cache_clear()
    yield path
    tiles.measured.cache_clear()


class Paper:
    """A GPU on paper."""

    kind, name, architecture, processors = "cuda", "a GPU on paper", 90, 132


# -- what is tried -----------------------------------------------------------------------------------------------------


def test_every_pass_of_every_layer_is_tried_and_the_poolings_with_theirs():
    found = list(tune_tiles.passes(512, "float16", 90))
    forward = [(p.inputs, p.outputs, p.H) for p in found if not (p.pooled or p.unpools)]
    steps = [step for step in vgg.steps_for("vgg19", ("relu5_1",)) if step.kind == "conv"]
    assert len(forward) == 2 * len(steps) - 1  # the pixels' gradient is another kernel
    assert forward[0] == (8, 64, 512)  # as pictures are prepared
    assert {(128, 256, 128), (256, 128, 128), (512, 512, 32)} <= set(forward)
    pooled = [(p.inputs, p.outputs, p.H) for p in found if p.pooled]
    assert pooled == [(64, 64, 512), (128, 128, 256), (256, 256, 128), (512, 512, 64)]
    assert [(p.inputs, p.outputs, p.H) for p in found if p.unpools] == pooled
    assert all((p.precision, p.architecture) == (FLOAT16, 90) for p in found)


@pytest.mark.parametrize(
    ("precision", "architecture", "rungs"),
    [
        ("tf32", 90, {None, HALO_TILE, WGMMA, BOXES}),
        ("tf32", 80, {None, HALO_TILE}),
        ("float16", 80, {None, HALO_TILE}),
        ("bfloat16", 90, {None, HALO_TILE, WGMMA, BOXES}),
        ("float16", 100, {None, HALO_TILE}),
    ],
)
def test_every_tile_of_every_rung_that_the_gpu_has_is_a_candidate(precision, architecture, rungs):
    p = Pass(512, 512, 32, 32, PRECISIONS[precision], architecture)
    for facts, more in (({}, ()), ({"pooled": True}, (POOLED, HALO_POOLED)), ({"unpools": True}, (HALO_POOLED,))):
        found = list(tune_tiles.candidates(replace(p, **facts), 132))
        assert len(found) == len(set(found))
        assert {c.rung for c in found} == rungs | set(more)
        for rung in rungs:
            assert {c.tile for c in found if c.rung == rung} == set(tiles.TILES_OF[rung])
        assert {c.parts for c in found} == set(tiles.PARTS)
    large = tune_tiles.candidates(replace(p, H=512, W=512), 132)
    assert {c.parts for c in large} == {1}


def test_a_job_says_all_of_a_pass_and_a_choice_in_what_json_knows():
    p, choice = Pass(64, 128, 9, 7, BFLOAT16, 100, pooled=True), Choice((256, 64), rung=HALO_TILE)
    job = json.loads(json.dumps(tune_tiles.job_of(p, choice, "cuda", 3)))
    assert tune_tiles.asked(job) == (p, choice)
    assert (job["device"], job["rounds"]) == ("cuda", 3)


# -- one choice --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "facts"),
    [
        (Choice((64, 64)), {}),
        (Choice((64, 64), 2), {}),
        (Choice((64, 64)), {"pooled": True}),
        (Choice((64, 64)), {"unpools": True}),
        (Choice((64, 64), rung=POOLED), {"pooled": True}),
        (Choice((256, 64), rung=HALO_TILE), {}),
        (Choice((128, 64), rung=WGMMA), {}),
        (Choice((128, 64), rung=BOXES), {"pooled": True}),
        (Choice((256, 64), rung=HALO_POOLED), {"pooled": True}),
        (Choice((256, 64), rung=HALO_POOLED), {"unpools": True}),
    ],
    ids=str,
)
def test_every_kind_of_choice_computes_what_the_simplest_kernels_do(stand_in, monkeypatch, choice, facts):
    trial, launched = Trial(stand_in.devices[0], Pass(8, 16, 4, 6, FLOAT16, **facts)), []
    assert np.isfinite(trial._expected).all()
    assert trial._expected.shape == ((2, 3, 16) if facts.get("pooled") else (4, 6, 16))
    kernel = trial.device.kernel
    monkeypatch.setattr(trial.device, "kernel", lambda name, *m, **d: (launched.append(name), kernel(name, *m, **d))[1])
    assert 0 < trial.microseconds(choice, 1) < math.inf
    mine = SPLIT_SUM if choice.parts > 1 else choice.rung or RUNGS[PRODUCTION["float16"]].name
    assert mine in launched


@pytest.mark.slow
def test_a_choice_that_computes_something_else_is_not_timed(stand_in, monkeypatch):
    """Or nothing: what is not written stays NaN."""
    device = stand_in.devices[0]
    trial = Trial(device, Pass(8, 16, 4, 6, FLOAT16))
    monkeypatch.setattr(tune_tiles, "elapsed", None)
    for work in (lambda: None, lambda: device.fill_bytes(trial._y, 0), lambda: device.fill_bytes(trial._y[:3], 0)):
        monkeypatch.setattr(trial, "_work", lambda *_, work=work: work)
        assert trial.microseconds(Choice((64, 64)), 1) is None


def test_of_a_large_result_the_first_the_middle_and_the_last_rows_are_looked_at():
    assert tune_tiles.compared(5, 7, 64) == [slice(0, 5)]
    first, middle, last = tune_tiles.compared(1024, 1024, 64)
    assert (first.start, last.stop) == (0, 1024)
    assert first.stop < middle.start < 512 < middle.stop < last.start
    rows = sum(part.stop - part.start for part in (first, middle, last))
    assert 0.5 * tune_tiles.COMPARED < rows * 1024 * 64 <= tune_tiles.COMPARED
    assert [part.stop - part.start for part in tune_tiles.compared(1 << 12, 1 << 14, 512)] == [1, 1, 1]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1.02])
def test_one_number_that_differs_is_found(wrong):
    expected = np.ones((3, 4), np.float32)
    p = Pass(8, 8, 3, 4, FLOAT16)
    assert tune_tiles.agree(expected * np.float32(1.001), expected, p)
    got = expected.copy()
    got[2, 1] = wrong
    assert not tune_tiles.agree(got, expected, p)


# -- the table ---------------------------------------------------------------------------------------------------------

FAST = {BOXES: 1.0, WGMMA: 2.0, HALO_TILE: 3.0, POOLED: 2.5, HALO_POOLED: 2.4, None: 4.0}


def in_place(monkeypatch, times=FAST, fails=lambda p, choice: None, last=None):
    """The children's part: times by rung, why a choice fails, and after how many jobs the time is over."""
    seen = []

    def results(work, jobs, silent, until, spoils):
        assert work is tune_tiles.microseconds
        waiting = list(jobs)
        while waiting and (last is None or len(seen) < last):
            job = waiting.pop(0)
            p, choice = tune_tiles.asked(job)
            seen.append((p, choice))
            if why := fails(p, choice):
                yield job, None, why
                waiting = [other for other in waiting if not spoils(job, other)]
            else:
                yield job, times[choice.rung], None

    monkeypatch.setattr(tune_tiles.gpu_child, "results", results)
    return seen


def tuned(sizes=(512,), precisions=("tf32", "float16"), **options):
    return tune_tiles.tune(Paper, list(sizes), precisions, 3, **options)


def test_the_fastest_choice_of_each_pass_is_what_the_engine_takes(monkeypatch, file, capsys):
    in_place(monkeypatch)
    lines, left_out = tuned(precisions=["float16"])
    others, left_out_of_others = tuned(precisions=["tf32"], unfit={"07_wgmma", "11_tma_wgmma"})
    assert left_out == left_out_of_others == []
    tune_tiles.write(file, lines + others, "by a test")
    for p in (p for name in ("tf32", "float16") for p in tune_tiles.passes(512, name, 90)):
        if p.pooled:
            assert tiles.pools(replace(p, pooled=False)).rung == (HALO_POOLED if p.precision is TF32 else BOXES)
        elif p.unpools:
            found = tiles.unpools(replace(p, unpools=False))  # 11 and a launch of the pooling's own
            assert found is None if p.precision is FLOAT16 else found.rung == HALO_POOLED
        else:
            assert tiles.chosen(p).rung == (HALO_TILE if p.precision is TF32 else BOXES)
    line = next(line for line in lines if line["precision"] == "float16" and line["inputs"] == 256)
    assert (line["microseconds"], line["rule_microseconds"]) == (1.0, 4.0)
    assert line["tried"]["128x128 by 07_wgmma"] == 2.0
    assert "256-256 128x128 float16 and pooling: 256x128 by 11_tma_wgmma, 1.0 us (the rule: " in capsys.readouterr().out


def test_a_rung_that_hangs_is_left_out_with_what_was_measured_of_it_before_and_the_rest_is_kept(monkeypatch, file):
    """Nobody follows a rung that hangs now and then."""

    def hangs(p, choice):
        return "nothing was heard of it for 60 s" if choice == Choice((256, 64), rung=BOXES) and p.H == 128 else None

    seen, unfit = in_place(monkeypatch, fails=hangs), set()
    lines, ((what, why),) = tuned(precisions=["float16", "bfloat16"], unfit=unfit)
    assert (what, unfit) == ("all of 11_tma_wgmma", {"11_tma_wgmma"})
    assert why == "128-256 128x128 float16, 256x64 by 11_tma_wgmma: nothing was heard of it for 60 s"
    assert sum(choice.rung == BOXES for _, choice in seen) > 3
    assert not any("11_tma" in name for line in lines for name in line["tried"])
    assert {line["rung"] for line in lines} == {WGMMA}
    assert {line["precision"] for line in lines} == {"float16", "bfloat16"}
    seen.clear()
    assert {line["rung"] for line in tuned(precisions=["float16"], unfit=unfit)[0]} == {WGMMA}
    assert not any(choice.rung == BOXES for _, choice in seen)


def test_a_choice_that_computes_something_else_is_named_and_its_rung_goes_on(monkeypatch):
    wrong = Choice((256, 128), rung=BOXES)
    in_place(monkeypatch)
    original = tune_tiles.gpu_child.results

    def results(*asked):
        for job, taken, why in original(*asked):
            yield job, None if tune_tiles.asked(job)[1] == wrong else taken, why

    monkeypatch.setattr(tune_tiles.gpu_child, "results", results)
    lines, left_out = tuned(precisions=["float16"])
    assert ("64-64 512x512 float16, 256x128 by 11_tma_wgmma", "it computes something else") in left_out
    assert len(left_out) == len(lines)
    assert {(line["rung"], tuple(line["tile"])) for line in lines} == {(BOXES, (128, 128))}


def test_a_pass_of_which_not_all_was_tried_in_time_has_no_line(monkeypatch):
    first = list(tune_tiles.passes(512, "tf32", 90))[:2]
    count = len(list(tune_tiles.candidates(first[0], 132))) + len(list(tune_tiles.candidates(first[1], 132)))
    for more, done in ((-1, 1), (0, 2), (1, 2)):
        in_place(monkeypatch, last=count + more)
        lines, ((what, why),) = tuned(precisions=["tf32"])
        assert [(line["inputs"], line["outputs"]) for line in lines] == [(p.inputs, p.outputs) for p in first[:done]]
        assert (what[:3], why) == (f"{20 - done:2} "[:3], "no time, or nothing right")


def test_the_lines_of_other_gpus_and_precisions_stay_in_the_file(monkeypatch, file):
    in_place(monkeypatch)
    both, _ = tuned()
    tune_tiles.write(file, [{**line, "architecture": 80, "rung": None, "tile": [64, 64]} for line in both], "before")
    in_place(monkeypatch, FAST | dict.fromkeys((HALO_TILE, WGMMA, BOXES), 9.0))
    lines, _ = tuned(precisions=["tf32"])
    tune_tiles.write(file, both, "then")
    tune_tiles.write(file, lines, "now")
    found = json.loads(file.read_bytes())
    assert found["made"] == "now"
    assert len(found["layers"]) == 2 * len(both)
    mine = {
        (line["architecture"], line["precision"], line["rung"])
        for line in found["layers"]
        if not (line["pooled"] or line["unpools"])
    }
    assert mine == {(80, "tf32", None), (80, "float16", None), (90, "tf32", None), (90, "float16", BOXES)}


# -- the command -------------------------------------------------------------------------------------------------------


def test_without_a_gpu_the_tool_says_so_in_one_line(capsys, file):
    if gpu.problem() is None:
        pytest.skip("there is a GPU")
    assert tune_tiles.main(["--write", str(file)]) == 2
    assert capsys.readouterr().err == f"tune_tiles: device cuda: {gpu.problem()}\n"
    assert not file.exists()


@pytest.mark.parametrize("arguments", [["--quick"], ["--device", "cuda-on-cpu"]])
def test_the_figures_of_a_rehearsal_are_not_written(capsys, file, arguments):
    assert tune_tiles.main([*arguments, "--write", str(file)]) == 2
    assert capsys.readouterr().err.startswith("tune_tiles: --write: expected --device cuda without --quick, got a reh")
    assert not file.exists()


def test_what_was_found_is_written_and_what_was_left_out_is_said(monkeypatch, capsys, file):
    monkeypatch.setattr(engines, "create", lambda *_: type("Engine", (), {"device": Paper}))
    in_place(monkeypatch, fails=lambda p, choice: "it failed: no" if choice.rung == BOXES else None)
    assert tune_tiles.main(["--sizes", "512", "--precisions", "float16", "--write", str(file)]) == 0
    assert "tune_tiles: left out: all of 11_tma_wgmma (8-64 512x512 float16, 256x128 by 11" in capsys.readouterr().err
    assert tiles.chosen(Pass(64, 64, 512, 512, FLOAT16)).rung == WGMMA
    assert "a GPU on paper" in json.loads(file.read_bytes())["made"]
