"""Small pictures, several in one launch, on a GPU that is not here: what is predicted for each of them, at best."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench_common import Report
from predict_steps import Row, Step, step_of
from predict_times import Gpu

from nstcore import Weights

SIZES, COUNTS = (128, 256, 512), (1, 2, 4, 8, 16)
WORDS = """\
Small pictures painted at once (`--at-once N`), each predicted at best: as if the launches of all came at the same
moment, their blocks filled the processors together, and the time from launch to launch passed once for all. Predicted
ms of a step for each picture of N; behind the dash, if a block that is alone on a processor is no faster than one of
several. The floor is that of one picture:"""


def each(row: Row, gpu: Gpu, count: int, lone: bool) -> float:
    """Seconds that one kind of launch takes of a step, for each of `count` pictures whose blocks run together.

    With `lone`, if a block that is alone on a processor is no faster than one of several.
    """
    p = row.prediction
    blocks = p.launch.blocks * count
    tail = math.ceil(blocks / gpu.processors) * gpu.processors / blocks if blocks else 1.0
    if lone and p.resident:
        tail = max(tail, math.ceil(count * p.waves) / (count * p.waves))
    return row.count * ((p.seconds - gpu.launch) / p.tail * tail + gpu.launch / count)


def seconds(step: Step, count: int, lone: bool = False) -> float:
    """Of a step, for each of `count` pictures."""
    return sum(each(row, step.gpu, count, lone) for row in step.rows)


def table(weights: Weights, gpu: Gpu, precisions: Sequence[str]) -> str:
    """One row for each size and precision."""
    report = Report(("size", "precision", "floor, ms", *(f"{count} at once" for count in COUNTS)))
    for size in SIZES:
        for precision in precisions:
            step = step_of(weights, size, precision, gpu)
            floor = sum(row.count * row.prediction.floor for row in step.rows)
            times = [[1e3 * seconds(step, count, lone) for lone in (False, True)] for count in COUNTS]
            cells = (f"{best:.2f} - {other:.2f}" for best, other in times)
            report.rows.append((f"{size}x{size}", precision, f"{1e3 * floor:.2f}", *cells))
    return report.markdown()
