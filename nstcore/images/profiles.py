"""Colour profiles (ICC): whatever a file's numbers mean, here they become sRGB; what is written is tagged as sRGB.

References
----------
.. [1] Specification ICC.1:2022 (profile version 4.4), International Color Consortium: sections 9.2 (tags), 10.6
   (curveType), 10.18 (parametricCurveType), 10.31 (XYZType).
.. [2] IEC 61966-2-1: sRGB.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_D50 = np.array([0.9642, 1.0, 0.8249])  # XYZ of the white of profiles
# linear sRGB to XYZ under D50 (Bradford-adapted), rows scaled so that white is exactly that: grey stays grey
_SRGB_TO_XYZ = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
_SRGB_TO_XYZ *= (_D50 / _SRGB_TO_XYZ.sum(axis=1))[:, None]
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}


def image_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of mode L, RGB, CMYK or LAB (8 bits) as sRGB, in mode RGB; perceptual intent.

    A profile that is broken, or for another kind of colour, is ignored; one that is sRGB changes nothing.
    """
    if image.mode == "L" and _space(profile) == "RGB":
        image = image.convert("RGB")
    if image.mode == "LAB" or not _changes_nothing(profile, image.mode):
        converted = _convert(image, profile)
        if converted is not None:
            return converted
    return image.convert("RGB")


def samples_to_srgb(samples: np.ndarray, profile: bytes | None) -> np.ndarray | None:
    """Samples of 16 bits as sRGB, at full depth.

    Parameters
    ----------
    samples : ndarray of shape (H, W, 3), or (H, W) if grey, uint16
    profile : bytes, optional

    Returns
    -------
    ndarray of shape (H, W, 3), float32, in [0, 1]; or None
        None for a profile that is a table: Pillow's transforms have 8 bits, and this module computes with profiles
        of curves and a matrix only (as those of Adobe RGB, Display P3, ProPhoto and grey scales are).
    """
    if samples.ndim == 2 and _space(profile) == "RGB":
        samples = np.repeat(samples[..., None], 3, axis=2)
    grey = samples.ndim == 2
    if _changes_nothing(profile, "L" if grey else "RGB"):
        rgb = samples.astype(np.float32) / 65535
        return np.repeat(rgb[..., None], 3, axis=2) if grey else rgb
    found = _curves_and_matrix(profile or b"", grey)
    if found is None:
        return None
    curves, to_xyz = found
    if grey:
        linear = curves[0].astype(np.float32)[samples]
        linear = np.repeat(linear[..., None], 3, axis=2)
        black = curves[0][0]
    else:
        linear = np.stack([curve.astype(np.float32)[samples[..., i]] for i, curve in enumerate(curves)], axis=-1)
        linear = linear @ (np.linalg.inv(_SRGB_TO_XYZ) @ to_xyz).T.astype(np.float32)
        black = to_xyz[1] @ [curve[0] for curve in curves]
    return _srgb_encoded((linear - np.float32(black)) / np.float32(1 - black))  # perceptual: black becomes black


def keeps_numbers(profile: bytes | None, grey: bool) -> bool:
    """Whether `samples_to_srgb` only makes floats of the samples."""
    return _changes_nothing(profile, "L" if grey and _space(profile) != "RGB" else "RGB")


@lru_cache(maxsize=1)
def srgb_profile() -> bytes | None:
    """The sRGB profile to embed, always the same bytes; None where Pillow was built without colour management."""
    try:
        profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    except ImportError:
        return None
    profile[24:36] = bytes(12)  # the time at which it was made: now
    return bytes(profile)


@lru_cache(maxsize=16)
def _space(profile: bytes | None) -> str:
    """What the profile describes: GRAY, RGB, CMYK, Lab; empty for a broken one."""
    if not profile:
        return ""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (ImportError, OSError, TypeError):
        return ""


@lru_cache(maxsize=16)
def _changes_nothing(profile: bytes | None, mode: str) -> bool:
    """Whether the profile can be left out: none, broken, for other colours, or equal to sRGB within one level."""
    if not profile or _space(profile) != _SPACES[mode]:
        return True
    if mode == "CMYK":
        return False
    if mode == "L":
        probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        levels = np.linspace(0, 255, 16).astype(np.uint8)
        probe = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3))
    converted = _convert(probe, profile)
    if converted is None:
        return True
    return int(np.abs(np.asarray(converted, int) - np.asarray(probe.convert("RGB"), int)).max()) <= 1


def _convert(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """Through Pillow's colour management; None where that refuses."""
    try:
        source = (
            ImageCms.createProfile("LAB")
            if image.mode == "LAB" and _space(profile) != "Lab"
            else ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        )
        return ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), ImageCms.Intent.PERCEPTUAL, outputMode="RGB"
        )
    except (ImportError, OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return None


def _curves_and_matrix(profile: bytes, grey: bool) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Curves from samples of 16 bits to linear light, each (65536,), and linear RGB to XYZ, (3, 3)."""
    try:
        tags = _tags(profile)
        if profile[20:24] != b"XYZ " or "A2B0" in tags:
            return None
        if grey:
            return [_curve(tags["kTRC"])], np.eye(3)
        columns = [struct.unpack(">3i", tags[f"{c}XYZ"][8:20]) for c in "rgb"]
        return [_curve(tags[f"{c}TRC"]) for c in "rgb"], np.array(columns).T / 65536
    except (KeyError, ValueError, struct.error):
        return None


def _tags(profile: bytes) -> dict[str, bytes]:
    (n,) = struct.unpack_from(">I", profile, 128)
    found = {}
    for i in range(min(n, 100)):
        name, offset, length = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        found[name.decode("latin-1")] = profile[offset : offset + length]
    return found


def _curve(tag: bytes) -> np.ndarray:
    """A curve's tag, of type "curv" or "para", at the 65536 samples."""
    x = np.arange(65536) / 65535
    if tag[:4] == b"curv":
        (n,) = struct.unpack_from(">I", tag, 8)
        if n == 0:
            return x
        entries = np.frombuffer(tag, ">u2", n, 12).astype(np.float64)
        if n == 1:
            return x ** (entries[0] / 256)
        return np.interp(x, np.linspace(0, 1, n), entries / 65535)
    if tag[:4] != b"para":
        raise ValueError("no curve")
    (kind,) = struct.unpack_from(">H", tag, 8)
    used = (1, 3, 4, 5, 7)[kind] if kind < 5 else 0
    if not used:
        raise ValueError("no such kind of curve")
    values = [v / 65536 for v in struct.unpack_from(f">{used}i", tag, 12)]
    g, a, b, c, d, e, f = values + [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0][used:]
    if kind == 2:  # Y = (aX + b)^g + c
        c, e = 0.0, c
    # Y = (aX + b)^g + e for X >= d, else cX + f; kinds 1 and 2 end where aX + b = 0, which the maximum does
    return np.clip(np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f), 0, 1)


def _srgb_encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB's numbers; what sRGB cannot show is cut off."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - np.float32(0.055))
