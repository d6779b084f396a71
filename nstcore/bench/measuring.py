"""Rungs, verified against the book and then timed. A wrong one is not timed: how fast it is says nothing."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..engines.cuda.precision import FLOAT32, PRECISIONS
from .clock import cpu_peaks, elapsed, gpu_peaks, repeated
from .ladder import Rung
from .problems import Pass, Problem, Size, make
from .runs import Machine, Run

UNIT = FLOAT32.unit
LAMBDA = 3.0  # a sum of n products, each rounded, is off by less than LAMBDA sqrt(n) roundings of the largest result
TENSOR_CORES = ("tensor_core", "wgmma", "conv3x3/08_split_sum", "halo", "_pooled")  # rungs that multiply on them
TENSOR_DEPTH = 8  # products that a tensor core adds up at least before it cuts off what does not fit
PAUSE = 0.1  # seconds: OpenBLAS keeps its idle threads spinning for some 30 ms


@dataclass(frozen=True)
class Peaks:
    """What the machine reached in the same run.

    Attributes
    ----------
    product : float or None
        FLOP/s of a float32 matrix product; None where nobody knows.
    copy : float or None
        Bytes/s of a copy, those read and those written.
    """

    product: float | None = None
    copy: float | None = None


@dataclass(frozen=True)
class Row:
    """One pass of one rung.

    Attributes
    ----------
    rung : Rung
    name : str
        Of the pass.
    precision : str
    error, bound : float
        Largest difference from the book in float64, relative to the book's largest number; inf for NaN. The bound
        follows from the roundings.
    seconds : list of float
        One for each round; none where the rung is wrong.
    operations, bytes : int
        Of the definition; that memory must move at least.
    """

    rung: Rung
    name: str
    precision: str
    error: float
    bound: float
    operations: int
    bytes: int
    seconds: list[float] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.error <= self.bound

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """From the fastest round to the slowest, relative to the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def limit(self, peaks: Peaks) -> float | None:
        """Seconds that the machine needs at its peaks: for the arithmetic or for the memory, whichever is longer."""
        if peaks.product is None or peaks.copy is None:
            return None
        return max(self.operations / peaks.product, self.bytes / peaks.copy)


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes
    ----------
    rows : list of Row
    left_out : list of str
        Rungs that could not run, and why.
    peaks : Peaks
    """

    rows: list[Row]
    left_out: list[str]
    peaks: Peaks

    @property
    def wrong(self) -> list[Row]:
        return [row for row in self.rows if not row.passed]


def measure(
    rungs: Sequence[Rung],
    size: Size,
    machine: Machine,
    rounds: int,
    precision: str | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
    peaks: Peaks | None = None,
) -> Measured:
    """Verify rungs of one operation, then time them in turns, so that a noisy machine disturbs all alike.

    Parameters
    ----------
    rungs : sequence of Rung
    size : Size
    machine : Machine
    rounds : int
        A turn is an untimed run or two and a timed one; on the CPU with a pause before it.
    precision : str, optional
        The one that each rung is for, if not given; those that lack it are left out.
    progress : function
        progress(done, total, note) after every step.
    peaks : Peaks, optional
        Of this machine; measured, if not given.
    """
    rows: list[Row] = []
    ready: list[tuple[Row, Run]] = []
    left_out: list[str] = []
    problems: dict[str, Problem] = {}
    on_gpu = machine.device is not None and machine.device.kind == "cuda"
    for rung in rungs:
        if why := rung.refusal(size, precision, machine):
            left_out.append(f"{rung.name}: {why}")
            continue
        name = precision or rung.precisions[0]
        if name not in problems:
            problems[name] = make(rung.operation, size, PRECISIONS[name])
        for pass_name, run in rung.make(problems[name], machine).items():
            row = verified(rung, problems[name], pass_name, run)
            rows.append(row)
            if row.passed:
                ready.append((row, run))
    if not ready or not rounds:
        return Measured(rows, left_out, Peaks())
    peaks = peaks or measured_peaks(machine)
    for i in range(rounds):
        for j, (row, run) in enumerate(ready):
            if machine.device is None:
                time.sleep(PAUSE)
            row.seconds.extend(repeated(lambda go: elapsed(machine.device if on_gpu else None, go), run.go, 1))
            progress(i * len(ready) + j + 1, rounds * len(ready), row.rung.name)
    return Measured(rows, left_out, peaks)


def measured_peaks(machine: Machine) -> Peaks:
    """Of the GPU, or of the CPU; none for a CPU that stands in for a GPU."""
    if machine.device is None:
        return Peaks(*cpu_peaks(machine.threads))
    return Peaks(*gpu_peaks(machine.device)) if machine.device.kind == "cuda" else Peaks()


def verified(rung: Rung, problem: Problem, name: str, run: Run) -> Row:
    """A row without times: what one run computes beside the book."""
    wanted = problem.passes[name]
    run.begin()
    run.go()
    found = run.result()
    error = max(relative_error(np.asarray(found[key]), expected) for key, expected in wanted.expected.items())
    facts = error, bound(rung, problem, wanted), wanted.operations, problem.least_bytes(name)
    return Row(rung, name, problem.precision.name, *facts)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """max |found - expected| / max |expected|; inf where one is no number, or the shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    off, most = float(np.abs(found - expected).max(initial=0)), float(np.abs(expected).max(initial=0))
    error = off / most if most else off
    return error if math.isfinite(error) else math.inf


def bound(rung: Rung, problem: Problem, wanted: Pass) -> float:
    """How far off a rung that is right may be: from the roundings of its longest sum.

    Roundings of a sum of n terms of random signs grow as sqrt(n), as the sum itself does. Winograd's transforms enlarge
    them (`Rung.enlarges`). What a tensor core cuts off always has the same sign, so it adds up. Results in 16 bits or
    TF32 are rounded to an element at the end.
    """
    if not wanted.length:
        return 0.0
    found = LAMBDA * math.sqrt(wanted.length) * UNIT * rung.enlarges
    if any(words in rung.file for words in TENSOR_CORES):
        found += wanted.length / TENSOR_DEPTH * 2 * UNIT
    return found + (problem.precision.unit if wanted.rounded and problem.precision is not FLOAT32 else 0.0)
