"""Tiled BigTIFF, for pictures beyond 4 GiB, tile by tile; and other large TIFFs, read without decoding them whole.

By tifffile, which is an extra (`pip install "nstcore[large]"`): Pillow writes no tiles and holds a picture whole.
Without it a TIFF ends at 4 GiB, and Pillow reads large ones.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .. import disk
from .samples import Samples
from .sources import Source, opened

_TILE = 512  # pixels a side
_LEVEL = 6  # of deflate
# What tifffile decodes by itself; with more, Pillow reads.
_COMPRESSIONS = (1, 8, 32946)  # none, deflate, its old number
_PREDICTORS = (1, 2)  # none, differences
_COLOURS = {1: 1, 2: 3}  # photometric interpretation: channels of grey (0 is black), of RGB
_ORIENTATION, _PROFILE = 274, 34675  # tags
_BYTES = 7  # the profile's type
_UNSIGNED, _TOGETHER, _STRAIGHT_ALPHA = 1, 1, 2


class Tiles(NamedTuple):
    """What `read_tiles` found."""

    samples: np.ndarray  # (H, W, C), uint8 or uint16: grey or RGB, and alpha, not multiplied in, behind it; not turned
    orientation: int
    profile: bytes | None


def installed() -> bool:
    """Whether tifffile is there."""
    return importlib.util.find_spec("tifffile") is not None


def write_big_tiff(
    file: BinaryIO, samples: Samples, description: str | None = None, profile: bytes | None = None
) -> None:
    """Write samples as a BigTIFF of 512 x 512 tiles: deflate, horizontal predictor.

    Parameters as for `write_tiff`; only a row of tiles is in memory at a time.
    """
    import tifffile

    channels = samples.shape[2]
    with tifffile.TiffWriter(file, bigtiff=True, byteorder="<") as tiff:
        tiff.write(
            _tiles(samples),
            shape=samples.shape,
            dtype=samples.dtype,
            photometric="rgb",
            planarconfig="contig",
            extrasamples=["unassalpha"] if channels == 4 else None,
            tile=(_TILE, _TILE),
            compression="zlib",
            compressionargs={"level": _LEVEL},
            predictor=True,
            description=description,
            extratags=[] if profile is None else [(_PROFILE, _BYTES, len(profile), profile, True)],
            metadata=None,
            software=False,
        )


def _tiles(samples: Samples) -> Iterator[np.ndarray]:
    """Row by row, the last ones of each filled up with zeros."""
    height, width, channels = samples.shape
    for y in range(0, height, _TILE):
        rows = samples[y : y + _TILE]
        for x in range(0, width, _TILE):
            part = rows[:, x : x + _TILE]
            tile = np.zeros((_TILE, _TILE, channels), samples.dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def read_tiles(source: Source) -> Tiles | None:
    """The first page of a TIFF, decoded tile by tile or strip by strip; None where Pillow is to read it.

    It is read where tifffile is installed and it is grey or RGB of 8 or 16 bits, uncompressed or deflated. Where it is
    damaged, Pillow is to say so.
    """
    if not installed():
        return None
    import tifffile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    with suppress(Exception), opened(source) as file, tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        return _decoded(page) if _is_plain(page) else None
    return None


def _is_plain(page: Any) -> bool:
    colours = _COLOURS.get(int(page.photometric), 0)
    extra = tuple(int(e) for e in page.extrasamples)
    return (
        colours > 0
        and page.samplesperpixel == colours + len(extra)
        and extra in ((), (_STRAIGHT_ALPHA,))
        and page.bitspersample in (8, 16)
        and page.sampleformat == _UNSIGNED
        and page.planarconfig == _TOGETHER
        and int(page.compression) in _COMPRESSIONS
        and page.predictor in _PREDICTORS
    )


def _decoded(page: Any) -> Tiles:
    samples = disk.new_array((page.imagelength, page.imagewidth, page.samplesperpixel), f"u{page.bitspersample // 8}")
    done = 0
    for part, (_, _, y, x, _), (_, height, width, _) in page.segments(buffersize=disk.STRIP_BYTES):
        inside = samples[y : y + height, x : x + width]  # tiles reach over the edge
        inside[:] = 0 if part is None else part[0, : inside.shape[0], : inside.shape[1]]  # None: left out of the file
        done += inside.nbytes
        if done > disk.STRIP_BYTES:
            disk.release(samples)
            done = 0
    return Tiles(samples, int(page.tags.valueof(_ORIENTATION, 1)), page.tags.valueof(_PROFILE))
