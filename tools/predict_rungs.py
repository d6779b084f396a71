"""09_halo_tile, and 11_tma_wgmma, beside the rungs that the engine launches: each convolution of a step, and the step.
No measurement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench_common import Report
from predict_steps import Row, Step, name_of, step_of

from nstcore import Weights
from nstcore.engines.cuda import conv, tiles
from nstcore.engines.cuda.tiles import BOXES, HALO_TILE

SHORT, TMA = (name.partition("/")[2] for name in (HALO_TILE, BOXES))
STEPS = """\
The same steps if 09_halo_tile computed every convolution, or those that the rule would give it (`tiles.with_halo`); or
11_tma_wgmma every one, on GPUs that have it. No GPU has run either, so the engine takes them only where
tools/tune_tiles.py has measured that they are faster:"""
LAYERS = """\
Each convolution of theirs whose sum is not split, as it is and by 09, which leaves the pooling of "+ pool" to a launch
of its own; MB: what the second-level cache hands to the blocks; resident: blocks that a processor holds at the same
time:"""
POOL = " + pool"


def beside(weights: Weights, steps: list[Step]) -> list[str]:
    """Two tables for those steps that run on tensor cores, each after a line that says what it is."""
    found = [(step, *_others(weights, step)) for step in steps if step.precision in conv.TENSOR_CORES]
    if not found:
        return []
    return [STEPS, _steps(weights, found), LAYERS, _layers(found)]


def _others(weights: Weights, step: Step) -> tuple[Step, Step]:
    """By 09 alone, and by the rule."""
    asked = weights, step.size, step.precision, step.gpu
    with _ruled(step.precision) as name:
        return step_of(*asked, SHORT), step_of(*asked, name)


@contextmanager
def _ruled(precision: str) -> Iterator[str]:
    """For the time being a rung by the name that it gives: the production one, if the rule could choose 09 as well."""
    name = f"{conv.PRODUCTION[precision]}, or 09"
    production = conv.RUNGS[conv.PRODUCTION[precision]]
    conv.RUNGS[name] = replace(production, launch=lambda p: tiles.with_halo(p).launch(p), pools=False)
    try:
        yield name
    finally:
        del conv.RUNGS[name]


def _steps(weights: Weights, found: list[tuple[Step, Step, Step]]) -> str:
    header = ("size", "precision", "as it is, ms", "11 alone, ms", "09 alone, ms", "09 by the rule, ms")
    report = Report((*header, "times as fast by the rule"))
    for step, alone, ruled in found:
        rung = conv.RUNGS[TMA]
        fits = step.precision in rung.precisions and step.gpu.architecture == rung.only
        tma = f"{1e3 * step_of(weights, step.size, step.precision, step.gpu, TMA).seconds:.2f}" if fits else "-"
        mine, *numbers = (f"{1e3 * one.seconds:.2f}" for one in (step, alone, ruled))
        row = f"{step.size}x{step.size}", step.precision, mine, tma, *numbers, f"{step.seconds / ruled.seconds:.2f}"
        report.rows.append(row)
    return report.markdown()


def _layers(found: list[tuple[Step, Step, Step]]) -> str:
    numbers = ("us", "MB", "blocks", "resident")
    header = ("size", "precision", "convolution", "times", "by", *numbers, "by 09, tile", *numbers)
    report = Report((*header, "limit", "the rule takes"))
    for step, alone, ruled in found:
        taken = {name_of(row.prediction.launch) for row in ruled.rows if row.prediction.launch.rung == HALO_TILE}
        mine = {name_of(row.prediction.launch): row for row in alone.rows}
        for row in step.rows:
            launch = row.prediction.launch
            if launch.kernel in ("conv3x3_forward", "conv3x3_backward"):
                other = mine[name_of(launch).removesuffix(POOL)]
                tile = "x".join(other.prediction.launch.defines[name] for name in ("TILE_M", "TILE_N"))
                label = f"{step.size}x{step.size}", step.precision, name_of(launch).removeprefix("conv3x3 ")
                rung = launch.rung.partition("/")[2][:2]
                by_09 = tile, *_numbers(other, row.count), other.prediction.limit
                choice = "09" if name_of(launch).removesuffix(POOL) in taken else rung
                report.rows.append((*label, str(row.count), rung, *_numbers(row, row.count), *by_09, choice))
    return report.markdown()


def _numbers(row: Row, count: int) -> tuple[str, ...]:
    """Of so many: microseconds, megabytes from the cache; of one its blocks, and how many a processor holds."""
    p = row.prediction
    return (
        f"{1e6 * count * p.seconds:.1f}",
        f"{count * p.work.cached / 1e6:.0f}",
        str(p.launch.blocks),
        str(p.resident),
    )
