"""Where compiled kernels are kept: one folder beside the converted weights, for all processes, with a limit.

Names hold everything that a file was made from, so files never change; what has not been used for longest goes first.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from ...pretrained.places import cache_folder

LIMIT = 512 * 2**20  # bytes; one version of all kernels for one GPU is about 3 MB


def folder() -> Path:
    """The folder; it need not exist."""
    return cache_folder().parent / "kernels"


def own_folder() -> Path:
    """A folder of this process alone, which goes with it: where the other one cannot be written."""
    return Path(_own_folder().name)


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="nstcore-kernels-")


def use(*paths: Path) -> None:
    """Note that these files are of use."""
    for path in paths:
        with suppress(OSError):  # a folder that may only be read, a file that has just gone
            os.utime(path)


def prune(limit: int = LIMIT) -> None:
    """Where there are more than `limit` bytes, delete the files that were used longest ago, down to half of it."""
    files = []
    for path in folder().glob("*.*"):
        with suppress(OSError):
            facts = path.stat()
            files.append((facts.st_mtime, facts.st_size, path))
    held = sum(size for _, size, _ in files)
    if held <= limit:
        return
    for _, size, path in sorted(files):
        with suppress(OSError):
            path.unlink()
            held -= size
        if held <= limit // 2:
            break
