"""Every rung of every operation on the CPU: `python -m nstcore bench` for all of them, as one table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench_common import Report

from nstcore.bench import OPERATIONS, Rung, Size, measure, rungs
from nstcore.bench.measuring import measured_peaks
from nstcore.bench.problems import make
from nstcore.bench.runs import Machine
from nstcore.commands.bench_table import cells, extent
from nstcore.engines.cpu import library
from nstcore.engines.cuda.precision import FLOAT32
from nstcore.errors import RunError

HEADER = (
    *("operation", "rung", "what it adds", "pass", "GFLOP", "MB at least"),
    *("ms", "GFLOP/s", "GB/s", "of the limit", "times as fast as the first"),
)
NAMES = 4  # columns that do not depend on the machine
SMALL = Size(4, 4, 32, 32)


def rungs_report(side: int | None, threads: int, rounds: int) -> Report:
    """Medians of every pass of every rung, at the operation's own size or at another side.

    Raises
    ------
    RunError
        If a rung does not compute what the book does.
    """
    report, machine, sizes = Report(HEADER), Machine(threads), []
    peaks = measured_peaks(machine)
    for operation in OPERATIONS.values():
        size = operation.size
        if side is not None and "size" in operation.options:
            size = replace(size, H=side, W=side)
        sizes.append(f"{operation.name} {extent(operation, size)}")
        measured = measure(rungs(operation.name, "cpu"), size, machine, rounds, peaks=peaks)
        if measured.wrong:
            raise RunError(f"{operation.name}: {measured.wrong[0].rung.name} is off by {measured.wrong[0].error:.2g}")
        before = None
        for row in measured.rows:
            _, _, _, _, _, ms, _, *rates = cells(row, measured)
            napkin = f"{row.operations / 1e9:.3g}", f"{row.bytes / 1e6:.3g}"
            report.rows.append((*_names(row.rung, row.rung is before), row.name, *napkin, ms, *rates))
            before = row.rung
    assert peaks.product is not None
    assert peaks.copy is not None
    report.notes.append(f"Sizes: {'; '.join(sizes)}")
    report.notes.append(
        "GFLOP/s are of the definition's operations. The limit: the longer of the times that the operations take at "
        f"the speed of a float32 matrix product in this run ({peaks.product / 1e9:.0f} GFLOP/s) and the bytes at "
        f"that of a copy ({peaks.copy / 1e9:.1f} GB/s). A rung that multiplies less often, or data in a cache, may "
        "pass 100 %"
    )
    if missing := [i for i in library.INSTRUCTIONS if i not in library.available()]:
        report.notes.append(f"Not built, or not for this machine: {', '.join(missing)}")
    return report


def _names(rung: Rung, again: bool) -> tuple[str, str, str]:
    return rung.operation, f"[{rung.name}](../{rung.code})", "" if again else rung.adds


def structure() -> Iterator[tuple[str, ...]]:
    """The first cells of every row that this machine would print, without computing any."""
    machine = Machine(1)
    for name in OPERATIONS:
        problem = make(name, SMALL, FLOAT32)
        for rung in rungs(name, "cpu"):
            if rung.refusal(SMALL, None, machine) is None:
                for i, direction in enumerate(rung.make(problem, machine)):
                    yield (*_names(rung, i > 0), direction)


def stale(path: Path) -> list[str]:
    """What the table in a file lacks, and what it has too many, by operation and rung; nothing where it is that of now.

    Rungs of instruction sets that this machine lacks may stand there.
    """
    import bench

    before, after = bench.split(path, "rungs")
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text[len(before) : len(text) - len(after)].splitlines() if line.startswith("| ")][2:]
    written = [tuple(cell.strip() for cell in line.strip("|").split("|"))[:NAMES] for line in lines]
    wanted = list(structure())
    elsewhere = [i for i in library.INSTRUCTIONS if i not in library.available()]
    extra = [row for row in written if row not in wanted and not any(f"_{i}]" in row[1] for i in elsewhere)]
    missing = [row for row in wanted if row not in written]
    return [f"{word}: {' '.join(row)}" for word, rows in (("missing", missing), ("unknown", extra)) for row in rows]
