"""Houses of the content picture, from the wall to the window bar. Every function builds in a `solids.Frame`."""

import numpy as np

from examples.solids import DARK, GLASS, LIMESTONE, PAINT, PLASTER, RED_TILE, STONE, TILES, WOOD

PLASTERS = np.array(
    [
        (0.78, 0.62, 0.40),
        (0.80, 0.70, 0.55),
        (0.72, 0.42, 0.26),
        (0.74, 0.52, 0.30),
        (0.66, 0.36, 0.27),
        (0.82, 0.76, 0.66),
        (0.60, 0.55, 0.47),
        (0.79, 0.56, 0.38),
        (0.50, 0.52, 0.50),
    ]
)
ROOFS = np.array([RED_TILE, (0.42, 0.17, 0.09), (0.30, 0.12, 0.08), (0.38, 0.19, 0.11)])
SHUTTERS = np.array([(0.10, 0.22, 0.18), (0.13, 0.20, 0.30), (0.30, 0.10, 0.07), (0.25, 0.22, 0.17)])
FRAME_PAINT = (0.60, 0.57, 0.50)
FLOOR = 3.0


def window(frame, u, h, width, height, shutters=None):
    """A window in the wall v = 0, its lower left corner at (u, h): surround, glass, bars, sill, shutters."""
    middle, bar = u + width / 2, h + 0.6 * height
    frame.slab((u - 0.14, u + width + 0.14), (h - 0.14, h + height + 0.2), 0.03, (0.74, 0.69, 0.60), PAINT)
    frame.slab((u, u + width), (h, h + height), 0.06, DARK, GLASS)
    frame.slab((middle - 0.05, middle + 0.05), (h, h + height), 0.08, FRAME_PAINT, PAINT)
    frame.slab((u, u + width), (bar, bar + 0.08), 0.08, FRAME_PAINT, PAINT)
    frame.box((u - 0.2, u + width + 0.2), (-0.22, 0), (h - 0.18, h - 0.04), (0.55, 0.5, 0.43), STONE)
    if shutters is not None:
        for start in (u - 0.62 * width, u + 1.06 * width):
            frame.slab((start, start + 0.56 * width), (h, h + height), 0.1, shutters, PAINT)


def door(frame, u, width, colour):
    """A door in the wall v = 0, in a stone surround."""
    frame.slab((u - 0.25, u + width + 0.25), (0, 2.5), 0.05, LIMESTONE, STONE)
    frame.slab((u, u + width), (0, 2.25), 0.08, colour, PAINT)


def gabled_roof(frame, width, depth, eaves, rise, colour, overhang=0.45):
    """Two slopes over `width` x `depth` whose ridge runs along u, and their dark undersides; no gable walls."""
    drop, ridge = overhang * rise / (depth / 2), eaves + rise
    left, right = -0.3, width + 0.3
    for edge in (-overhang, depth + overhang):
        low, high = (edge, eaves - drop), (depth / 2, ridge)
        corners = [(left, *low), (right, *low), (right, *high), (left, *high)]
        frame.panel(corners, colour, TILES)
        frame.panel([(u, v, h - 0.16) for u, v, h in corners], WOOD, PAINT)


def timbering(frame, width, eaves, gable):
    """Dark beams on the front above the ground floor; `gable` is the height of the gable over it, or 0."""

    def beam(start, end, thick=0.14):
        (u0, h0), (u1, h1) = start, end
        du, dh = np.array([h0 - h1, u1 - u0]) / np.hypot(u1 - u0, h1 - h0) * thick
        outline = [(u0 - du, h0 - dh), (u1 - du, h1 - dh), (u1 + du, h1 + dh), (u0 + du, h0 + dh)]
        frame.upright(outline, 0.025, WOOD, PAINT)

    for level in np.arange(FLOOR + 0.1, eaves + 0.1, FLOOR):
        beam((0, level), (width, level))
        top = min(level + FLOOR, eaves)
        for u in (0.12, width / 2, width - 0.12):
            beam((u, level), (u, top))
        if top - level > 2:
            beam((0.1, top), (0.9, level))
            beam((width - 0.1, top), (width - 0.9, level))
    if gable > 0:
        for share in (0.35, 0.66):
            indent, h = share * width / 2, eaves + share * gable
            beam((indent, h), (width - indent, h), 0.11)
        beam((width / 2, eaves), (width / 2, eaves + 0.97 * gable), 0.11)
        for u in (0.27 * width, 0.73 * width):
            beam((u, eaves), (u, eaves + 0.52 * gable), 0.11)


def dormer(frame, wall, roof):
    """A little gabled window that stands in a roof, its front centred at the origin of `frame`."""
    place = frame.moved(-0.8, 0)
    place.box((0, 1.6), (0, 2.4), (-0.6, 1.3), wall, PLASTER, top=False)
    place.panel([(0, 0, 1.3), (1.6, 0, 1.3), (0.8, 0, 2.1)], wall, PLASTER)
    window(place, 0.4, 0.1, 0.8, 1.0)
    for edge in (-0.25, 1.85):
        place.panel([(edge, -0.3, 1.15), (edge, 2.4, 1.15), (0.8, 2.4, 2.2), (0.8, -0.3, 2.2)], roof, TILES)


def chimney(frame, top):
    """A brick chimney, 1.0 x 0.7 m, from the origin of `frame` to the height `top`."""
    frame.box((0, 1.0), (0, 0.7), (0, top), (0.42, 0.24, 0.17), STONE)
    frame.box((-0.12, 1.12), (-0.12, 0.82), (top, top + 0.2), LIMESTONE, STONE)


def house(rng, frame, width, depth, eaves, rise, gable_to_front):
    """A house with its front at v = 0: its colours, timbering, door, dormers and chimney are left to chance."""
    wall = rng.choice(PLASTERS) * rng.uniform(0.85, 1.05)
    roof = rng.choice(ROOFS) * rng.uniform(0.85, 1.2)
    shutters = rng.choice(SHUTTERS) if rng.random() < 0.6 else None
    frame.box((0, width), (0, depth), (-6, eaves), wall, PLASTER, top=False)
    frame.box((-0.06, width + 0.06), (-0.06, depth), (-6, 0.9), LIMESTONE * 0.75, STONE, top=False)
    frame.box((-0.12, width + 0.12), (-0.16, depth), (eaves - 0.35, eaves - 0.05), wall * 1.1, PLASTER, top=False)

    # The roof has a frame of its own, with u along the ridge.
    if gable_to_front:
        loft, span, across = frame.moved(width, 0, quarters=1), depth, width
    else:
        loft, span, across = frame, width, depth
    gabled_roof(loft, span, across, eaves, rise, roof)
    for end in (0.02, span - 0.02):
        loft.panel([(end, 0, eaves), (end, across, eaves), (end, across / 2, eaves + rise)], wall, PLASTER)
    chimney(loft.moved(rng.uniform(0.2, 0.75) * span, 0.58 * across, eaves), rise + 1.1)

    pane, columns = rng.uniform(0.95, 1.15), max(2, int(width / rng.uniform(2.3, 2.8)))
    middles = width * (np.arange(columns) + 0.5) / columns
    floors = int((eaves - 0.4) / FLOOR)
    for level in range(floors):
        for column, middle in enumerate(middles):
            if level == 0 and column == columns // 2:
                door(frame, middle - pane / 2, pane, rng.choice(SHUTTERS) * 0.8)
            else:
                window(frame, middle - pane / 2, level * FLOOR + 1.0, pane, 1.55, shutters)
    if rng.random() < 0.4:
        timbering(frame, width, eaves, rise if gable_to_front else 0.0)
    if gable_to_front:
        window(frame, width / 2 - 0.45, eaves + 0.25 * rise, 0.9, 1.2)
    elif rng.random() < 0.6:
        for middle in middles:
            dormer(frame.moved(middle, 0.22 * depth, eaves + 0.44 * rise), wall, roof)
    side = frame.moved(0, depth, quarters=3)
    for level in range(1, floors):
        for u in (0.25 * depth, 0.65 * depth):
            window(side, u, level * FLOOR + 1.0, 0.9, 1.4, shutters)
