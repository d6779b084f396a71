"""Reading HDF5 from anywhere: nothing is believed, and nothing outside the file is touched.

HDF5 can point to other files (external links, external storage, virtual datasets), can declare shapes of any size over
a few bytes, and can hold chunks that inflate a thousandfold. Everything that is read passes through here: hard links
only, the expected shape and type before a byte is allocated, plain storage (or gzip inflated within the declared size).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from ..errors import WeightsError
from ..files import HDF5
from .weights import check_text, shown

_LARGEST_ATTRIBUTE = 64 * 1024
_DEFLATE = h5py.h5z.FILTER_DEFLATE
_GZIP_LEVEL = 9

# What h5py is known to raise for damaged files, besides OSError.
_DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    ArithmeticError,
    MemoryError,
    SystemError,
    zlib.error,
)

_Object = TypeVar("_Object", h5py.Group, h5py.Dataset)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, for reading; whatever HDF5 stumbles over inside the block ends as one `WeightsError`."""
    check_signature(path)
    try:
        # Files are replaced, never changed in place, so no lock is needed; some network folders cannot give one.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{shown(path)}: damaged or cut short ({shown(reason)}); fetch or convert it again"
        ) from error
    except WeightsError as error:
        raise WeightsError(f"{shown(path)}: {error}") from error


def check_signature(path: Path) -> None:
    """`WeightsError` unless `path` is a regular file that begins as HDF5 does."""
    head = first_bytes(path, len(HDF5))
    if head != HDF5:
        raise WeightsError(
            f"{shown(path)}: expected an HDF5 file, found one that begins with {head.hex(' ') or 'nothing'}"
        )


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a regular file; `WeightsError` if there is none or it cannot be read."""
    if os.path.isdir(path):
        raise WeightsError(f"{shown(path)}: expected a file, found a folder")
    if not os.path.exists(path):
        raise WeightsError(f"{shown(path)}: no such file")
    if not os.path.isfile(path):  # a pipe or a device could be read for ever
        raise WeightsError(f"{shown(path)}: expected a regular file")
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise WeightsError(f"{shown(path)}: cannot be read: {error.strerror}") from error


def has(group: h5py.Group, name: str) -> bool:
    """Whether the group holds that name, without following the link behind it."""
    return bool(group.id.links.exists(name.encode()))


def child(group: h5py.Group, name: str, kind: type[_Object]) -> _Object:
    """Member `name` of a group; soft and external links are never followed.

    Raises
    ------
    WeightsError
        If it is missing, a link, or of another kind.
    """
    where = shown(f"{group.name.rstrip('/')}/{name}")
    if not has(group, name):
        raise WeightsError(f"{where}: missing")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise WeightsError(f"{where}: expected data in this file, found a link to elsewhere")
    found = group[name]
    if not isinstance(found, kind):
        raise WeightsError(f"{where}: expected a {kind.__name__.lower()}, found a {type(found).__name__.lower()}")
    return found


def attribute(owner: h5py.Group | h5py.Dataset, name: str) -> str | int | float | tuple[float, ...]:
    """One attribute as a plain Python value: a line of text, a whole number, a number, or a tuple of numbers."""
    where = f"attribute {shown(name)}" if owner.name == "/" else f"{shown(owner.name)}: attribute {shown(name)}"
    if name not in owner.attrs:
        raise WeightsError(f"{where}: missing")
    raw = h5py.h5a.open(owner.id, name.encode())
    if raw.get_storage_size() > _LARGEST_ATTRIBUTE:
        raise WeightsError(f"{where}: expected a few bytes, found {raw.get_storage_size()}")
    kind = raw.get_type()
    # Text of variable length lies in a heap without checksums, and HDF5 may search a damaged one for ever.
    if isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str() and raw.shape == ():
        return check_text(where, bytes(owner.attrs[name]).decode())
    if isinstance(kind, h5py.h5t.TypeIntegerID) and raw.shape == ():
        return int(owner.attrs[name])
    if isinstance(kind, h5py.h5t.TypeFloatID) and len(raw.shape) <= 1:
        value = owner.attrs[name]
        return tuple(map(float, value)) if raw.shape else float(value)
    raise WeightsError(f"{where}: expected text of fixed length or numbers, found {type(kind).__name__} {raw.shape}")


def set_attribute(owner: h5py.Group | h5py.Dataset, name: str, value: object) -> None:
    """Write an attribute as `attribute` reads it: text as UTF-8 of fixed length, numbers as they are."""
    if isinstance(value, str):
        packed = value.encode()
        owner.attrs.create(name, packed, dtype=h5py.string_dtype("utf-8", len(packed)))
    else:
        owner.attrs[name] = np.array(value)


def read_plain(dataset: h5py.Dataset, shape: tuple[int, ...], dtypes: Iterable[str]) -> np.ndarray:
    """A dataset stored without filters, of exactly this shape and one of these types (as "float32")."""
    _check_declared(dataset, shape, dtypes)
    created = dataset.id.get_create_plist()
    if created.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or created.get_nfilters():
        raise WeightsError(f"{dataset.name}: expected plain storage, found chunks, filters or a virtual dataset")
    if created.get_layout() == h5py.h5d.CONTIGUOUS and created.get_external_count():
        raise WeightsError(f"{dataset.name}: expected data in this file, found external storage")
    if dataset.id.get_storage_size() != dataset.size * dataset.dtype.itemsize:
        # else HDF5 would answer with its fill value
        raise WeightsError(f"{dataset.name}: declared, but its data was never written")
    return dataset[...]


def gzip_rows(shape: tuple[int, ...]) -> int:
    """How many rows (filters) one chunk of a compressed dataset holds."""
    return min(64, shape[0])


def write_gzip(group: h5py.Group, name: str, data: np.ndarray) -> h5py.Dataset:
    """A dataset in gzip-compressed chunks of whole rows, as `read_gzip` expects it."""
    chunks = (gzip_rows(data.shape), *data.shape[1:])
    return group.create_dataset(name, data=data, chunks=chunks, compression="gzip", compression_opts=_GZIP_LEVEL)


def read_gzip(dataset: h5py.Dataset, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A dataset written by `write_gzip`.

    The chunks are inflated here, not by HDF5, whose gzip filter would let a chunk grow far beyond its declared size.
    """
    _check_declared(dataset, shape, [dtype])
    created = dataset.id.get_create_plist()
    rows = gzip_rows(shape)
    if dataset.chunks != (rows, *shape[1:]) or created.get_nfilters() != 1 or created.get_filter(0)[0] != _DEFLATE:
        raise WeightsError(f"{dataset.name}: expected gzip chunks of {(rows, *shape[1:])}, found {dataset.chunks}")
    out = np.empty(shape, dtype)
    size = rows * out[0].nbytes
    for start in range(0, shape[0], rows):
        at = (start, *(0 for _ in shape[1:]))
        if dataset.id.get_chunk_info_by_coord(at).size > 2 * size + 1024:
            raise WeightsError(f"{dataset.name}: a chunk is larger than the data it stands for")
        skipped, packed = dataset.id.read_direct_chunk(at)  # HDF5 may store a chunk as it is, and says so in a mask
        plain = packed if skipped else _inflate(packed, size)
        if len(plain) != size:
            raise WeightsError(f"{dataset.name}: a chunk does not hold the {size} bytes that it stands for")
        chunk = np.frombuffer(plain, dtype).reshape(rows, *shape[1:])
        out[start : start + rows] = chunk[: shape[0] - start]
    return out


def _inflate(packed: bytes, size: int) -> bytes:
    """What `packed` inflates to, or its first size + 1 bytes."""
    inflater = zlib.decompressobj()
    plain = inflater.decompress(packed, size + 1)
    return plain if inflater.eof or len(plain) > size else b""


def _check_declared(dataset: h5py.Dataset, shape: tuple[int, ...], dtypes: Iterable[str]) -> None:
    accepted = tuple(dtypes)
    native = dataset.dtype.newbyteorder("=")  # big-endian numbers are as good
    if dataset.shape != shape or native not in map(np.dtype, accepted):
        found = f"{dataset.dtype} {dataset.shape}"
        raise WeightsError(f"{dataset.name}: expected {' or '.join(accepted)} {shape}, found {shown(found)[:120]}")
