"""A TIFF of 8 or 16 bits per channel, which Pillow writes at 8 only: little endian, deflate, horizontal predictor.

References
----------
.. [1] TIFF Revision 6.0, Adobe 1992: sections 2 (structure), 6 (RGB), 14 (predictor), 18 (alpha); TIFF Technical
   Note 2 / Adobe Photoshop TIFF Technical Notes 2002: deflate.
.. [2] Specification ICC.1:2022, annex B.4: the profile's tag.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np

from ..errors import OutputError
from .samples import Samples

_STRIP_BYTES = 1 << 18  # before compression
_MOST_BYTES = (1 << 32) - 1  # that offsets reach
_TYPES = {"ascii": 2, "short": 3, "long": 4, "rational": 5, "undefined": 7}


def write_tiff(file: BinaryIO, samples: Samples, description: str | None = None, profile: bytes | None = None) -> None:
    """Write samples as a TIFF.

    Parameters
    ----------
    file : binary file, open for writing, seekable
    samples : ndarray of shape (H, W, 3) or (H, W, 4), uint8 or uint16
        RGB, or RGB not multiplied by alpha and alpha.
    description : str, ASCII, optional
        The tag ImageDescription.
    profile : bytes, optional
        An ICC profile.

    Raises
    ------
    OutputError
        If the file would exceed 4 GiB, the most that its offsets reach.
    """
    height, width, channels = samples.shape
    bits = 8 * samples.dtype.itemsize
    rows = max(1, _STRIP_BYTES // (width * channels * samples.dtype.itemsize))
    file.write(bytes(8))  # the header, once it is known where the directory stands
    strips = [_place(file, zlib.compress(_differences(samples[y : y + rows]), 6)) for y in range(0, height, rows)]
    tags: list[tuple[int, str, int, bytes]] = [  # number, type, count, content
        (256, "long", 1, struct.pack("<I", width)),
        (257, "long", 1, struct.pack("<I", height)),
        (258, "short", channels, struct.pack(f"<{channels}H", *[bits] * channels)),
        (259, "short", 1, struct.pack("<H", 8)),  # deflate
        (262, "short", 1, struct.pack("<H", 2)),  # RGB
        (273, "long", len(strips), struct.pack(f"<{len(strips)}I", *(offset for offset, _ in strips))),
        (277, "short", 1, struct.pack("<H", channels)),
        (278, "long", 1, struct.pack("<I", rows)),
        (279, "long", len(strips), struct.pack(f"<{len(strips)}I", *(length for _, length in strips))),
        (282, "rational", 1, struct.pack("<II", 72, 1)),
        (283, "rational", 1, struct.pack("<II", 72, 1)),
        (284, "short", 1, struct.pack("<H", 1)),  # the channels of a pixel together
        (296, "short", 1, struct.pack("<H", 2)),  # per inch
        (317, "short", 1, struct.pack("<H", 2)),  # differences from the pixel to the left
    ]
    if description is not None:
        text = description.encode("ascii") + b"\0"
        tags.append((270, "ascii", len(text), text))
    if channels == 4:
        tags.append((338, "short", 1, struct.pack("<H", 2)))  # alpha, not multiplied in
    if profile is not None:
        tags.append((34675, "undefined", len(profile), profile))
    entries = [_entry(file, *tag) for tag in sorted(tags)]
    directory, _ = _place(file, struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
    file.seek(0)
    file.write(struct.pack("<2sHI", b"II", 42, directory))


def _differences(rows: np.ndarray) -> bytes:
    """Each sample less the one of the pixel to the left, modulo its range."""
    d = rows.astype(rows.dtype.newbyteorder("<"))
    d[:, 1:] -= rows[:, :-1]
    return d.tobytes()


def _entry(file: BinaryIO, number: int, kind: str, count: int, content: bytes) -> bytes:
    """Twelve bytes of the directory; what does not fit into four stands in the file before it."""
    if len(content) > 4:
        content = struct.pack("<I", _place(file, content)[0])
    return struct.pack("<HHI4s", number, _TYPES[kind], count, content)


def _place(file: BinaryIO, content: bytes) -> tuple[int, int]:
    """Write at the next even offset; (offset, length)."""
    file.write(bytes(file.tell() % 2))
    offset = file.tell()
    if offset + len(content) > _MOST_BYTES:
        raise OutputError("a TIFF holds 4 GiB at most; write a PNG, or 8 bits per channel")
    file.write(content)
    return offset, len(content)
