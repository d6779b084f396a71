"""The whole step of tools/gpu_check.py, in every form, at every size; forms that may hang in processes of their own."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gpu_child
import numpy as np
from bench_common import median, pictures, planes, random_vgg19, weights_for
from gpu_bench import Budget, torch_on_gpu, turns
from gpu_graphs import Steps, engine_of

from nstcore import Objective, Weights
from nstcore.engines.cuda import conv, tiles
from nstcore.errors import DeviceError

AGREE = {"float32": 1e-3, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2, "PyTorch": 2e-2}  # relative, of losses
MEASURED = "nstcore {}, measured tiles"  # the form of a step whose convolutions are as tools/tune_tiles.py found them
RIVALS = ("11_tma_wgmma", "07_wgmma", "12_halo_pooled")  # rungs that no GPU has run, each timed in whole steps, too
SILENT = 60.0  # seconds without a result after which such a form counts as one that hangs
Risky = tuple[str, dict[str, Any]]
SHALLOW: dict[str, Any] = {
    "content_layers": {"relu2_1": 1.0},
    "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0},
}  # to rehearse


def steps(
    weights: Weights,
    device: str,
    sizes: Sequence[int],
    precisions: Sequence[str],
    rounds: int,
    compiled: bool,
    budget: Budget,
    quick: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Time and memory of every form at every size, the smallest first; and what is wrong."""
    found, problems, fixed, timed, before = [], [], 0.0, 0.0, 1
    for size in sorted(sizes):
        # compilation and the like take as long at every size
        if not budget.allows(fixed + timed * (size / before) ** 2, f"the step at {size}x{size}"):
            continue
        start = time.monotonic()
        runs, memory, wrong = forms(weights, device, size, precisions, compiled, budget, quick)
        losses = {name: run() for name, run in runs.items()}
        problems += wrong + disagreeing(losses, size)
        turning = time.monotonic()
        for name, times in turns(runs, rounds).items():
            row = {"size": size, "form": name, "seconds": times, "bytes": memory[name], "loss": losses[name]}
            found.append(row)
            print(f"{size}x{size} {name}: {1e3 * median(times):.2f} ms", flush=True)
        timed = time.monotonic() - turning
        fixed, before = time.monotonic() - start - timed, size
        runs.clear()
        gc.collect()  # the next size needs the memory
        if device == "cuda" and (torch := torch_on_gpu()) is not None:
            torch.cuda.empty_cache()
    return found, problems


def forms(
    weights: Weights, device: str, size: int, precisions: Sequence[str], compiled: bool, budget: Budget, quick: bool
) -> tuple[dict[str, Callable[[], float]], dict[str, int | None], list[str]]:
    """A step of every form at one size; the memory that it takes; and which of nstcore's failed, and how."""
    problem, layers = pictures(size), SHALLOW if quick else {}
    runs: dict[str, Callable[[], float]] = {}
    memory: dict[str, int | None] = {}
    wrong = []
    for precision in precisions:
        name = f"nstcore {precision}"
        try:
            runs[name], memory[name] = nstcore_step(weights, device, precision, problem, layers)
        except (MemoryError, RuntimeError, DeviceError) as error:
            wrong.append(f"{name} at {size}x{size}: {error}")
    if device == "cuda" and not quick and torch_on_gpu() is not None:
        import gpu_torch_peer

        for name, run, held, why in gpu_torch_peer.steps(weights, problem, compiled):
            if run is None:
                budget.leave_out(f"{name} at {size}x{size}", f"it failed: {why}")
            else:
                runs[name], memory[name] = run, held
    return runs, memory, wrong


def nstcore_step(
    weights: Weights,
    device: str,
    precision: str,
    problem: tuple[np.ndarray, np.ndarray, np.ndarray],
    layers: dict[str, Any],
    convolution: str | None = None,
) -> tuple[Callable[[], float], int | None]:
    """One step of a run, and the bytes that its engine, which nobody else has, took of the GPU; None on a CPU."""
    content, style, start = problem
    engine = engine_of(device, precision, convolution)
    step = Steps(Objective(weights, content, style, engine=engine, **layers), planes(start))
    for _ in range(2):  # one compiles and makes the buffers, the other records
        step()
    return step, getattr(engine.device, "held_bytes", None)


def disagreeing(losses: dict[str, float], size: int) -> list[str]:
    """A line for each form that does not compute the first one's loss: it must not be compared."""
    expected = next(iter(losses.values()), 0.0)
    found = []
    for name, loss in losses.items():
        within = AGREE["PyTorch" if name.startswith("PyTorch") else name.split()[1].rstrip(",")]
        if not abs(loss - expected) <= within * abs(expected):
            found.append(f"{name} at {size}x{size}: expected the loss {expected:.6g} within {within:g}, got {loss:.6g}")
    return found


# -- forms that may hang -----------------------------------------------------------------------------------------------


def risky(
    device: str, architecture: int, precisions: Sequence[str], table: Path | None, unfit: Collection[str]
) -> Iterator[Risky]:
    """(name, what is asked of `rows`) of the forms by a measured table, if there is one, and of those by RIVALS."""
    for precision in precisions:
        if table is not None and precision in conv.TENSOR_CORES:
            yield MEASURED.format(precision), {"precision": precision, "table": str(table), "convolution": None}
    for short in RIVALS if device == "cuda" else ():
        rung = conv.RUNGS[short]
        for precision in precisions:
            if precision in rung.precisions and rung.only in (None, architecture) and short not in unfit:
                yield f"nstcore {precision} {short}", {"precision": precision, "table": None, "convolution": short}


def apart(
    forms: Sequence[Risky], sizes: Sequence[int], asked: dict[str, Any], budget: Budget, seconds: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows as those of `steps`, of forms that may hang, the measured ones first; and which of those failed.

    One that hangs or fails is left out at larger sizes, too, and so are all forms by the same rung.

    Parameters
    ----------
    forms
        Of `risky`.
    sizes : sequence of int
    asked : dict
        Of all: "device", "weights" (a name, a file or None), "rounds" and "quick".
    budget : Budget
    seconds : float
        For all of them.
    """
    jobs = [
        {"form": form, "size": size, **mine, **asked}
        for measured in (True, False)
        for size in sorted(sizes)
        for form, mine in forms
        if (mine["table"] is not None) == measured
    ]
    found, problems, done = [], [], 0
    until = time.monotonic() + min(seconds, budget.left)
    for job, row, why in gpu_child.results(rows, jobs, SILENT, until, _alike):
        done, what = done + 1, f"{job['form']} at {job['size']}x{job['size']}"
        if row is not None:
            found.append({"size": job["size"], "form": job["form"], **row})
            print(f"{job['size']}x{job['size']} {job['form']}: {1e3 * median(row['seconds']):.2f} ms", flush=True)
        elif job["table"] is not None:
            problems.append(f"{what}: expected a step, got none: {why}")
        else:
            budget.leave_out(f"{what}, and larger or by the same rung", str(why))
    if done < len(jobs) and time.monotonic() >= until:
        budget.leave_out("some of the forms in processes of their own", f"more than {seconds:.0f} s needed")
    return found, problems


def _alike(failed: gpu_child.Job, other: gpu_child.Job) -> bool:
    same = "form" if failed["table"] else "convolution"
    return failed[same] == other[same] and failed["table"] == other["table"]


def rows(jobs: list[gpu_child.Job]) -> Iterator[dict[str, Any]]:
    """In a process of its own: the time, the memory and the loss of each form, alone."""
    name = jobs[0]["weights"]
    weights = weights_for(name) if name else random_vgg19()
    for job in jobs:
        layers = SHALLOW if job["quick"] else {}
        follows = patch.object(tiles, "file", partial(Path, job["table"])) if job["table"] else nullcontext()
        with follows:
            asked = job["device"], job["precision"], pictures(job["size"]), layers, job["convolution"]
            step, held = nstcore_step(weights, *asked)
            loss = step()
            (seconds,) = turns({job["form"]: step}, job["rounds"]).values()
        yield {"seconds": seconds, "bytes": held, "loss": loss}
        del step
        gc.collect()  # the next one needs the memory


def together(
    rows: list[dict[str, Any]], others: list[dict[str, Any]], budget: Budget
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of `steps` and of `apart`, by size; and which of the latter do not have the loss of the former."""
    problems = []
    for size in dict.fromkeys(row["size"] for row in others):
        mine = [row for row in others if row["size"] == size]
        first = next((row for row in rows if row["size"] == size), None)
        if first is None:
            for row in mine:
                budget.leave_out(f"{row['form']} at {size}x{size}", "there is no loss to compare its own with")
            others = [row for row in others if row["size"] != size]
        else:
            problems += disagreeing({row["form"]: row["loss"] for row in (first, *mine)}, size)
    return sorted(rows + others, key=lambda row: row["size"]), problems
