"""Whole steps on a GPU, rehearsed without one: sizes, forms, and those that may hang."""

from __future__ import annotations

import math

import gpu_bench
import gpu_steps
import numpy as np
import pytest
import tune_tiles
from bench_common import pictures, random_vgg19

from nstcore import Objective
from nstcore.engines.cuda import tiles
from nstcore.engines.cuda.on_cpu import OnCpuDevice


@pytest.fixture
def budget():
    return gpu_bench.Budget(100.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1.1, 0.0])
def test_a_form_that_computes_another_loss_is_found(loss):
    losses = {"nstcore float32": 1.0, "nstcore tf32": 1.001, "PyTorch eager": loss}
    (line,) = gpu_steps.disagreeing(losses, 64)
    assert line.startswith("PyTorch eager at 64x64: expected the loss 1 within")
    assert gpu_steps.disagreeing(losses | {"PyTorch eager": 1.001}, 64) == []


# -- whole steps that may hang -----------------------------------------------------------------------------------------


def children(monkeypatch, fails=()):
    """What children would do, here: a loss of 1, but where `fails` names the form and the size."""
    asked = []

    def results(work, jobs, silent, until, spoils):
        assert work is gpu_steps.rows
        waiting = list(jobs)
        while waiting:
            job = waiting.pop(0)
            asked.append((job["form"], job["size"]))
            if (job["form"], job["size"]) in fails:
                yield job, None, "nothing was heard of it for 60 s"
                waiting = [other for other in waiting if not spoils(job, other)]
            else:
                yield job, {"seconds": [0.002], "bytes": 1, "loss": 1.0}, None

    monkeypatch.setattr(gpu_steps.gpu_child, "results", results)
    return asked


FORM = gpu_steps.MEASURED.format("float16")
ASKED = {"device": "cuda", "weights": None, "rounds": 1, "quick": False}


def risky(tmp_path, unfit=(), architecture=90):
    return list(gpu_steps.risky("cuda", architecture, ["float32", "tf32", "float16"], tmp_path / "tiles.json", unfit))


def test_steps_by_measured_tiles_and_by_rungs_that_no_gpu_has_run_are_made_apart(tmp_path, monkeypatch, budget):
    forms = risky(tmp_path)
    assert [name for name, _ in forms] == [
        *("nstcore tf32, measured tiles", "nstcore float16, measured tiles"),
        *(f"nstcore {name} {rung}" for rung in gpu_steps.RIVALS for name in ("tf32", "float16")),
    ]
    assert len(risky(tmp_path, {"11_tma_wgmma"})) == 6
    assert len(risky(tmp_path, architecture=100)) == 4
    assert {name for name, _ in gpu_steps.risky("cuda-on-cpu", 90, ["tf32"], None, ())} == set()
    order = children(monkeypatch)
    rows, problems = gpu_steps.apart(forms, [512, 256], ASKED, budget, 50)
    assert problems == []
    assert order == [(row["form"], row["size"]) for row in rows]
    measured = [("nstcore tf32, measured tiles", n) for n in (256, 512)]
    assert sorted(order[:4], key=lambda asked: asked[0])[2:] == measured  # before any rung alone
    assert len(order) == 16


def test_a_form_that_hangs_is_left_out_and_of_measured_tiles_it_is_a_problem(tmp_path, monkeypatch, budget):
    fails = {("nstcore float16, measured tiles", 256), ("nstcore tf32 12_halo_pooled", 512)}
    order = children(monkeypatch, fails)
    rows, (problem,) = gpu_steps.apart(risky(tmp_path), [256, 512, 1024], ASKED, budget, 50)
    why = "nothing was heard of it for 60 s"
    assert problem == f"nstcore float16, measured tiles at 256x256: expected a step, got none: {why}"
    assert budget.left_out == [f"nstcore tf32 12_halo_pooled at 512x512, and larger or by the same rung ({why})"]
    assert ("nstcore float16, measured tiles", 512) not in order
    assert ("nstcore tf32, measured tiles", 1024) in order
    assert [asked for asked in order if "12_halo" in asked[0]][-1] == ("nstcore tf32 12_halo_pooled", 512)
    assert ("nstcore float16 11_tma_wgmma", 1024) in order
    assert len(rows) == len(order) - 2


def test_their_losses_are_compared_with_the_first_of_all_forms(budget):
    def row(form, size, loss=1.0):
        return {"form": form, "size": size, "loss": loss}

    usual = [row("nstcore float32", 256), row("PyTorch eager", 256), row("nstcore float32", 512)]
    others = [row("nstcore tf32, measured tiles", n, loss) for n, loss in ((256, 1.001), (512, 1.1), (1024, 1.0))]
    rows, (line,) = gpu_steps.together(usual, others, budget)
    assert [(r["form"].split()[0], r["size"]) for r in rows] == [
        *(("nstcore", 256), ("PyTorch", 256), ("nstcore", 256), ("nstcore", 512), ("nstcore", 512)),
    ]
    assert line.startswith("nstcore tf32, measured tiles at 512x512: expected the loss 1 within 0.01, got 1.1")
    assert budget.left_out == ["nstcore tf32, measured tiles at 1024x1024 (there is no loss to compare its own with)"]


@pytest.mark.slow
def test_a_whole_step_by_measured_tiles_has_its_rungs_and_the_loss_of_the_others(stand_in, tmp_path, monkeypatch):
    """Recorded as a graph and launched again, as in a run."""
    kernel, launched = OnCpuDevice.kernel, []
    monkeypatch.setattr(
        OnCpuDevice, "kernel", lambda *asked, **d: (launched.append(asked[1:3]), kernel(*asked, **d))[1]
    )
    path, rung = tmp_path / "tiles.json", tiles.BOXES
    passes = tune_tiles.passes(16, "float16", stand_in.devices[0].architecture)
    tune_tiles.write(
        path, [tune_tiles._line(p, {tiles.Choice((128, 64), rung=rung): 1.0}) for p in passes], "by a test"
    )
    job = {"form": FORM, "size": 16, "precision": "float16", "convolution": None}
    job |= ASKED | {"device": "cuda-on-cpu", "quick": True}
    usual, measured = gpu_steps.rows([job | {"table": None}, job | {"table": str(path)}])
    assert (rung, "conv3x3_forward") in launched
    assert (rung, "conv3x3_backward") in launched
    assert measured["loss"] == pytest.approx(usual["loss"], rel=1e-3)
    assert measured["loss"] != usual["loss"]  # it adds in another order
    assert len(measured["seconds"]) == 1


# -- PyTorch's forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, 2])
def test_pytorchs_eager_forms_compute_our_loss(index):
    pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    import gpu_torch_peer

    form = gpu_torch_peer.FORMS[index]
    assert form.graph is None
    weights, problem = random_vgg19(), pictures(48)
    expected = Objective(weights, *problem[:2], device="cpu")(bench_planes(problem[2]))[0].total
    loss = gpu_torch_peer.step(form, weights, *problem, device="cpu")()
    assert loss == pytest.approx(expected, rel=gpu_steps.AGREE["PyTorch"] if form.half else 1e-4)


def bench_planes(picture):
    return np.ascontiguousarray(picture.transpose(2, 0, 1))
