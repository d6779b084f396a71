"""Picture files as tests write them, and those and colour profiles that Pillow cannot write, byte by byte."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nstcore import images
from nstcore.errors import PictureError

ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refused(path: str | Path) -> str:
    """The message, one line that a terminal can show."""
    with pytest.raises(PictureError) as caught:
        images.load(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def png16(samples: np.ndarray, interlaced: bool = False, chunks=()) -> bytes:
    """A PNG of uint16 samples (H, W, 1 to 4): grey, grey and alpha, RGB, RGBA; every row with the filter "sub"."""
    height, width, channels = samples.shape
    head = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, interlaced)
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [samples]
    rows = b""
    for part in (p for p in passes if p.size):
        raw = np.ascontiguousarray(part, ">u2").view(np.uint8).reshape(len(part), -1)
        left = np.pad(raw, ((0, 0), (2 * channels, 0)))[:, : raw.shape[1]]
        rows += np.insert(raw - left, 0, 1, axis=1).tobytes()
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts
    )


def tiff16(
    samples: np.ndarray,
    order: str = "<",
    compression: str = "none",
    predictor: bool = False,
    planar: bool = False,
    premultiplied: bool = False,
    profile: bytes | None = None,
    orientation: int = 1,
) -> bytes:
    """A TIFF of uint16 samples (H, W, 3 or 4), in strips of 8 rows."""
    height, width, channels = samples.shape
    planes = [samples[..., i : i + 1] for i in range(channels)] if planar else [samples]
    strips = []
    for plane in planes:
        for y in range(0, height, 8):
            rows = plane[y : y + 8].copy()
            if predictor:
                rows[:, 1:] -= plane[y : y + 8, :-1]
            raw = rows.astype(f"{order}u2").tobytes()
            strips.append({"none": bytes, "deflate": zlib.compress, "lzw": lzw}[compression](raw))
    number = {"none": 1, "lzw": 5, "deflate": 8}[compression]
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [16] * channels),
        259: ("H", [number]),
        262: ("H", [2]),
        274: ("H", [orientation]),
        273: ("I", []),
        277: ("H", [channels]),
        278: ("I", [8]),
        279: ("I", [len(s) for s in strips]),
        284: ("H", [1 + planar]),
        317: ("H", [1 + predictor]),
    }
    if channels == 4:
        tags[338] = ("H", [1 if premultiplied else 2])
    if profile:
        tags[34675] = ("B", list(profile))
    return _tiff(order, tags, strips, 273)


def lzw(raw: bytes) -> bytes:
    """LZW without compressing: 9-bit literals, the table cleared before it needs longer codes."""
    codes = [c for i in range(0, len(raw), 250) for c in (256, *raw[i : i + 250])] + [257]
    bits = "".join(f"{c:09b}" for c in codes)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def gamma_curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">III", 0, 1, 0)[:8] + struct.pack(">H", round(gamma * 256)) + bytes(2)


def table_curve(values: np.ndarray) -> bytes:
    entries = np.rint(values * 65535).astype(">u2").tobytes()
    return b"curv" + struct.pack(">II", 0, len(values)) + entries + bytes(-len(entries) % 4)


def parametric_curve(kind: int, *values: float) -> bytes:
    return b"para" + struct.pack(f">IHH{len(values)}i", 0, kind, 0, *(round(v * 65536) for v in values))


def matrix_profile(to_xyz: np.ndarray, curve: bytes, **tags: bytes) -> bytes:
    """An RGB profile of one curve and a matrix to XYZ under D50; and other tags."""
    columns = {f"{c}XYZ": _xyz(to_xyz[:, i]) for i, c in enumerate("rgb")}
    return _profile(b"RGB ", b"XYZ ", columns | {f"{c}TRC": curve for c in "rgb"} | tags)


def grey_profile(curve: bytes) -> bytes:
    return _profile(b"GRAY", b"XYZ ", {"kTRC": curve})


def corner_profile(space: bytes, corners: np.ndarray) -> bytes:
    """A profile that is a table: the Lab colours (2, ..., 2, 3) of the corners of the device's cube, linear between."""
    n = corners.ndim - 1
    lab = np.rint(corners * (2.55, 1, 1) + (0, 128, 128)).astype(np.uint8)
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    table = b"mft1" + struct.pack(">IBBBB", 0, n, 3, 2, 0) + identity + ramp * n + lab.tobytes() + ramp * 3
    return _profile(space, b"Lab ", {"A2B0": table})


def _profile(space: bytes, pcs: bytes, tags: dict[str, bytes]) -> bytes:
    tags = {"wtpt": _xyz([0.9642, 1.0, 0.8249]), **tags}
    at = 132 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), at + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(
        ">I4sI4s4s4s12s4s28s", at + len(data), bytes(4), 0x02100000, kind, space, pcs, bytes(12), b"acsp", b""
    )
    return (head + _xyz([0.9642, 1.0, 0.8249])[8:]).ljust(128, b"\0") + table + data


def _xyz(values) -> bytes:
    return b"XYZ " + struct.pack(">I3i", 0, *(round(v * 65536) for v in values))


def float_tiff(
    samples: np.ndarray,
    order: str = "<",
    predictor: int = 1,
    tile: int = 0,
    compression: str = "deflate",
    alpha: int = 2,
    orientation: int = 1,
    profile: bytes | None = None,
    sample_format: int = 3,
) -> bytes:
    """A TIFF of floating point (H, W, 1 to 4), in strips of 8 rows, or in tiles; `alpha` is the tag ExtraSamples.

    With another `sample_format`: of whole numbers, 1 without and 2 with a sign.
    """
    height, width, channels = samples.shape
    size = samples.dtype.itemsize
    pieces = []
    if tile:
        whole = np.pad(samples, ((0, -height % tile), (0, -width % tile), (0, 0)))
        for y in range(0, height, tile):
            pieces += [whole[y : y + tile, x : x + tile] for x in range(0, width, tile)]
    else:
        pieces = [samples[y : y + 8] for y in range(0, height, 8)]
    packed = []
    for piece in pieces:
        raw = piece.astype(piece.dtype.newbyteorder(order))
        if predictor == 2:
            integers = raw.view(f"{order}u{size}").copy()
            integers[:, 1:] -= raw.view(f"{order}u{size}")[:, :-1]
            raw = integers
        elif predictor == 3:
            big = piece.astype(f">f{size}").reshape(len(piece), -1, 1).view(np.uint8)
            planes = big.swapaxes(1, 2).reshape(len(piece), -1)
            raw = planes.copy()
            raw[:, channels:] -= planes[:, :-channels]
        packed.append({"none": bytes, "deflate": zlib.compress, "lzw": lzw}[compression](raw.tobytes()))
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * size] * channels),
        259: ("H", [{"none": 1, "lzw": 5, "deflate": 8}[compression]]),
        262: ("H", [1 if channels < 3 else 2]),
        274: ("H", [orientation]),
        277: ("H", [channels]),
        317: ("H", [predictor]),
        339: ("H", [sample_format] * channels),
    }
    if tile:
        tags |= {322: ("I", [tile]), 323: ("I", [tile]), 324: ("I", []), 325: ("I", [len(p) for p in packed])}
    else:
        tags |= {273: ("I", []), 278: ("H", [8]), 279: ("I", [len(p) for p in packed])}
    if channels in (2, 4):
        tags[338] = ("H", [alpha])
    if profile:
        tags[34675] = ("B", list(profile))
    return _tiff(order, tags, packed, 324 if tile else 273)


def _tiff(order: str, tags: dict[int, tuple[str, list[int]]], strips: list[bytes], place: int) -> bytes:
    """A TIFF of these tags: type and values; the offsets of the strips become the values of tag `place`."""
    at = 8 + 2 + 12 * len(tags) + 4
    offsets = at + np.cumsum([0, *map(len, strips)])[:-1]
    data, directory = b"".join(strips), b""
    for tag, (kind, values) in sorted(tags.items()):
        values = list(offsets) if tag == place else values
        content = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(content) > 4:
            data += bytes(len(data) % 2)
            data, content = data + content, struct.pack(f"{order}I", at + len(data))
        directory += struct.pack(f"{order}HHI4s", tag, {"B": 1, "H": 3, "I": 4}[kind], len(values), content)
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    return head + directory + bytes(4) + data
