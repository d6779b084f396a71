"""Where a picture is read from, a file or standard input, and what is opened at all.

Pillow can open some forty formats, one of them by running another program (EPS, through Ghostscript). Those that people
keep pictures in are enough, and each that is left out is code that no file can reach.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL import Image

from ..errors import PictureError

STANDARD = "-"  # standard input or output in place of a file's name
LARGE = 1_000_000  # pixels; what has more can be kept on disk, and is worked on in strips
MOST_PIXELS = 178_956_970  # of a picture that is read into memory: a photograph of 150 megapixels, 2 GB as float32
MOST_LARGE = 1 << 30  # pixels of one that is kept on disk: 32768 x 32768, which Pillow decodes into 4 GB
MOST_BYTES = 1 << 30  # of standard input
_PIECE = 1 << 20
_opening = threading.Lock()

# Those without a signature of their own (TGA, ICO) last.
_FORMATS = (
    *("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "DIB", "JPEG2000"),
    *("PPM", "QOI", "PSD", "SGI", "PCX", "ICO", "TGA"),
)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")

Source: TypeAlias = Path | bytes  # a file, or a file's content


def is_standard(path: str | Path) -> bool:
    """Whether the name stands for standard input or output."""
    return str(path) == STANDARD


def shown(path: str | Path) -> str:
    """A file's name as it may stand in a message of one line."""
    if is_standard(path):
        return "standard input"
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def source_of(path: str | Path) -> Source:
    """What a name stands for: a file that exists, or what came through standard input.

    Raises
    ------
    PictureError
        If it is no regular file (a pipe could be waited for for ever), or nothing came.
    """
    if is_standard(path):
        return standard_input()
    path = Path(path)
    # of os.path, which answers for any name; a name that is too long is an error for Path
    if not os.path.exists(path):
        raise PictureError(f"{shown(path)}: no such file; expected a picture")
    if os.path.isdir(path):
        raise PictureError(f"{shown(path)}: is a folder; expected a picture")
    if not os.path.isfile(path):
        raise PictureError(f"{shown(path)}: expected a regular file, found a pipe or a device; a pipe is read as -")
    return path


@lru_cache(maxsize=1)
def standard_input() -> bytes:
    """What came through standard input, read once and remembered: a picture is opened more often than that.

    Raises
    ------
    PictureError
        If it is closed, a terminal, empty, or longer than 1 GiB.
    """
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.closed:
        raise PictureError("standard input: expected a picture, but it is closed; name a file, or pipe one in")
    if stream.isatty():
        raise PictureError("standard input: expected a picture, but it is a terminal; name a file, or pipe one in")
    content = BytesIO()
    try:
        while piece := stream.read(_PIECE):  # a read of the most that may come would take that much memory at once
            content.write(piece)
            if content.tell() > MOST_BYTES:
                raise PictureError(f"standard input: expected a picture of up to {MOST_BYTES:,} bytes, got more")
    except OSError as error:
        raise PictureError(f"standard input: cannot be read: {(error.strerror or str(error)).lower()}") from None
    if not content.tell():
        raise PictureError("standard input: expected a picture, got nothing")
    return content.getvalue()


def opened(source: Source) -> BinaryIO:
    """The file, for reading."""
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def open_image(source: Source) -> Image.Image:
    """The picture, its pixels not decoded yet. Raises whatever Pillow raises.

    How many pixels it may have is for the caller to check: Pillow's own limit, which is lower than MOST_LARGE and one
    for the whole process, is lifted while the file is opened.
    """
    silence_decoders()
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_known_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def looks_like_heic(source: Source) -> bool:
    """Whether it begins as the photographs of many telephones do, which Pillow does not read."""
    with opened(source) as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:] in _HEIC


@lru_cache(maxsize=1)
def silence_decoders() -> None:
    """Keep decoders from writing what they think of a damaged file to standard error; an exception says it as well.

    libtiff writes past Python, and Pillow has no switch for it; where its libtiff cannot be reached (Windows) it goes
    on. Pillow itself logs, which Python prints where a program has not set up logging.
    """
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(Image.core.__file__)  # which finds the functions of the libraries that it is linked to
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


@lru_cache(maxsize=1)
def _known_formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]  # AVIF: from Pillow 11.3 on
