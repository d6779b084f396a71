"""FlatBuffers: tables that lie in a file as they would in memory [1]_, read where they are.

    a table         int32: how far before it its vtable begins; then its fields
    its vtable      uint16: bytes of the vtable, uint16: bytes of the table, then for each field a uint16: where in the
                    table the field lies, 0 if it is left out and has its default value
    a reference     uint32: how far behind itself the table, vector or text begins
    a vector        uint32: how many; then the numbers or references, side by side

All little-endian. Nothing here follows a reference unless it is asked to, so nothing can run in circles, and every
number and vector is known to lie inside the file before it is read.

References
----------
.. [1] FlatBuffers, "Internals" (docs/source/Internals.md).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from ...errors import WeightsError

_OUTSIDE = "damaged or cut short: a reference leads out of the file; fetch it again"


@dataclass(frozen=True)
class Table:
    """One table; a field is called by its place in the schema, from 0 on."""

    data: bytes
    at: int
    vtable: int
    fields: int  # how many fields the vtable knows
    size: int

    def number(self, field: int, code: str, default: int = 0) -> int:
        """A whole number in one of `struct`'s codes: b, B, i, I."""
        place = self._place(field, struct.calcsize(code))
        return default if place is None else struct.unpack_from(f"<{code}", self.data, place)[0]

    def table(self, field: int) -> Table | None:
        """The table that a field refers to; None if it is left out."""
        place = self._place(field, 4)
        return None if place is None else _table(self.data, _referred(self.data, place))

    def tables(self, field: int, most: int, what: str) -> list[Table]:
        """A vector of tables, of at most `most`; `what` is what a message calls them."""
        start, count = self._vector(field, 4)
        if count > most:
            raise WeightsError(f"expected at most {most} {what}, found {count}; not one of the published networks")
        return [_table(self.data, _referred(self.data, start + 4 * i)) for i in range(count)]

    def numbers(self, field: int, dtype: str) -> np.ndarray:
        """A vector of numbers, as a view of the file: nothing is copied."""
        kind = np.dtype(dtype)
        start, count = self._vector(field, kind.itemsize)
        return np.frombuffer(self.data, kind, count, start)

    def _vector(self, field: int, item: int) -> tuple[int, int]:
        """First byte and length of a vector, which is known to lie in the file; of none, if it is left out."""
        place = self._place(field, 4)
        if place is None:
            return 0, 0
        start = _referred(self.data, place)
        count = _unsigned(self.data, start)
        if start + 4 + count * item > len(self.data):
            raise WeightsError(_OUTSIDE)
        return start + 4, count

    def _place(self, field: int, width: int) -> int | None:
        """Where in the file a field of so many bytes lies; None if it is left out."""
        if field >= self.fields:
            return None
        (offset,) = struct.unpack_from("<H", self.data, self.vtable + 4 + 2 * field)
        if offset == 0:
            return None
        if offset < 4 or offset + width > self.size:
            raise WeightsError("damaged: a field lies outside of its table; fetch it again")
        return self.at + offset


def root(data: bytes, identifier: bytes) -> Table:
    """The table that the file is.

    Parameters
    ----------
    data : bytes
        The whole file.
    identifier : bytes
        The four bytes behind the first reference, by which schemas are told apart.

    Raises
    ------
    WeightsError
        If it is another file, or damaged.
    """
    if data[4:8] != identifier:
        raise WeightsError(f"expected a file of {identifier.decode()}, found {data[:8].hex(' ') or 'nothing'}")
    return _table(data, _referred(data, 0))


def _table(data: bytes, at: int) -> Table:
    if at + 4 > len(data):
        raise WeightsError(_OUTSIDE)
    vtable = at - struct.unpack_from("<i", data, at)[0]
    if not 0 <= vtable <= len(data) - 4:
        raise WeightsError(_OUTSIDE)
    length, size = struct.unpack_from("<HH", data, vtable)
    if length < 4 or length % 2 or size < 4 or vtable + length > len(data) or at + size > len(data):
        raise WeightsError(_OUTSIDE)
    return Table(data, at, vtable, (length - 4) // 2, size)


def _referred(data: bytes, place: int) -> int:
    return place + _unsigned(data, place)


def _unsigned(data: bytes, place: int) -> int:
    if place + 4 > len(data):
        raise WeightsError(_OUTSIDE)
    return struct.unpack_from("<I", data, place)[0]
