"""`bench`: the rungs of one operation, on the CPU or on a GPU: what each adds, whether it is right, how fast it is."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError, RunError

if TYPE_CHECKING:
    from ..bench import Measured, Operation, Size
    from ..bench.runs import Machine

DEVICES = ("auto", "cpu", "cuda", "cuda-on-cpu")
ROUNDS = 7
SIZES = {"channels": "C", "filters": "K", "kernel": "kernel", "stride": "stride", "upsample": "upsample"}  # of Size
DESCRIPTION = """Run the rungs of one operation, one by one: check each against the book in float64, then time it beside
what the machine could do at most. Without OPERATION: the list."""
EPILOG = """The GPU's rungs are the files of kernels/cuda, those of the CPU are cpu0_book and so on. A number alone, as
in --rung 02, is that of a file; without a GPU the CPU stands in for one: the result is checked, the time says nothing
about a GPU."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `bench`."""
    summary = "run the rungs of one operation: what each adds, whether it is right, how fast it is"
    parser = subparsers.add_parser("bench", help=summary, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("operation", nargs="?", metavar="OPERATION", help="such as conv or gram; without it, the list")
    parser.add_argument("--rung", default="all", metavar="NN|NAME|all", help="one rung, or all (default: all)")
    parser.add_argument("--size", metavar="PIXELS|HxW", help="rows and columns (default: an ordinary layer's)")
    parser.add_argument("--channels", type=int, metavar="C", help="channels below (default: an ordinary layer's)")
    parser.add_argument("--filters", type=int, metavar="K", help="channels above (default: an ordinary layer's)")
    parser.add_argument("--kernel", type=int, metavar="N", help="side of the filters, of general-conv and depthwise")
    parser.add_argument("--stride", type=int, metavar="N", help="positions from one output to the next, of the same")
    parser.add_argument("--upsample", type=int, metavar="N", help="enlarge first, N times each side: of general-conv")
    parser.add_argument(
        "--precision",
        choices=("float32", "tf32", "float16", "bfloat16"),
        metavar="NAME",
        help="float32, tf32, float16, bfloat16 (default: the one that a rung is for)",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        metavar="NAME",
        help=f"{', '.join(DEVICES)} (default: auto, a GPU if there is one)",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"of timing (default: {ROUNDS})")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured, for programs")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list, or measure and print a table; exit code 1 if a rung is wrong."""
    for option in (*SIZES, "rounds", "threads"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise OptionError(f"--{option}: expected 1 or more, got {value}")
    if args.threads is not None and "numpy" not in sys.modules:  # read when NumPy is loaded
        os.environ.update({f"{library}_NUM_THREADS": str(args.threads) for library in ("OPENBLAS", "OMP", "MKL")})
    from .bench_table import listing

    if args.operation is None:
        print(listing())
        return 0
    return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    from ..bench import choose, measure
    from ..bench.ladder import find_operation
    from ..files import check_writable
    from .bench_table import heading, table
    from .progress import Progress

    operation = find_operation(args.operation)
    rungs, device = choose(operation.name, args.rung, args.device)
    size = _size(args, operation, device)
    if args.json is not None:
        check_writable(args.json)
    machine = _machine(device, args.threads)
    refused = [(rung, why) for rung in rungs if (why := rung.refusal(size, args.precision, machine))]
    if len(refused) == len(rungs):
        rung, why = refused[0]
        raise OptionError(f"bench {operation.name}: expected a rung that can run here, got {rung.name}: {why}")
    print(heading(operation, rungs, size, device, machine, args.rounds), flush=True)
    with Progress("it", operation.name, quiet=args.quiet) as progress:
        measured = measure(rungs, size, machine, args.rounds, args.precision, progress)
    print(table(measured, device), flush=True)
    if args.json is not None:
        _write(args.json, operation, size, device, machine, args.rounds, measured)
    if measured.wrong:
        lines = [f"{row.rung.name} {row.name} by {row.error:.2g} (at most {row.bound:.2g})" for row in measured.wrong]
        raise RunError(f"bench {operation.name}: off from the book: {'; '.join(lines)}")
    return 0


def _machine(device: str, threads: int | None) -> Machine:
    from ..bench.runs import Machine
    from ..engines.cpu.team import available_cores

    count = threads or available_cores()
    if device == "cuda":
        from ..engines.cuda.gpu import GpuDevice

        return Machine(count, GpuDevice())
    if device == "cuda-on-cpu":
        from ..engines.cuda.on_cpu import OnCpuDevice

        return Machine(count, OnCpuDevice(threads=count))
    return Machine(count)


def _size(args: argparse.Namespace, operation: Operation, device: str) -> Size:
    """What the options say, else what is ordinary for the operation; small where a CPU stands in for a GPU."""
    from dataclasses import replace

    from ..bench.ladder import standard_size

    for name in ("size", *SIZES):
        if getattr(args, name) is not None and name not in operation.options:
            has = ", ".join(f"--{option}" for option in operation.options)
            raise OptionError(f"--{name}: expected {has} for {operation.name}, got --{name}; leave it out")
    H, W = _sides(args.size) if args.size else (None, None)
    changes = {"H": H, "W": W, **{letter: getattr(args, name) for name, letter in SIZES.items()}}
    found = standard_size(operation, device)
    return replace(found, **{name: value for name, value in changes.items() if value is not None})


def _sides(text: str) -> tuple[int, int]:
    """Rows and columns of "128" or "96x128"."""
    sides = text.lower().split("x")
    if len(sides) <= 2 and all(side.isdecimal() and 2 <= int(side) <= 1 << 16 for side in sides):
        return int(sides[0]), int(sides[-1])
    raise OptionError(f"--size: expected a side of 2 to {1 << 16} or HxW, as 128 or 96x128, got {text!r}")


def _write(
    path: Path, operation: Operation, size: Size, device: str, machine: Machine, rounds: int, measured: Measured
) -> None:
    import json

    from ..files import replacing
    from ..version import __version__
    from .bench_table import facts

    found = {"nstcore": __version__, **facts(operation, size, device, machine, rounds, measured)}
    with replacing(path) as part:
        part.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
