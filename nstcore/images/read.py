"""A picture file as RGB numbers: orientation, depth, palette, grey and alpha made uniform."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import PictureError


def read_picture(path: str | Path) -> np.ndarray:
    """Read a picture.

    Parameters
    ----------
    path : path
        Any format that Pillow reads. Turned upright as its EXIF orientation says; of an animation, the first frame;
        transparent parts on white.

    Returns
    -------
    ndarray of shape (H, W, 3), float32
        RGB in [0, 1].

    Raises
    ------
    PictureError
        If there is no such file, or it is not a picture, or a damaged one, or larger than Pillow's own limit.
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
                image.load()
                return from_pil(image)
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


def from_pil(image: Image.Image) -> np.ndarray:
    """A Pillow image of any mode as (H, W, 3) float32 RGB in [0, 1]."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image, np.float32) / 65535
    elif image.mode == "F":
        grey = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    else:
        return _colour(image)
    return np.repeat(np.clip(grey, 0, 1)[..., None], 3, axis=2)


def _colour(image: Image.Image) -> np.ndarray:
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
        alpha = rgba[..., 3:]
        return rgba[..., :3] * alpha + (1 - alpha)
    return np.asarray(image.convert("RGB"), np.float32) / 255
