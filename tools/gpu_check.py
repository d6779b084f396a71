"""Everything that needs a GPU, in one call of less than 9 minutes: tests, every rung timed, VGG's whole step, a whole
pass of a network that paints in one, PyTorch beside both.

    python tools/gpu_check.py --out results.json          measure, and write what was measured
    python tools/gpu_check.py --parts layers,passes       one-pass networks alone
    python tools/gpu_check.py --print results.json        its tables; with --write into kernels/README.md
    python tools/gpu_check.py --device cuda-on-cpu --sizes 32 --quick      rehearse the script without a GPU

What does not fit the time is left out, the largest sizes first, and named. PyTorch, where it is installed, takes part.
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
import textwrap
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
import compile_kernels
import gpu_bench
import gpu_graphs
import numpy as np
from bench_common import ROOT, Report, commit, median, milliseconds, random_vgg19, torch_or_none, weights_for

from nstcore import engines
from nstcore.engines.cuda import nvrtc
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.engines.cuda.variants import all_variants
from nstcore.errors import NstcoreError, OptionError
from nstcore.files import check_writable, replacing

SECONDS = 510  # a call of 9 minutes, less what Python and its libraries take to load and to end
TESTS = 0.35  # of the time at most
SIZES = "256,512,1024,2048"
PASSES = (512, 1024)  # sizes of the pictures that are painted in one pass
PARTS = ("rungs", "layers", "passes", "steps")
GRAPHS = 128  # size of the picture for which graphs are compared with their launches
FEW, AT_ONCE, AT_ONCE_STEPS = 512, (2, 8, 32), 50  # side of pictures, how many, steps: several painted at once
LAYERS = 512  # size of the picture at whose layers the rungs are timed
TABLES = ("rungs", "step")  # <!-- gpu:rungs --> and so on: VGG's, and below it that of one-pass networks
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


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All results; what can be left out is, to keep to the time."""
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
    found: dict[str, Any] = {
        "command": command_line(args),
        "commit": args.commit or commit(),
        "machine": machine(engine.device),
        "weights": f"{weights.name}, {weights.padding} border",
        "tests": tests,
        "peaks": gpu_bench.peaks(engine.device, rounds, args.quick),
        **{part: [] for part in PARTS},
    }
    problems = [f"tests: {tests['summary']}"] if tests and tests["exit"] else []
    if "rungs" in args.parts:
        found["rungs"] = gpu_bench.layers(engine.device, layers, rounds, args.quick, budget)
    if "layers" in args.parts:
        found["layers"], wrong = gpu_bench.network_layers(engine.device, rounds, args.quick, found["peaks"], budget)
        problems += wrong
    del engine  # its memory is not the step's
    compiled = not args.no_compile
    if "passes" in args.parts:
        sizes = args.sizes[:1] if args.quick else PASSES
        found["passes"], wrong = gpu_bench.network_passes(args.device, sizes, rounds, args.quick, compiled, budget)
        problems += wrong
    if "steps" in args.parts:
        found["steps"], wrong = gpu_bench.steps(
            weights, args.device, args.sizes, args.precisions, rounds, compiled, budget
        )
        problems += wrong
        if args.device == "cuda" and budget.allows(0, "whether graphs have the bits of their launches"):
            wrong = gpu_graphs.unlike(weights, args.device, GRAPHS, args.precisions)
            print(f"graphs: {'; '.join(wrong) or 'the bits of their launches'}", flush=True)
            problems += wrong
            without = gpu_graphs.launch_by_launch(weights, args.device, GRAPHS, args.precisions[0])
            print(f"launch by launch, as the host computes their losses: {', '.join(without) or 'none'}", flush=True)
        if not args.quick:
            problems += several_at_once(weights, args, budget, found["steps"])
    found["problems"] = problems
    found["left_out"] = budget.left_out
    found["took"] = round(args.seconds - budget.left, 1)
    return found


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
    """The GPU tests in a process of their own; the end of what it prints, where one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow", "-p", "no:cacheprovider", "tests"]
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
    said = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split()
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


# -- tables ------------------------------------------------------------------------------------------------------------


def tables(found: dict[str, Any]) -> dict[str, str]:
    """What stands between each pair of markers."""
    m = found["machine"]
    at = f" at commit {found['commit']}" if found["commit"] else ""
    parts = ("driver {driver}", "CUDA {cuda}", "CuPy {cupy}", "{nvrtc}", "PyTorch {torch}", "Python {python}")
    on = [part.format(**m) for part in parts if re.findall(r"{(\w+)}", part)[0] in m]
    how = f"`{found['command']}`{at}, on {m['gpu']}: {', '.join(on)}."
    copy = f"A copy in memory ran at {found['peaks']['copy'] / 1e12:.2f} TB/s, read and written."
    left_out = f" Left out: {'; '.join(found['left_out'])}." if found["left_out"] else ""
    peaks, peaks_from = peaks_of(found)
    parts = [
        ("rungs", "rungs", f"Medians, by CUDA events. {peaks_from} {copy}", rung_table(found, peaks)),
        ("rungs", "layers", f"{layer_notes(found)} {peaks_from} {copy}", layer_table(found, peaks)),
        ("step", "steps", step_notes(found), step_table(found)),
        ("step", "passes", f"{pass_notes(found, peaks)} {peaks_from} {copy}", pass_table(found, peaks)),
    ]
    sections: dict[str, list[str]] = {}
    for section, part, notes, table in parts:
        if found.get(part):
            text = textwrap.fill(f"{how} {notes}{left_out}", 120, break_long_words=False, break_on_hyphens=False)
            sections.setdefault(section, []).append(f"{text}\n\n{table}\n")
    return {section: "\n".join(texts) for section, texts in sections.items()}


def peaks_of(found: dict[str, Any]) -> tuple[dict[str, float], str]:
    """FLOP/s by precision and bytes/s of a copy, and where they are from."""
    peaks, words = dict(found["peaks"]), "The peak of a precision: the fastest large matrix product of PyTorch"
    if "float32" not in peaks:
        words = "Without PyTorch, the peak of a precision is the fastest of our own kernels"
        for row in found["rungs"] + found.get("layers", []):
            rate, name = row["operations"] / median(row["seconds"]), row.get("precision", "float32")
            peaks[name] = max(rate, peaks.get(name, 0.0))
    names = [f"{name} {peak / 1e12:.1f}" for name, peak in peaks.items() if name != "copy"]
    if not names:
        return peaks, "No peak of arithmetic was measured: a floor is of memory alone."
    return peaks, f"{words}; TFLOP/s: {', '.join(names)}."


def rung_table(found: dict[str, Any], peaks: dict[str, float]) -> str:
    rates = [(row, row["operations"] / median(row["seconds"])) for row in found["rungs"]]
    report = Report(("layer", "C", "K", "positions", "rung", "precision", "pass", "ms", "TFLOP/s", "share of peak"))
    for row, rate in rates:
        share = f"{100 * rate / peaks[row['precision']]:.0f} %"
        shape = (row["layer"], str(row["C"]), str(row["K"]), f"{row['side']}x{row['side']}")
        time_of = milliseconds(median(row["seconds"]))
        report.rows.append(
            (*shape, f"conv3x3/{row['rung']}", row["precision"], row["pass"], time_of, f"{rate / 1e12:.2f}", share)
        )
    return report.markdown()


def floor(operations: int, moved: int, peaks: dict[str, float]) -> float:
    """Seconds that the GPU needs for float32 operations or for bytes, whichever is longer."""
    arithmetic = operations / peaks["float32"] if "float32" in peaks else 0.0
    return max(arithmetic, moved / peaks["copy"])


def layer_notes(found: dict[str, Any]) -> str:
    return (
        "Layers of networks that paint in one pass, float32, each verified against the book in float64; medians, by "
        "CUDA events, of calls as a network makes them, with the memory of their results. The floor: the longer of "
        "the times that the operations take at the peak of float32 and the bytes at that of a copy."
    )


def layer_table(found: dict[str, Any], peaks: dict[str, float]) -> str:
    report = Report(("layer", "rung", "pass", "us", "floor, us", "share of floor", "TFLOP/s", "GB/s"))
    for row in found.get("layers", []):
        middle, least = median(row["seconds"]), floor(row["operations"], row["bytes"], peaks)
        times = f"{1e6 * middle:.1f}", f"{1e6 * least:.1f}", f"{100 * least / middle:.0f} %"
        rates = f"{row['operations'] / middle / 1e12:.2f}", f"{row['bytes'] / middle / 1e9:.0f}"
        report.rows.append((row["layer"], row["rung"], row["pass"], *times, *rates))
    return report.markdown()


def pass_notes(found: dict[str, Any], peaks: dict[str, float]) -> str:
    """How a pass was measured, and the floor of each size."""
    floors = []
    for size, layers in {row["size"]: row["layers"] for row in found.get("passes", [])}.items():
        operations, moved = (sum(column) for column in zip(*layers, strict=True))
        least = sum(floor(*layer, peaks) for layer in layers)
        amounts = f"{operations / 1e9:.2f} GFLOP, {moved / 1e9:.3f} GB"
        floors.append(f"{size}x{size} {amounts}, {1e3 * least:.3f} ms at least")
    names = ", ".join(sorted({row["weights"] for row in found.get("passes", [])}))
    return (
        f"A picture painted by {names}, from the GPU's memory to it, interleaved; medians, by the wall clock. The "
        f"floor, layer by layer: {'; '.join(floors)}."
    )


def pass_table(found: dict[str, Any], peaks: dict[str, float]) -> str:
    rows = found.get("passes", [])
    own = {row["size"]: median(row["seconds"]) for row in rows if row["form"] == "nstcore float32"}
    names = ("size", "form", "median, ms", "fastest, ms", "peak memory, MB", "share of floor", "relative to nstcore")
    report = Report(names)
    for row in rows:
        middle, least = median(row["seconds"]), sum(floor(*layer, peaks) for layer in row["layers"])
        memory = "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:.0f}"
        times = milliseconds(middle), milliseconds(min(row["seconds"]))
        ratio = f"{middle / own[row['size']]:.2f}" if row["size"] in own else "-"
        form = f"{row['size']}x{row['size']}", row["form"]
        report.rows.append((*form, *times, memory, f"{100 * least / middle:.0f} %", ratio))
    return report.markdown()


def step_notes(found: dict[str, Any]) -> str:
    problems = f" {'; '.join(found['problems'])}." if found["problems"] else ""
    return (
        "A step of a run: loss and gradient with respect to the pixels, Adam's update and the average of the iterates; "
        "at a learning rate that moves no pixel, interleaved. Medians, by the wall clock, until the step's loss is "
        "there. In float16 PyTorch's loss is multiplied by one number and the gradient not divided by it again. "
        f"Memory: all that a form holds of the GPU's, filters and targets too. Weights: {found['weights']}.{problems}"
    )


def step_table(found: dict[str, Any]) -> str:
    own = {row["size"]: median(row["seconds"]) for row in found["steps"] if row["form"] == "nstcore tf32"}
    report = Report(("size", "form", "median, ms", "fastest, ms", "peak memory, MB", "relative to nstcore tf32"))
    for row in found["steps"]:
        middle = median(row["seconds"])
        memory = "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:.0f}"
        ratio = f"{middle / own[row['size']]:.2f}" if row["size"] in own else "-"
        times = milliseconds(middle), milliseconds(min(row["seconds"]))
        report.rows.append((f"{row['size']}x{row['size']}", row["form"], *times, memory, ratio))
    return report.markdown()


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


def refuse(args: argparse.Namespace) -> None:
    """What makes no sense, before anything is measured."""
    if args.write and not args.results:
        raise OptionError("--write: expected --print FILE beside it, got no results; measure them with --out FILE")
    if args.out and (args.device != "cuda" or args.quick):
        raise OptionError("--out: expected --device cuda without --quick, got a rehearsal, whose figures mean nothing")
    if args.out:
        check_writable(args.out)


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        refuse(args)
        if args.results:
            for name, content in tables(read(args.results)).items():
                print(content)
                if args.write:
                    bench.write(args.write, name, content, group="gpu")
            return 0
        rehearsal = args.device != "cuda"
        if rehearsal:
            print(REHEARSAL, flush=True)
        found = measure(args)
        if args.out:
            with replacing(args.out) as part:
                part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
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
