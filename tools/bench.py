"""What nstcore costs, measured, beside PyTorch where it is installed.

    python tools/bench.py step      the whole step (loss and gradient), every form of PyTorch, and the limit
    python tools/bench.py layers    every layer, forward and backward
    python tools/bench.py memory    peak memory of a short run
    python tools/bench.py ladder    the same step from the book's form to the fused kernels
    python tools/bench.py fast      one-pass networks: a picture, and the look of a style
    python tools/bench.py scaling   time per megapixel, small pictures to large ones
    python tools/bench.py rungs     every rung of every operation on the CPU, verified

Candidates take turns in one process, so that a noisy machine disturbs all alike. Trust only ratios of one run, on a
machine that does nothing else. With --write the table replaces the one in kernels/README.md, between the markers
<!-- bench:step --> and <!-- /bench:step --> (and likewise for the others; `step --instructions avx2` has bench:avx2).
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nstcore.errors import NstcoreError, OptionError
from nstcore.files import check_writable, replacing

README = Path(__file__).resolve().parents[1] / "kernels" / "README.md"
SIZES = {
    "step": "256,512",
    "layers": "512",
    "memory": "512,1024",
    "ladder": "256",
    "fast": "512",
    "scaling": "256,512,1024,2048",
    "rungs": "",
}
# What keeps each library of both sides to an instruction set; all read it when they are loaded
RESTRICTED = {
    "avx2": {
        "NSTCORE_KERNELS": "avx2",
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(dest="command", required=True)
    for name, sizes in SIZES.items():
        one = commands.add_parser(name)
        if name == "rungs":
            one.add_argument("--size", dest="sizes", type=_sizes, metavar="PIXELS", help="of each operation's own")
        elif name == "ladder":
            one.add_argument("--size", dest="sizes", type=_sizes, default=sizes, metavar="PIXELS", help=sizes)
        else:
            one.add_argument("--sizes", type=_sizes, default=sizes, metavar="PIXELS,...", help=sizes)
        one.add_argument("--threads", type=_count, help="all cores, if not given")
        if name != "memory":
            one.add_argument("--rounds", type=_count, default=7, help="7")
        if name != "rungs":
            one.add_argument(
                "--weights", metavar="NAME|FILE", help="VGG19 if it is in the cache, else random filters of its shapes"
            )
        if name == "step":
            one.add_argument("--instructions", choices=RESTRICTED, help="keep both sides to this instruction set")
        if name in ("step", "fast"):
            one.add_argument("--no-compile", action="store_true", help="leave out torch.compile: a minute per size")
        one.add_argument(
            "--write",
            nargs="?",
            type=Path,
            const=README,
            metavar="FILE",
            help="between the markers of kernels/README.md",
        )
    return whole


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


def _sizes(text: str) -> list[int]:
    sizes = [int(size) for size in text.split(",")]
    if min(sizes) < 16 or len(set(sizes)) < len(sizes):
        raise argparse.ArgumentTypeError(f"expected different sizes of 16 pixels or more, got {text}")
    return sizes


def prepare(instructions: str | None, threads: int | None) -> None:
    """Set the environment that numerical libraries read when they are loaded: before NumPy is imported."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # torch.compile leaves no processes behind that could disturb
    os.environ.update(RESTRICTED.get(instructions or "", {}))
    if threads is not None:
        os.environ.update({f"{library}_NUM_THREADS": str(threads) for library in ("OPENBLAS", "OMP", "MKL")})


def measure(args: argparse.Namespace) -> str:
    """What is printed and written: how it was measured, and the table."""
    from bench_common import commit, machine, weights_for

    from nstcore.engines.cpu.team import available_cores

    threads = args.threads or available_cores()
    interleaved = f" Interleaved; medians of {getattr(args, 'rounds', 0)}."
    if args.command == "memory":
        from bench_memory import memory_report

        report = memory_report(args.weights, args.sizes, threads)
        turns = ""
    elif args.command == "fast":
        from bench_fast import fast_report

        compiled = not args.no_compile
        report, turns = fast_report(args.weights, args.sizes, threads, args.rounds, compiled), interleaved
    elif args.command == "rungs":
        from bench_rungs import rungs_report

        report, turns = rungs_report(args.sizes[0] if args.sizes else None, threads, args.rounds), interleaved
    else:
        weights, turns = weights_for(args.weights), interleaved
        if args.command == "step":
            from bench_step import step_report

            report = step_report(weights, args.sizes, threads, args.rounds, not args.no_compile)
        elif args.command == "layers":
            from bench_layers import layers_report

            report = layers_report(weights, args.sizes, threads, args.rounds)
        elif args.command == "ladder":
            from bench_ladder import ladder_report

            report = ladder_report(weights, args.sizes[0], threads, args.rounds)
        else:
            from bench_step import scaling_report

            report = scaling_report(weights, args.sizes, threads, args.rounds)
    version = commit()
    at = f" at commit {version}" if version else ""
    notes = " ".join(f"{note}." for note in report.notes)
    how = f"`{command_line(args)}`{at}, on {machine(threads)}.{turns} {notes}"
    return f"{textwrap.fill(how, 120, break_long_words=False, break_on_hyphens=False)}\n\n{report.markdown()}\n"


def command_line(args: argparse.Namespace) -> str:
    """The command that makes this table again; a file by its name alone."""
    words = ["python", "tools/bench.py", args.command]
    if args.sizes:
        words += ["--size" if args.command in ("ladder", "rungs") else "--sizes", ",".join(map(str, args.sizes))]
    for option in ("threads", "rounds", "weights", "instructions"):
        value = getattr(args, option, None)
        if value is not None:
            words += [f"--{option}", Path(value).name if option == "weights" else str(value)]
    if getattr(args, "no_compile", False):
        words.append("--no-compile")
    return shlex.join(words)


def section(args: argparse.Namespace) -> str:
    """The name in the markers."""
    return getattr(args, "instructions", None) or args.command


def split(path: Path, name: str, group: str = "bench") -> tuple[str, str]:
    """The text of a file up to the opening marker and from the closing one, both markers included.

    `group` is the first word of the markers: that of the tool that writes the table.

    Raises
    ------
    OptionError
        If the two are not there, once each and in this order.
    """
    opening, closing = f"<!-- {group}:{name} -->\n", f"<!-- /{group}:{name} -->"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: expected a text file to write the table into, got {error}") from None
    before, found, rest = text.partition(opening)
    _, closed, after = rest.partition(closing)
    if not found or not closed or text.count(opening) != 1 or text.count(closing) != 1:
        raise OptionError(
            f"{path}: expected {opening.strip()} and {closing} on lines of their own, once; put them there"
        )
    return before + opening, closing + after


def write(path: Path, name: str, content: str, group: str = "bench") -> None:
    """Replace what is between the markers."""
    before, after = split(path, name, group)
    with replacing(path) as part:
        part.write_text(f"{before}\n{content}\n{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    prepare(getattr(args, "instructions", None), args.threads)
    try:
        if args.write is not None:
            check_writable(args.write)
            split(args.write, section(args))
        content = measure(args)
        print(content, end="")
        if args.write is not None:
            write(args.write, section(args), content)
    except NstcoreError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
