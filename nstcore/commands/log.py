"""`--log FILE.jsonl`: what a run does, one JSON object a line, for programs to read while it works and afterwards.

    {"kind": "start", "time": ..., "output", "content", "style", "settings", "objective", "weights", "engine", ...}
    {"kind": "step", "time": ..., "evaluations", "iteration", "size", "losses", "step_length", "seconds", "rss"}
    {"kind": "event", "time": ..., "text"}
    {"kind": "end", "time": ..., "status", "complete", ...}

Times are UTC; `rss` is the process's memory in bytes, where the system tells it. Lines are added to what is there. A
number that is none (a loss that became infinite) is null.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import OutputError

if TYPE_CHECKING:
    from ..transfer import Result, Step

_HEAD = b'{"kind": '  # of every line: what begins so and is no JSON is a line that was cut off
_TAIL = 1 << 20  # bytes at the end among which the last line is looked for


def check_log(path: Path) -> None:
    """Refuse, before any work, a file to which no lines can be added, or that is no log; nothing is touched.

    Raises
    ------
    OutputError
        If that is so.
    """
    if not os.path.exists(path) or os.path.isdir(path):
        files.check_writable(path)
        return
    if not os.path.isfile(path):
        raise OutputError(f"{path}: expected a plain file or a new name for --log, got something else")
    if not os.access(path, os.W_OK):
        raise OutputError(f"{path}: no lines can be added to it (permission denied); choose another file for --log")
    try:
        with path.open("rb") as file:
            head = file.read(len(_HEAD))
    except OSError as error:
        raise OutputError(f"{path}: {files.reason(error)}; choose another file for --log") from None
    if head and head != _HEAD:
        raise OutputError(f"{path}: expected a log of nstcore or a new name for --log, got another file")


class Log:
    """Lines about one run; nothing is written without a path. A context manager: it says how the run ended, if nobody
    else has.

    A disk that is full does not end the run: `problem` then says what happened to the first line that is missing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: int | None = None
        self._ended = False
        self.problem: str | None = None

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if self._file is None:
            return
        if not self._ended:
            words = "" if error is None else " ".join(str(error).split())
            self._add("end", status=words or (kind.__name__ if kind else "ended"), complete=False)
        os.close(self._file)
        self._file = None

    def start(self, **facts: Any) -> None:
        """The first line of a run; the file is made here, not before there is something to say."""
        if self._path is None:
            return
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            self._mend()
        except OSError as error:
            self._failed(error)
        self._add("start", **facts)

    def step(self, step: Step) -> None:
        """A line about an evaluation."""
        self._add(
            "step",
            evaluations=step.evaluations,
            iteration=step.iteration,
            size=step.size,
            losses=asdict(step.terms),
            step_length=step.step_length,
            seconds=round(step.seconds, 6),
            rss=resident_bytes(),
        )

    def event(self, text: str) -> None:
        """A line about something that happened."""
        self._add("event", text=text)

    def end(self, result: Result, **facts: Any) -> None:
        """The last line of a run that came to a picture."""
        self._ended = True
        self._add(
            "end",
            status=result.status,
            interrupted=result.interrupted,
            seconds=round(result.seconds, 6),
            losses=asdict(result.terms),
            **facts,
        )

    def _add(self, kind: str, **facts: Any) -> None:
        if self._file is None:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps(_plain({"kind": kind, "time": time, **facts}), allow_nan=False).encode("ascii") + b"\n"
        try:
            before = os.fstat(self._file).st_size
            written = os.write(self._file, line)  # at once: whoever reads at the same time sees whole lines
            if written < len(line):
                os.ftruncate(self._file, before)
                raise OSError(0, "no space left on device")
        except OSError as error:
            self._failed(error)

    def _mend(self) -> None:
        """Cut off a last line that a killed run has left unfinished."""
        assert self._file is not None
        size = os.fstat(self._file).st_size
        start = max(0, size - _TAIL)
        os.lseek(self._file, start, os.SEEK_SET)
        tail = os.read(self._file, _TAIL)
        last = tail[tail.rfind(b"\n") + 1 :]
        if not last:
            return
        try:
            json.loads(last)
            os.write(self._file, b"\n")
        except ValueError:
            if last.startswith(_HEAD) or _HEAD.startswith(last):
                os.ftruncate(self._file, size - len(last))

    def _failed(self, error: OSError) -> None:
        if self.problem is None:
            self.problem = f"{self._path}: lines are missing from the log: {files.reason(error)}; the run goes on"


def resident_bytes() -> int | None:
    """Memory that this process holds now; None where the system does not tell."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def _plain(value: Any) -> Any:
    """What JSON has: infinities and what is no number become null, keys and paths text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
