"""A lock file: one process at a time works on a file of the cache, and one that has gone holds nobody up."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError, WeightsError
from .weights import shown

_BEAT, _STALE = 10.0, 600.0  # seconds: how often a holder says that it lives, and when it is given up


@contextmanager
def locked(path: Path, name: str) -> Iterator[Callable[[], None]]:
    """Hold the lock at `path` while the block runs; yields a function by which the holder says that it lives.

    Raises
    ------
    WeightsError
        If another process holds it; `name` is what the message calls the weights.
    OutputError
        If the lock cannot be written.
    """
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time_ns()})
    for attempt in (1, 2):
        try:
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "w") as file:
                file.write(mine)
            break
        except FileExistsError:
            if attempt == 2 or not _take_away_if_stale(path):
                raise WeightsError(
                    f"weights {name}: another process is fetching them; wait for it, or if there is none, remove {path}"
                ) from None
        except OSError as error:
            raise OutputError(f"{shown(path)}: cannot be written: {error.strerror}; set NSTCORE_HOME") from error
    last = time.monotonic()

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last >= _BEAT:
            last = time.monotonic()
            with suppress(OSError):
                os.utime(path)

    try:
        yield beat
    finally:
        with suppress(OSError):
            if path.read_text() == mine:
                path.unlink()


def _take_away_if_stale(path: Path) -> bool:
    """Remove a lock whose holder has gone; whether that was so."""
    try:
        seen = path.read_text()
        if time.time() - path.stat().st_mtime < _STALE and not _has_gone(seen):
            return False
        # Two may find it stale at once: it is moved aside first, and put back if it is not the one that was looked at.
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        os.rename(path, aside)
        if (stale := aside.read_text() == seen) is False:
            with suppress(OSError):
                os.link(aside, path)
        aside.unlink()
        return stale
    except FileNotFoundError:
        return True  # it has just been given back
    except OSError:
        return False


def _has_gone(lock: str) -> bool:
    """Whether the process that wrote the lock ran on this machine and runs no more."""
    try:
        facts = json.loads(lock)
        if os.name != "posix" or facts["host"] != socket.gethostname():
            return False
        os.kill(int(facts["pid"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, OSError, OverflowError):
        pass
    return False
