"""What `bench` prints: the list of operations, the table of one, and the same for programs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from ..bench import OPERATIONS, Measured, Operation, Peaks, Row, Rung, Size, rungs
from ..bench.clock import PRODUCT
from ..bench.runs import Machine
from ..engines.cuda import gpu

WIDTH = 100
HEADER = ("rung", "precision", "pass", "error", "bound", "ms", "spread", "GFLOP/s", "GB/s", "of limit", "speed")
NOTE, NAME = 9, 22  # columns in front of a note, and of what a rung adds
WORDS = 3  # columns of words, which begin at the left


def listing() -> str:
    """Every operation and its rungs."""
    lines = ["Operations and their rungs; `bench OPERATION --rung NAME` runs one alone.", ""]
    for operation in OPERATIONS.values():
        lines.append(f"{operation.name:<17}{operation.title}")
        for title, device in (("CPU", "cpu"), ("GPU", "cuda")):
            names = "  ".join(rung.name for rung in rungs(operation.name, device))
            lines += _wrapped(f"  {title}", names)
    return "\n".join(lines)


def heading(
    operation: Operation, chosen: Sequence[Rung], size: Size, device: str, machine: Machine, rounds: int
) -> str:
    """What is measured, where, and what each rung adds."""
    lines = [f"{operation.name}: {operation.title}", f"{extent(operation, size)}; {where(device, machine, rounds)}"]
    if device == "cuda-on-cpu":
        reason = gpu.problem()
        why = f"no GPU here ({reason.partition(';')[0]}): " if reason else ""
        lines += _wrapped("note", f"{why}g++ compiles the file and the CPU stands in; times say nothing about a GPU")
    lines.append("")
    for rung in chosen:
        lines += _wrapped(rung.name, f"{rung.adds} ({rung.code})", NAME)
        if rung.napkin and len(chosen) == 1:
            lines += _wrapped("  napkin", rung.napkin, NAME)
    return "\n".join([*lines, ""])


def extent(operation: Operation, size: Size) -> str:
    """128x96 positions, 64 channels: what the operation has of a size."""
    unit = "positions" if "channels" in operation.options else "pixels"
    words = {
        "size": f"{size.H}x{size.W} {unit}",
        "channels": f"{size.C} channels",
        "filters": f"{size.K} filters",
        "kernel": f"{size.kernel}x{size.kernel} kernel",
        "stride": f"stride {size.stride}",
        "upsample": f"enlarged {size.upsample} times" if size.upsample > 1 else "",
    }
    return ", ".join(filter(None, (words[option] for option in operation.options)))


def where(device: str, machine: Machine, rounds: int) -> str:
    """The device, and how often."""
    name = machine.device.name if device == "cuda" and machine.device is not None else device
    threads = "" if device == "cuda" else f", {machine.threads} thread{'s' if machine.threads > 1 else ''}"
    return f"{name}{threads}; {f'medians of {rounds} rounds' if rounds > 1 else 'one round'}"


def table(measured: Measured, device: str) -> str:
    """The napkin, the rows, and what is to be known about them."""
    lines = []
    for row in {(r.name, r.operations, r.bytes): r for r in measured.rows}.values():
        lines.append(f"napkin   {row.name:<10}{_napkin(row, measured.peaks)}")
    peaks = measured.peaks
    if peaks.copy is not None:
        product = "" if peaks.product is None else f"{peaks.product / 1e9:.0f} GFLOP/s in a float32 matrix product, "
        lines.append(f"limit    {product}{peaks.copy / 1e9:.1f} GB/s in a copy, measured in this run")
    lines += ["", *_aligned([HEADER, *(cells(row, measured) for row in measured.rows)]), ""]
    for row in measured.wrong:
        lines.append(f"FAILS    {row.rung.name} {row.name}: not what the book computes, so it was not timed")
    lines += [f"left out {line}" for line in measured.left_out]
    lines += _wrapped(
        "error",
        "largest difference from the book in float64, relative to its largest number; bound: what rounding may do",
    )
    if device != "cuda-on-cpu":
        lines += _wrapped(
            "of limit",
            "the time that the napkin's operations and bytes take at the limit, as a share of the time measured. The "
            "operations are those of the definition: a rung that multiplies less often, tensor cores, or data in a "
            "cache may pass 100 %",
        )
    return "\n".join(lines)


def _napkin(row: Row, peaks: Peaks) -> str:
    text = f"{row.operations / 1e9:.3g} GFLOP, {row.bytes / 1e6:.3g} MB at least"
    if peaks.product is None or peaks.copy is None:
        return text
    times = row.operations / peaks.product, row.bytes / peaks.copy
    return f"{text}: {milliseconds(times[0])} ms of arithmetic, {milliseconds(times[1])} ms of memory"


def cells(row: Row, measured: Measured) -> tuple[str, ...]:
    """One row as text; figures are "-" where there are none."""
    words = row.rung.name, row.precision, row.name
    checked = f"{row.error:.1e}", f"{row.bound:.1e}"
    if not row.seconds:
        return (*words, *checked, *["-"] * 6)
    limit = row.limit(measured.peaks)
    first = next(other for other in measured.rows if other.name == row.name)
    return (
        *words,
        *checked,
        milliseconds(row.median),
        f"{100 * row.spread:.0f} %",
        _three(row.operations / row.median / 1e9),
        _three(row.bytes / row.median / 1e9),
        "-" if limit is None else f"{100 * limit / row.median:.0f} %",
        f"{first.median / row.median:.2f}" if first.seconds else "-",
    )


def facts(
    operation: Operation, size: Size, device: str, machine: Machine, rounds: int, measured: Measured
) -> dict[str, Any]:
    """All of it for programs: seconds, bytes, floating-point operations."""
    sides = {"size": {"H": size.H, "W": size.W}, "channels": {"C": size.C}, "filters": {"K": size.K}}
    sides |= {name: {name: getattr(size, name)} for name in ("kernel", "stride", "upsample")}
    return {
        "operation": operation.name,
        "size": {k: v for option in operation.options for k, v in sides[option].items()},
        "device": device,
        "device_name": machine.device.name if machine.device is not None else "cpu",
        "threads": machine.threads,
        "rounds": rounds,
        "peaks": {
            "product_flops": measured.peaks.product,
            "product_side": PRODUCT,
            "copy_bytes_per_second": measured.peaks.copy,
        },
        "rows": [
            {
                "rung": row.rung.name,
                "code": row.rung.code,
                "adds": row.rung.adds,
                "pass": row.name,
                "precision": row.precision,
                "error": row.error if math.isfinite(row.error) else None,
                "bound": row.bound,
                "passed": row.passed,
                "operations": row.operations,
                "least_bytes": row.bytes,
                "seconds": row.seconds,
            }
            for row in measured.rows
        ],
        "left_out": measured.left_out,
    }


def milliseconds(seconds: float) -> str:
    """Three digits."""
    return _three(1e3 * seconds)


def _three(number: float) -> str:
    """Three digits without an exponent, down to a thousandth."""
    return f"{number:.{0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3}f}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(f"{c:<{w}}" if i < WORDS else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]


def _wrapped(name: str, text: str, indent: int = NOTE) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=name.ljust(indent), subsequent_indent=" " * indent, break_on_hyphens=False
    )
