"""The state of a run in a file, so that it can go on from there as if nothing had happened.

An HDF5 file: a dataset `record` with everything that is not an array, as JSON, and one dataset for each array. In front
of it stands a line of text with the SHA-256 of all that follows, in a block that HDF5 leaves to its users: HDF5 never
sees a file that was cut off or changed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from .. import disk, files
from ..errors import OutputError, SnapshotError

Arrays = Mapping[str, Callable[[], np.ndarray]]  # each is made when it is written: a copy of one at a time

_BLOCK = 512  # the smallest user block of HDF5
_MAGIC = files.SNAPSHOT + b"1\n"
_SHARE = 0.05  # of the time that may go into writing


def write_snapshot(path: str | Path, record: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a snapshot, atomically.

    Raises
    ------
    OutputError
        If it cannot be written; what was there before is as it was.
    """
    with files.replacing(path) as part:
        try:
            with h5py.File(part, "w", userblock_size=_BLOCK, libver="latest") as file:
                file.create_dataset("record", data=np.frombuffer(json.dumps(record).encode(), np.uint8))
                for name, make in arrays.items():
                    array = make()
                    disk.copy(array, file.create_dataset(name, array.shape, array.dtype))
        except (RuntimeError, ValueError) as error:  # how h5py words some refusals of the operating system
            raise OutputError(f"{path}: the snapshot cannot be written: {' '.join(str(error).split())}") from None
        with part.open("rb+") as file:
            digest = _digest(file)
            file.seek(0)
            file.write(_MAGIC + digest.encode() + b"\n")


@contextmanager
def open_snapshot(path: str | Path) -> Iterator[tuple[dict[str, Any], Callable[[str], np.ndarray]]]:
    """A snapshot's record, and a function that reads an array by its name.

    Raises
    ------
    SnapshotError
        If it is missing, damaged, or no snapshot.
    """
    try:
        with Path(path).open("rb") as plain:
            head = plain.read(_BLOCK)
            if not head.startswith(_MAGIC):
                raise SnapshotError(f"{path}: expected a snapshot of this version of nstcore, got another file")
            if head[len(_MAGIC) :].split(b"\n")[0] != _digest(plain).encode():
                raise SnapshotError(f"{path}: the snapshot is damaged: what it holds is not what was written")
    except OSError as error:
        raise SnapshotError(f"{path}: no snapshot can be read there: {files.reason(error)}") from None
    with h5py.File(path, "r") as file:
        yield json.loads(bytes(file["record"][...])), lambda name: _read(file[name])


def _read(stored: h5py.Dataset) -> np.ndarray:
    """An array; a large one on disk again."""
    array = disk.new_array(stored.shape, stored.dtype)
    disk.copy(stored, array)
    return array


def _digest(file: BinaryIO) -> str:
    """SHA-256 of all that follows the user block."""
    file.seek(_BLOCK)
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


@dataclass
class Clock:
    """When the next snapshot is due.

    Parameters
    ----------
    every : float
        Seconds between two; more where writing takes so long that it would cost more than a twentieth of the time.
        0: never.
    """

    every: float

    def __post_init__(self) -> None:
        self._next = time.monotonic() + self.every

    @property
    def due(self) -> bool:
        return self.every > 0 and time.monotonic() >= self._next

    def wrote(self, seconds: float) -> None:
        """A snapshot took so long."""
        self._next = time.monotonic() + max(self.every, seconds / _SHARE)
