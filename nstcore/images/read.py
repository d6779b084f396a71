"""A picture file as RGB numbers: orientation, depth, palette, grey, profiles and alpha made uniform."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import OutputError, PictureError
from .alpha import over_white
from .depth import read_sixteen
from .float_tiff import Floats, TooLarge, read_float
from .profiles import image_to_srgb, samples_to_srgb
from .sources import MOST_PIXELS, Source, looks_like_heic, open_image, opened, shown, source_of
from .upright import orientation_of, turned

# Frames of these are a film or a stack of pages. In other formats they are layers, or smaller copies for telephones.
_FRAMED = {"GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames", "TIFF": "pages"}
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # TIFF tags
_SIGNED = 2
_LONGEST_REASON = 120


class Straight(NamedTuple):
    """A picture as its file has it: colours not multiplied by alpha, arbitrary where alpha is 0."""

    rgb: np.ndarray  # (H, W, 3), sRGB in [0, 1], float
    alpha: np.ndarray | None  # (H, W), in [0, 1], float32; None if all is opaque
    bits: int  # per channel: 8, 16 or 32 (floating point)
    note: str | None = None  # what was left out, for a person


def read_picture(path: str | Path) -> np.ndarray:
    """Read a picture.

    Parameters
    ----------
    path : path
        PNG, JPEG, TIFF, WebP, AVIF, GIF, BMP, JPEG 2000, PPM, QOI, PSD and others; "-" is standard input. Turned
        upright as its EXIF orientation says; an embedded profile converted to sRGB; of an animation, the first frame;
        transparent parts on white.

    Returns
    -------
    ndarray of shape (H, W, 3), float32
        RGB in [0, 1].

    Raises
    ------
    PictureError
        If there is no such file, or it is not a picture, or a damaged one, or has more than
        `nstcore.images.sources.MOST_PIXELS`.
    """
    rgb, alpha, _, _ = read_straight(path)
    return over_white(rgb, alpha)


def read_straight(path: str | Path) -> Straight:
    """`read_picture` with the transparent parts as they are.

    PNG and TIFF of 16 bits per channel are read at that depth: grey, grey with alpha (PNG), RGB and RGBA. Otherwise
    (CMYK; a profile that is a table, not curves and a matrix) it is 8 bits, and `bits` says so. Of floating point, in a
    TIFF, 0 is black and 1 is white, as GIMP and ImageMagick have it; values outside are cut off, with a note, and what
    is not finite is an error.
    """
    name = shown(path)
    source = source_of(path)
    with one_line(name, source):
        with opened(source) as file:
            floats = read_float(file)
        if floats is not None:
            found = from_float(floats, name)
        else:
            with open_image(source) as image:
                check_size(image, MOST_PIXELS)
                sixteen = read_sixteen(image, source)
                if sixteen is None:
                    found = from_pil(image)
                else:
                    found = from_sixteen(*sixteen, image.info.get("icc_profile"))
    return found._replace(note=whole_note(name, source, found.note))


def check_size(image: Image.Image, most: int) -> None:
    """Refuse, before it is decoded, what has more pixels."""
    if image.width * image.height > most:
        raise TooLarge(most)


def whole_note(name: str, source: Source, note: str | None) -> str | None:
    """All that a person should know about a file, as one line."""
    notes = [note for note in (_frames_note(source), note) if note]
    return f"{name}: {'; '.join(notes)}" if notes else None


@contextmanager
def one_line(name: str, source: Source) -> Iterator[None]:
    """Whatever decoders raise, as one line about the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata: the pixels are what counts
            yield
    except (PictureError, OutputError):  # the latter: no room for arrays on disk
        raise
    except UnidentifiedImageError:
        if looks_like_heic(source):
            raise PictureError(f"{name}: a HEIC photograph, which is not read; export it as JPEG or PNG") from None
        raise PictureError(
            f"{name}: not a picture that can be read; expected PNG, JPEG, TIFF, WebP or the like"
        ) from None
    except TooLarge as error:
        raise PictureError(f"{name}: {error}, the most that is read; make it smaller first") from None
    except MemoryError:
        raise PictureError(f"{name}: too large for this machine's memory; make it smaller first") from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        reason = ascii(" ".join(str(error).split()))[1:-1][:_LONGEST_REASON] or type(error).__name__
        raise PictureError(f"{name}: damaged or truncated ({reason}); expected a whole picture") from None


def from_pil(image: Image.Image) -> Straight:
    """A Pillow image of any mode; upright, in sRGB."""
    image.load()
    orientation = orientation_of(image)
    profile = image.info.get("icc_profile")
    if image.mode == "F":
        grey = turned(np.asarray(image, np.float32), orientation)
        return from_float(Floats(grey, None, False, 1, profile), "picture")
    if is_deep(image):
        return from_sixteen(turned(as_sixteen(image), orientation), None, profile)
    rgb, alpha = eight_bits(image)
    return Straight(turned(rgb, orientation), None if alpha is None else turned(alpha, orientation), 8)


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey of more than 8 bits."""
    return image.mode == "I" or image.mode.startswith("I;16")


def eight_bits(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (H, W, 3) in sRGB and alpha (H, W), None if all is opaque, of an image of 8 bits, not turned."""
    profile, alpha = image.info.get("icc_profile"), None
    if image.has_transparency_data:
        straight = image.convert({"La": "LA", "LA": "LA"}.get(image.mode, "RGBA"))
        alpha = np.asarray(straight.getchannel("A"), np.float32) / 255
        image = straight.convert("L" if straight.mode == "LA" else "RGB")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return np.asarray(image_to_srgb(image, profile), np.float32) / 255, _unless_opaque(alpha)


def as_sixteen(image: Image.Image) -> np.ndarray:
    """Grey integers of more than 8 bits as uint16, 65535 being white."""
    samples = np.asarray(image)
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    bits = (tags.get(_BITS_PER_SAMPLE) or (16,))[0]
    signed = (tags.get(_SAMPLE_FORMAT) or (1,))[0] == _SIGNED
    if signed:
        return (np.clip(samples.astype(np.int64), 0, None) * 65535 // (2 ** (bits - 1) - 1)).astype(np.uint16)
    if bits == 32:
        return (samples.astype(np.int32).view(np.uint32) >> 16).astype(np.uint16)  # Pillow reads them as signed
    return np.clip(samples, 0, 65535).astype(np.uint16)


def from_sixteen(samples: np.ndarray, alpha: np.ndarray | None, profile: bytes | None) -> Straight:
    """Of uint16 samples (H, W, 3), or (H, W) if grey, and uint16 alpha."""
    alpha = None if alpha is None else _unless_opaque(alpha.astype(np.float32) / 65535)
    rgb = samples_to_srgb(samples, profile)
    if rgb is not None:
        return Straight(rgb, alpha, 16)
    eight = Image.fromarray(np.rint(samples / 257).astype(np.uint8))
    return Straight(np.asarray(image_to_srgb(eight, profile), np.float32) / 255, alpha, 8)


def from_float(floats: Floats, name: str) -> Straight:
    """Of floating point; through 16 bits where a profile says that the numbers are not sRGB."""
    colour = turned(floats.colour, floats.orientation)
    alpha = None if floats.alpha is None else turned(floats.alpha, floats.orientation)
    if not (np.isfinite(colour).all() and (alpha is None or np.isfinite(alpha).all())):
        raise PictureError(f"{name}: floating point with values that are not finite; expected 0 to 1")
    if alpha is not None:
        alpha = np.clip(alpha, 0, 1)
        if floats.premultiplied:
            divisor = alpha if colour.ndim == 2 else alpha[..., None]
            colour = np.divide(colour, divisor, out=np.zeros_like(colour), where=divisor > 0)
    low, high = float(colour.min()), float(colour.max())
    note = None
    if low < 0 or high > 1:
        note = f"floating point from {low:.4g} to {high:.4g}; below 0 is taken as black, above 1 as white"
        colour = np.clip(colour, 0, 1)
    if floats.profile:
        found = from_sixteen(np.rint(colour * 65535).astype(np.uint16), None, floats.profile)
        return found._replace(alpha=_unless_opaque(alpha), note=note)
    rgb = np.repeat(colour[..., None], 3, axis=2) if colour.ndim == 2 else colour
    return Straight(rgb, _unless_opaque(alpha), 32, note)


def _unless_opaque(alpha: np.ndarray | None) -> np.ndarray | None:
    return None if alpha is None or alpha.min() == 1 else alpha


def _frames_note(source: Source) -> str | None:
    """What to say of a film or a stack of pages, whose first one was read; they are counted, not decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(source) as image:
                what = _FRAMED.get(image.format or "")
                if what is None or not getattr(image, "is_animated", False):
                    return None
                return f"has {getattr(image, 'n_frames', 1)} {what}; the first one is taken"
    except Exception:  # the first one has been read; whatever is wrong lies behind it
        return None
