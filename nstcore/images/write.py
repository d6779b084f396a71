"""Pixels to a picture file, whole or not at all, with how they were made inside."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import files
from ..errors import OptionError, OutputError, PictureError, ShapeError
from .big_tiff import installed, write_big_tiff
from .png import write_png
from .profiles import srgb_profile
from .samples import Rounded, Samples
from .sources import is_standard, open_image, shown, source_of
from .tiff import write_tiff


@dataclass(frozen=True)
class _Format:
    name: str  # as Pillow calls it
    sixteen: bool = False  # has 16 bits per channel
    lossy: bool = False  # has a quality
    alpha: bool = True
    longest: int = 2**31 - 1  # side that it can hold, pixels


_PNG, _TIFF = _Format("PNG", sixteen=True), _Format("TIFF", sixteen=True)
_JPEG, _WEBP = _Format("JPEG", lossy=True, alpha=False, longest=65500), _Format("WEBP", lossy=True, longest=16383)
FORMATS = {".png": _PNG, ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": _WEBP, ".tif": _TIFF, ".tiff": _TIFF}
KEY = "nstcore"  # PNG text chunk
QUALITY = 95  # of JPEG and WebP
_IMAGE_DESCRIPTION = 0x010E  # TIFF and EXIF tag, for the other formats
_PERCEPTUAL = b"\0"  # the rendering intent in a PNG's sRGB chunk
_WHOLE = 16_000_000  # pixels up to which Pillow, which is faster, writes a PNG: it holds the picture whole
_EXIF_BYTES = 65000  # a JPEG's segment holds 65533
_STRIP_BYTES = 1 << 22  # of samples rounded at a time, where Pillow is to write
_MOST_SAMPLES = (1 << 32) - (1 << 24)  # bytes, of a TIFF whose offsets have 32 bits, with room for all the rest


def check_output(
    path: str | Path, *, bits: int = 8, quality: int | None = None, shape: tuple[int, int] | None = None
) -> None:
    """Refuse, before any work, what `write_picture` could not write with these options; touches nothing.

    `shape`, (height, width), is checked where it is known. Raises as `write_picture` does.
    """
    _checked(path, bits, quality, shape)
    if is_standard(path):
        _standard_output()
    else:
        files.check_writable(path)


def write_picture(
    path: str | Path,
    pixels: np.ndarray,
    metadata: Mapping[str, Any] | None = None,
    *,
    alpha: np.ndarray | None = None,
    bits: int = 8,
    quality: int | None = None,
) -> None:
    """Write pixels as a picture, atomically; the format follows the name's ending.

    The same arguments give the same bytes. The picture is tagged as sRGB: a PNG by its chunk, others by a profile.

    Parameters
    ----------
    path : path
        Ends in .png, .tif, .tiff, .jpg, .jpeg or .webp; or is "-": a PNG to standard output, once it is whole.
    pixels : ndarray of shape (3, H, W)
        RGB in [0, 1], not multiplied by alpha; values outside are cut off. May lie on disk: PNG and TIFF take strips,
        JPEG and WebP 4 bytes a pixel of memory.
    metadata : mapping, optional
        Goes in as JSON: in a PNG as the text chunk "nstcore", elsewhere as the image description of TIFF or EXIF.
    alpha : ndarray of shape (H, W), in [0, 1], optional
        Written as such; in a JPEG, which has none, the picture stands on white.
    bits : 8 or 16
        Per channel; 16 in PNG and TIFF only.
    quality : int, 1 to 100, optional
        Of JPEG and WebP, by default 95; a WebP of quality 100 is lossless.

    Raises
    ------
    OutputError
        If the ending is unknown, the picture or its metadata too large for the format, or nothing can be written there;
        standard output that is a terminal counts as such.
    OptionError
        If the format has no such depth or no quality.
    ShapeError
        If `alpha` has another shape than the pixels.
    """
    if alpha is not None and alpha.shape != pixels.shape[1:]:
        raise ShapeError(f"alpha: expected {pixels.shape[1:]} for pixels {pixels.shape}, got {alpha.shape}; resize it")
    kind = _checked(path, bits, quality, (pixels.shape[1], pixels.shape[2]))
    text = None if metadata is None else json.dumps(metadata, ensure_ascii=True, sort_keys=True)
    samples = Rounded(pixels, alpha, bits, on_white=not kind.alpha)
    large = kind is _PNG and math.prod(samples.shape[:2]) > _WHOLE  # Pillow would hold it whole
    by_pillow = kind is not _TIFF and bits == 8 and not large
    options = _pillow_options(path, kind, text, quality or QUALITY) if by_pillow else None
    if is_standard(path):
        whole = BytesIO()
        _encode(whole, kind, samples, text, options)
        _send(_standard_output(), whole.getbuffer())
        return
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        _encode(file, kind, samples, text, options)


def _encode(file: BinaryIO, kind: _Format, samples: Samples, text: str | None, options: dict[str, Any] | None) -> None:
    """Samples with the settings; `options` are Pillow's, where Pillow is to write."""
    if options is not None:
        _as_image(samples).save(file, kind.name, **options)
    elif kind is _TIFF:
        write = write_big_tiff if _is_big(samples.shape, samples.dtype.itemsize) and installed() else write_tiff
        write(file, samples, text, srgb_profile())
    else:
        chunks = [(b"sRGB", _PERCEPTUAL)]
        if text is not None:
            chunks.append((b"tEXt", f"{KEY}\0{text}".encode("ascii")))
        write_png(file, samples, chunks)


def _as_image(samples: Samples) -> Image.Image:
    height, width, channels = samples.shape
    image = Image.new("RGB" if channels == 3 else "RGBA", (width, height))
    rows = max(1, _STRIP_BYTES // (width * channels))
    for y in range(0, height, rows):
        image.paste(Image.fromarray(samples[y : y + rows]), (0, y))
    return image


def _is_big(shape: Sequence[int], itemsize: int) -> bool:
    """Whether samples of that shape can be too many for the offsets of a plain TIFF."""
    return math.prod(shape) * itemsize > _MOST_SAMPLES


def _standard_output() -> BinaryIO:
    """`OutputError` where nobody would get the bytes, or a person would get them on the screen."""
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None or stream.closed:
        raise OutputError("standard output: expected a file or a pipe, but it is closed; name a file with -o")
    if stream.isatty():
        raise OutputError("standard output: expected a file or a pipe, but it is a terminal; name a file with -o")
    return stream


def _send(stream: BinaryIO, content: memoryview) -> None:
    """Everything, past the buffer: what stays in there after a failure would fail again when Python ends."""
    try:
        stream.flush()
        raw = getattr(stream, "raw", stream)
        while content:
            content = content[raw.write(content) :]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"standard output: cannot be written: {reason}; name a file with -o") from error


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `write_picture` put into a picture; `PictureError` where there is nothing of the kind."""
    source = source_of(path)
    none = f"{shown(path)}: carries no settings of nstcore; expected a picture as nstcore saved it"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other metadata than ours
            with open_image(source) as image:
                text = image.info.get(KEY) or image.getexif().get(_IMAGE_DESCRIPTION)
                if text is None:  # another program may have moved it behind the image data, which is decoded for this
                    text = getattr(image, "text", {}).get(KEY)
        found = json.loads(text or "")
    except Exception:  # decoders of damaged files raise nearly anything
        raise PictureError(none) from None
    if not isinstance(found, dict):
        raise PictureError(none)
    return found


def _checked(path: str | Path, bits: int, quality: int | None, shape: tuple[int, int] | None) -> _Format:
    """The format that the name stands for, which can hold all this."""
    suffix = ".png" if is_standard(path) else Path(path).suffix.lower()
    if suffix not in FORMATS:
        got = shown(suffix) or "none"
        raise OutputError(f"{shown(path)}: expected a name that ends in {', '.join(FORMATS)}, got {got}")
    kind = FORMATS[suffix]
    if bits not in (8, 16):
        raise OptionError(f"bits: expected 8 or 16 per channel, got {bits}")
    if bits == 16 and not kind.sixteen:
        raise OptionError(f"bits: {suffix} has 8 per channel only; for 16, end the name in .png or .tif")
    if quality is not None and not kind.lossy:
        raise OptionError(f"quality: {suffix} is lossless and has none; leave it out, or end the name in .jpg or .webp")
    if quality is not None and not 1 <= quality <= 100:
        raise OptionError(f"quality: expected 1 to 100, got {quality}")
    if shape is not None and max(shape) > kind.longest:
        raise OutputError(
            f"{shown(path)}: {suffix} holds sides up to {kind.longest} pixels, got {shape[1]} x {shape[0]};"
            " end the name in .png or .tif"
        )
    if kind is _TIFF and shape is not None and _is_big((*shape, 4), bits // 8) and not installed():
        raise OutputError(
            f"{shown(path)}: a TIFF of {shape[1]} x {shape[0]} pixels can exceed 4 GiB, which takes tifffile:"
            ' pip install "nstcore[large]", or end the name in .png'
        )
    return kind


def _pillow_options(path: str | Path, kind: _Format, text: str | None, quality: int) -> dict[str, Any]:
    if kind is _PNG:
        info = PngInfo()
        info.add(b"sRGB", _PERCEPTUAL)
        if text is not None:
            info.add_text(KEY, text)
        return {"pnginfo": info}
    options: dict[str, Any] = {"icc_profile": srgb_profile()}
    if text is not None:
        if kind is _JPEG and len(text) > _EXIF_BYTES:
            raise OutputError(
                f"{shown(path)}: a JPEG cannot carry settings of {len(text)} bytes; end the name in .png or .tif"
            )
        options["exif"] = Image.Exif()
        options["exif"][_IMAGE_DESCRIPTION] = text
    if kind is _JPEG:
        return options | {"quality": quality, "subsampling": 0}
    if quality == 100:
        return options | {"lossless": True, "exact": True, "method": 6}
    return options | {"quality": quality, "method": 6}
