"""Progress of long work: a bar with the time left on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from ..transfer import Step

LARGE = 16_000_000  # pixels of a picture that takes seconds to write
_LINES = 10  # in all, where there is no terminal
_BYTES_A_LINE = 50_000_000  # where nobody knows how many there will be
_SHARES = "{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]"


class Progress:
    """Shows on standard error how much is done. A context manager; nothing appears before the first call.

    Parameters
    ----------
    unit : str
        What is counted: "it", "B" (shown with prefixes, as MB), "picture".
    name : str
        What the work is called, if it needs a name.
    quiet : bool
        Show nothing.
    verbose : bool
        A line for every call, on a terminal too.

    Attributes
    ----------
    before : float
        Share of the work that was done before this process began; the time left follows from the rest.
    """

    def __init__(self, unit: str, name: str = "", quiet: bool = False, verbose: bool = False) -> None:
        self._unit, self._name, self._quiet, self.verbose = unit, name, quiet, verbose
        self.before = 0.0
        self._bar: Any = None
        self._next: float = 0
        self._begin = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            with suppress(OSError):  # a terminal that has gone
                self._bar.close()

    def __call__(self, done: int, total: int | None, note: str = "", share: float | None = None) -> None:
        """`done` of `total` so far, with what else there is to say; `share` of the work, from 0 to 1, where not all
        that is counted takes the same time."""
        if self._quiet:
            return
        if not self.verbose and sys.stderr.isatty():
            self._show(done, total, note, share)
        elif self.verbose or done >= self._next or done == total:
            self._next = done + (max(1, total // _LINES) if total else _BYTES_A_LINE)
            amount = self._amount(done, total, share)
            self.say(f"{self._name}{': ' if self._name else ''}{amount}{note and ': ' + note}")

    def _show(self, done: int, total: int | None, note: str, share: float | None) -> None:
        """On a terminal: the bar, with the share of the work instead of the count where that is known."""
        if share is not None:
            note = f"{done}/{total}, {note}"
        try:
            if self._bar is None:
                begin = done if share is None else self.before
                self._bar = self._new_bar(begin, total) if share is None else self._new_bar(begin, 1.0, _SHARES)
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update((done if share is None else share) - self._bar.n)
        except OSError:
            _forget(sys.stderr)

    def say(self, line: str) -> None:
        """A line of its own, which leaves the bar whole."""
        if self._quiet:
            return
        if self._bar is None:
            tell(line)
            return
        try:
            self._bar.write(line, file=sys.stderr)
        except OSError:
            _forget(sys.stderr)

    def writing(self, name: str, height: int, width: int) -> None:
        """Say that a large picture is being written, for nothing moves meanwhile."""
        if height * width > LARGE:
            self.say(f"nstcore: writing {name}, {width}x{height}")

    def _new_bar(self, done: float, total: float | None, form: str | None = None) -> Any:
        from tqdm import tqdm

        # A terminal that does not know its size (some serial and container ones) would get no bar at all
        columns, lines = shutil.get_terminal_size()
        size = {} if _knows_its_size() else {"ncols": columns, "nrows": lines}
        scale = self._unit == "B"
        return tqdm(
            desc=self._name or None,
            total=total,
            initial=done,
            unit=self._unit,
            unit_scale=scale,
            dynamic_ncols=not size,
            bar_format=form,
            **size,
        )

    def _amount(self, done: int, total: int | None, share: float | None) -> str:
        if self._unit == "B":
            amount = f"{done / 1e6:.1f}{f' of {total / 1e6:.1f}' if total else ''} MB"
        else:
            amount = f"{done}/{total}{'' if self._unit == 'it' else f' {self._unit}s'}"
        if not total or not 0 < done < total:
            return amount
        share = share or done / total
        if share <= self.before:
            return amount
        seconds = (time.monotonic() - self._begin) * (1 - share) / (share - self.before)
        return f"{amount}, {time.strftime('%H:%M:%S', time.gmtime(seconds))} left"


def show_step(progress: Progress, step: Step) -> None:
    """One evaluation of a transfer, with its losses."""
    t = step.terms
    note = f"loss {t.total:.4g}, content {t.content:.4g}, style {t.style:.4g}, tv {t.tv:.2g}, {step.size} px"
    if progress.verbose:
        note += f", step {step.step_length:.3g}, {step.seconds:.2f} s"
    progress(step.iteration, step.iterations, note, step.share)


def add_volume(parser: argparse.ArgumentParser) -> None:
    """--quiet or --verbose, of commands that paint."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")
    group.add_argument("-v", "--verbose", action="store_true", help="print a line for every evaluation")


def tell(line: str, stream: TextIO | None = None) -> None:
    """Print a line, on standard error by default. Where nobody reads it any more (a pager that was left, a terminal
    that has gone), the work goes on in silence."""
    stream = sys.stderr if stream is None else stream
    # File names may hold bytes that are no text, which standard output would refuse
    code = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(line.encode(code, "backslashreplace").decode(code), file=stream, flush=True)
    except OSError:
        _forget(stream)


def _forget(stream: TextIO) -> None:
    """Let what is said on a stream go nowhere from now on."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _knows_its_size() -> bool:
    try:
        return min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except (OSError, ValueError):
        return False
