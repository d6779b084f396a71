"""Pixels to a picture file, whole or not at all, with how they were made inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import files
from ..errors import OutputError, PictureError
from .pictures import to_uint8

# suffix -> Pillow's format and the options that keep quality high
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95, "method": 6}),
    ".tif": ("TIFF", {"compression": "tiff_lzw"}),
    ".tiff": ("TIFF", {"compression": "tiff_lzw"}),
}
KEY = "nstcore"  # PNG text chunk
_IMAGE_DESCRIPTION = 0x010E  # EXIF tag, for the other formats


def check_output(path: str | Path) -> None:
    """Refuse, before any work, a place or a kind of file that `write_picture` could not write; touches nothing."""
    _format(Path(path))
    files.check_writable(path)


def write_picture(path: str | Path, pixels: np.ndarray, metadata: Mapping[str, Any] | None = None) -> None:
    """Write pixels (3, H, W) in [0, 1] as an 8-bit picture, atomically; the format follows the name's ending.

    `metadata` goes in as JSON: in a PNG as the text chunk "nstcore", elsewhere as the EXIF image description.

    Raises
    ------
    OutputError
        If the ending is unknown or nothing can be written there.
    """
    path = Path(path)
    kind, options = _format(path)
    image = Image.fromarray(to_uint8(pixels))
    options = dict(options)
    if metadata is not None:
        text = json.dumps(metadata, ensure_ascii=True, sort_keys=True)
        if kind == "PNG":
            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_text(KEY, text)
        else:
            exif = Image.Exif()
            exif[_IMAGE_DESCRIPTION] = text
            options["exif"] = exif
    with files.replacing(path) as temporary:
        image.save(temporary, kind, **options)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `write_picture` put into a picture; `PictureError` where there is nothing of the kind."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(KEY) or image.getexif().get(_IMAGE_DESCRIPTION)
        found = json.loads(text or "")
    except (OSError, TypeError, ValueError) as error:
        raise PictureError(f"{path}: carries no settings of nstcore ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise PictureError(f"{path}: carries no settings of nstcore")
    return found


def _format(path: Path) -> tuple[str, dict[str, Any]]:
    if path.suffix.lower() not in FORMATS:
        got = path.suffix or "none"
        raise OutputError(f"{path}: expected a name that ends in {', '.join(FORMATS)}, got {got}")
    return FORMATS[path.suffix.lower()]
