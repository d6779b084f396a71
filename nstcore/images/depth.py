"""Colour pictures of 16 bits per channel, of which Pillow keeps only one byte per sample: decoded twice, here both.

Pillow's raw modes "RGB;16B" and "RGB;16L" take the first byte of every sample, and the second. So the same file,
decoded once with each, gives its high bytes and its low bytes, at the speed of Pillow's decoders.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from .. import disk
from .sources import Source, open_image
from .upright import orientation_of, turned

_NATIVE = "L" if sys.byteorder == "little" else "B"
_OTHER = {"B": "L", "L": "B"}
_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION = 258, 284  # TIFF tags


def read_sixteen(image: Image.Image, source: Source) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Colour and alpha of a PNG or TIFF with 16 bits per channel, upright; None where this does not apply.

    It applies to grey, grey with alpha (PNG), RGB and RGBA; not to CMYK, nor to a TIFF whose channels stand apart and
    are compressed, of which Pillow hands out no second byte.

    Parameters
    ----------
    image : PIL image
        `source`, opened and not loaded yet.
    source : path, or the file's content

    Returns
    -------
    colour : ndarray of shape (H, W, 3), or (H, W) if it is grey, uint16, not multiplied by alpha
    alpha : ndarray of shape (H, W), uint16, or None
    """
    if image.format not in ("PNG", "TIFF"):
        return None
    if image.mode.startswith("I;16") or (image.format == "PNG" and image.mode == "I"):  # the latter before Pillow 11
        grey = _upright(image).astype(np.uint16)
        return grey, _keyed(grey[..., None], image)
    try:
        found = _colour(image, source)
    except ValueError:  # a raw mode that this Pillow lacks
        return None
    if found is None:
        return None
    samples, premultiplied = found
    if premultiplied:
        _divide_by_alpha(samples)
    channels = samples.shape[2]
    colour = samples[..., 0] if channels == 2 else samples[..., :3]
    return colour, _keyed(colour, image) if channels == 3 else samples[..., -1]


def _colour(image: Image.Image, source: Source) -> tuple[np.ndarray, bool] | None:
    """Samples (H, W, C), uint16, of grey and alpha, RGB or RGBA; and whether they are multiplied by alpha."""
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    rawmodes = [_rawmode(tile) for tile in getattr(image, "tile", [])]
    if tags.get(_PLANAR_CONFIGURATION) == 2:  # the channels stand apart, each with a raw mode of its own
        if set(tags.get(_BITS_PER_SAMPLE, ())) != {16} or not set(rawmodes) <= set("RGBAa"):
            return None
        high = "L" if getattr(tags, "prefix", b"") == b"II" else "B"
        return _both_bytes(source, high, lambda band: band.upper()), "a" in rawmodes
    bands, _, order = (rawmodes or [""])[0].partition(";16")
    if bands == "LA" and order == "B":
        # one byte of the file for each of Pillow's channels: grey high, grey low, alpha high, alpha low
        with _with_rawmodes(source, lambda _: "RGBA") as decoded:
            four = _upright(decoded).astype(np.uint16)
        return four[..., ::2] << 8 | four[..., 1::2], False
    if bands not in ("RGB", "RGBX", "RGBA", "RGBa") or order not in ("B", "L", "N"):
        return None
    premultiplied = bands == "RGBa"
    as_they_are = "RGBA" if premultiplied else bands  # else Pillow would divide each byte by alpha
    return _both_bytes(source, _NATIVE if order == "N" else order, lambda _: as_they_are), premultiplied


def _both_bytes(source: Source, high: str, bands: Callable[[str], str]) -> np.ndarray:
    """Samples (H, W, C), uint16, of a file in which `high`, "B" or "L", is the raw mode that takes the high bytes."""

    def decoded(order: str) -> Image.Image:
        return _with_rawmodes(source, lambda rawmode: f"{bands(rawmode)};16{order}")

    samples = np.empty(0, np.uint16)
    for order, shift in ((high, 8), (_OTHER[high], 0)):
        with decoded(order) as image:
            image.load()
            for rows in disk.strips((image.height, image.width)):
                part = np.asarray(image.crop((0, rows.start, image.width, rows.stop))).astype(np.uint16) << shift
                if not samples.size:
                    samples = disk.new_array((image.height, *part.shape[1:]), np.uint16)
                samples[rows] = part if shift else samples[rows] | part
                disk.release(samples)
            orientation = orientation_of(image)
    return turned(samples, orientation)


def _with_rawmodes(source: Source, change: Callable[[str], str]) -> Image.Image:
    """The file, to be decoded through other raw modes."""
    image = open_image(source)
    image.tile = [_with_rawmode(tile, change(_rawmode(tile))) for tile in image.tile]  # type: ignore[attr-defined]
    return image


def _upright(image: Image.Image) -> np.ndarray:
    image.load()
    return turned(np.asarray(image), orientation_of(image))


def _rawmode(tile: Any) -> str:
    return tile[3] if isinstance(tile[3], str) else str(tile[3][0])


def _with_rawmode(tile: Any, rawmode: str) -> Any:
    args = rawmode if isinstance(tile[3], str) else (rawmode, *tile[3][1:])
    changed = (*tile[:3], args)
    return type(tile)(*changed) if hasattr(tile, "_fields") else changed  # a plain tuple before Pillow 11


def _keyed(colour: np.ndarray, image: Image.Image) -> np.ndarray | None:
    """Alpha of a PNG that names one colour as transparent (tRNS)."""
    key = image.info.get("transparency")
    if not isinstance(key, int | tuple):
        return None
    return np.where((colour == np.array(key, np.uint16)).all(axis=-1), 0, 65535).astype(np.uint16)


def _divide_by_alpha(samples: np.ndarray) -> None:
    """Of colours that are multiplied by alpha, (H, W, 4) uint16, in place."""
    for rows in disk.strips((len(samples), samples.shape[1] * samples.shape[2])):
        alpha, colour = samples[rows, :, 3:].astype(np.float64), samples[rows, :, :3]
        divided = np.divide(colour * 65535.0, alpha, out=np.zeros(colour.shape), where=alpha > 0)
        samples[rows, :, :3] = np.rint(np.minimum(divided, 65535))
        disk.release(samples)
