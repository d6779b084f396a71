"""Files that are either as they were or complete: written beside their place, then moved into it."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError

HDF5, SNAPSHOT = b"\x89HDF\r\n\x1a\n", b"nstcore snapshot "  # what such files begin with
_NAME_BYTES = 255  # the most that file systems take in a name
_unfinished: set[Path] = set()  # parts that are being written


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
        raise OutputError(f"{path}: cannot be written: {reason(error)}; choose another place") from error
    finally:
        _discard(part)


def check_writable(path: str | Path) -> None:
    """Find out, before any work, whether `replacing(path)` could end well; nothing that exists is touched."""
    _discard(_new_part(path))


def make_folder(folder: str | Path, way_out: str = "choose another place") -> None:
    """A folder, and those that it is in, if they are not there yet; `OutputError` where that cannot be."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be made: {reason(error)}; {way_out}") from None


def check_name(path: str | Path) -> None:
    """`OutputError` for a name that no file can have: too long, with a zero byte or half a character in it, or in a
    current folder that has been removed."""
    try:
        if not os.path.isabs(path):
            os.getcwd()
    except OSError as error:
        raise OutputError(f"{path}: the current folder is gone: {reason(error)}; change to another") from None
    try:
        with suppress(FileNotFoundError):
            os.lstat(path)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        shown = ascii(str(path)[:60])[1:-1]
        raise OutputError(f"{shown}: no file of this name can be written: {why}; choose another one") from None


def check_kind(path: str | Path, begins: bytes, what: str) -> None:
    """Refuse, before any work, to write over a file of another kind, somebody's photograph, say; an empty one may go.

    Raises
    ------
    OutputError
        If there is a file that does not begin so; `what` was expected.
    """
    if not os.path.isfile(path):
        return
    try:
        with open(path, "rb") as file:
            head = file.read(len(begins))
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {reason(error)}; choose another name") from None
    if head and head != begins:
        raise OutputError(f"{path}: expected {what} or a new name, got another file; choose another name")


def check_space(path: str | Path, need: int, what: str) -> None:
    """Refuse, before any work, a disk that has less than `need` bytes left for `what`.

    Raises
    ------
    OutputError
        If that is known to be so.
    """
    free = free_space(path)
    if free is not None and free < need:
        raise OutputError(
            f"{path}: {what} takes some {shown_bytes(need)}, and {shown_bytes(free)} are left there; make room, or "
            "choose another place"
        )


def free_space(path: str | Path) -> int | None:
    """Bytes left on the disk of a file to be; None where the system does not say."""
    with suppress(OSError):
        return shutil.disk_usage(Path(os.path.realpath(path)).parent).free
    return None


def shown_bytes(count: float) -> str:
    """A number of bytes with two digits or three: 4.2 MB."""
    if count < 1000:
        return f"{count:.0f} bytes"
    thousands = 1 if count < 999.5e3 else 2 if count < 999.5e6 else 3
    count /= 1000**thousands
    return f"{count:.{0 if count >= 9.95 else 1}f} {('kB', 'MB', 'GB')[thousands - 1]}"


def beside(path: Path, suffix: str, prefix: str = "") -> Path:
    """The name of a file that goes with another: `prefix`, its name, `suffix`, in its folder.

    Where that is longer than file systems take, the middle is cut, and a hash of the whole name keeps it its own.
    """
    name = path.name
    if not name:
        raise OutputError(f"{path}: expected the name of a file, got a folder; add a file name")
    most = _NAME_BYTES - len(os.fsencode(prefix + suffix))
    if len(os.fsencode(name)) > most:
        name = f"{_cut(name, most - 9)}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    return path.with_name(f"{prefix}{name}{suffix}")


def discard_unfinished() -> None:
    """Remove what this process has not finished writing: for an end that lets no block end."""
    for part in list(_unfinished):
        _discard(part)


def discard_parts(path: str | Path) -> None:
    """Remove what killed processes have left of `path`; only for one that knows that nobody else is writing it."""
    target = Path(os.path.realpath(path))
    form = re.compile(re.escape(_part_prefix(target)) + r"[0-9a-f]{8}\.part")
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            if form.fullmatch(entry.name):
                with suppress(OSError):
                    os.unlink(entry.path)


def reason(error: OSError) -> str:
    """Why the operating system refused, in its words."""
    return (error.strerror or str(error)).lower()


def _new_part(path: str | Path) -> Path:
    """An empty file beside what `path` stands for, with the permissions that any new file gets."""
    check_name(path)
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OutputError(f"{path}: expected the name of a file to write, got a folder; add a file name")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: expected a plain file or a new name, got something else")
    if not target.parent.is_dir():
        raise OutputError(f"{path}: the folder {target.parent} does not exist; make it first")
    part = target.parent / f"{_part_prefix(target)}{secrets.token_hex(4)}.part"
    _unfinished.add(part)  # before it is there: an end may fall anywhere
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        _unfinished.discard(part)
        raise OutputError(f"{path}: nothing can be written there: {reason(error)}; choose another place") from None
    return part


def _part_prefix(target: Path) -> str:
    return f".{_cut(target.name, 160)}."


def _discard(part: Path) -> None:
    with suppress(OSError):
        part.unlink(missing_ok=True)
    _unfinished.discard(part)


def _cut(name: str, most: int) -> str:
    """The beginning of a name, of up to `most` bytes."""
    return os.fsencode(name)[:most].decode("utf-8", "ignore") if len(os.fsencode(name)) > most else name
