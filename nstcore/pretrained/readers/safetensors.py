"""safetensors.

    8 bytes     length of the header, little-endian
    header      JSON: name -> dtype, shape, data_offsets [begin, end) within the data
    data        the numbers, little-endian, side by side and without gaps [1]_

Names are those of torch's state dicts (`state_dict.py`).

References
----------
.. [1] https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import WeightsError
from .. import hdf5
from ..weights import shown
from . import state_dict
from .source import Source, opened

NAME = "safetensors"

# The header's names of these types.
_DTYPES = {
    "F32": "float32",
    "F16": "float16",
    "F64": "float64",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}

_LARGEST_HEADER = 1 << 20  # bytes; that of a VGG19 has 4 thousand
_LARGEST_SIDE = 1 << 40
_MOST_SIDES = 8


@dataclass(frozen=True)
class Entry:
    """One tensor of the header; `start` is its first byte within the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def recognise(path: Path) -> bool:
    """Whether it begins with the length of a header that fits into the file, and with the header's first bytes."""
    if not os.path.isfile(path):
        return False
    head = hdf5.first_bytes(path, 10)
    return head[8:] == b'{"' and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def read(path: Path) -> Source:
    """Read VGG16 or VGG19, or the beginning of one, told apart by names and shapes.

    Raises
    ------
    WeightsError
        If the header is malformed or does not fit the data, or it is not one of these networks.
    """
    with opened(path) as (file, size):
        entries = _entries(file, size)

        def read_tensor(entry: Entry) -> np.ndarray:
            count = math.prod(entry.shape)
            return state_dict.read_floats(file, entry.start, count, entry.dtype).reshape(entry.shape)

        return state_dict.assemble(NAME, path, entries, read_tensor)


def _entries(file: BinaryIO, size: int) -> dict[str, Entry]:
    """The header's tensors, once it is sure that they fill the data exactly and do not overlap."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
        raise WeightsError(f"header: expected 2 to {_LARGEST_HEADER} bytes within the file, found {length}")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"header: not readable as JSON: {shown(str(error))[:120]}") from error
    if not isinstance(header, dict):
        raise WeightsError("header: expected an object")
    header.pop("__metadata__", None)
    entries, ends = {}, []
    for name, entry in header.items():
        dtype, shape, begin, end = _description(name, entry)
        if end - begin != math.prod(shape) * state_dict.ITEM_SIZES[dtype]:
            raise WeightsError(f"{shown(name)[:80]}: its data_offsets do not fit its {dtype} {shape}")
        entries[name] = Entry(dtype, shape, 8 + length + begin)
        ends.append((begin, end))
    position = 0
    for begin, end in sorted(ends):
        if begin != position:
            raise WeightsError(f"data_offsets: expected a tensor at {position}, found the next at {begin}")
        position = end
    if position != size - 8 - length:
        raise WeightsError(f"expected {8 + length + position} bytes, found {size}; the file is cut short or damaged")
    return entries


def _description(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            if kind not in _DTYPES:
                raise WeightsError(f"{shown(name)[:80]}: dtype: expected one of {', '.join(_DTYPES)}, found another")
            numbers = (*shape, begin, end)
            plain = all(isinstance(n, int) and 0 <= n < _LARGEST_SIDE for n in numbers)
            if plain and len(shape) <= _MOST_SIDES:
                return _DTYPES[kind], tuple(shape), begin, end
    raise WeightsError(f"{shown(name)[:80]}: expected dtype, shape and data_offsets of a tensor")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found
