"""Predictions for a GPU that is not here: the time of every launch of a whole step, and the memory of a whole run.

    python tools/predict_kernels.py                          an H200, all precisions, 512 and 1024 pixels
    python tools/predict_kernels.py --gpu mine.json          another GPU
    python tools/predict_kernels.py --precisions tf32 --all  every launch, the small ones too
    python tools/predict_kernels.py --write                  into kernels/README.md, between its markers

The launches are those that the engine really makes, recorded by a device that computes nothing; registers and shared
memory are those of the compiled kernels (NVRTC). The rest is arithmetic: see tools/predict_times.py. Every figure is a
prediction. A JSON file for --gpu has what differs from an H200, for instance

    {"name": "NVIDIA A100", "architecture": 80, "processors": 108, "bandwidth": 1.4e12, "cache_bandwidth": 4e12,
     "peaks": {"ffma": 19.5e12, "tf32": 156e12, "16bit": 312e12}, "shared_bytes": 167936}
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
import predict_memory
import predict_rungs
import predict_together
from bench_common import Report, commit, random_vgg19
from predict_launches import Recorder
from predict_steps import Step, name_of, step_of
from predict_times import Gpu, Prediction

from nstcore import Weights
from nstcore.commands.progress import Progress
from nstcore.engines.cuda import nvrtc
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.errors import NstcoreError, OptionError
from nstcore.files import check_writable

GROUP = "predictions"  # of the markers: <!-- predictions:launches -->, <!-- predictions:memory -->
SIZES = (512, 1024)
SIDES = (512, 1024, 2048, 4096)  # long sides whose memory is planned
TARGETS = {("NVIDIA H200", 512): 1.0e-3, ("NVIDIA H200", 1024): 3.5e-3}  # seconds, in a painting precision
PAINTING = ("tf32", "float16")  # whose launches are written one by one; bfloat16 is float16 without a loss scale
SHOWN = 0.01  # of a step: launches that take less together are one row
GAPS = 5
PARTS = {
    "cache": "operands from the second-level cache",
    "rate": "arithmetic below its peak",
    "tail": "tails",
    "padding": "products of zeros",
    "launch": "launches",
}
REMEDIES = {
    "launch": "merge it with a neighbour: the launch costs more than the work",
    "tail": "smaller tiles, or the sum split over blocks: {blocks} blocks for {processors} processors",
    "cache": "larger tiles, or one for all taps (09, below): {reuse:.0f} operations a cached byte",
    "padding": "a chunk that fits: {padding:.0%} of the products are of zeros",
    "rate": "{rate}",
}
RATES = {
    "ffma": "tensor cores: it runs on FFMA",
    **dict.fromkeys(("tf32", "16bit"), "wgmma (11)"),
    **dict.fromkeys(("wgmma tf32", "wgmma"), "fewer waits"),
}


# ---- tables ----------------------------------------------------------------------------------------------------------


def summary(steps: list[Step]) -> str:
    """One row for each step."""
    header = ("size", "precision", "launches", "read-backs", "predicted, ms", "if lone blocks are no faster, ms")
    report = Report((*header, "floor, ms", "target, ms", "what takes the time"))
    for step in steps:
        lone = sum(row.count * row.prediction.lone for row in step.rows)
        least = sum(row.count * row.prediction.floor for row in step.rows)
        target = TARGETS.get((step.gpu.name, step.size)) if step.precision != "float32" else None
        numbers = (step.seconds, lone, least)
        report.rows.append(
            (
                f"{step.size}x{step.size}",
                step.precision,
                str(step.launches),
                str(step.reads),
                *(f"{1e3 * n:.2f}" for n in numbers),
                "-" if target is None else f"{1e3 * target:.1f}",
                dominating(step),
            )
        )
    return report.markdown()


def from_the_floor(steps: list[Step]) -> str:
    """What lies between the floor of a step and the time predicted for it."""
    report = Report(("size", "precision", "floor, ms", *(f"+ {words}" for words in PARTS.values()), "= predicted"))
    for step in steps:
        parts = [sum(row.count * row.prediction.parts[name] for row in step.rows) for name in PARTS]
        numbers = (step.seconds - sum(parts), *parts, step.seconds)
        report.rows.append((f"{step.size}x{step.size}", step.precision, *(f"{1e3 * n:.2f}" for n in numbers)))
    return report.markdown()


def dominating(step: Step) -> str:
    """The kinds of kernels that take most of the time."""
    shares: dict[str, float] = {}
    for row in step.rows:
        launch = row.prediction.launch
        name = launch.rung.partition("/")[0] or launch.kernel
        shares[name] = shares.get(name, 0.0) + row.seconds / step.seconds
    largest = sorted(shares.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {share:.0%}" for name, share in largest)


def details(step: Step, everything: bool = False) -> str:
    """A row for each kind of launch, the longest first."""
    header = ("launch", "times", "us", "floor, us", "limit", "MB", "GFLOP", "FLOP/byte", "blocks", "registers")
    report = Report((*header, "shared, KB", "blocks a processor", "waves", "tail"))
    shown = [row for row in step.rows if everything or row.seconds >= SHOWN * step.seconds]
    for row in shown:
        p, work = row.prediction, row.prediction.work
        taken = p.resources
        block: tuple[str, ...] = ("-",) * 5
        if taken is not None:
            shared = (taken.shared + p.launch.shared) / 1024
            block = (str(p.launch.blocks), str(taken.registers), f"{shared:.1f}", str(p.resident), f"{p.waves:.2f}")
        numbers = (
            f"{1e6 * row.seconds:.1f}",
            f"{1e6 * row.count * p.floor:.1f}",
            p.limit if p.parts["launch"] < p.seconds / 2 else "launch",
            f"{row.count * work.bytes / 1e6:.1f}",
            f"{row.count * work.operations / 1e9:.2f}",
            f"{work.operations / work.bytes:.0f}" if work.bytes else "-",
        )
        report.rows.append((name_of(p.launch), str(row.count), *numbers, *block, f"{p.tail:.2f}"))
    if rest := step.rows[len(shown) :]:
        seconds, least = sum(r.seconds for r in rest), sum(r.count * r.prediction.floor for r in rest)
        together = str(sum(r.count for r in rest)), f"{1e6 * seconds:.1f}", f"{1e6 * least:.1f}"
        report.rows.append(("smaller ones", *together, *("-",) * 10))
    return report.markdown()


def gaps(steps: list[Step]) -> str:
    """Of each step the launches that are furthest above their floors, and what would bring them closer."""
    report = Report(("size", "precision", "launch", "times", "above the floor, us", "of it, us", "what would close it"))
    for step in steps:
        for row in sorted(step.rows, key=lambda row: -row.gap)[:GAPS]:
            cause, seconds = cause_of(row.prediction)
            label = f"{step.size}x{step.size}", step.precision, name_of(row.prediction.launch), str(row.count)
            numbers = f"{1e6 * row.gap:.1f}", f"{1e6 * row.count * seconds:.1f}"
            report.rows.append((*label, *numbers, remedy(cause, row.prediction, step.gpu)))
    return report.markdown()


def cause_of(p: Prediction) -> tuple[str, float]:
    """What lies between a launch and its floor most of all, and how many seconds of it."""
    cause = max(p.parts, key=lambda name: p.parts[name])
    return cause, p.parts[cause]


def remedy(cause: str, p: Prediction, gpu: Gpu) -> str:
    work = p.work
    return REMEDIES[cause].format(
        blocks=p.launch.blocks,
        processors=gpu.processors,
        reuse=work.issued / work.cached if work.cached else 0,
        padding=1 - work.operations / work.issued if work.issued else 0,
        rate=f"{RATES[work.unit]}, beyond {gpu.rates[work.unit]:.0%} of the peak",
    )


# ---- the two sections ------------------------------------------------------------------------------------------------


def assumptions(gpu: Gpu) -> str:
    peaks = ", ".join(f"{unit} {peak / 1e12:g} x {gpu.rates[unit]:g}" for unit, peak in gpu.peaks.items())
    return (
        f"Assumed of an {gpu.name}: {gpu.processors} processors; memory {gpu.bandwidth / 1e12:g} TB/s, second-level "
        f"cache {gpu.cache_bandwidth / 1e12:g} TB/s (a guess, the least certain of these); peaks in TFLOP/s, "
        f"times the share that a kernel is taken to reach, {peaks}; {1e6 * gpu.launch:g} us from launch to launch in a "
        "graph"
    )


FORMULA = (
    "time = max(bytes / bandwidth, cached bytes / cache bandwidth, issued operations / (peak x share)) x tail + "
    "launch; the tail is what the busiest processor has to do relative to the average, which supposes that a block "
    "alone on a processor has all of it (that it is no faster than one of several: the column beside). The floor: "
    "max(bytes / bandwidth, operations / peak). Bytes: every array once. Issued: whole tiles and chunks, zeros among "
    "them. What stays in the cache from one launch to the next, the host, and its read-backs (each waits for the GPU) "
    "are not in it"
)


def launches_section(args: argparse.Namespace, weights: Weights, gpu: Gpu, steps: list[Step]) -> str:
    how = (
        f"**Predictions, not measurements: no GPU has run this.** `{command_line(args)}`{_at()}, {nvrtc.find()}: one "
        "step (VGG19 to conv5_1, usual layers, Adam's update), its launches recorded from the engine."
    )
    parts = [_wrapped(how), _wrapped(f"{FORMULA}. {assumptions(gpu)}."), summary(steps)]
    chosen = [step for step in steps if args.all or step.precision in PAINTING] or steps
    parts += ["What lies between floor and prediction, one limit after the other:", from_the_floor(steps)]
    parts += ["The launches that are furthest above their floors, and what would close most of the gap:", gaps(chosen)]
    parts += predict_rungs.beside(weights, chosen)
    parts += [predict_together.WORDS, predict_together.table(weights, gpu, sorted({s.precision for s in chosen}))]
    for step in chosen:
        parts += [f"{step.size}x{step.size}, {step.precision}, predicted:", details(step, args.all)]
    return "\n\n".join(parts) + "\n"


def memory_section(args: argparse.Namespace, weights: Weights, gpu: Gpu, progress: Progress) -> str:
    jobs = [(side, shape, p) for shape in predict_memory.SHAPES for side in SIDES for p in args.precisions]
    needs = []
    for done, (side, shape, precision) in enumerate(jobs, 1):
        device = Recorder(gpu.architecture, gpu.processors, gpu.name)
        needs.append(predict_memory.need(weights, precision, side, shape, device))
        progress(done, len(jobs), f"{side} pixels, {precision}")
    how = (
        f"By the plan, which is exact (every buffer is counted before it is made), nothing measured: "
        f"`{command_line(args)}`{_at()}. What a whole `run` with its defaults takes of the GPU at its fullest: content "
        "and style of that shape, sizes from coarse to fine, Adam. In brackets bytes per pixel without the filters "
        f"({needs[0].filters / 1e6:.0f} MB in {needs[0].precision}). With *: not on a card of "
        f"{predict_memory.CARD / 1e9:.0f} GB, of which nine tenths may be planned for."
    )
    last = [n for n in needs if n.size[0] == n.size[1] == SIDES[-1]]
    wanted = next((n for n in last if n.precision == "float16"), last[0])
    parts = [_wrapped(how), predict_memory.table(needs), _wrapped(f"{predict_memory.verdict(wanted)}.")]
    return "\n\n".join(parts) + "\n"


def _at() -> str:
    version = commit()
    return f" at commit {version}" if version else ""


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def command_line(args: argparse.Namespace) -> str:
    """The command that makes this again; a file by its name alone."""
    words = ["python", "tools/predict_kernels.py"]
    if args.gpu:
        words += ["--gpu", args.gpu.name]
    if args.sizes != SIZES:
        words += ["--sizes", ",".join(map(str, args.sizes))]
    if args.precisions != tuple(PRECISIONS):
        words += ["--precisions", ",".join(args.precisions)]
    return " ".join(words + ["--all"] * args.all)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--gpu", type=Path, metavar="FILE.json", help="an H200, if not given")
    found.add_argument("--sizes", type=_sizes, default=SIZES, metavar="PIXELS,...", help="512,1024")
    found.add_argument("--precisions", type=_precisions, default=tuple(PRECISIONS), metavar="NAME,...", help="all")
    found.add_argument("--all", action="store_true", help="every launch in every precision, however small")
    found.add_argument("--quiet", action="store_true", help="no progress")
    found.add_argument("--write", nargs="?", type=Path, const=bench.README, metavar="FILE", help="kernels/README.md")
    return found


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if min(sizes) < 16:
        raise argparse.ArgumentTypeError(f"expected sizes of 16 pixels or more, got {text}")
    return sizes


def _precisions(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(PRECISIONS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PRECISIONS)}, got {text}")
    return names


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        gpu = Gpu.read(args.gpu) if args.gpu else Gpu()
        if args.write:
            if args.gpu or args.sizes != SIZES or args.precisions != tuple(PRECISIONS) or args.all:
                raise OptionError("--write: expected the whole prediction, got a choice; leave the other options out")
            check_writable(args.write)
            for name in ("launches", "memory"):
                bench.split(args.write, name, GROUP)
        weights, steps = random_vgg19(), []
        with Progress("step", "launches", args.quiet) as progress:
            jobs = [(size, precision) for size in args.sizes for precision in args.precisions]
            for done, (size, precision) in enumerate(jobs, 1):
                steps.append(step_of(weights, size, precision, gpu))
                progress(done, len(jobs), f"{size} pixels, {precision}")
        sections = {"launches": launches_section(args, weights, gpu, steps)}
        with Progress("plan", "memory", args.quiet) as progress:
            sections["memory"] = memory_section(args, weights, gpu, progress)
        for name, text in sections.items():
            print(text)
            if args.write:
                bench.write(args.write, name, text, GROUP)
    except (NstcoreError, nvrtc.CompileError) as error:
        print(f"predict_kernels: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
