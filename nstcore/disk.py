"""Arrays that lie on disk: for a picture that does not fit into memory, worked on strip by strip.

        x = disk_array((3, 16384, 16384))           3.2 GB of disk, no memory yet
        for rows in strips(x):                      slices of rows of a bounded size
            x[:, rows] = ...                        the pages touched become resident
            release(x)                              and leave memory again; what they hold stays

The operating system reads and writes such an array's pages by itself (a shared mapping of a file). The file has no
name: it is gone with the array, however the process ends (where a system cannot do that, when the process ends).
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .errors import OutputError
from .files import reason, shown_bytes

STRIP_BYTES = 1 << 24  # of one strip; large enough that what a strip costs by itself does not count
MEMORY_BYTES = 1 << 22  # of an array that need not lie on disk
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h


def disk_array(shape: Sequence[int], dtype: Any = np.float32, folder: str | Path | None = None) -> np.memmap:
    """An array of zeros in a nameless file, whose space on the disk is taken at once.

    Parameters
    ----------
    shape : sequence of int
        At least one number in all.
    dtype : dtype
    folder : path, optional
        Where the file lies; without it, `scratch_folder()`.

    Returns
    -------
    memmap of shape `shape`, C-contiguous, writable

    Raises
    ------
    OutputError
        If the disk has too little room left, or nothing can be written there.
    """
    place = scratch_folder() if folder is None else Path(folder)
    need = math.prod(shape) * np.dtype(dtype).itemsize
    check_room(need, place)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            _take(file.fileno(), need)
            return np.memmap(file, dtype, "r+", shape=tuple(shape))
    except OSError as error:
        raise OutputError(
            f"{place}: no array of {shown_bytes(need)} can be made there: {reason(error)}; {_OTHER}"
        ) from None


def _take(file: int, need: int) -> None:
    """Take the space now, where the system can: a disk that is full later would end the process by a signal."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, need)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # this file system cannot
            raise


def new_array(shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """An array in memory, its numbers arbitrary; or, where it takes more than MEMORY_BYTES, one on disk."""
    if math.prod(shape) * np.dtype(dtype).itemsize <= MEMORY_BYTES:
        return np.empty(tuple(shape), dtype)
    return disk_array(shape, dtype)


def fill(array: np.ndarray, value: float) -> None:
    """Make all of an array (..., H, W) one number, strip by strip."""
    for rows in strips(array):
        array[..., rows, :] = value
        release(array)


def copy(source: Any, out: Any) -> None:
    """out = source, both (..., H, W), strip by strip; either may be a dataset of h5py."""
    for rows in strips(source if isinstance(source, np.ndarray) else out, STRIP_BYTES // 4):
        out[..., rows, :] = source[..., rows, :]
        release(*(a for a in (source, out) if isinstance(a, np.ndarray)))


def check_room(need: int, folder: str | Path | None = None) -> None:
    """Refuse, before any work, a disk that has less than `need` bytes left for arrays.

    Raises
    ------
    OutputError
        If that is so, or there is no such folder.
    """
    place = scratch_folder() if folder is None else Path(folder)
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise OutputError(f"{place}: no folder for arrays on disk: {reason(error)}; {_OTHER}") from None
    if free < need:
        raise OutputError(
            f"{place}: arrays on disk take {shown_bytes(need)}, and {shown_bytes(free)} are left there; make room, or"
            f" {_OTHER}"
        )


def scratch_folder() -> Path:
    """Where arrays on disk lie: what TMPDIR names, else /var/tmp (since /tmp often is memory), else the system's."""
    if os.environ.get("TMPDIR"):
        return Path(os.environ["TMPDIR"])
    lasting = Path("/var/tmp")
    return lasting if os.access(lasting, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


_OTHER = "set TMPDIR to a folder on a disk with room"  # the way out


def release(*arrays: np.ndarray) -> None:
    """Drop the resident pages of arrays on disk; what they hold stays, and comes back when it is touched.

    Parameters
    ----------
    arrays : memmap, or a view of one
        All pages of the file go, also where the view is only a part. Any other array is left as it is.
    """
    for array in arrays:
        mapping = _mapping(array)
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            with suppress(ValueError, OSError):  # advice: what the system does not take changes nothing
                mapping.madvise(mmap.MADV_DONTNEED)


def return_freed() -> None:
    """From now on, arrays of `MEMORY_BYTES` or more go back to the system when they are freed.

    By itself glibc keeps freed pieces of up to 32 MB for whoever wants memory next, and what is large but does not fit
    them is taken beside them: windows of changing sizes then hold 50 to 100 MB that nobody uses. It holds for the whole
    process. Other C libraries are left as they are.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, MEMORY_BYTES)


def on_disk(array: np.ndarray) -> bool:
    """Whether an array, or what it is a view of, lies on disk."""
    return _mapping(array) is not None


def strips(shape: Sequence[int] | np.ndarray, most: int | None = None, grid: int = 1) -> Iterator[slice]:
    """Slices of rows, in order, that cover a picture once.

    Parameters
    ----------
    shape : ndarray, or its shape (..., H, W)
        Of a shape alone, numbers of 4 bytes.
    most : int, optional
        Bytes of one strip, unless a single row (or `grid` rows) takes more; without it, STRIP_BYTES.
    grid : int
        Each strip but the last has a multiple of so many rows.

    Yields
    ------
    slice
        Of the last axis but one.
    """
    itemsize = shape.itemsize if isinstance(shape, np.ndarray) else 4
    sizes = shape.shape if isinstance(shape, np.ndarray) else tuple(shape)
    height = sizes[-2]
    row = max(1, math.prod(sizes) // max(height, 1) * itemsize)
    rows = max(1, (STRIP_BYTES if most is None else most) // row // grid) * grid
    for y in range(0, height, rows):
        yield slice(y, min(y + rows, height))


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    """The mapping that an array lies in, if it does."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
