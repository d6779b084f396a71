"""Everything that needs a GPU, in one call of less than 9 minutes: tests, every rung timed, the best tiles found, VGG's
whole step, a whole pass of a network that paints in one, PyTorch beside both.

    python tools/gpu_check.py --out results.json          measure, and write what was measured
    python tools/gpu_check.py --parts layers,passes       one-pass networks alone
    python tools/gpu_check.py --print results.json        its tables; with --write into kernels/README.md
    python tools/gpu_check.py --print results.json --write-tiles           its measured tiles into kernels/tiles.json
    python tools/gpu_check.py --device cuda-on-cpu --sizes 32 --quick      rehearse the script without a GPU

What does not fit the time is left out, the largest sizes first, and named; the results are written after each part,
and one that fails does not take the others with it. PyTorch, where it is installed, takes part.
What may hang, as no GPU has run it, is tried in processes of its own: rungs, tiles, and whole steps by either.
Exit code 1 if a test failed, or if the programs that are compared do not compute the same loss.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
import compile_kernels
import gpu_bench
import gpu_graphs
import gpu_steps
import numpy as np
import tune_tiles
from bench_common import ROOT, commit, median, random_vgg19, torch_or_none, weights_for
from gpu_tables import tables

from nstcore import engines
from nstcore.engines.cuda import nvrtc, tiles
from nstcore.engines.cuda.conv import TENSOR_CORES
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.engines.cuda.variants import all_variants
from nstcore.errors import NstcoreError, OptionError
from nstcore.files import check_writable, replacing

SECONDS = 510  # a call of 9 minutes, less what Python and its libraries take to load and to end
TESTS, TILES, RISKY = 0.35, 0.3, 0.2  # of the time, at most: the tests; tiles; whole steps that may hang
TESTERS = 8  # processes of the tests, at most
SIZES = "256,512,1024,2048"
PASSES = (512, 1024)  # sizes of the pictures that are painted in one pass
PARTS = ("rungs", "layers", "tiles", "passes", "steps")
TUNED, TUNED_ROUNDS = (512, 1024), 3  # sizes of the pictures whose layers' tiles are measured
GRAPHS = 128  # size of the picture for which graphs are compared with their launches
FEW, AT_ONCE, AT_ONCE_STEPS = 512, (2, 8, 32), 50  # side of pictures, how many, steps: several painted at once
LAYERS = 512  # size of the picture at whose layers the rungs are timed
REHEARSAL = "REHEARSAL on the CPU: every figure below is one of this script, none of a GPU"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    found.add_argument("--sizes", type=bench._sizes, default=bench._sizes(SIZES), metavar="PIXELS,...", help=SIZES)
    found.add_argument("--parts", type=_parts, default=PARTS, metavar="NAME,...", help=f"of {', '.join(PARTS)}: all")
    found.add_argument("--precisions", type=_precisions, default=tuple(PRECISIONS), metavar="NAME,...")
    found.add_argument("--seconds", type=float, default=SECONDS, help=f"for everything: {SECONDS}")
    found.add_argument("--rounds", type=bench._count, default=7, help="of each measurement: 7")
    found.add_argument("--weights", metavar="NAME|FILE", help="random filters of VGG19's shapes, if not given")
    found.add_argument("--commit", help="what is measured, where git does not tell")
    found.add_argument("--no-tests", action="store_true", help="leave out the tests")
    found.add_argument("--no-compile", action="store_true", help="leave out torch.compile: half a minute per size")
    found.add_argument("--device", choices=("cuda", "cuda-on-cpu"), default="cuda")
    found.add_argument("--quick", action="store_true", help="one round, small layers, production rungs only")
    found.add_argument("--print", type=Path, metavar="FILE", dest="results", help="print the tables of these results")
    found.add_argument("--write", nargs="?", type=Path, const=bench.README, metavar="FILE", help="kernels/README.md")
    found.add_argument(
        "--write-tiles", nargs="?", type=Path, const=tiles.file(), metavar="FILE", help="kernels/tiles.json"
    )
    return found


def _precisions(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if not set(found) <= set(PRECISIONS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PRECISIONS)}, got {text}")
    return found


def _parts(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if not set(found) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PARTS)}, got {text}")
    return found


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, keep: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """All results; what can be left out is, to keep to the time. `keep` is given what there is after each part."""
    budget = gpu_bench.Budget(args.seconds)
    engine = engines.create(args.device, args.precisions[0])  # first of all: whether there is a GPU
    print(f"{engine.describe()}, {args.seconds:.0f} s", flush=True)
    rounds, layers = (1, 32) if args.quick else (args.rounds, LAYERS)
    if args.device == "cuda":
        threads, start = os.cpu_count() or 1, time.monotonic()
        known = [v for v in all_variants() if v.architecture <= engine.device.architecture]
        compile_kernels.compile_all(known, [engine.device.architecture], threads)
        print(f"{len(known)} forms of the kernels compiled in {time.monotonic() - start:.0f} s", flush=True)
    tests = {} if args.no_tests or args.device != "cuda" else run_tests(TESTS * args.seconds)
    weights = weights_for(args.weights) if args.weights else random_vgg19()
    problems = [f"tests: {tests['summary']}"] if tests and tests["exit"] else []
    compiled = not args.no_compile
    found: dict[str, Any] = {
        "command": command_line(args),
        "commit": args.commit or commit(),
        "machine": machine(engine.device),
        "weights": f"{weights.name}, {weights.padding} border",
        "tests": tests,
        "peaks": gpu_bench.peaks(engine.device, rounds, args.quick),
        **{part: [] for part in PARTS},
        "problems": problems,
        "left_out": budget.left_out,
    }

    def part(name: str, work: Callable[..., list[str]], *arguments: Any) -> None:
        """What is wrong is noted. After a kernel that failed nothing more works in this process, but in others it
        does."""
        if name in args.parts:
            try:
                problems.extend(work(*arguments))
            except (RuntimeError, MemoryError, NstcoreError) as error:
                problems.append(f"{name}: {type(error).__name__}: {error}")
                print(problems[-1], flush=True)
        found["took"] = round(args.seconds - budget.left, 1)
        keep(found)

    def rungs(device: Any) -> list[str]:
        found["rungs"] = gpu_bench.layers(device, layers, rounds, args.quick, budget)
        return []

    def network_layers(device: Any) -> list[str]:
        found["layers"], wrong = gpu_bench.network_layers(device, rounds, args.quick, found["peaks"], budget)
        return wrong

    def tuned(device: Any) -> list[str]:
        found["tiles"] = measured_tiles(args, device, rounds, budget)
        return []

    def passes() -> list[str]:
        sizes = args.sizes[:1] if args.quick else PASSES
        found["passes"], wrong = gpu_bench.network_passes(args.device, sizes, rounds, args.quick, compiled, budget)
        return wrong

    def steps() -> list[str]:
        asked = args, architecture, weights, found["tiles"], rounds, compiled, budget
        found["steps"], wrong = whole_steps(*asked)
        return wrong

    part("rungs", rungs, engine.device)
    part("layers", network_layers, engine.device)
    part("tiles", tuned, engine.device)
    architecture = engine.device.architecture
    del engine  # its memory is not the step's
    part("passes", passes)
    part("steps", steps)
    compared = "steps" in args.parts and args.device == "cuda"
    if compared and budget.allows(0, "whether graphs have the bits of their launches"):
        part("steps", graphs, weights, args)
    if not args.quick:
        part("steps", several_at_once, weights, args, budget, found["steps"])
    return found


def graphs(weights: Any, args: argparse.Namespace) -> list[str]:
    """Where graphs have other bits than their launches."""
    wrong = gpu_graphs.unlike(weights, args.device, GRAPHS, args.precisions)
    print(f"graphs: {'; '.join(wrong) or 'the bits of their launches'}", flush=True)
    without = gpu_graphs.launch_by_launch(weights, args.device, GRAPHS, args.precisions[0])
    print(f"launch by launch, as the host computes their losses: {', '.join(without) or 'none'}", flush=True)
    return wrong


def measured_tiles(
    args: argparse.Namespace, device: Any, rounds: int, budget: gpu_bench.Budget
) -> list[dict[str, Any]]:
    """The lines of a table of measured tiles, as tools/tune_tiles.py makes them."""
    had = [name for name in args.precisions if device.architecture >= PRECISIONS[name].architecture]
    names = [name for name in had if name in TENSOR_CORES]
    sizes, until = args.sizes[:1] if args.quick else TUNED, time.monotonic() + min(budget.left, TILES * args.seconds)
    asked = device, sizes, names, min(rounds, TUNED_ROUNDS), until, args.quick, budget.unfit
    lines, left_out = tune_tiles.tune(*asked) if names else ([], [])
    for what, why in left_out:
        budget.leave_out(what, why)
    return lines


def whole_steps(
    args: argparse.Namespace,
    architecture: int,
    weights: Any,
    lines: list[dict[str, Any]],
    rounds: int,
    compiled: bool,
    budget: gpu_bench.Budget,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of every form, the ones that may hang too, with the measured tiles in a file for the time being; and what is
    wrong."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "tiles.json" if lines else None
        if table:
            tune_tiles.write(table, lines, "for a moment")
        names = [name for name in args.precisions if architecture >= PRECISIONS[name].architecture]
        forms = gpu_steps.risky(args.device, architecture, names, table, budget.unfit)
        asked = {"device": args.device, "weights": args.weights, "rounds": rounds, "quick": args.quick}
        apart, wrong = gpu_steps.apart(list(forms), args.sizes, asked, budget, RISKY * args.seconds)
    asked_of_steps = weights, args.device, args.sizes, args.precisions, rounds, compiled, budget, args.quick
    rows, more = gpu_steps.steps(*asked_of_steps)
    rows, others = gpu_steps.together(rows, apart, budget)
    return rows, wrong + more + others


def several_at_once(
    weights: Any, args: argparse.Namespace, budget: gpu_bench.Budget, rows: list[dict[str, Any]]
) -> list[str]:
    """Add a row for each number of pictures at once, of small sizes in the first precision; what is wrong."""
    precision, problems = args.precisions[0], []
    for size in (size for size in args.sizes if size <= FEW):
        before = [row for row in rows if (row["size"], row["form"]) == (size, f"nstcore {precision}")]
        needed = sum(median(row["seconds"]) for row in before) * AT_ONCE_STEPS * sum(AT_ONCE)
        if not before or not budget.allows(needed, f"several pictures of {size}x{size} at once"):
            continue
        for count, seconds, same in gpu_graphs.at_once(weights, args.device, size, precision, AT_ONCE, AT_ONCE_STEPS):
            form = f"nstcore {precision}, each of {count} at once"
            print(f"{size}x{size} {form}: {1e3 * seconds:.2f} ms", flush=True)
            rows.append({"size": size, "form": form, "seconds": [seconds], "bytes": None, "loss": before[0]["loss"]})
            if not same:
                problems.append(f"{form} at {size}x{size}: expected the loss of one alone, got another")
    return problems


def run_tests(seconds: float) -> dict[str, Any]:
    """The GPU tests in processes of their own; the end of what they print, where one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow", "-p", "no:cacheprovider", "tests"]
    if find_spec("xdist"):  # what takes the time is the compiler, for forms of kernels that tests alone have
        command += ["-n", str(min(TESTERS, os.cpu_count() or 1))]
    start = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        code, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        code, said = 124, f"{(error.stdout or b'').decode(errors='replace')}\nnot finished after {seconds:.0f} s"
    summary = next((line for line in reversed(said.splitlines()) if re.search(r"\w", line)), "no output")
    if code:
        print(said[-6000:], flush=True)
    print(f"tests: {summary}", flush=True)
    return {"exit": code, "summary": summary, "seconds": round(time.monotonic() - start, 1)}


def machine(device: Any) -> dict[str, str]:
    """What was measured on."""
    facts = {"gpu": device.name, "architecture": f"sm_{device.architecture}", "processors": str(device.processors)}
    if device.kind == "cuda":
        runtime = device.cupy.cuda.runtime
        facts["driver"] = driver()
        facts["cuda"] = "{}.{}".format(*divmod(runtime.driverGetVersion() // 10, 100))
        facts["cupy"] = device.cupy.__version__
        facts["nvrtc"] = str(nvrtc.find(runtime.driverGetVersion() // 1000))
    if torch := torch_or_none():
        facts["torch"] = f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return facts | {"python": platform.python_version(), "numpy": np.__version__}


def driver() -> str:
    """The driver's version, as nvidia-smi tells it."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return "unknown"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said[0] if said else "unknown"


def command_line(args: argparse.Namespace) -> str:
    """The command that measures this again; a file by its name alone."""
    words = ["python", "tools/gpu_check.py", "--sizes", ",".join(map(str, args.sizes)), "--rounds", str(args.rounds)]
    if args.weights:
        words += ["--weights", Path(args.weights).name]
    if args.parts != PARTS:
        words += ["--parts", ",".join(args.parts)]
    if args.precisions != tuple(PRECISIONS):
        words += ["--precisions", ",".join(args.precisions)]
    return " ".join(words + ["--no-compile"] * args.no_compile)


# -- the command -------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """Results that were written by --out.

    Raises
    ------
    OptionError
        If the file holds none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if {"machine", "peaks", "rungs", "steps"} <= set(found):
            return found
        raise ValueError("something else")
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(f"{path}: expected results of tools/gpu_check.py --out, got {error}") from None


def proven(found: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The measured tiles of those precisions whose whole steps by them have the loss of the others.

    Raises
    ------
    OptionError
        If there are none, or if a test failed.
    """
    if found["tests"] and found["tests"]["exit"]:
        raise OptionError(f"{path}: expected results in which no test failed, got {found['tests']['summary']}")
    stepped, wrong = {row["form"] for row in found["steps"]}, tuple(found["problems"])
    forms = {name: gpu_steps.MEASURED.format(name) for name in TENSOR_CORES}
    right = [n for n, form in forms.items() if form in stepped and not any(line.startswith(form) for line in wrong)]
    lines = [line for line in found.get("tiles", []) if line["precision"] in right]
    if not lines:
        raise OptionError(f"{path}: expected tiles, and whole steps by them with the loss of the others, got none")
    return lines


def refuse(args: argparse.Namespace) -> None:
    """What makes no sense, before anything is measured."""
    for option, path in (("--write", args.write), ("--write-tiles", args.write_tiles)):
        if path and not args.results:
            raise OptionError(
                f"{option}: expected --print FILE beside it, got no results; measure them with --out FILE"
            )
    if args.out and (args.device != "cuda" or args.quick):
        raise OptionError("--out: expected --device cuda without --quick, got a rehearsal, whose figures mean nothing")
    if args.out:
        check_writable(args.out)


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        refuse(args)
        if args.results:
            found = read(args.results)
            if args.write_tiles:
                made = f"{found['command']}, commit {found['commit']}, {found['machine']['gpu']}"
                tune_tiles.write(args.write_tiles, proven(found, args.results), made)
            for name, content in tables(found).items():
                print(content)
                if args.write:
                    bench.write(args.write, name, content, group="gpu")
            return 0
        rehearsal = args.device != "cuda"
        if rehearsal:
            print(REHEARSAL, flush=True)

        def keep(found: dict[str, Any]) -> None:
            if args.out:
                with replacing(args.out) as part:
                    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

        found = measure(args, keep)
        for content in tables(found).values():
            print(content)
        if rehearsal:
            print(REHEARSAL)
    except NstcoreError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return error.exit_code
    for line in found["problems"]:
        print(f"gpu_check: {line}", file=sys.stderr)
    return int(bool(found["problems"]))


if __name__ == "__main__":
    sys.exit(main())
