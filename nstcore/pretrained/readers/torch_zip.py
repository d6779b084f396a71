"""The zip archive that `torch.save` writes since torch 1.6; torch itself is not needed.

    NAME/data.pkl       a pickle that describes the tensors
    NAME/byteorder      little or big (since torch 2.1; little before)
    NAME/data/KEY       the numbers of one storage

Everything is stored, never compressed [1]_, so a tensor is read from its place in the file: nothing is inflated and
nothing is unpacked. Of the storages only the convolutions' are read.

References
----------
.. [1] PyTorch, caffe2/serialize/inline_container.cc (PyTorchStreamWriter) and torch/serialization.py (_save).
.. [2] PKWARE, APPNOTE.TXT, section 4.3.7: the local file header.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import WeightsError
from .. import hdf5
from ..weights import shown
from . import state_dict, torch_pickle
from .source import Source, opened

NAME = "torch zip archive"

_SIGNATURE = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field
_LARGEST_DIRECTORY = 1 << 20  # bytes; that of a VGG19 has 4 thousand
_BLOCK = 1 << 20

# What zipfile is known to raise for damaged files, besides OSError.
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, struct.error)


def recognise(path: Path) -> bool:
    """Whether it is a file that begins as a zip archive does; what else it may be, `read` says."""
    return os.path.isfile(path) and hdf5.first_bytes(path, len(_SIGNATURE)) == _SIGNATURE


def read(path: Path) -> Source:
    """Read VGG16 or VGG19, or the beginning of one, told apart by names and shapes.

    Raises
    ------
    WeightsError
        If the archive is damaged or holds compressed data, its pickle names anything but tensors and ordered
        dictionaries, or it is not one of these networks.
    """
    with tensors(path) as (named, read_tensor):
        return state_dict.assemble(NAME, path, named, read_tensor)


@contextmanager
def tensors(path: Path) -> Iterator[tuple[dict[str, torch_pickle.Tensor], Callable[[torch_pickle.Tensor], np.ndarray]]]:
    """The tensors of the archive by name, whatever network they are, and how to read the numbers of one.

    Raises
    ------
    WeightsError
        As `read`, but for the network.
    """
    with opened(path) as (file, size):
        archive = _Archive(file, _entries(file, size))
        pickle = io.BytesIO(archive.whole("data.pkl", torch_pickle.LARGEST_PICKLE))
        named = torch_pickle.state_dict(torch_pickle.Machine(pickle).load())
        order = archive.byte_order()

        def read_tensor(tensor: torch_pickle.Tensor) -> np.ndarray:
            storage = tensor.storage
            start = archive.checked(f"data/{storage.key}", storage.numel * state_dict.ITEM_SIZES[storage.dtype])
            return torch_pickle.read_tensor(file, tensor, start, order)

        yield named, read_tensor


@dataclass(frozen=True)
class _Archive:
    """The entries of one archive, by name without the folder that all of them lie in."""

    file: BinaryIO
    entries: dict[str, zipfile.ZipInfo]
    starts: dict[str, int] = field(default_factory=dict)  # of the entries whose checksum was seen to fit

    def whole(self, name: str, largest: int) -> bytes:
        size = self._entry(name).file_size
        if size > largest:
            raise WeightsError(f"{name}: expected at most {largest} bytes, found {size}")
        self.file.seek(self.checked(name, size))
        return self.file.read(size)

    def checked(self, name: str, size: int) -> int:
        """First byte of an entry of `size` bytes, once it is sure that its checksum fits."""
        entry = self._entry(name)
        if entry.file_size != size:
            raise WeightsError(f"{shown(name)[:80]}: expected {size} bytes, found {entry.file_size}")
        if name in self.starts:
            return self.starts[name]
        self.file.seek(entry.header_offset)
        header = self.file.read(_LOCAL_HEADER.size)
        if len(header) != _LOCAL_HEADER.size or not header.startswith(_SIGNATURE):
            raise WeightsError(f"{shown(name)[:80]}: its place in the archive is damaged")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = self.file.seek(name_length + extra_length, os.SEEK_CUR)
        checksum = 0
        for done in range(0, size, _BLOCK):
            checksum = zlib.crc32(self.file.read(min(_BLOCK, size - done)), checksum)
        if entry.CRC not in (checksum, 0):  # torch writes 0 if told not to compute it
            raise WeightsError(f"{shown(name)[:80]}: its data does not fit its checksum; fetch it again")
        self.starts[name] = start
        return start

    def byte_order(self) -> state_dict.ByteOrder:
        if "byteorder" not in self.entries:
            return "<"
        match self.whole("byteorder", 16):
            case b"little":
                return "<"
            case b"big":
                return ">"
        raise WeightsError("byteorder: expected little or big")

    def _entry(self, name: str) -> zipfile.ZipInfo:
        if name not in self.entries:
            raise WeightsError(f"{shown(name)[:80]}: missing in the archive")
        return self.entries[name]


def _entries(file: BinaryIO, size: int) -> dict[str, zipfile.ZipInfo]:
    """What the archive holds, once it is sure that every entry is stored, has one name and lies apart from others."""
    with _listing(file, size) as archive:
        listed = archive.infolist()
    folders = [entry.filename.removesuffix("data.pkl") for entry in listed if entry.filename.endswith("/data.pkl")]
    if len(folders) != 1 or folders[0].count("/") != 1:
        found = ", ".join(shown(entry.filename)[:40] for entry in listed[:3]) or "nothing"
        raise WeightsError(f"expected a file written by torch.save, found a zip archive of {found}")
    entries: dict[str, zipfile.ZipInfo] = {}
    end = 0
    for entry in sorted(listed, key=lambda entry: entry.header_offset):
        name = entry.filename
        what = shown(name)[:80]
        if name != entry.orig_filename or ".." in name.split("/") or "\\" in name or not name.startswith(folders[0]):
            raise WeightsError(f"{what}: expected only names inside {shown(folders[0])[:80]}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise WeightsError(f"{what}: expected plain storage as torch writes it, found it compressed or encrypted")
        short = name.removeprefix(folders[0])
        if short in entries:
            raise WeightsError(f"{what}: found twice in the archive")
        if entry.header_offset < end:
            raise WeightsError(f"{what}: lies over another entry of the archive")
        end = entry.header_offset + _LOCAL_HEADER.size + entry.file_size
        if end > size:
            raise WeightsError(f"{what}: expected to end within {size} bytes; the file is damaged or cut short")
        entries[short] = entry
    return entries


@contextmanager
def _listing(file: BinaryIO, size: int) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(_Bounded(file, size)) as archive:  # type: ignore[arg-type]
            yield archive
    except _DAMAGE as error:
        reason = shown(" ".join(str(error).split()))[:120]
        raise WeightsError(f"damaged or cut short ({reason}); fetch it again") from error


@dataclass
class _Bounded:
    """What `zipfile` needs of a file to list it, refusing to read a directory of any size."""

    file: BinaryIO
    size: int

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        rest = max(0, self.size - self.file.tell())
        wanted = rest if count < 0 else min(count, rest)
        if wanted > _LARGEST_DIRECTORY:
            raise WeightsError(f"expected a directory of at most {_LARGEST_DIRECTORY} bytes, found {wanted}")
        return self.file.read(wanted)
