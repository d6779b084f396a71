"""09_halo_tile and 12_halo_pooled, and 11_tma_wgmma, beside the rungs that the engine launches: each convolution of a
step, and the step. No measurement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench_common import Report
from predict_steps import Row, Step, name_of, step_of

from nstcore import Weights
from nstcore.engines.cuda import conv, tiles
from nstcore.engines.cuda.tile_launches import BOXES, HALO_POOLED, HALO_TILE, Launch, Pass

SHORT, TMA = (name.partition("/")[2] for name in (HALO_TILE, BOXES))
STEPS = """\
The same steps if 09_halo_tile computed every convolution, and 12_halo_pooled those below a pooling, or those that the
rule would give them (`tiles.with_halo`); or 11_tma_wgmma every one, on GPUs that have it. No GPU has run these, so the
engine takes them only where tools/tune_tiles.py has measured that they are faster:"""
LAYERS = """\
Each convolution of theirs whose sum is not split, as it is and by 09, or by 12 with the pooling above it; MB: what the
second-level cache hands to the blocks; resident: blocks that a processor holds at the same time:"""
POOL = " + pool"


def beside(weights: Weights, steps: list[Step]) -> list[str]:
    """Two tables for those steps that run on tensor cores, each after a line that says what it is."""
    found = [(step, *_others(weights, step)) for step in steps if step.precision in conv.TENSOR_CORES]
    if not found:
        return []
    return [STEPS, _steps(weights, found), LAYERS, _layers(found)]


def _others(weights: Weights, step: Step) -> tuple[Step, Step]:
    """By 09 and 12 alone, and by the rule."""
    asked = weights, step.size, step.precision, step.gpu
    fused = {"pools": tiles.halo_pooled, "unpools": tiles.halo_pooled}
    with _named("09, or 12", replace(conv.RUNGS[SHORT], **fused)) as name:
        alone = step_of(*asked, name)
    production = conv.RUNGS[conv.PRODUCTION[step.precision]]
    ruled = replace(production, launch=lambda p: tiles.with_halo(p).launch(p), pools=_pools, unpools=_unpools)
    with _named(f"{production.name}, or 09 or 12", ruled) as name:
        return alone, step_of(*asked, name)


def _pools(p: Pass) -> Launch | None:
    """What the rule would take for a layer and its pooling if it could choose 12 as well."""
    return tiles.halo_pooled(p) if tiles.with_halo(p).rung else tiles.pools(p)


def _unpools(p: Pass) -> Launch | None:
    return tiles.halo_pooled(p) if tiles.with_halo(p).rung else None


@contextmanager
def _named(name: str, rung: conv.ConvRung) -> Iterator[str]:
    """For the time being a rung by that name."""
    conv.RUNGS[name] = rung
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
        halo = (row for row in ruled.rows if row.prediction.launch.rung in (HALO_TILE, HALO_POOLED))
        taken = {_layer(row) for row in halo}
        mine: dict[str, list[Row]] = {}
        for row in alone.rows:
            mine.setdefault(_layer(row), []).append(row)
        for row in step.rows:
            launch = row.prediction.launch
            if launch.kernel in ("conv3x3_forward", "conv3x3_backward"):
                others = mine[_layer(row)]
                first = others[0].prediction
                tile = "x".join(first.launch.defines[name] for name in ("TILE_M", "TILE_N"))
                label = f"{step.size}x{step.size}", step.precision, name_of(launch).removeprefix("conv3x3 ")
                rung = launch.rung.partition("/")[2][:2]
                by_09 = tile, *_numbers(others), first.limit
                choice = "09" if _layer(row) in taken else rung
                report.rows.append((*label, str(row.count), rung, *_numbers([row]), *by_09, choice))
    return report.markdown()


def _layer(row: Row) -> str:
    """Its name; on the way back the same whether the pooling's gradient is made with it or apart."""
    launch = row.prediction.launch
    return name_of(launch) if launch.kernel == "conv3x3_forward" else name_of(launch).removesuffix(POOL)


def _numbers(rows: list[Row]) -> tuple[str, ...]:
    """Of all of them: microseconds, megabytes from the cache; of one its blocks, and how many a processor holds."""
    first = rows[0].prediction
    return (
        f"{1e6 * sum(row.seconds for row in rows):.1f}",
        f"{sum(row.count * row.prediction.work.cached for row in rows) / 1e6:.0f}",
        str(first.launch.blocks),
        str(first.resident),
    )
