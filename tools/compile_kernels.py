"""Every CUDA kernel, compiled without a GPU, for every architecture: registers, shared memory, spills.

    python tools/compile_kernels.py                        print the table
    python tools/compile_kernels.py --write                put it into kernels/README.md, between its markers
    python tools/compile_kernels.py --check                exit 1 if a production rung spills or that table is stale
    python tools/compile_kernels.py conv3x3 --architectures 80,90     some of it, while a kernel is being written

Needs NVRTC (pip install nvidia-cuda-nvrtc), and no driver, toolkit or CuPy. What is compiled, and how, is what the
engine launches: `variants.all_variants` and `compile.compile_rung`. Results are cached where the engine caches its own.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
from bench_common import Report

from nstcore.engines.cuda import nvrtc, source
from nstcore.engines.cuda.compile import OPTIONS, compile_rung
from nstcore.engines.cuda.nvrtc import Resources
from nstcore.engines.cuda.variants import Variant, all_variants
from nstcore.errors import NstcoreError, OptionError

ARCHITECTURES = (75, 80, 86, 89, 90, 100)
GROUP = "kernels"  # of the markers: <!-- kernels:compile -->, <!-- kernels:ladder -->
THREADS = 2  # ctypes lets go of Python's lock while NVRTC works
HEADER = ("rung", "kernel", "precision", "forms", "registers", "static shared", "dynamic shared", "spills")

Results = Mapping[tuple[Variant, int], dict[str, Resources]]


def compile_all(
    variants: Iterable[Variant], architectures: Sequence[int] = ARCHITECTURES, threads: int = THREADS
) -> Results:
    """Resources of every kernel of every variant, by (variant, architecture), for the architectures that it has.

    Raises
    ------
    nvrtc.CompileError
        For the first source that does not compile.
    """
    jobs = [(v, a) for v in variants for a in architectures if v.runs_on(a)]

    def run(job: tuple[Variant, int]) -> dict[str, Resources]:
        variant, architecture = job
        return compile_rung(source.read(variant.rung), architecture, variant.options).resources

    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(jobs, pool.map(run, jobs), strict=True))


def spilling(results: Results) -> list[str]:
    """One line for each production kernel that spills."""
    return [
        f"{variant} {kernel}: {taken.spill_stores} bytes of spill stores, {taken.spill_loads} of loads on sm_{a}"
        for (variant, a), kernels in results.items()
        for kernel, taken in kernels.items()
        if variant.production and (taken.spill_stores or taken.spill_loads)
    ]


def rows(results: Results, architectures: Sequence[int], every_form: bool = False) -> list[tuple[str, ...]]:
    """One row for each kernel of each rung: how many forms it has, and the most that any of them takes.

    With `every_form` one row for each form, and its options instead of their number.
    """
    groups: dict[tuple[str, str, str], list[Variant]] = {}
    for variant in dict.fromkeys(v for v, _ in results):
        rung = f"**{variant.rung}**" if variant.production else variant.rung
        for kernel in source.read(variant.rung).kernels:
            groups.setdefault((rung, kernel, str(variant) if every_form else ""), []).append(variant)
    found = []
    for (rung, kernel, _), forms in groups.items():
        taken = {a: [results[v, a][kernel] for v in forms if (v, a) in results] for a in architectures}
        options = " ".join(f"{name}={value}" for name, value in sorted(forms[0].defines.items()))
        found.append(
            (
                rung,
                kernel,
                ", ".join(dict.fromkeys(v.precision.name for v in forms)),
                options if every_form else str(len(forms)),
                list_of(str(max((r.registers for r in some), default="-")) for some in taken.values()),
                str(max(r.shared for some in taken.values() for r in some)),
                str(max(v.shared for v in forms)),
                spills(taken),
            )
        )
    return found


def fingerprint() -> str:
    """Of everything that the table follows from but the compiler: sources, forms, options, architectures."""
    found = hashlib.sha256(repr((ARCHITECTURES, OPTIONS)).encode())
    for variant in all_variants():
        rung, facts = source.read(variant.rung), (variant.architecture, variant.shared, variant.production)
        form = (str(variant), facts, rung.digest)
        found.update(repr(form).encode())
    return found.hexdigest()[:16]


def list_of(values: Iterable[str]) -> str:
    """One for each architecture; a single one where all are the same."""
    every = list(values)
    return every[0] if len(set(every)) == 1 else " ".join(every)


def spills(taken: Mapping[int, Sequence[Resources]]) -> str:
    """Bytes of spill stores + loads where there are any."""
    most = {a: max(((r.spill_stores, r.spill_loads) for r in some), default=(0, 0)) for a, some in taken.items()}
    return ", ".join(f"sm_{a} {stores}+{loads}" for a, (stores, loads) in most.items() if stores or loads) or "0"


def content(results: Results, architectures: Sequence[int], every_form: bool = False) -> str:
    """What is printed and written: how it was made, and the table."""
    names = ", ".join(f"sm_{a}" for a in architectures)
    how = (
        f"`python tools/compile_kernels.py --write` with {nvrtc.find()}, of sources {fingerprint()}. In bold what the "
        "engine launches unless told otherwise. A form is a precision and the options that go with it, such as the "
        f"sides of a tile; figures are the most that any form takes. Registers of a thread for {names} (one figure "
        "where all agree, - where no form is for such a GPU); bytes of shared memory of a block, declared, and the "
        "most that a launch of the rung adds; bytes of spill stores + loads."
    )
    header = (*HEADER[:3], "options" if every_form else "forms", *HEADER[4:])
    report = Report(header, list(rows(results, architectures, every_form)))
    return f"{textwrap.fill(how, 120, break_long_words=False, break_on_hyphens=False)}\n\n{report.markdown()}\n"


def ladder() -> str:
    """The table of all rungs, from their heads: what each adds to the one before it, its napkin, and what it needs."""
    every = list(all_variants())
    production = {v.rung for v in every if v.production}
    report = Report(("rung", "what it adds", "napkin", "requires"))
    for name in dict.fromkeys(v.rung for v in every):
        head, link = source.read(name).head, f"[{name}](cuda/{name}.cu)"
        over = [f"over {key.removeprefix('over ')}: {text}" for key, text in head.items() if key.startswith("over ")]
        cells = (
            f"**{link}**" if name in production else link,
            (over or [head["op"]])[0],
            head["napkin"],
            head["requires"],
        )
        report.rows.append([cell.replace("|", "\\|") for cell in cells])
    return f"In bold what the engine launches unless told otherwise.\n\n{report.markdown()}\n"


def written(path: Path, name: str) -> str:
    """What stands between the markers of that name."""
    before, after = bench.split(path, name, GROUP)
    text = path.read_text(encoding="utf-8")
    return text[len(before) : len(text) - len(after)].strip()


def is_stale(path: Path, fresh: str) -> bool:
    """Whether the file's tables are not those that would be written now.

    Another version of NVRTC may allocate other registers: then only the kernels and their forms are compared.
    """
    if written(path, "ladder") != ladder().strip():
        return True
    table = written(path, "compile")
    if str(nvrtc.find()) in " ".join(table.split()):
        return table != fresh.strip()
    return named(table) != named(fresh)


def named(table: str) -> list[list[str]]:
    """The cells of a table that do not depend on the compiler: rung, kernel, precisions, number of forms."""
    lines = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")[:4]] for line in lines[1:]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("rungs", nargs="*", metavar="RUNG", help="begin of a name, such as conv3x3/03; all without one")
    found.add_argument("--architectures", type=_architectures, default=ARCHITECTURES, metavar="75,80,...")
    found.add_argument("--production", action="store_true", help="only what the engine launches unless told otherwise")
    found.add_argument("--forms", action="store_true", help="print a row for each form, with its options")
    target = found.add_mutually_exclusive_group()
    target.add_argument("--write", nargs="?", type=Path, const=bench.README, metavar="FILE", help="kernels/README.md")
    target.add_argument("--check", nargs="?", type=Path, const=bench.README, metavar="FILE", help="kernels/README.md")
    return found


def _architectures(text: str) -> tuple[int, ...]:
    found = tuple(int(word.strip().removeprefix("sm_")) for word in text.split(","))
    if not set(found) <= set(ARCHITECTURES):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(map(str, ARCHITECTURES))}, got {text}")
    return found


def chosen(args: argparse.Namespace) -> list[Variant]:
    """The variants that the command line asks for.

    Raises
    ------
    OptionError
        If there are none, or a table of only some of them is to be written or checked.
    """
    every = list(all_variants())
    some = [v for v in every if v.rung.startswith(tuple(args.rungs) or "") and (v.production or not args.production)]
    if not some:
        raise OptionError(
            f"rungs: expected the begin of one of {', '.join(source.rungs())}, got {' '.join(args.rungs)}"
        )
    if (args.write or args.check) and (len(some) < len(every) or args.architectures != ARCHITECTURES or args.forms):
        raise OptionError("--write and --check: expected all rungs and architectures, got a choice; leave it out")
    return some


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        results = compile_all(chosen(args), args.architectures)
        text = content(results, args.architectures, args.forms)
        found = spilling(results)
        if args.write:
            bench.write(args.write, "compile", text, GROUP)
            bench.write(args.write, "ladder", ladder(), GROUP)
        if args.check:
            if is_stale(args.check, text):
                found.append(f"{args.check}: the table is stale; python tools/compile_kernels.py --write")
        else:
            print(text, end="")
    except (NstcoreError, nvrtc.CompileError) as error:
        print(f"compile_kernels: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    for line in found:
        print(f"compile_kernels: {line}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
