"""Pictures of every format, small and whole; and what can be wrong with them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from bad_inputs import mutations
from image_files import float_tiff, png16, tiff16
from PIL import Image

BadPicture = tuple[str, str, bytes]  # what is wrong, the file's name, its content

_HUGE = ((0, 0), (0, 9), (1, 2**31 - 1), (65_535, 65_535), (13_000, 13_000), (2**31 - 1, 2**31 - 1), (12_000, 10))
_FOREIGN = {
    "empty": b"",
    "one byte": b"\x89",
    "text": b"not a picture\n" * 20,
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "HTML": b"<!doctype html><html><body>404</body></html>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(out) (w) file\nshowpage\n",
    "PDF": b"%PDF-1.7\n1 0 obj<<>>endobj\n",
    "zip": b"PK\x03\x04" + bytes(60),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(60),
    "FITS": b"SIMPLE  =                    T" + b" " * 2850,
    "gzip": b"\x1f\x8b\x08" + bytes(60),
}


def whole_pictures() -> dict[str, bytes]:
    """By file name: every format that is read, in its modes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:26, :34]
    rgb = np.stack([x * 7, y * 9, (x + y) * 4], axis=-1).astype(np.uint8) + rng.integers(0, 9, (26, 34, 3), np.uint8)
    rgba = np.dstack([rgb, (x * 7).astype(np.uint8)])
    image, clear = Image.fromarray(rgb), Image.fromarray(rgba)
    sixteen = rng.integers(0, 65536, (26, 34, 4)).astype(np.uint16)
    exif = Image.Exif()
    exif[274], exif[270] = 6, "turned"

    def saved(picture: Image.Image, format: str, **options: object) -> bytes:
        file = BytesIO()
        picture.copy().save(file, format, **options)  # a copy: saving leaves traces that the next format stumbles over
        return file.getvalue()

    def film(format: str) -> bytes:
        return saved(image, format, save_all=True, append_images=[image.rotate(90), image.rotate(180)])

    found = {
        "rgb.png": saved(image, "PNG"),
        "rgba.png": saved(clear, "PNG", exif=exif),
        "palette.png": saved(image.convert("P"), "PNG", transparency=3),
        "grey1.png": saved(image.convert("1"), "PNG"),
        "film.png": film("PNG"),
        "sixteen.png": png16(sixteen),
        "interlaced.png": png16(sixteen[..., :3], interlaced=True),
        "rgb.jpg": saved(image, "JPEG", exif=exif),
        "progressive.jpg": saved(image, "JPEG", progressive=True),
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG"),
        "stereo.jpg": film("MPO"),
        "rgb.webp": saved(image, "WEBP"),
        "rgba.webp": saved(clear, "WEBP", lossless=True),
        "film.webp": film("WEBP"),
        "rgb.tif": saved(image, "TIFF"),
        "lzw.tif": saved(image, "TIFF", compression="tiff_lzw"),
        "deflate.tif": saved(clear, "TIFF", compression="tiff_deflate"),
        "jpeg.tif": saved(image, "TIFF", compression="jpeg"),
        "cmyk.tif": saved(image.convert("CMYK"), "TIFF"),
        "lab.tif": saved(image.convert("LAB"), "TIFF"),
        "pages.tif": film("TIFF"),
        "grey.tif": saved(Image.fromarray(rgb[..., 0].astype(np.float32) / 255), "TIFF"),
        "sixteen.tif": tiff16(sixteen, ">", "deflate"),
        "float.tif": float_tiff(rgb.astype(np.float32) / 255, "<", predictor=3),
        "tiles.tif": float_tiff(rgba.astype(np.float16) / 255, ">", tile=16, predictor=1),
        "film.gif": film("GIF"),
        "clear.gif": saved(clear, "GIF"),
        "rgb.bmp": saved(image, "BMP"),
        "palette.bmp": saved(image.convert("P"), "BMP"),
        "rgb.jp2": saved(image, "JPEG2000"),
        "rgb.ppm": saved(image, "PPM"),
        "plain.pgm": b"P2 3 2 255\n0 10 20\n30 40 255\n",
        "rgba.tga": saved(clear, "TGA", compression="tga_rle"),
        "rgb.sgi": saved(image, "SGI"),
        "rgb.pcx": saved(image, "PCX"),
        "rgba.ico": saved(clear, "ICO"),
    }
    for format in ("AVIF", "QOI"):  # which Pillow of the oldest supported version does not write
        if format in Image.SAVE:
            found[f"rgb.{format.lower()}"] = saved(image, format)
    return found


def bad_pictures() -> Iterator[BadPicture]:
    """Each of them damaged in many ways, and every file that is something else."""
    whole = whole_pictures()
    for number, (file, content) in enumerate(whole.items()):
        for what, bad in mutations(content, 27, number):
            yield what, file, bad
            if file.endswith(".png"):
                yield f"{what}, checksums right again", file, resealed(bad)
    for number, (file, content) in enumerate(whole.items()):
        if file.endswith(".png"):
            yield from ((what, file, bad) for what, bad in reordered(content, number))
    for width, height in _HUGE:
        yield from lying_sizes(whole, width, height)
    for what, content in _FOREIGN.items():
        for suffix in (".png", ".jpg", ".tif"):
            yield what, f"foreign{suffix}", content
    yield "a bomb", "bomb.png", bomb()
    for file in whole:
        yield "under another name", file.rsplit(".", 1)[0] + ".xyz", whole[file]


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of what chunks of a PNG there are."""
    found, at = [], 8
    while at + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        found.append((name, content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    )


def resealed(content: bytes) -> bytes:
    """With checksums that fit again, so that decoders get to the damage behind them."""
    return png(chunks(content))


def reordered(content: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Chunks swapped, lost, doubled; sizes and depths in the head that lie, with a checksum that fits."""
    rng = np.random.default_rng(seed)
    parts = chunks(content)
    for i in range(6):
        a, b = rng.integers(len(parts), size=2)
        other = list(parts)
        if i % 3 == 0:
            other[a], other[b] = other[b], other[a]
        elif i % 3 == 1:
            del other[a]
        else:
            other.insert(b, parts[a])
        yield f"chunks {i % 3} {parts[a][0]!r} {b}", png(other)
    for at, value in ((8, 7), (8, 16), (9, 1), (9, 3), (9, 6), (10, 9), (12, 1)):
        head = bytearray(parts[0][1])
        head[at] = value
        yield f"head {at} = {value}", png([(b"IHDR", bytes(head)), *parts[1:]])
    text = zlib.compress(bytes(1 << 22))
    for name in (b"zTXt", b"iCCP"):
        yield f"a bomb in {name!r}", png([parts[0], (name, b"nstcore\0\0" + text), *parts[1:]])


def lying_sizes(whole: dict[str, bytes], width: int, height: int) -> Iterator[BadPicture]:
    """Small files that say they are of that size."""

    def patched(file: str, at: int, form: str, *values: int) -> BadPicture:
        content = bytearray(whole[file])
        size = 8 * struct.calcsize(form) // len(values)
        packed = struct.pack(form, *(min(value, 2 ** (size - 1) - 1) for value in values))
        content[at : at + len(packed)] = packed
        return f"{width} x {height} by its head", file, bytes(content)

    _, file, content = patched("rgb.png", 16, ">II", width, height)
    yield f"{width} x {height} by its head", file, resealed(content)
    yield patched("film.gif", 6, "<HH", width, height)
    yield patched("rgb.bmp", 18, "<ii", width, height)
    if "rgb.qoi" in whole:
        yield patched("rgb.qoi", 4, ">II", width, height)
    yield patched("rgba.tga", 12, "<HH", width, height)
    yield patched("rgb.sgi", 6, ">HH", width, height)
    for file in ("rgb.jpg", "progressive.jpg"):
        frame = max(whole[file].rfind(b"\xff\xc0"), whole[file].rfind(b"\xff\xc2"))
        yield patched(file, frame + 5, ">HH", height, width)
    for file in ("rgb.tif", "float.tif", "sixteen.tif", "deflate.tif"):
        order = "<" if whole[file][:2] == b"II" else ">"
        (directory,) = struct.unpack_from(f"{order}I", whole[file], 4)
        head = struct.pack(f"{order}HHIIHHII", 256, 4, 1, min(width, 2**32 - 1), 257, 4, 1, min(height, 2**32 - 1))
        content = bytearray(whole[file])
        content[directory + 2 : directory + 26] = head
        yield f"{width} x {height} by its head", file, bytes(content)
    yield f"{width} x {height} by its head", "rgb.ppm", f"P6 {width} {height} 255\n".encode() + bytes(300)


def bomb() -> bytes:
    """A PNG of 169 million black pixels in 160 kilobytes."""
    side = 13_000
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return png([(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")])
