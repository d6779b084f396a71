"""A PNG of 16 bits per channel, which Pillow cannot write; or a large one, which need not be whole in memory.

References
----------
.. [1] Portable Network Graphics (PNG) Specification, Third Edition, W3C: sections 5 (chunks), 9 (filtering), 12.7
   (the least sum of absolute differences chooses a row's filter).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from .samples import Samples

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPE = {3: 2, 4: 6}  # channels -> RGB, RGBA
_ROWS_BYTES = 1 << 18  # of samples filtered at a time, in some fifty times as much memory


def write_png(file: BinaryIO, samples: Samples, chunks: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Write samples as a PNG.

    Parameters
    ----------
    file : binary file, open for writing
    samples : ndarray of shape (H, W, 3) or (H, W, 4), uint8 or uint16
        RGB, or RGB not multiplied by alpha and alpha.
    chunks : sequence of (name, content)
        What stands before the image data: sRGB, tEXt.
    """
    height, width, channels = samples.shape
    bits = 8 * samples.dtype.itemsize
    file.write(_SIGNATURE)
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, _COLOUR_TYPE[channels], 0, 0, 0))
    for name, content in chunks:
        _chunk(file, name, content)
    deflate = zlib.compressobj(6)
    for rows in _filtered(samples):
        _chunk(file, b"IDAT", deflate.compress(rows))
    _chunk(file, b"IDAT", deflate.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, name: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))


def _filtered(samples: Samples) -> Iterator[bytes]:
    """Filtered rows, each behind the number of its filter, many at a time."""
    height, width, channels = samples.shape
    itemsize = samples.dtype.itemsize
    pixel = itemsize * channels  # bytes
    row = width * pixel
    step = max(1, _ROWS_BYTES // row)
    above = np.zeros((1, row), np.uint8)
    for start in range(0, height, step):
        x = samples[start : start + step].astype(f">u{itemsize}").view(np.uint8).reshape(-1, row)
        b = np.concatenate([above, x[:-1]])  # the byte above; a: of the pixel to the left; c: of the pixel above that
        a, c = (np.pad(y[:, :-pixel], ((0, 0), (pixel, 0))) for y in (x, b))
        average = ((a.astype(np.uint16) + b) >> 1).astype(np.uint8)
        candidates = np.stack([x, x - a, x - b, x - average, x - _paeth(a, b, c)])
        cost = np.abs(candidates.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
        best = cost.argmin(axis=0)
        rows = np.empty((len(x), 1 + row), np.uint8)
        rows[:, 0] = best
        rows[:, 1:] = candidates[best, np.arange(len(x))]
        yield rows.tobytes()
        above = x[-1:]


def _paeth(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Whichever of left, above and above left is nearest to a + b - c; ties in this order."""
    to_a, to_b = b.astype(np.int16) - c, a.astype(np.int16) - c  # signed: p - a and p - b for p = a + b - c
    to_c = np.abs(to_a + to_b)
    to_a, to_b = np.abs(to_a), np.abs(to_b)
    return np.where((to_a <= to_b) & (to_a <= to_c), a, np.where(to_b <= to_c, b, c))
