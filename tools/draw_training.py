"""Procedural pictures with the statistics of natural ones: what the built-in filters are learned from.

    python tools/draw_training.py FOLDER [--count 16] [--size 224] [--seed 0]

Every picture is drawn from a random generator and nothing else; no photograph or painting is read. What they share with
natural pictures, and why filters learned on them serve:

- luminance with a 1/f^a amplitude spectrum, from clouds of fractal noise and from scale-free occlusion [1]_ [2]_;
- occlusion: opaque shapes whose radii follow a power law ("dead leaves"), so edges, corners and T-junctions occur at
  every scale [2]_;
- muted, correlated colours: luminance varies most, then blue-yellow, then red-green [3]_, under one illuminant;
- shading, ramps of sky, horizons, upright structures with repeated openings, branches, lines of small marks;
- brush strokes along smooth fields with vortices, over any of these.

References
----------
.. [1] Field, "Relations between the statistics of natural images and the response properties of cortical cells",
   JOSA A 4, 1987.
.. [2] Lee, Mumford, Huang, "Occlusion models for natural images: a statistical study of a scale-invariant dead leaves
   model", IJCV 41, 2001.
.. [3] Ruderman, Cronin, Chiao, "Statistics of cone responses to natural images", JOSA A 15, 1998.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# RGB directions of the opponent axes: luminance, blue-yellow, red-green
OPPONENT = np.array([[1.0, 1.0, 1.0], [0.75, 0.1, -1.0], [0.6, -0.7, 0.15]], dtype=np.float32)
OVERSAMPLING = 2  # masks are drawn this much larger and averaged down, so that their edges are smooth


def picture(rng: np.random.Generator, size: int = 224) -> np.ndarray:
    """One picture.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of the picture: the same state gives the same picture.
    size : int
        Height and width in pixels.

    Returns
    -------
    ndarray of shape (size, size, 3), float32
        RGB in [0, 1].
    """
    palette = Palette(rng)
    scene = rng.choice([leaves, vista, marks], p=[0.55, 0.33, 0.12])
    canvas = scene(rng, palette, size)
    if rng.random() < 0.45:
        canvas = strokes(rng, canvas)
    if rng.random() < 0.3:  # a lens out of focus
        canvas = blur(canvas, rng.uniform(0.3, 1.2))
    if rng.random() < 0.4:  # grain
        canvas = canvas + fractal_noise(rng, size, rng.uniform(0.0, 1.0))[..., None] * rng.uniform(0.01, 0.035)
    return np.clip(canvas, 0.0, 1.0).astype(np.float32)


def pictures(seed: int, count: int, size: int = 224) -> np.ndarray:
    """`count` pictures as (count, 3, size, size) float32 in [0, 1]; picture i depends on `seed` and i alone."""
    drawn = np.empty((count, 3, size, size), dtype=np.float32)
    for i in range(count):
        drawn[i] = picture(np.random.default_rng([seed, i]), size).transpose(2, 0, 1)
    return drawn


class Palette:
    """The colours of one picture: a few base colours under one illuminant, and small variations of them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        vividness = rng.choice([0.6, 1.0, 2.0], p=[0.25, 0.5, 0.25])
        illuminant = rng.normal(0.0, [0.05, 0.015])  # blue-yellow, red-green
        n = int(rng.integers(4, 14))
        lightness = np.clip(rng.beta(1.4, 1.6, n), 0.03, 0.97)
        # black and white have no hue, middle tones may have much
        room = 2.0 * np.minimum(lightness, 1.0 - lightness) + 0.25
        hue = (illuminant + rng.normal(0.0, [0.13, 0.05], (n, 2)) * vividness) * room[:, None]
        self.base = np.clip(np.column_stack([lightness, hue]) @ OPPONENT, 0.0, 1.0).astype(np.float32)

    def colour(self, spread: float = 0.03) -> np.ndarray:
        """One of the base colours, made a little lighter or darker."""
        chosen = self.base[self._rng.integers(len(self.base))]
        return np.clip(chosen + self._rng.normal(0.0, spread), 0.0, 1.0)

    def ordered(self) -> np.ndarray:
        """Two of the base colours, the lighter one first."""
        two = self.base[self._rng.choice(len(self.base), 2, replace=False)]
        return two[np.argsort(-two.sum(axis=1))]


def fractal_noise(rng: np.random.Generator, size: int, exponent: float, stretch: float = 1.0) -> np.ndarray:
    """(size, size) noise of mean 0 and deviation 1 whose amplitude falls as frequency^-exponent.

    `stretch` > 1 draws it out along the rows, as on water.
    """
    f = np.fft.fftfreq(size)
    radius = np.hypot(f[:, None], f[None, :] * stretch)
    radius[0, 0] = 1.0
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) / radius**exponent).real
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def blur(canvas: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray((np.clip(canvas, 0.0, 1.0) * 255.0).round().astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255.0


def ramp(rng: np.random.Generator, palette: Palette, size: int) -> np.ndarray:
    """A sky: one colour running into another downwards, with clouds."""
    low, high = palette.colour(), palette.colour()
    down = np.linspace(0.0, 1.0, size, dtype=np.float32)[:, None] ** rng.uniform(0.5, 2.0)
    mix = np.clip(down + fractal_noise(rng, size, 2.0) * rng.uniform(0.0, 0.12), 0.0, 1.0)[..., None]
    clouds = fractal_noise(rng, size, rng.uniform(1.2, 2.0), rng.uniform(0.4, 1.0))[..., None]
    return high + (low - high) * mix + clouds * rng.uniform(0.0, 0.08)


def outline(rng: np.random.Generator, radius: float) -> np.ndarray:
    """(n, 2) corners, row and column, of an ellipse, a box, a polygon or a soft blob about the origin."""
    aspect = rng.uniform(0.06, 1.0)
    kind = rng.choice(4, p=[0.3, 0.3, 0.2, 0.2])
    if kind == 0:
        t = np.linspace(0.0, 2.0 * np.pi, 32, endpoint=False)
        corners = np.column_stack([aspect * np.sin(t), np.cos(t)])
    elif kind == 1:
        corners = np.array([[-aspect, -1.0], [-aspect, 1.0], [aspect, 1.0], [aspect, -1.0]])
    elif kind == 2:
        t = np.sort(rng.uniform(0.0, 2.0 * np.pi, int(rng.integers(3, 8))))
        corners = np.column_stack([aspect * np.sin(t), np.cos(t)])
    else:
        t = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)
        wave = sum(rng.normal(0.0, 0.3 / k) * np.cos(k * t + rng.uniform(0.0, 6.3)) for k in range(2, 7))
        corners = (1.0 + wave)[:, None] * np.column_stack([aspect * np.sin(t), np.cos(t)])
    angle = rng.uniform(0.0, np.pi) if rng.random() < 0.6 else rng.choice([0.0, 0.5 * np.pi])
    c, s = np.cos(angle), np.sin(angle)
    return radius * corners @ np.array([[c, -s], [s, c]])


def mask(corners: np.ndarray, size: int, softness: float = 0.0) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Coverage of a filled polygon: its rows and columns in the picture, and (h, w, 1) values in [0, 1] there."""
    margin = 2 + int(3 * softness)
    top, left = np.maximum(np.floor(corners.min(axis=0)).astype(int) - margin, 0)
    bottom, right = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + margin, size)
    if bottom <= top or right <= left:
        return None
    sheet = Image.new("L", ((right - left) * OVERSAMPLING, (bottom - top) * OVERSAMPLING))
    points = (corners - (top, left)) * OVERSAMPLING
    ImageDraw.Draw(sheet).polygon([(float(x), float(y)) for y, x in points], fill=255)
    sheet = sheet.reduce(OVERSAMPLING)
    if softness:
        sheet = sheet.filter(ImageFilter.GaussianBlur(softness))
    return (slice(top, bottom), slice(left, right)), np.asarray(sheet, dtype=np.float32)[..., None] / 255.0


class Surface:
    """How a shape is filled: shading along the picture's light, one of a few noises, or stripes."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self._rng = rng
        self._noises = [fractal_noise(rng, size, rng.uniform(0.5, 1.7)) for _ in range(3)]
        self._light = rng.uniform(0.0, 2.0 * np.pi)
        self._rows, self._columns = np.mgrid[0:size, 0:size].astype(np.float32)

    def __call__(self, where: tuple[slice, slice], colour: np.ndarray, reach: float) -> np.ndarray:
        """(h, w, 3) of a surface of about `reach` pixels in every direction."""
        rng, rows, columns = self._rng, self._rows[where], self._columns[where]
        away = (columns - columns.mean()) * np.cos(self._light) + (rows - rows.mean()) * np.sin(self._light)
        tone = 1.0 + np.clip(away / max(reach, 20.0) * rng.normal(0.08, 0.12), -0.6, 0.6)
        tone = tone + self._noises[rng.integers(3)][where] * abs(rng.normal(0.0, 0.07))
        if rng.random() < 0.25:
            angle, wavelength = rng.uniform(0.0, np.pi), rng.uniform(3.0, 30.0)
            phase = (columns * np.cos(angle) + rows * np.sin(angle)) * (2.0 * np.pi / wavelength)
            tone = tone + rng.uniform(0.03, 0.12) * (np.sin(phase) if rng.random() < 0.5 else np.sign(np.sin(phase)))
        return np.clip(colour * tone[..., None], 0.0, 1.0)


def leaves(rng: np.random.Generator, palette: Palette, size: int) -> np.ndarray:
    """Dead leaves: opaque shapes over one another, their radii distributed as r^-3 between two bounds."""
    canvas, surface = ramp(rng, palette, size), Surface(rng, size)
    smallest, largest = rng.uniform(1.5, 5.0), rng.uniform(0.1, 0.45) * size
    for u in rng.random(int(rng.integers(30, 500))):
        radius = (smallest**-2 * (1.0 - u) + largest**-2 * u) ** -0.5
        corners = outline(rng, radius) + rng.uniform(-10.0, size + 10.0, 2)
        cover(canvas, corners, palette.colour(), surface, rng.uniform(0.4, 3.0) * (rng.random() < 0.35))
    return canvas


def cover(canvas: np.ndarray, corners: np.ndarray, colour: np.ndarray, surface: Surface, softness: float = 0.0) -> None:
    """Lays one filled shape over the canvas, in place."""
    covered = mask(corners, len(canvas), softness)
    if covered is None:
        return
    where, amount = covered
    reach = 0.5 * float(np.ptp(corners, axis=0).max())
    canvas[where] += amount * (surface(where, colour, reach) - canvas[where])


def vista(rng: np.random.Generator, palette: Palette, size: int) -> np.ndarray:
    """A sky, ridges one before the other, then water or ground, upright blocks with openings, branching plants."""
    canvas, surface = ramp(rng, palette, size), Surface(rng, size)
    if rng.random() < 0.4:  # a sun or a moon
        centre, radius = rng.uniform([0.05, 0.05], [0.4, 0.95]) * size, rng.uniform(0.02, 0.08) * size
        t = np.linspace(0.0, 2.0 * np.pi, 32, endpoint=False)
        disc = centre + radius * np.column_stack([np.sin(t), np.cos(t)])
        cover(canvas, disc, palette.ordered()[0], surface, rng.uniform(0.5, 6.0))
    horizon = rng.uniform(0.25, 0.75) * size
    columns = np.linspace(-2.0, size + 2.0, 96)
    for depth in np.linspace(0.0, 1.0, int(rng.integers(1, 6))):
        level = horizon + depth * (size - horizon) * rng.uniform(0.2, 0.8)
        steps = rng.standard_normal(96).cumsum() * (1.0 + 2.0 * depth) * rng.uniform(0.1, 0.8)
        profile = level + (steps - steps.mean()) * size / 224.0
        corners = np.column_stack([np.r_[profile, size + 2.0, size + 2.0], np.r_[columns, size + 2.0, -2.0]])
        cover(canvas, corners, palette.colour(0.06), surface)
        if rng.random() < 0.5:
            town(rng, palette, canvas, surface, level, (0.08 + 0.3 * depth) * size)
        if rng.random() < 0.5:
            for _ in range(int(rng.integers(1, 6))):
                branches(rng, canvas, palette.ordered()[1], level, (0.1 + 0.35 * depth) * size)
    if rng.random() < 0.35:  # water: the foreground mirrored, drawn out and dimmed
        shore = int(rng.uniform(0.55, 0.85) * size)
        mirrored = canvas[2 * shore - size : shore][::-1]
        ripples = fractal_noise(rng, size, 1.0, 0.15)[shore:, :, None] * rng.uniform(0.02, 0.08)
        canvas[shore:] = mirrored * rng.uniform(0.6, 0.95) + ripples
    return canvas


def town(
    rng: np.random.Generator, palette: Palette, canvas: np.ndarray, surface: Surface, level: float, height: float
) -> None:
    """Upright blocks that stand on `level`, with roofs and rows of openings."""
    size, left = len(canvas), rng.uniform(-0.1, 0.5) * len(canvas)
    for _ in range(int(rng.integers(2, 14))):
        h, w = height * rng.uniform(0.4, 1.6), height * rng.uniform(0.3, 0.9)
        top, bottom, right = level - h, level + 0.15 * height, left + w
        wall = np.array([[bottom, left], [top, left], [top, right], [bottom, right]])
        cover(canvas, wall, palette.colour(0.08), surface)
        if rng.random() < 0.5:
            ridge = top - rng.uniform(0.1, 0.6) * w
            roof = np.array([[top, left - 1.0], [ridge, left + 0.5 * w], [top, right + 1.0]])
            cover(canvas, roof, palette.colour(), surface)
        rows, columns = rng.integers(2, 8, 2)
        dark = palette.ordered()[int(rng.random() < 0.7)]
        for r in (np.arange(rows) + 0.3) * (h / rows) + top:
            for c in (np.arange(columns) + 0.3) * (w / columns) + left:
                opening = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]) * 0.45 * (h / rows, w / columns)
                cover(canvas, opening + np.array([r, c]), dark, surface)
        left = right + rng.exponential(0.1) * w * (rng.random() < 0.4)
        if left > size:
            return


def branches(rng: np.random.Generator, canvas: np.ndarray, colour: np.ndarray, level: float, height: float) -> None:
    """A plant: a stem that forks into thinner ones, with or without foliage."""
    size = len(canvas)
    sheet = Image.fromarray((np.clip(canvas, 0.0, 1.0) * 255.0).round().astype(np.uint8))
    pen = ImageDraw.Draw(sheet)
    foliage = rng.random() < 0.6
    leaf = np.clip(colour + rng.normal(0.0, [0.04, 0.08, 0.03]), 0.0, 1.0)
    twigs = [(level, rng.uniform(0.0, size), -0.5 * np.pi, height * 0.35, max(1.0, height * 0.05))]
    while twigs:
        row, column, angle, length, width = twigs.pop()
        end = row + length * np.sin(angle), column + length * np.cos(angle)
        pen.line([(column, row), end[::-1]], fill=_bytes(colour), width=max(1, round(width)))
        if length > 5.0:
            for turn in rng.normal(0.0, 0.5, int(rng.integers(2, 4))):
                twigs.append((*end, angle + turn, length * rng.uniform(0.55, 0.85), width * 0.65))
        elif foliage:
            r = rng.uniform(1.0, 4.0)
            tint = np.clip(leaf + rng.normal(0.0, 0.06), 0.0, 1.0)
            pen.ellipse([end[1] - r, end[0] - r, end[1] + r, end[0] + r], fill=_bytes(tint))
    canvas[:] = np.asarray(sheet, dtype=np.float32) / 255.0


def marks(rng: np.random.Generator, palette: Palette, size: int) -> np.ndarray:
    """Lines of small marks, like writing or hatching, on a plain ground with a few shapes."""
    canvas, surface = ramp(rng, palette, size), Surface(rng, size)
    for _ in range(int(rng.integers(0, 12))):
        corners = outline(rng, rng.uniform(0.05, 0.4) * size) + rng.uniform(0.0, size, 2)
        cover(canvas, corners, palette.colour(), surface)
    sheet = Image.fromarray((np.clip(canvas, 0.0, 1.0) * 255.0).round().astype(np.uint8))
    pen = ImageDraw.Draw(sheet)
    for _ in range(int(rng.integers(1, 5))):
        ink, height, slant = _bytes(palette.colour()), rng.uniform(4.0, 20.0), rng.normal(0.0, 0.3)
        top, bottom = np.sort(rng.uniform(0.0, size, 2))
        left, right = np.sort(rng.uniform(-0.2 * size, 1.2 * size, 2))
        for row in np.arange(top, bottom, height * rng.uniform(1.1, 1.9)):
            column = left
            while column < right:
                points = rng.uniform(0.0, 1.0, (int(rng.integers(2, 5)), 2)) * (height, 0.6 * height)
                line = [(column + c + slant * r, row + r) for r, c in points]
                pen.line(line, fill=ink, width=max(1, round(height / 9.0)))
                column += height * (0.75 if rng.random() < 0.85 else 1.5)
    return np.asarray(sheet, dtype=np.float32) / 255.0


def strokes(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """The canvas painted over with strokes that follow a smooth field and take their colour where they begin."""
    size = len(canvas)
    field = fractal_noise(rng, size, 2.2) * rng.uniform(0.3, 2.0) + rng.uniform(0.0, 2.0 * np.pi)
    rows, columns = np.mgrid[0:size, 0:size]
    for centre in rng.uniform(0.0, size, (int(rng.integers(0, 5)), 2)):  # vortices
        down, right = rows - centre[0], columns - centre[1]
        weight = np.exp(-(down**2 + right**2) / (2.0 * (rng.uniform(0.08, 0.3) * size) ** 2))
        turned = np.arctan2(down, right) + rng.choice([0.5, -0.5]) * np.pi
        field = field + weight * (np.angle(np.exp(1j * (turned - field))))
    source = np.clip(canvas, 0.0, 1.0)
    sheet = Image.fromarray((source * 255.0).round().astype(np.uint8))
    pen = ImageDraw.Draw(sheet)
    widest, longest = rng.integers(2, 7), rng.integers(6, 20)
    variety = rng.uniform(0.03, 0.1)
    for row, column in rng.uniform(0.0, size - 1.0, (int(rng.integers(300, 3000)), 2)):
        tint = source[int(row), int(column)] + rng.normal(0.0, variety) + rng.normal(0.0, variety / 3.0, 3)
        line = [(column, row)]
        for _ in range(int(rng.integers(4, longest))):
            angle = field[int(np.clip(row, 0, size - 1)), int(np.clip(column, 0, size - 1))]
            row, column = row + 2.0 * np.sin(angle), column + 2.0 * np.cos(angle)
            line.append((column, row))
        pen.line(line, fill=_bytes(np.clip(tint, 0.0, 1.0)), width=int(rng.integers(1, widest)))
    return np.asarray(sheet, dtype=np.float32) / 255.0


def _bytes(colour: np.ndarray) -> tuple[int, int, int]:
    r, g, b = (round(255.0 * float(v)) for v in colour)
    return r, g, b


def contact_sheet(drawn: np.ndarray, columns: int = 8) -> Image.Image:
    """All pictures of `drawn` (count, 3, H, W) side by side."""
    count, _, height, width = drawn.shape
    sheet = Image.new("RGB", (width * min(columns, count), height * -(-count // columns)))
    for i, one in enumerate(drawn):
        sheet.paste(to_image(one), (width * (i % columns), height * (i // columns)))
    return sheet


def to_image(one: np.ndarray) -> Image.Image:
    """(3, H, W) in [0, 1] as a Pillow image."""
    return Image.fromarray((one.transpose(1, 2, 0) * 255.0).round().astype(np.uint8))


def save(drawn: np.ndarray, folder: Path) -> None:
    """Writes every picture and a contact sheet into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, one in enumerate(drawn):
        to_image(one).save(folder / f"{i:03}.png")
    contact_sheet(drawn).save(folder / "contact_sheet.png")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draws pictures like those the built-in filters are learned from.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    save(pictures(options.seed, options.count, options.size), options.folder)


if __name__ == "__main__":
    main()
