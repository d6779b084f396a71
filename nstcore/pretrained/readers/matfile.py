"""MAT-file, version 5: the container of MATLAB [1]_, read as a stream.

    file            128 bytes of header, then elements
    element         type and byte count, 4 bytes each, data, padding to 8; or all in 8, for up to 4 bytes of data
    miMATRIX        flags and class, dimensions, name, then numbers, or the matrices of its cells or fields one by one
    miCOMPRESSED    the same, behind zlib: one variable, of any size, in one stream

A variable is read in one pass from front to back, so that a compressed one never has to be held: what is not asked for
is inflated and dropped. Sizes are held against the element around them before anything is read or allocated, and
matrices nest only as deep as a caller goes into them.

References
----------
.. [1] MathWorks, "MAT-File Format", chapter 1, Level 5.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np

from ...errors import WeightsError
from ..weights import shown

HEADER_BYTES = 128
MAGIC = b"MATLAB 5.0 MAT-file"

CELL, STRUCT, CHAR, DOUBLE, SINGLE = 1, 2, 4, 6, 7
_CLASSES = {CELL: "cell array", STRUCT: "struct", CHAR: "text", DOUBLE: "double", SINGLE: "single"}

_MATRIX, _COMPRESSED = 14, 15
_INT8, _INT32, _UINT32 = 1, 5, 6
# Numbers may be stored in a smaller type than their class; text too.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "ascii", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}

_BLOCK = 1 << 16
_LARGEST_VARIABLE = 1 << 30  # bytes, inflated; the whole of VGG19 has 575 million
_MOST_PARTS = 4096  # cells of an array, fields of a struct; VGG19 has 43 layers
_LONGEST_TEXT = 1024
_MOST_DIMENSIONS = 32


class _Plain:
    """Bytes of a file up to `end`."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file = file
        self.end = end

    @property
    def position(self) -> int:
        return self._file.tell()

    def read_into(self, out: memoryview) -> None:
        if self._file.readinto(out) != len(out):  # type: ignore[attr-defined]
            raise WeightsError("the file ends in the middle of an element; it is cut short")

    def skip(self, count: int) -> None:
        self._file.seek(count, 1)


class _Inflating:
    """What the next `count` bytes of a file inflate to; never more of it than a block ahead is held."""

    def __init__(self, file: BinaryIO, count: int) -> None:
        self._file = file
        self._left = count
        self._inflater = zlib.decompressobj()
        self.position = 0
        self.end = _LARGEST_VARIABLE

    def read_into(self, out: memoryview) -> None:
        at = 0
        while at < len(out):
            piece = self._inflate(len(out) - at)
            out[at : at + len(piece)] = piece
            at += len(piece)

    def skip(self, count: int) -> None:
        while count:
            count -= len(self._inflate(count))

    def _inflate(self, most: int) -> bytes:
        """At least one byte, at most a block."""
        while True:
            packed = self._inflater.unconsumed_tail
            if not packed and not self._inflater.eof:
                packed = self._file.read(min(_BLOCK, self._left))
                self._left -= len(packed)
            try:
                plain = self._inflater.decompress(packed, min(most, _BLOCK))
            except zlib.error as error:
                raise WeightsError(f"a compressed variable is damaged ({shown(str(error))[:120]})") from error
            self.position += len(plain)
            if plain:
                return plain
            if self._inflater.eof or not packed:
                raise WeightsError("a compressed variable ends in the middle of an element; it is cut short")


ByteOrder = Literal["<", ">"]


@dataclass(frozen=True)
class _Element:
    """A tag: what follows at the stream's position."""

    kind: int
    nbytes: int
    end: int  # after the padding


class _Stream:
    """Elements one after the other, in the byte order of the file."""

    def __init__(self, source: _Plain | _Inflating, order: ByteOrder) -> None:
        self.source = source
        self.order = order

    def array(self, dtype: str, count: int) -> np.ndarray:
        """Numbers at the stream's position; the caller has checked their count."""
        out = np.empty(count, np.dtype(dtype).newbyteorder(self.order))
        self.source.read_into(memoryview(out.view(np.uint8)))  # type: ignore[arg-type]
        return out

    def element(self, end: int) -> _Element:
        """The tag at the stream's position; its data must lie before `end`."""
        self._require(8, end)
        first = int(self.array("u4", 1)[0])
        if first >> 16:  # small: the count in the upper half, and the data in the next four bytes
            nbytes, kind = first >> 16, first & 0xFFFF
            if nbytes > 4:
                raise WeightsError(f"expected up to 4 bytes in a small element, found {nbytes}; the file is damaged")
            return _Element(kind, nbytes, self.source.position + 4)
        nbytes = int(self.array("u4", 1)[0])
        self._require(nbytes, end)
        start = self.source.position
        if first == _COMPRESSED:  # the one kind that is not padded
            return _Element(first, nbytes, start + nbytes)
        # the last element's padding may be left out
        return _Element(first, nbytes, min(start + nbytes + -nbytes % 8, end))

    def small(self, kind: int, end: int, most: int, what: str) -> bytes:
        """The bytes of an element of that type, of which there must be few."""
        element = self.element(end)
        if element.kind != kind or element.nbytes > most:
            found = f"{element.nbytes} of type {element.kind}"
            raise WeightsError(f"{what}: expected up to {most} bytes of type {kind}, found {found}; damaged or foreign")
        data = self.array("u1", element.nbytes).tobytes()
        self.skip_to(element.end)
        return data

    def integers(self, kind: int, end: int, most: int, what: str) -> list[int]:
        data = self.small(kind, end, 4 * most, what)
        if len(data) % 4:
            raise WeightsError(f"{what}: expected whole numbers of 4 bytes, found {len(data)} bytes")
        dtype = np.dtype("i4" if kind == _INT32 else "u4").newbyteorder(self.order)
        return np.frombuffer(data, dtype).tolist()

    def skip_to(self, position: int) -> None:
        self.source.skip(position - self.source.position)

    def _require(self, count: int, end: int) -> None:
        left = min(end, self.source.end) - self.source.position
        if count > left:
            raise WeightsError(f"an element declares {count} bytes where {left} are left; damaged or cut short")


@dataclass(frozen=True)
class Matrix:
    """A variable, cell or field, whose content has not been read yet. It can be read once, before the next one.

    Parameters
    ----------
    name : str
        Of a variable; empty for cells and fields.
    kind : int
        CELL, STRUCT, CHAR, DOUBLE, SINGLE or another class; 0 for an empty element.
    dims : tuple of int
        At least two, the first varying fastest.
    """

    stream: _Stream
    end: int
    name: str
    kind: int
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def described(self) -> str:
        """Its class and dimensions, for a message."""
        return f"{_CLASSES.get(self.kind, f'class {self.kind}')} {'x'.join(map(str, self.dims))}"[:80]

    def cells(self, what: str) -> Iterator[Matrix]:
        """The matrices of a cell array, column by column."""
        self._expect(what, CELL)
        if self.size > _MOST_PARTS:
            raise WeightsError(f"{what}: expected up to {_MOST_PARTS} cells, found {self.size}")
        yield from (matrix for _, matrix in self._parts([""] * self.size))

    def fields(self, what: str) -> Iterator[tuple[str, Matrix]]:
        """Names and matrices of a struct, in its own order."""
        self._expect(what, STRUCT)
        if self.size != 1:
            raise WeightsError(f"{what}: expected one struct, found {self.described}")
        (width,) = self.stream.integers(_INT32, self.end, 1, f"{what}: length of field names") or (0,)
        if not 0 < width <= _LONGEST_TEXT:
            raise WeightsError(f"{what}: expected field names of up to {_LONGEST_TEXT} bytes, found {width}")
        names = self.stream.small(_INT8, self.end, _MOST_PARTS * 64, f"{what}: field names")
        if len(names) % width:
            raise WeightsError(f"{what}: expected field names of {width} bytes each, found {len(names)} bytes in all")
        each = [names[i : i + width] for i in range(0, len(names), width)]
        yield from self._parts([name.split(b"\0")[0].decode("ascii", "backslashreplace") for name in each])

    def text(self, what: str) -> str:
        """A short text."""
        self._expect(what, CHAR)
        element = self.stream.element(self.end)
        encoding = _TEXTS.get(element.kind)
        if encoding is None or element.nbytes > _LONGEST_TEXT:
            raise WeightsError(f"{what}: expected a short text, found {element.nbytes} bytes of type {element.kind}")
        data = self.stream.array("u1", element.nbytes).tobytes()
        if encoding == "utf-16":
            encoding += "-le" if self.stream.order == "<" else "-be"
        return data.decode(encoding, "backslashreplace")

    def numbers(self, what: str, most: int) -> np.ndarray:
        """Real numbers in the file's order, the first dimension fastest, as float32 or float64 after their class.

        At most `most` of them; the caller's bound on what is allocated.
        """
        if self.kind not in (SINGLE, DOUBLE):
            raise WeightsError(f"{what}: expected single or double, found {self.described}")
        if self.size > most:
            raise WeightsError(f"{what}: expected up to {most} numbers, found {self.described}")
        element = self.stream.element(self.end)
        stored = _NUMBERS.get(element.kind)
        if stored is None or element.nbytes != self.size * np.dtype(stored).itemsize:
            raise WeightsError(
                f"{what}: expected {self.size} numbers, found {element.nbytes} bytes of type {element.kind}; damaged"
            )
        values = self.stream.array(stored, self.size)
        with np.errstate(over="ignore"):
            return values.astype(np.float32 if self.kind == SINGLE else np.float64, copy=False)

    def _parts(self, names: list[str]) -> Iterator[tuple[str, Matrix]]:
        for name in names:
            element = self.stream.element(self.end)
            yield name, open_matrix(self.stream, element)
            self.stream.skip_to(element.end)

    def _expect(self, what: str, kind: int) -> None:
        if self.kind != kind:
            raise WeightsError(f"{what}: expected a {_CLASSES[kind]}, found {self.described}")


def open_matrix(stream: _Stream, element: _Element) -> Matrix:
    """The matrix of an element whose tag has just been read."""
    if element.kind != _MATRIX:
        raise WeightsError(f"expected a matrix, found an element of type {element.kind}; damaged or foreign")
    end = stream.source.position + element.nbytes
    if not element.nbytes:
        return Matrix(stream, end, "", 0, (0, 0))
    flags = stream.integers(_UINT32, end, 2, "array flags")
    dims = stream.integers(_INT32, end, _MOST_DIMENSIONS, "dimensions")
    name = stream.small(_INT8, end, _LONGEST_TEXT, "name").decode("ascii", "backslashreplace")
    if len(flags) != 2 or len(dims) < 2 or min(dims) < 0:
        raise WeightsError("a matrix: expected flags and two or more dimensions; the file is damaged")
    if flags[0] & 0x800:
        raise WeightsError(f"{shown(name) or 'a matrix'}: expected real numbers, found complex ones")
    return Matrix(stream, end, name, flags[0] & 0xFF, tuple(dims))


def variables(file: BinaryIO, size: int) -> Iterator[Matrix]:
    """The variables of a MAT-file of that many bytes, one after the other; the rest of each is skipped.

    Raises
    ------
    WeightsError
        If an element does not end within the file, or is no variable.
    """
    file.seek(HEADER_BYTES - 4)
    version = file.read(4)
    if version not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise WeightsError(f"expected version 5 of the MAT-file, found a header that ends in {version.hex(' ')}")
    order: ByteOrder = "<" if version.endswith(b"IM") else ">"
    plain = _Stream(_Plain(file, size), order)
    while (left := size - file.tell()) > 0:
        if left < 8:
            raise WeightsError(f"{left} bytes are left over at the end; the file is damaged or cut short")
        element = plain.element(size)
        if element.kind == _COMPRESSED:
            inflating = _Stream(_Inflating(file, element.nbytes), order)
            yield open_matrix(inflating, inflating.element(_LARGEST_VARIABLE))
        else:
            yield open_matrix(plain, element)
        file.seek(element.end)
