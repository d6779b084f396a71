"""`explain`: an equation, the book's code, the engines', the kernel, and the proof that they agree."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from ..topics import Place, Topic

_SHORT = 16  # lines up to which an engine's function is printed whole


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `explain`."""
    summary = "an equation, the code that computes it, the kernel that computes it fast, and its gradient check"
    parser = subparsers.add_parser("explain", help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.add_argument("name", metavar="NAME", nargs="?", help="what to explain (default: list what there is)")
    parser.add_argument(
        "--rung",
        metavar="NN|NAME|all",
        help="which of the CUDA kernels (default: what the engine launches in float32)",
    )
    parser.add_argument("--kernel", choices=("cuda", "cpu"), help="whose kernel to show (default: cuda)")
    parser.add_argument("--no-pager", action="store_true", help="print it all at once, on a terminal, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list, or one topic; 1 if its check fails."""
    from ..errors import OptionError
    from ..topics import TOPICS, find

    if args.name is None:
        if args.rung or args.kernel:
            raise OptionError("--rung, --kernel: expected a NAME to go with them, as in `explain conv --rung 02`")
        _list()
        return 0
    name = find(args.name)
    kernels = chosen(name, args.kernel, args.rung)
    proved = True  # as long as nothing says otherwise: a pager may be left before the end
    with _pager(args.no_pager) as out:
        page = _Page(out)
        _explain(page, name, TOPICS[name], kernels, args.kernel)
        proved = _prove(page, name)
    return 0 if proved else 1


def _list() -> None:
    from ..topics import TOPICS

    width = max(map(len, TOPICS))
    for name, topic in TOPICS.items():
        print(f"{name:<{width}}  {topic.title}")
    print("\npython -m nstcore explain NAME   the equation, the code, the kernel, the proof", flush=True)


# -- which kernels ----------------------------------------------------------------------------------------------------


def chosen(name: str, machine: str | None = None, rung: str | None = None) -> list[str]:
    """Files below kernels/ to show for a topic.

    Parameters
    ----------
    name : str
        A key of TOPICS.
    machine : {"cuda", "cpu"}, optional
        Whose kernels; without it those of "cuda", or of "cpu" where there are no others.
    rung : str, optional
        "02", "02_shared_tile", "conv3x3/02_shared_tile", or "all"; without it what the engine launches in float32.

    Raises
    ------
    OptionError
        If the topic has no such kernel.
    """
    from ..errors import OptionError
    from ..topics import TOPICS

    files = TOPICS[name].kernels
    machines = [m for m in ("cuda", "cpu") if any(f.startswith(m) for f in files)]
    if rung is not None and machine == "cpu":
        raise OptionError("--rung: expected with the CUDA kernels, the CPU's have no rungs; leave out --kernel cpu")
    if machine is None:
        machine = "cuda" if rung is not None or "cuda" in machines else "cpu"
    own = [f for f in files if f.startswith(machine)]
    ladder = [f for f in own if f.endswith(".cu")]
    if rung is not None:
        return _rungs(name, ladder, rung)
    if not own and machines:
        raise OptionError(f"--kernel: {name} has no kernels for {machine}; leave it out for those of {machines[0]}")
    if not ladder:
        return own
    production = [f for f in ladder if "float32" in _launched().get(_rung(f), ())]
    return [f for f in own if f not in ladder] + (production or ladder[-1:])


def _rungs(name: str, ladder: list[str], wanted: str) -> list[str]:
    from difflib import get_close_matches

    from ..errors import OptionError

    if not ladder:
        raise OptionError(f"--rung: {name} has no CUDA kernels of its own; leave it out")
    if wanted == "all":
        return ladder
    for file in ladder:
        whole = _rung(file)
        short = whole.split("/")[1]
        if wanted in (whole, short, short[:2]) or wanted.zfill(2) == short[:2]:
            return [file]
    known = [_rung(f) for f in ladder]
    near = get_close_matches(wanted, [*known, *(r.split("/")[1] for r in known)], 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise OptionError(f"--rung: {name} has no {wanted!r}; {hint}expected one of {', '.join(known)}, all")


def _rung(file: str) -> str:
    """conv3x3/02_shared_tile of cuda/conv3x3/02_shared_tile.cu"""
    return file.removeprefix("cuda/").removesuffix(".cu")


@cache
def _launched() -> dict[str, list[str]]:
    """The precisions in which the engine launches a rung unless told otherwise, by the rung's name."""
    from ..engines.cuda.variants import all_variants

    found: dict[str, list[str]] = {}
    for variant in all_variants():
        names = found.setdefault(variant.rung, [])
        if variant.production and variant.precision.name not in names:
            names.append(variant.precision.name)
    return found


# -- the page ---------------------------------------------------------------------------------------------------------


class _Page:
    """Text on its way to a terminal, a pager or a file."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._bold = ("\x1b[1m", "\x1b[0m") if wanted and sys.stdout.isatty() else ("", "")

    def line(self, text: str = "") -> None:
        print(text, file=self._out)

    def heading(self, text: str) -> None:
        """With an empty line above, in bold on a terminal."""
        begin, end = self._bold
        self.line(f"\n{begin}{text}{end}")

    def code(self, text: str, first: int = 1) -> None:
        """Lines with their numbers."""
        lines = text.splitlines()
        width = len(str(first + len(lines)))
        for number, line in enumerate(lines, first):
            self.line(f"  {number:>{width}}  {line}".rstrip())

    def flush(self) -> None:
        self._out.flush()


def _explain(page: _Page, name: str, topic: Topic, kernels: list[str], machine: str | None) -> None:
    """All but the proof."""
    from ..topics import where

    page.heading(topic.title)
    page.line()
    for line in topic.equation.splitlines():
        page.line(f"    {line}".rstrip())
    page.line(f"\nSource: {topic.source}")

    page.heading("THE BOOK: as the equation says, never tuned")
    for function in topic.book:
        place = where(function)
        page.line(f"\n{_spot(place)}")
        page.code(place.text, place.first)

    page.heading("THE ENGINES: the same, fast")
    if not topic.engines:
        page.line("\nNone of their own: N*N numbers are few, so that every engine calls the book.")
    for function in topic.engines:
        _engine(page, where(function))

    page.heading("THE KERNEL")
    _kernels(page, name, topic, kernels, machine)

    page.heading("TESTED BY")
    page.line()
    for test in topic.tests:
        page.line(f"    {test}")


def _spot(place: Place) -> str:
    """nstcore/ops/gram.py:21 gram_forward"""
    from ..topics.places import PACKAGE

    return f"{place.path.relative_to(PACKAGE.parent).as_posix()}:{place.line} {place.name}"


def _engine(page: _Page, place: Place) -> None:
    """A short function whole, of a longer one where it is and what it says of itself."""
    page.line(f"\n{_spot(place)}")
    if place.last - place.first < _SHORT:
        page.code(place.text, place.first)
    else:
        for line in (*place.signature.splitlines(), f"    {place.summary}"):
            page.line(f"    {line}")


def _kernels(page: _Page, name: str, topic: Topic, kernels: list[str], machine: str | None) -> None:
    from ..engines.cuda.source import folder
    from ..topics.places import PACKAGE

    if not topic.kernels:
        page.line("\nNone of its own.")
        return
    home = folder().parent
    launched = _launched()
    for file in kernels:
        path = home / file
        precisions = launched.get(_rung(file), [])
        used = f"   (what the cuda engine launches in {', '.join(precisions)})" if precisions else ""
        page.line(f"\n{_below(path, PACKAGE.parent)}{used}")
        page.code(path.read_text(encoding="utf-8"))
    others = [f for f in topic.kernels if f not in kernels]
    if rungs := [_rung(f) for f in others if f.endswith(".cu")]:
        page.line(f"\nOther rungs: {', '.join(rungs)}; `explain {name} --rung {rungs[0].split('/')[1][:2]}`, or all")
    if files := [f for f in others if f.startswith("cpu/")]:
        page.line(f"\nIn C, for the CPU: {', '.join(files)}; `explain {name} --kernel cpu`")
    if machine == "cpu" and any(f.startswith("cuda/") for f in others):
        page.line(f"\nIn CUDA: `explain {name}`")


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _prove(page: _Page, name: str) -> bool:
    """Run the topic's checks, a line each; whether all passed."""
    from ..checks import run as run_checks

    page.heading("THE PROOF, now, in float64: relative error, and what it may be")
    page.line()
    page.flush()
    good = True
    for check in run_checks(name):
        verdict = "pass" if check.passed else "FAIL"
        page.line(f"    {check.what:<48}  {check.error:8.1e} <= {check.bound:.0e}  {check.seconds:6.2f} s  {verdict}")
        page.flush()
        good = good and check.passed
    page.line(f"\nAgain: python -m nstcore check {name};  broken on purpose: python -m nstcore check --break {name}")
    page.flush()
    return good


# -- the pager --------------------------------------------------------------------------------------------------------


@contextmanager
def _pager(plain: bool) -> Iterator[IO[str]]:
    """Where to write: a pager's input on a terminal, else standard output.

    $PAGER, or less, or more. Ctrl-C is the pager's as long as it runs; when it is left, there is no more to say.
    """
    command = [] if plain or not sys.stdout.isatty() else _pager_command()
    if not command:
        yield sys.stdout
        sys.stdout.flush()
        return
    environment = {"LESS": "FRX", **os.environ}  # leave at once where one screen holds it all; show bold as bold
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, encoding="utf-8", env=environment) as process:
        assert process.stdin is not None
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with suppress(BrokenPipeError):
                yield process.stdin
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
            signal.signal(signal.SIGINT, before)


def _pager_command() -> list[str]:
    """The pager and its options; none where there is no pager."""
    wanted: list[str] = []
    with suppress(ValueError):  # a quotation mark too few
        wanted = shlex.split(os.environ.get("PAGER", ""))
    for command in (wanted, ["less"], ["more"]):
        if command and (found := shutil.which(command[0])):
            show_bold = ["-R"] if Path(command[0]).name == "less" else []
            return [found, *command[1:], *show_bold]
    return []
