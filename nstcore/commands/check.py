"""`check`: the gradient proof, in a table."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ..errors import OptionError, RunError

if TYPE_CHECKING:
    from ..checks import Check

DESCRIPTION = """Prove that the gradients are right: every operation of the book and the whole objective against central
differences in float64, the optimizers against their papers, and every engine that is here against the book. Exit code 1
if an error is above its bound."""
_WIDTH = 80


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `check`."""
    summary = "prove every gradient: the book against differences, the engines against the book"
    parser = subparsers.add_parser("check", help=summary, description=DESCRIPTION)
    parser.add_argument(
        "topics",
        nargs="*",
        metavar="TOPIC",
        help="such as conv or lbfgs; `explain` lists them (default: all, and engines)",
    )
    parser.add_argument(
        "--device",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="engines to check: reference, cpu, cuda, cuda-on-cpu (default: those that are here; with a TOPIC, none)",
    )
    parser.add_argument(
        "--break", dest="broken", metavar="TOPIC", help="flip a sign in the code of this topic, and see its check fail"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the numbers that are drawn (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a line for every proof as it is done; RunError, which ends with exit code 1, if one fails."""
    from ..topics import find

    if args.seed < 0:
        raise OptionError(f"--seed: expected 0 or more, got {args.seed}")
    topics = list(dict.fromkeys(map(find, args.topics)))
    flipped = None if args.broken is None else find(args.broken)

    from ..checks import CHECKS, broken, run_engines
    from ..checks import run as run_topic

    if flipped is not None and flipped not in topics:
        topics.append(flipped)
    with_engines = args.device is not None or not topics
    # Before any work: a device may not be there
    engines = run_engines(args.device, args.seed) if with_engines else iter(())
    begin, table = time.monotonic(), _Table()
    with nullcontext() if flipped is None else broken(flipped) as what:
        if what is not None:
            print(f"--break {flipped}: {what}; the check must fail", flush=True)
        table.head()
        for topic in topics or CHECKS:
            table.rows(run_topic(topic, args.seed))
        found = any(check.topic == flipped for check in table.failed)
        table.rows(engines)
    table.summary(time.monotonic() - begin)
    if with_engines and args.device is None:
        _say_missing()
    if flipped is not None and not found:
        raise RunError(f"--break {flipped}: {what}, and no check found it: the check itself is wrong")
    if table.failed:
        names = ", ".join(f"{check.topic} ({check.what})" for check in table.failed)
        raise RunError(f"{len(table.failed)} of {table.count} checks failed: {names}")
    return 0


class _Table:
    """Lines of 80 columns; colours on a terminal only."""

    def __init__(self) -> None:
        self.count = 0
        self.failed: list[Check] = []
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
        self._pass, self._fail = ("pass", "FAIL") if plain else ("\033[32mpass\033[0m", "\033[1;31mFAIL\033[0m")

    def head(self) -> None:
        print(f"{'topic':<15} {'what':<38} {'error':>7} {'bound':>5} {'time':>6}", flush=True)

    def rows(self, checks: Iterator[Check]) -> None:
        for check in checks:
            self.count += 1
            if not check.passed:
                self.failed.append(check)
            verdict = self._pass if check.passed else self._fail
            numbers = f"{check.error:>7.1e} {check.bound:>5.0e} {check.seconds:>5.2f}s"
            print(f"{check.topic:<15} {check.what:<38} {numbers} {verdict}", flush=True)

    def summary(self, seconds: float) -> None:
        outcome = f"{len(self.failed)} failed" if self.failed else "all passed"
        print(f"{self.count} {'check' if self.count == 1 else 'checks'}, {outcome}, in {seconds:.1f} s", flush=True)


def _say_missing() -> None:
    from ..checks.engines import missing

    for name, why in missing().items():
        print(textwrap.fill(f"not checked: {name}: {why}", _WIDTH, subsequent_indent="  ", break_long_words=False))
