"""Files that are either as they were or complete: written beside their place, then moved into it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file in the folder of `path`, which takes its place when the block ends well and vanishes when it does not.

    The file system sees the new content whole or not at all. A link is followed: what it points to is replaced.

    Raises
    ------
    OutputError
        If `path` is a folder, its folder is missing, or the operating system refuses (rights, a full disk).
    """
    part = _new_part(path)
    try:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(part, os.path.realpath(path))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {_reason(error)}; choose another place") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Find out, before any work, whether `replacing(path)` could end well; nothing that exists is touched."""
    _new_part(path).unlink()


def _new_part(path: str | Path) -> Path:
    """An empty file beside what `path` stands for, with the permissions that any new file gets."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OutputError(f"{path}: expected the name of a file to write, got a folder; add a file name")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: expected a plain file or a new name, got something else")
    if not target.parent.is_dir():
        raise OutputError(f"{path}: the folder {target.parent} does not exist; make it first")
    part = target.parent / f".{target.name[:80]}.{secrets.token_hex(4)}.part"
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OutputError(f"{path}: nothing can be written there: {_reason(error)}; choose another place") from None
    return part


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
