"""Many pictures on one page, each with its label."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import OptionError

_INK, _PAPER = (32, 32, 32), (255, 255, 255)
_SMALLEST, _LARGEST = 11, 40  # font sizes, pixels
_LINES = 3  # of a label at most
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    pictures: Sequence[np.ndarray],
    labels: Sequence[str],
    columns: int,
    title: str | None = None,
    *,
    longest: int | None = None,
    foot: str | None = None,
) -> np.ndarray:
    """Pictures in a grid, row by row, on white, with their labels below, a title above and a legend at the foot.

    All cells have one size, that of the largest picture; smaller ones stand in the middle. The font grows with the
    cells. A label that is too long is broken into at most three lines and then shortened.

    Parameters
    ----------
    pictures : sequence of ndarray of shape (H, W, 3), uint8
    labels : sequence of str
        One per picture.
    columns : int
        Cells per row; no more than there are pictures are used.
    title : str, optional
        Broken and shortened like a label, to the width of the sheet.
    longest : int, optional
        Pictures with a longer side, in pixels, are made smaller.
    foot : str, optional
        What a reader needs to know of the labels; as many lines as it takes.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8

    Raises
    ------
    OptionError
        If there is no picture, another number of labels, or a number below 1.
    """
    if not pictures or len(labels) != len(pictures):
        raise OptionError(f"sheet: expected pictures and one label each, got {len(pictures)} and {len(labels)}")
    if columns < 1 or (longest is not None and longest < 1):
        raise OptionError(f"sheet: expected 1 or more columns and pixels, got {columns} and {longest}")
    images = [_smaller(Image.fromarray(p), longest) for p in pictures]
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    width, height = max(i.width for i in images), max(i.height for i in images)
    size = min(max(_SMALLEST, round(width / 18)), _LARGEST)
    gap = size  # between cells, and around all
    cell_width = max(width, 6 * size)  # that a label of a tiny picture can be read
    page_width = columns * (cell_width + gap) + gap
    font, title_font = (ImageFont.load_default(s) for s in (size, round(1.4 * size)))
    texts = [_broken(label, font, cell_width) for label in labels]
    label_height = max(_height(text, size) for text in texts)
    heading = "" if title is None else _broken(title, title_font, page_width - 2 * gap)
    top = gap if title is None else 2 * gap + _height(heading, round(1.4 * size))
    row_height = height + label_height + gap
    legend = "" if foot is None else _broken(foot, font, page_width - 2 * gap, len(foot))
    below = 0 if foot is None else _height(legend, size) + gap
    page = Image.new("RGB", (page_width, top + rows * row_height + below), _PAPER)
    draw = ImageDraw.Draw(page)
    if title is not None:
        draw.multiline_text((gap, gap), heading, _INK, title_font)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        row, column = divmod(i, columns)
        left, upper = gap + column * (cell_width + gap), top + row * row_height
        page.paste(image, (left + (cell_width - image.width) // 2, upper + (height - image.height) // 2))
        draw.multiline_text((left, upper + height + gap // 4), text, _INK, font)
    draw.multiline_text((gap, top + rows * row_height), legend, _INK, font)
    return np.asarray(page)


def _smaller(image: Image.Image, longest: int | None) -> Image.Image:
    if longest is not None:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image


def _height(text: str, size: int) -> int:
    """Of lines of text with what stands between them and below, pixels."""
    return math.ceil(1.35 * size * (1 + text.count("\n"))) + size // 4


def _broken(text: str, font: _Font, width: int, most: int = _LINES) -> str:
    """Up to `most` lines, no wider than `width`: between words where possible, and shortened after the last one.

    In ASCII, accents dropped: Pillow's own font has no other letters.
    """
    lines: list[str] = []
    rest = " ".join(unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().split())
    while rest:
        fits = _fitting(rest, font, width)
        if fits == len(rest):
            return "\n".join([*lines, rest])
        if len(lines) == most - 1:
            keep = max(1, _fitting(rest, font, width - math.ceil(font.getlength("..."))))
            return "\n".join([*lines, rest[:keep].rstrip() + "..."])
        space = rest.rfind(" ", 1, fits + 1)
        end = space if space > 0 else max(1, fits)
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return "\n".join(lines)


def _fitting(text: str, font: _Font, width: float) -> int:
    """How many characters from the start fit in."""
    fits = len(text)
    while fits > 0 and font.getlength(text[:fits]) > width:
        fits = min(fits - 1, int(fits * width / font.getlength(text[:fits])) + 1)
    return fits
