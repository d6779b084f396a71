"""How this GPU is fastest at every convolution of VGG19: by which rung, with which tile, in how many parts.

    python tools/tune_tiles.py                 measure, and print what is fastest and what the rule predicts
    python tools/tune_tiles.py --write         put it into kernels/tiles.json, which the engine follows from then on
    python tools/tune_tiles.py --sizes 512 --precisions tf32,float16 --rounds 9 --seconds 300
    python tools/tune_tiles.py --device cuda-on-cpu --sizes 16 --quick         rehearse the script without a GPU

Tried are the tiles of 05 and 06, in one part and in several (08); of 09; on sm_90 of 07 and 11; and where a layer is
pooled, these with the pooling, or its gradient, and the rungs that do both: 10, 11 and 12. Each choice is compared with
the simplest kernels, on the same numbers, before it is timed; one that computes something else is left out, and said to
be. All of it is done in a process of its own: a rung that hangs there, or fails, is left out with all of its tiles, and
another process goes on. Lines of other GPUs and other precisions that the file holds already stay in it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
import gpu_child
import numpy as np
from bench_common import commit, median

from nstcore import engines, vgg
from nstcore.bench.clock import elapsed, repeated
from nstcore.engines.cuda import filters, pool, tiles
from nstcore.engines.cuda.conv import PRODUCTION, RUNGS, TENSOR_CORES, Convolution, ConvRung
from nstcore.engines.cuda.device import Array, Device
from nstcore.engines.cuda.precision import PRECISIONS, from_elements, to_elements
from nstcore.engines.cuda.tiles import Choice, Pass
from nstcore.errors import DeviceError, NstcoreError, OptionError
from nstcore.files import check_writable, replacing
from nstcore.objective import CONTENT_LAYERS, STYLE_LAYERS

SIZES = "512,1024"
TURNS = 4  # blocks for each multiprocessor, at most, where a sum is split
SILENT = 60.0  # seconds without a result after which a choice counts as one that hangs
NUMBERS = 1_000_003  # random ones, repeated: a prime, so that no two rows are alike
COMPARED = 1 << 20  # numbers of a result that are looked at, at most: its first, middle and last rows
SHORT = {rung.name: short for short, rung in RUNGS.items()}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--sizes", type=bench._sizes, default=bench._sizes(SIZES), metavar="PIXELS,...", help=SIZES)
    found.add_argument("--precisions", type=_precisions, default=TENSOR_CORES, metavar="NAME,...")
    found.add_argument("--rounds", type=bench._count, default=7, help="of each measurement: 7")
    found.add_argument("--seconds", type=float, default=math.inf, help="for everything; the largest sizes come last")
    found.add_argument("--device", choices=("cuda", "cuda-on-cpu"), default="cuda")
    found.add_argument("--quick", action="store_true", help="one layer, one round, what the rule predicts alone")
    found.add_argument("--write", nargs="?", type=Path, const=tiles.file(), metavar="FILE", help="kernels/tiles.json")
    return found


def _precisions(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if not set(found) <= set(TENSOR_CORES):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(TENSOR_CORES)}, got {text}")
    return found


# -- what is tried -----------------------------------------------------------------------------------------------------


def passes(size: int, precision: str, architecture: int) -> Iterator[Pass]:
    """Of every layer of a picture of that size; some of them are the same."""
    steps = vgg.steps_for("vgg19", CONTENT_LAYERS + STYLE_LAYERS)
    for i, step in enumerate(steps):
        if step.kind == "conv":
            side = size // step.stride
            channels = filters.inputs(step), step.out_channels
            forward = Pass(*channels, side, side, PRECISIONS[precision], architecture)
            yield forward
            if step.in_channels > 3:  # the backward pass is the same product the other way
                yield replace(forward, inputs=channels[1], outputs=channels[0])
            if i + 1 < len(steps) and steps[i + 1].kind == "pool":
                yield replace(forward, pooled=True)
                yield replace(forward, inputs=channels[1], outputs=channels[0], unpools=True)


def candidates(p: Pass, processors: int) -> Iterator[Choice]:
    """Every tile of every rung that the GPU has, and every number of parts that does not make far more blocks than
    there are multiprocessors."""
    for tile in tiles.TILES:
        for parts in tiles.PARTS:
            choice = Choice(tile, parts)
            if parts == 1 or choice.blocks(p) * parts <= TURNS * processors:
                yield choice
    for rung in tiles.TILES_OF:
        alone = rung in tiles.OF_SM_90 and p.architecture != 90
        if rung is not None and not alone and (rung not in tiles.POOLING or _fused(p, rung)):
            yield from (Choice(tile, rung=rung) for tile in tiles.TILES_OF[rung])


def _fused(p: Pass, rung: str | None) -> bool:
    """Whether a rung does with a layer what is to be pooled above it."""
    return (p.pooled and rung in (*tiles.POOLING, tiles.BOXES)) or (p.unpools and rung == tiles.HALO_POOLED)


def rehearsed(p: Pass) -> Iterator[Choice]:
    """The same of a rehearsal."""
    rule = tiles.predicted(p)
    yield rule
    if p.pooled:
        yield Choice(rule.tile, rung=tiles.POOLED)
    if p.unpools:
        yield Choice(tiles.halo(p).tile, rung=tiles.HALO_POOLED)


# -- in a process of its own -------------------------------------------------------------------------------------------


def job_of(p: Pass, choice: Choice, device: str, rounds: int) -> gpu_child.Job:
    """What `microseconds` is to measure, in what JSON knows."""
    asked = {"device": device, "rounds": rounds, "choice": asdict(choice)}
    return asked | {"pass": {**vars(p), "precision": p.precision.name}}


def asked(job: gpu_child.Job) -> tuple[Pass, Choice]:
    """The inverse."""
    p, choice = job["pass"], job["choice"]
    precision = PRECISIONS[p["precision"]]
    return Pass(**{**p, "precision": precision}), Choice(**{**choice, "tile": tuple(choice["tile"])})


def microseconds(jobs: list[gpu_child.Job]) -> Iterator[float | None]:
    """Of each job, those that follow one another preferably of one pass; None for one that computes something else."""
    device = engines.create(jobs[0]["device"], "float32").device
    trial = None
    for job in jobs:
        p, choice = asked(job)
        if trial is None or trial.p != p:
            trial = None  # its memory first
            trial = Trial(device, p)
        yield trial.microseconds(choice, job["rounds"])


class Trial:
    """One pass of random numbers, and what the simplest kernels make of them."""

    def __init__(self, device: Device, p: Pass) -> None:
        self.device, self.p = device, p
        rng, E = np.random.default_rng(0), p.precision.dtype
        numbers = to_elements(rng.standard_normal(NUMBERS, np.float32), p.precision)
        of_x = (p.H // 2, p.W // 2) if p.unpools else (p.H, p.W)
        self._x = device.to_device(np.resize(numbers, (*of_x, p.inputs)))
        self._b = device.to_device(np.zeros(p.outputs, np.float32))
        self._w = rng.standard_normal((p.outputs, p.inputs, 3, 3), np.float32)
        self._w *= np.float32((2 / (9 * p.inputs)) ** 0.5)
        self._filters: dict[Callable, Any] = {}
        self._y = device.empty((p.H, p.W, p.outputs), E)
        if p.pooled:
            self._pooled = device.empty((p.H // 2, p.W // 2, p.outputs), E)
            self._choices = device.empty(pool.choices_size(p.outputs, p.H, p.W), np.uint8)
        if p.unpools:
            self._dy = device.empty((p.H, p.W, p.inputs), E)
            bits = rng.integers(64, size=NUMBERS, dtype=np.uint8)
            self._choices = device.to_device(np.resize(bits, pool.choices_size(p.inputs, p.H, p.W)))
        self._expected = self._result(self._work(RUNGS["01_naive"], False))

    def _work(self, rung: ConvRung, fused: bool) -> Callable[[], None]:
        p = self.p
        if rung.pack not in self._filters:
            self._filters[rung.pack] = self.device.to_device(rung.filters(self._w, p.precision))
        return (self._backward if p.unpools else self._forward)(rung, self._filters[rung.pack], fused)

    def _forward(self, rung: ConvRung, w: Array, fused: bool) -> Callable[[], None]:
        p, device, y = self.p, self.device, self._y
        sizes = p.inputs, p.outputs, p.H, p.W, False
        layer = Convolution(device, p.precision, rung, *sizes, pooling="max" if fused else None)
        of_layer = self._x, w, self._b, None
        if not p.pooled:
            return lambda: layer.forward(*of_layer, y)
        of_pooling = self._pooled, self._choices
        if fused:
            return lambda: layer.forward(*of_layer, None, *of_pooling)

        def both() -> None:
            layer.forward(*of_layer, y)
            sizes = p.outputs, p.H, p.W
            pool.forward(device, p.precision, y, self._pooled, *sizes, "max", True, self._choices)

        return both

    def _backward(self, rung: ConvRung, w: Array, fused: bool) -> Callable[[], None]:
        """Of a layer the other way round, and of the pooling above it."""
        p, device, dy = self.p, self.device, self._dy
        sizes = p.outputs, p.inputs, p.H, p.W, False
        layer = Convolution(device, p.precision, rung, *sizes, unpooling="max" if fused else None)
        of_layer = w, None, None, None, 1.0, None, 0.0, False, self._y
        if fused:
            return lambda: layer.backward(self._x, *of_layer, choices=self._choices)

        def both() -> None:
            sizes = p.inputs, p.H, p.W
            pool.backward(device, p.precision, self._x, None, dy, *sizes, "max", True, self._choices)
            layer.backward(dy, *of_layer)

        return both

    def _result(self, work: Callable[[], None]) -> np.ndarray:
        out = self._pooled if self.p.pooled else self._y
        self.device.fill_bytes(out, 255)
        work()
        parts = [self.device.to_host(out[rows]) for rows in compared(*out.shape)]
        return from_elements(np.concatenate(parts), self.p.precision)

    def microseconds(self, choice: Choice, rounds: int) -> float | None:
        """The median; None if it computes something else."""
        short = SHORT[choice.rung] if choice.rung in tiles.POOLING else PRODUCTION[self.p.precision.name]
        rung = replace(RUNGS[short], launch=choice.launch, pools=choice.launch, unpools=choice.launch)
        work = self._work(rung, _fused(self.p, choice.rung))
        if not agree(self._result(work), self._expected, self.p):
            return None
        return 1e6 * median(repeated(lambda again: elapsed(self.device, again), work, rounds))


def compared(H: int, W: int, N: int) -> list[slice]:
    """The rows of a result that are looked at: all, or the first, some in the middle and the last."""
    rows = COMPARED // (3 * W * N)
    if 3 * rows >= H:
        return [slice(0, H)]
    rows = max(1, rows)
    return [slice(0, rows), slice((H - rows) // 2, (H + rows) // 2), slice(H - rows, H)]


def agree(got: np.ndarray, expected: np.ndarray, p: Pass) -> bool:
    """Within some roundings of an element; NaN agrees with nothing."""
    return bool(np.all(np.abs(got - expected) <= 8 * p.precision.unit * np.abs(expected).max()))


# -- the table ---------------------------------------------------------------------------------------------------------


def tune(
    device: Device,
    sizes: Sequence[int],
    precisions: Sequence[str],
    rounds: int,
    until: float = math.inf,
    quick: bool = False,
    unfit: set[str] | None = None,
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The lines of kernels/tiles.json for this device, the smallest sizes first; and what was left out, and why.

    A pass of which there was no time to try everything has no line. `unfit` are short names of rungs that are not
    tried; those that hang or fail are added to them.
    """
    unfit = set() if unfit is None else unfit
    every = [p for size in sorted(sizes) for name in precisions for p in passes(size, name, device.architecture)]
    if quick:
        every = [p for p in every if (p.inputs, p.outputs) == (64, 64)]
    all_choices = {p: rehearsed(p) if quick else candidates(p, device.processors) for p in every}
    choices = {p: [c for c in found if _rung(c) not in unfit] for p, found in all_choices.items()}
    jobs = [job_of(p, choice, device.kind, 1 if quick else rounds) for p, tried in choices.items() for choice in tried]
    tried: dict[Pass, dict[Choice, float]] = {}
    failed, left_out = set(), []
    running = gpu_child.results(microseconds, jobs, SILENT, until, _same_rung)
    for p, group in groupby(running, lambda found: asked(found[0])[0]):
        seen, mine = set(), {}
        for job, taken, why in group:
            choice = asked(job)[1]
            seen.add(choice)
            if why:
                failed.add(choice.rung)
                unfit.add(_rung(choice))
                left_out.append((f"all of {_rung(choice)}", f"{_name(p)}, {_choice(choice)}: {why}"))
            elif taken is None:
                left_out.append((f"{_name(p)}, {_choice(choice)}", "it computes something else"))
            else:
                mine[choice] = taken
        if all(choice in seen or choice.rung in failed for choice in choices[p]) and mine:
            tried[p] = mine
            print(_said(p, mine), flush=True)
    sound = {p: {c: us for c, us in mine.items() if c.rung not in failed} for p, mine in tried.items()}
    if missing := [_name(p) for p in choices if not sound.get(p)]:
        left_out.append(
            (f"{len(missing)} of {len(choices)} passes, {missing[0]} the first", "no time, or nothing right")
        )
    return [_line(p, mine) for p, mine in sound.items() if mine], left_out


def _same_rung(failed: gpu_child.Job, other: gpu_child.Job) -> bool:
    return failed["choice"]["rung"] == other["choice"]["rung"]


def _line(p: Pass, tried: dict[Choice, float]) -> dict[str, Any]:
    best = min(tried, key=tried.__getitem__)
    key = {"architecture": p.architecture, "precision": p.precision.name, "inputs": p.inputs, "outputs": p.outputs}
    chosen = {"positions": p.positions, "pooled": p.pooled, "unpools": p.unpools, **asdict(best)}
    rule = tried.get(tiles.predicted(p))
    times = {
        "microseconds": tried[best],
        "rule_microseconds": rule,
        "tried": {_choice(c): us for c, us in tried.items()},
    }
    return key | chosen | times


def _said(p: Pass, tried: dict[Choice, float]) -> str:
    best, rule = min(tried, key=tried.__getitem__), tiles.predicted(p)
    ruled = f"the rule: {_choice(rule)}" + (f", {tried[rule]:.1f}" if rule in tried else "")
    return f"{_name(p)}: {_choice(best)}, {tried[best]:.1f} us ({ruled})"


def _name(p: Pass) -> str:
    more = " and pooling" if p.pooled else " after a pooling's" if p.unpools else ""
    return f"{p.inputs}-{p.outputs} {p.H}x{p.W} {p.precision.name}{more}"


def _choice(c: Choice) -> str:
    parts = f" in {c.parts} parts" if c.parts > 1 else ""
    return f"{c.tile[0]}x{c.tile[1]}{parts}" + (f" by {_rung(c)}" if c.rung else "")


def _rung(c: Choice) -> str:
    return c.rung.partition("/")[2] if c.rung else "05, 06 and 08"


def write(path: Path, lines: list[dict[str, Any]], made: str) -> None:
    """Put lines into kernels/tiles.json, beside those of other GPUs and precisions that it holds."""
    tiles.measured.cache_clear()
    mine = {(line["architecture"], line["precision"]) for line in lines}
    before = json.loads(path.read_bytes())["layers"] if tiles.measured(path) else []
    others = [line for line in before if (line["architecture"], line["precision"]) not in mine]
    with replacing(path) as part:
        part.write_text(json.dumps({"made": made, "layers": others + lines}, indent=1) + "\n", encoding="utf-8")
    tiles.measured.cache_clear()


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    until = time.monotonic() + args.seconds
    try:
        if args.write and (args.quick or args.device != "cuda"):
            raise OptionError(
                "--write: expected --device cuda without --quick, got a rehearsal: its figures mean nothing"
            )
        if args.write:
            check_writable(args.write)
        device = engines.create(args.device, "float32").device
        names = [name for name in args.precisions if PRECISIONS[name].architecture <= device.architecture]
        if not names:
            raise DeviceError(f"{device.name}: expected a GPU of sm_80 or later, got sm_{device.architecture}")
        lines, left_out = tune(device, args.sizes, names, args.rounds, until, args.quick)
        for what, why in left_out:
            print(f"tune_tiles: left out: {what} ({why})", file=sys.stderr)
        if args.write and lines:
            write(args.write, lines, f"python tools/tune_tiles.py, commit {commit()}, {device.name}")
    except NstcoreError as error:
        print(f"tune_tiles: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
