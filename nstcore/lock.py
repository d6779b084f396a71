"""A lock file: one process at a time works on something, and one that has gone holds nobody up."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import NstcoreError, OutputError

_BEAT, _STALE = 10.0, 600.0  # seconds: how often a holder says that it lives, and when one elsewhere is given up
_WRITING = 2.0  # seconds after which an empty lock is that of a process that died while it made it


@contextmanager
def locked(path: Path, busy: Callable[[str], NstcoreError], way_out: str = "") -> Iterator[Callable[[], None]]:
    """Hold the lock at `path` while the block runs; yields a function by which the holder says that it lives.

    A holder that has died is succeeded at once on the same host; one on another host after ten minutes without a sign
    of life.

    Parameters
    ----------
    path : path
        Of the lock file, beside what is worked on.
    busy : callable (holder) -> NstcoreError
        What to raise if another process has it; `holder` reads "process 123", with the host if that is another.
    way_out : str
        What to do where the lock cannot be written.

    Raises
    ------
    NstcoreError
        What `busy` makes.
    OutputError
        If the lock cannot be written.
    """
    pid = os.getpid()
    mine = json.dumps({"host": socket.gethostname(), "pid": pid, "began": _began(pid), "time": time.time_ns()})
    for attempt in (1, 2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            break
        except FileExistsError:
            if attempt == 2 or not _take_away_if_stale(path):
                raise busy(_holder(path)) from None
        except OSError as error:
            raise _unwritable(path, error, way_out) from None
    try:
        _fill(path, handle, mine, way_out)
        last = time.monotonic()

        def beat() -> None:
            nonlocal last
            if time.monotonic() - last >= _BEAT:
                last = time.monotonic()
                with suppress(OSError):
                    os.utime(path)

        yield beat
    finally:
        with suppress(OSError, UnicodeDecodeError):
            if path.read_text() in (mine, ""):
                path.unlink()


def _fill(path: Path, handle: int, text: str, way_out: str) -> None:
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
    except OSError as error:
        raise _unwritable(path, error, way_out) from None


def _unwritable(path: Path, error: OSError, way_out: str) -> OutputError:
    reason = (error.strerror or str(error)).lower()
    return OutputError(f"{path}: cannot be written: {reason}; {way_out or 'choose another place'}")


def _facts(lock: str) -> dict[str, Any]:
    """What a lock says of its holder; nothing where it cannot be read."""
    try:
        facts = json.loads(lock)
        return {"host": str(facts["host"]), "pid": int(facts["pid"]), "began": facts.get("began")}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}


def _holder(path: Path) -> str:
    """Who has a lock, in words."""
    facts: dict[str, Any] = {}
    with suppress(OSError, UnicodeDecodeError):
        facts = _facts(path.read_text())
    if not facts:
        return "another process"
    host = facts["host"]
    elsewhere = "" if host == socket.gethostname() else f" on {host if host.isprintable() else ascii(host)[1:-1]}"
    return f"process {facts['pid']}{elsewhere}"


def _take_away_if_stale(path: Path) -> bool:
    """Remove a lock whose holder has gone; whether that was so."""
    try:
        seen = path.read_text(errors="replace")
        age = time.time() - path.stat().st_mtime
        if not _is_stale(seen, age):
            return False
        # Two may find it stale at once: it is moved aside first, and put back if it is not the one that was looked at.
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        os.rename(path, aside)
        if (stale := aside.read_text(errors="replace") == seen) is False:
            with suppress(OSError):
                os.link(aside, path)
        aside.unlink()
        return stale
    except FileNotFoundError:
        return True  # it has just been given back
    except OSError:
        return False


def _is_stale(lock: str, age: float) -> bool:
    """Whether the holder has gone: for certain where it is of this host, by its silence elsewhere."""
    if not lock:
        return age >= _WRITING
    facts = _facts(lock)
    if os.name == "posix" and facts and facts["host"] == socket.gethostname():
        try:
            os.kill(facts["pid"], 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:
            pass  # it lives, and is somebody else's
        # A number is given anew to later processes: the time of its beginning tells them apart
        now = _began(facts["pid"])
        if facts["began"] is not None and now is not None:
            return bool(facts["began"] != now)
    return age >= _STALE


def _began(pid: int) -> str | None:
    """When a process began, as Linux counts it (which boot, and ticks since); None where that is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {stat.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return None
