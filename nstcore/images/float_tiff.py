"""TIFF of floating-point numbers, of which Pillow reads only grey of 32 bits: grey or RGB of 16, 32 or 64 bits.

Its compression is left to Pillow all the same: behind a copy of the file stands a second directory that calls every
byte a grey pixel. What comes out are the bytes of the numbers, still as the predictor has left them:

    2    each number, taken as an integer, less the one of the pixel to the left
    3    of each row first all most significant bytes, then the next ones, ...; each byte less the one a pixel before

References
----------
.. [1] TIFF Revision 6.0, Adobe 1992: sections 2 (structure), 14 (predictor), 15 (tiles), 19 (sample format).
.. [2] Adobe Photoshop TIFF Technical Note 3, 2005: predictor 3.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from .sources import MOST_PIXELS, silence_decoders

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1}  # bytes of BYTE, ASCII, SHORT, LONG, UNDEFINED; others are of no use here
_LETTERS = {1: "B", 3: "H", 4: "I"}
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_STRIPS, _CHANNELS, _STRIP_ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_BYTES, _EXTRA, _SAMPLE_FORMAT = 322, 323, 324, 325, 338, 339
_PROFILE = 34675
_IEEE = 3  # of SampleFormat
_MOST_BYTES = 1 << 32  # that offsets reach


class Floats(NamedTuple):
    """The numbers of a file as they are."""

    colour: np.ndarray  # (H, W, 3), or (H, W) if it is grey; float32, any value
    alpha: np.ndarray | None  # (H, W), likewise
    premultiplied: bool
    orientation: int
    profile: bytes | None


class TooLarge(ValueError):
    """More pixels than are read; `most` are."""

    def __init__(self, most: int) -> None:
        super().__init__(f"more than {most:,} pixels")
        self.most = most


class _Directory:
    """The tags of the first picture of a file."""

    def __init__(self, file: BinaryIO, order: str, at: int) -> None:
        self._file = file
        self._order = order
        self.entries: dict[int, bytes] = {}  # the 12 bytes of each
        file.seek(at)
        (count,) = struct.unpack(f"{order}H", file.read(2))
        entries = file.read(12 * count)
        for i in range(0, 12 * count, 12):
            entry = entries[i : i + 12]
            self.entries[struct.unpack_from(f"{order}H", entry)[0]] = entry

    def content(self, tag: int, most: int) -> tuple[int, bytes]:
        """Its type, and the bytes of its values; of none if the tag is not there."""
        if tag not in self.entries:
            return 1, b""
        kind, count = struct.unpack_from(f"{self._order}HI", self.entries[tag], 2)
        size = count * _SIZES.get(kind, 1)
        if kind not in _SIZES or size > most:
            raise ValueError(f"tag {tag}: {count} values of type {kind}")
        if size <= 4:
            return kind, self.entries[tag][8 : 8 + size]
        self._file.seek(struct.unpack_from(f"{self._order}I", self.entries[tag], 8)[0])
        return kind, self._file.read(size)

    def numbers(self, tag: int, default: int) -> list[int]:
        """Whole numbers, at least one."""
        kind, content = self.content(tag, 1024)
        if not content:
            return [default]
        size = _SIZES[kind]
        return list(struct.unpack(f"{self._order}{len(content) // size}{_LETTERS[kind]}", content))

    def number(self, tag: int, default: int = 0) -> int:
        return self.numbers(tag, default)[0]


def read_float(file: BinaryIO) -> Floats | None:
    """The numbers of a TIFF of floating point; None for any other file.

    Raises
    ------
    ValueError and others
        If the file is damaged, or of a kind that is not read.
    TooLarge
        If it has more than MOST_PIXELS.
    """
    head = file.read(8)
    order = _ORDERS.get(head[:4])
    if order is None or len(head) < 8:
        return None
    try:
        tags = _Directory(file, order, struct.unpack(f"{order}I", head[4:])[0])
        if set(tags.numbers(_SAMPLE_FORMAT, 1)) != {_IEEE}:
            return None
    except (struct.error, ValueError, KeyError):
        return None  # Pillow will say what is wrong
    photometric, channels = tags.number(_PHOTOMETRIC, 1), tags.number(_CHANNELS, 1)
    colours = {1: 1, 2: 3}.get(photometric, 0)
    bits = set(tags.numbers(_BITS, 1))
    if not colours or channels < colours:
        raise ValueError(f"floating point of {channels} channels in colour space {photometric}, not grey or RGB")
    if bits not in ({16}, {32}, {64}):
        raise ValueError(f"floating point of {max(bits)} bits")
    if channels > 1 and tags.number(_PLANAR, 1) != 1:
        raise ValueError("floating point with channels that stand apart; save it with them together")
    samples = _samples(file, order, tags, channels, bits.pop() // 8)
    extra = tags.number(_EXTRA)
    profile = tags.content(_PROFILE, 1 << 24)[1]
    return Floats(
        samples[..., 0] if colours == 1 else np.ascontiguousarray(samples[..., :3]),
        samples[..., colours] if channels > colours and extra in (1, 2) else None,
        extra == 1,
        tags.number(_ORIENTATION, 1),
        profile or None,
    )


def _samples(file: BinaryIO, order: str, tags: _Directory, channels: int, size: int) -> np.ndarray:
    """(H, W, C), float32."""
    width, height = tags.number(_WIDTH), tags.number(_LENGTH)
    if width * height > MOST_PIXELS:
        raise TooLarge(MOST_PIXELS)
    tiled = _TILES in tags.entries
    piece = tags.number(_TILE_WIDTH) if tiled else width
    rows = tags.number(_TILE_LENGTH) if tiled else 1
    if not (width > 0 and height > 0 and 0 < piece <= 1 << 16 and 0 < rows <= 1 << 16):
        raise ValueError(f"{width} x {height} pixels in pieces of {piece} x {rows}")
    across, down = -(-width // piece), -(-height // rows)  # whole tiles, since the predictor works on whole rows of one
    if across * piece * down * rows > 2 * MOST_PIXELS:
        raise TooLarge(MOST_PIXELS)
    bytes_in_row = piece * channels * size
    grey = _as_bytes(file, order, tags, bytes_in_row, (down * rows, across * bytes_in_row))
    pieces = grey.reshape(-1, bytes_in_row)
    predictor = tags.number(_PREDICTOR, 1)
    if predictor == 3:
        sums = np.cumsum(pieces.reshape(len(pieces), -1, channels), axis=1, dtype=np.uint8)
        planes = sums.reshape(len(pieces), size, -1)
        values = np.ascontiguousarray(planes.swapaxes(1, 2)).view(f">f{size}")
    elif predictor == 2:
        integers = pieces.view(f"{order}u{size}").reshape(len(pieces), piece, channels)
        values = np.cumsum(integers, axis=1, dtype=f"u{size}").view(f"f{size}")
    else:
        values = pieces.view(f"{order}f{size}")
    image = values.reshape(down * rows, across * piece, channels)[:height, :width]
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused with what was
        return image.astype(np.float32)


def _as_bytes(file: BinaryIO, order: str, tags: _Directory, piece: int, shape: tuple[int, int]) -> np.ndarray:
    """The bytes that the compression hides, (rows, bytes): the file as a picture of one grey pixel for each."""

    def entry(tag: int, value: int) -> bytes:
        return struct.pack(f"{order}HHII", tag, 4, 1, value)

    def short(tag: int, value: int) -> bytes:
        return struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)

    kept = (_STRIPS, _STRIP_ROWS, _STRIP_BYTES, _TILE_LENGTH, _TILES, _TILE_BYTES)
    made = {tag: tags.entries[tag] for tag in kept if tag in tags.entries}
    made |= {_WIDTH: entry(_WIDTH, shape[1]), _LENGTH: entry(_LENGTH, shape[0]), _BITS: short(_BITS, 8)}
    made |= {tag: short(tag, 1) for tag in (_PHOTOMETRIC, _CHANNELS)}
    made[_COMPRESSION] = short(_COMPRESSION, tags.number(_COMPRESSION, 1))
    if _TILES in tags.entries:
        made[_TILE_WIDTH] = entry(_TILE_WIDTH, piece)
    file.seek(0)
    content = bytearray(file.read(_MOST_BYTES))
    content += bytes(len(content) % 2)
    if len(content) + 12 * len(made) + 6 >= _MOST_BYTES:
        raise ValueError("floating point of more than 4 GiB")
    content[4:8] = struct.pack(f"{order}I", len(content))
    content += struct.pack(f"{order}H", len(made)) + b"".join(made[tag] for tag in sorted(made)) + bytes(4)
    silence_decoders()
    with TiffImageFile(BytesIO(content)) as image:  # not Image.open, whose limit counts these pixels
        return np.array(image)
