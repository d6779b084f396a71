"""A picture file as RGB numbers: orientation, depth, palette, grey, profiles and alpha made uniform."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import PictureError
from .alpha import over_white
from .depth import read_sixteen
from .profiles import image_to_srgb, samples_to_srgb


class Straight(NamedTuple):
    """A picture as its file has it: colours not multiplied by alpha, arbitrary where alpha is 0."""

    rgb: np.ndarray  # (H, W, 3), sRGB in [0, 1], float
    alpha: np.ndarray | None  # (H, W), in [0, 1], float32; None if all is opaque
    bits: int  # per channel: 8, 16 or 32 (floating point)


def read_picture(path: str | Path) -> np.ndarray:
    """Read a picture.

    Parameters
    ----------
    path : path
        Any format that Pillow reads. Turned upright as its EXIF orientation says; an embedded profile converted to
        sRGB; of an animation, the first frame; transparent parts on white.

    Returns
    -------
    ndarray of shape (H, W, 3), float32
        RGB in [0, 1].

    Raises
    ------
    PictureError
        If there is no such file, or it is not a picture, or a damaged one, or larger than Pillow's own limit.
    """
    rgb, alpha, _ = read_straight(path)
    return over_white(rgb, alpha)


def read_straight(path: str | Path) -> Straight:
    """`read_picture` with the transparent parts as they are.

    PNG and TIFF of 16 bits per channel are read at that depth: grey, grey with alpha (PNG), RGB and RGBA. Otherwise
    (CMYK; a profile that is a table, not curves and a matrix) it is 8 bits, and `bits` says so.
    """
    path = Path(path)
    if not path.exists():
        raise PictureError(f"{path}: no such file; expected a picture")
    if path.is_dir():
        raise PictureError(f"{path}: is a folder; expected a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata: the pixels are what counts
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                found = read_sixteen(image, path)
                return from_pil(image) if found is None else _from_sixteen(*found, image.info.get("icc_profile"))
    except UnidentifiedImageError:
        raise PictureError(
            f"{path}: not a picture that can be read; expected PNG, JPEG, TIFF, WebP or the like"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PictureError(
            f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels, the most that is read; make it smaller first"
        ) from None
    except MemoryError:
        raise PictureError(f"{path}: too large for this machine's memory; make it smaller first") from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PictureError(f"{path}: damaged or truncated ({reason}); expected a whole picture") from None


def from_pil(image: Image.Image) -> Straight:
    """A Pillow image of any mode; upright, in sRGB."""
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        grey = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        return Straight(np.repeat(np.clip(grey, 0, 1)[..., None], 3, axis=2), None, 32)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_sixteen(np.clip(np.asarray(image), 0, 65535).astype(np.uint16), None, profile)
    alpha = None
    if image.has_transparency_data:
        straight = image.convert({"La": "LA", "LA": "LA"}.get(image.mode, "RGBA"))
        alpha = np.asarray(straight.getchannel("A"), np.float32) / 255
        image = straight.convert("L" if straight.mode == "LA" else "RGB")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    rgb = np.asarray(image_to_srgb(image, profile), np.float32) / 255
    return Straight(rgb, _unless_opaque(alpha), 8)


def _from_sixteen(samples: np.ndarray, alpha: np.ndarray | None, profile: bytes | None) -> Straight:
    """Of uint16 samples (H, W, 3), or (H, W) if grey, and uint16 alpha."""
    alpha = None if alpha is None else _unless_opaque(alpha.astype(np.float32) / 65535)
    rgb = samples_to_srgb(samples, profile)
    if rgb is not None:
        return Straight(rgb, alpha, 16)
    eight = Image.fromarray(np.rint(samples / 257).astype(np.uint8))
    return Straight(np.asarray(image_to_srgb(eight, profile), np.float32) / 255, alpha, 8)


def _unless_opaque(alpha: np.ndarray | None) -> np.ndarray | None:
    return None if alpha is None or alpha.min() == 1 else alpha
