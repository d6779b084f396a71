"""How a run ends other than well: signals, and pictures that cannot be written where they should be.

The first signal asks a run to stop, the second leaves at once:

    signal     exit code
    SIGINT     130          Ctrl-C
    SIGTERM    143          a shutdown, a batch system, `kill`
    SIGHUP     129          the terminal has gone

While there is nothing to keep yet (pictures and weights are being loaded), the first one leaves at once, too.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from .. import files
from ..errors import OutputError, Stopped
from .job import new_name

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_STOPPING = b"nstcore: stopping after this step; again to leave at once\n"


class Ends:
    """Takes the signals that end a program, as long as the `with` block runs.

    Signals that are ignored (by nohup, say) stay ignored; outside the main thread, which alone may take signals,
    nothing happens.

    Parameters
    ----------
    quiet : bool
        Say nothing at the first signal.

    Attributes
    ----------
    keeping : bool
        Whether there is something to keep: the first signal then only asks to stop.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.keeping = False
        self._quiet = quiet
        self._first: int | None = None
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._first is not None

    @property
    def code(self) -> int:
        """The exit code that goes with the first signal; 0 if none has come."""
        return 0 if self._first is None else 128 + self._first

    def stop(self) -> bool:
        """The same as `asked`, for `nstcore.stylize`."""
        return self.asked

    def __enter__(self) -> Ends:
        if threading.current_thread() is threading.main_thread():
            self._terminals = [descriptor for descriptor in (1, 2) if _is_terminal(descriptor)]
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if kind is not None:
            files.discard_unfinished()

    def _take(self, number: int, _: FrameType | None) -> None:
        again = self.asked
        if not again:
            self._first = number
        if number == getattr(signal, "SIGHUP", None):
            self._forget_terminals()
        if again:
            raise SystemExit(self.code)
        if not self.keeping:
            raise Stopped(self.code)
        if not self._quiet:
            # Not through sys.stderr: the signal may have come in the middle of a write to it, which takes no second one
            with suppress(OSError):
                os.write(2, b"\n" + _STOPPING if 2 in self._terminals else _STOPPING)

    def _forget_terminals(self) -> None:
        """Let what is said go nowhere: writing to a terminal that has gone is an error."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in self._terminals:
                os.dup2(nowhere, descriptor)
            os.close(nowhere)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


class Savable(Protocol):
    """What can be written as a picture."""

    def save(self, path: Path, bits: int = 8) -> None:
        """Write it, atomically."""


def save_elsewhere(error: OutputError, result: Savable, stem: str, bits: int) -> str:
    """Save a picture that cannot be written to its own place, as a PNG, where that works first: in the current folder,
    the home folder, a private folder for temporary files. What happened, in one line."""
    why = str(error).split(";")[0]
    folders: list[Callable[[], Path]] = [Path.cwd, Path.home, lambda: Path(tempfile.mkdtemp(prefix="nstcore-"))]
    for folder in folders:
        with suppress(OutputError, OSError, RuntimeError):
            place = new_name(folder(), stem)
            result.save(place, bits=bits)
            return f"{why}; the picture is in {place}"
    return f"{why}; nor could it be saved in the current folder, the home folder or the temporary one"
