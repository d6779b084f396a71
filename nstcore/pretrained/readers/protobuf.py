"""The wire format of Protocol Buffers, read as a stream: what Caffe's and ONNX's files are written in [1]_.

A message is a sequence of fields. A field is a tag, `number << 3 | wire type`, and a value:

    0    varint               seven bits a byte, lowest first, the top bit says that more follow
    1    8 bytes              fixed64, double
    2    length-delimited     a varint, then as many bytes: text, packed numbers, or another message
    5    4 bytes              fixed32, float

Nothing of a length-delimited value is read until it is asked for, and what is not asked for is passed over by seeking:
the classifier's 480 MB cost nothing. A length is held against the end of the message around it, so against the end of
the file, before anything is read; messages nest only as deep as a caller goes into them.

References
----------
.. [1] Protocol Buffers Documentation, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ...errors import WeightsError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_LONGEST_VARINT = 10  # bytes: 64 bits
_LARGEST_NUMBER = (1 << 29) - 1  # of a field
_LONGEST_TEXT = 1024
_MOST_NUMBERS = 64  # in a list that is not an array of weights
# A file that is nothing but tiny fields would keep us busy for hours. A VGG has two thousand.
_MOST_FIELDS = 50_000


class Input:
    """A file and how many of its fields have been looked at, whatever message they were in."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.fields = 0

    @property
    def message(self) -> Message:
        """The whole file as one message."""
        return Message(self, 0, self.size)

    def varint(self, end: int) -> int:
        """The varint at the file's position, which must end by `end`."""
        value = 0
        for i in range(min(_LONGEST_VARINT, end - self.file.tell())):
            (byte,) = self.exactly(1)
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                return value & ((1 << 64) - 1)
        raise WeightsError("a number does not end where it should; the file is damaged or cut short")

    def exactly(self, count: int) -> bytes:
        """As many bytes; for what is known to be small."""
        found = self.file.read(count)
        if len(found) != count:
            raise WeightsError("the file ends in the middle of a field; it is cut short")
        return found


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Parameters
    ----------
    number, wire : int
        What its tag says.
    value : int
        Of a varint, or of the 4 or 8 bytes as a whole number, little-endian.
    start, end : int
        Where its bytes lie in the file.
    """

    input: Input
    number: int
    wire: int
    value: int
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def integer(self) -> int:
        """A varint as a signed number of 64 bits."""
        self._expect(VARINT)
        return self.value - (1 << 64) if self.value >> 63 else self.value

    @property
    def message(self) -> Message:
        """The message that a length-delimited field holds."""
        self._expect(BYTES)
        return Message(self.input, self.start, self.end)

    @property
    def text(self) -> str:
        """Short text; bytes that are not UTF-8 stand as escapes."""
        self._expect(BYTES)
        if self.nbytes > _LONGEST_TEXT:
            raise WeightsError(f"field {self.number}: expected a short text, found {self.nbytes} bytes")
        return self._raw().decode(errors="backslashreplace")

    @property
    def integers(self) -> list[int]:
        """One element of a repeated field, or all of them if they are packed."""
        if self.wire != BYTES:
            return [self.integer]
        self._check_few(1)
        self.input.file.seek(self.start)
        values = []
        while self.input.file.tell() < self.end:
            value = self.input.varint(self.end)
            values.append(value - (1 << 64) if value >> 63 else value)
        return values

    @property
    def floats(self) -> list[float]:
        """float32 numbers, one or packed; each as the shortest decimal that stands for it, as 103.939."""
        if self.wire == FIXED32:
            raw = self.value.to_bytes(4, "little")
        else:
            self._expect(BYTES)
            self._check_few(4)
            raw = self._raw()
        if len(raw) % 4:
            raise WeightsError(f"field {self.number}: expected float32 numbers, found {len(raw)} bytes")
        return [float(str(value)) for value in np.frombuffer(raw, "<f4")]

    def read_into(self, out: np.ndarray) -> None:
        """Fill a C-contiguous array with the field's bytes, which must be as many."""
        self._expect(BYTES)
        if self.nbytes != out.nbytes:
            raise WeightsError(f"expected {out.nbytes} bytes of numbers, found {self.nbytes}")
        self.input.file.seek(self.start)
        if self.input.file.readinto(out.reshape(-1).view(np.uint8).data) != out.nbytes:  # type: ignore[attr-defined]
            raise WeightsError("the file ends in the middle of an array; it is cut short")

    def _raw(self) -> bytes:
        self.input.file.seek(self.start)
        return self.input.exactly(self.nbytes)

    def _check_few(self, size: int) -> None:
        if self.nbytes > _MOST_NUMBERS * max(size, _LONGEST_VARINT):
            raise WeightsError(f"field {self.number}: expected a few numbers, found {self.nbytes} bytes")

    def _expect(self, wire: int) -> None:
        if self.wire != wire:
            raise WeightsError(f"field {self.number}: expected wire type {wire}, found {self.wire}; damaged or foreign")


@dataclass(frozen=True)
class Message:
    """A part of the file that is a sequence of fields."""

    input: Input
    start: int
    end: int

    def __iter__(self) -> Iterator[Field]:
        """The fields in the file's order; what lies between may be read in any order meanwhile.

        Raises
        ------
        WeightsError
            If a tag is none, or a field does not end within the message.
        """
        source, at = self.input, self.start
        while at < self.end:
            source.fields += 1
            if source.fields > _MOST_FIELDS:
                raise WeightsError(f"expected a few thousand fields, found more than {_MOST_FIELDS}; no network is so")
            source.file.seek(at)
            tag = source.varint(self.end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number <= _LARGEST_NUMBER or wire not in (VARINT, FIXED64, BYTES, FIXED32):
                raise WeightsError(f"byte {at}: expected a field, found tag {tag:#x}; the file is damaged or foreign")
            value = length = 0
            if wire == VARINT:
                value = source.varint(self.end)
            elif wire == BYTES:
                length = source.varint(self.end)
            else:
                length = 8 if wire == FIXED64 else 4
            start = source.file.tell()
            at = start + length
            if at > self.end:
                raise WeightsError(
                    f"field {number}: expected {length} bytes, found {self.end - start}; damaged or cut short"
                )
            if wire in (FIXED64, FIXED32):
                value = int.from_bytes(source.exactly(length), "little")
            yield Field(source, number, wire, value, start, at)

    def first(self, number: int) -> Field | None:
        """The first field of that number, if there is one."""
        return next((field for field in self if field.number == number), None)


def begins_with(file: BinaryIO, size: int, schema: dict[int, str], wanted: tuple[int, ...]) -> Field | None:
    """The first field with one of the wanted numbers, if everything before it is as a schema says.

    Parameters
    ----------
    file : binary file
    size : int
        Its length in bytes.
    schema : dict of int to str
        What a file of that kind may begin with: "varint", "text" (short, printable) or "bytes" by field number.
    wanted : tuple of int
        Field numbers; they hold messages.

    Returns
    -------
    Field or None
        It may run beyond the end of a file that was cut short.
    """
    try:
        # as if the file were endless: one that was cut short is still recognised, and refused when it is read
        for field in Message(Input(file, size), 0, 1 << 62):
            if field.number in wanted:
                return field if field.wire == BYTES else None
            kind = schema.get(field.number)
            if field.start >= size or field.wire != (VARINT if kind == "varint" else BYTES) or kind is None:
                return None
            if kind == "text" and not field.text.isprintable():
                return None
    except WeightsError:
        return None
    return None


def first_field(message: Message) -> Field | None:
    """The first field of what may be no message at all."""
    try:
        return next(iter(message), None)
    except WeightsError:
        return None


def is_text(field: Field | None, numbers: tuple[int, ...]) -> bool:
    """Whether a field has one of these numbers and holds a short printable text: a name, most often."""
    try:
        return field is not None and field.number in numbers and field.wire == BYTES and field.text.isprintable()
    except WeightsError:
        return False
