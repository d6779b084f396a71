"""Trees and boats of the content picture."""

from itertools import pairwise

import numpy as np

from examples.solids import LEAVES, PAINT, Frame

FOLIAGE = np.array(
    [(0.13, 0.17, 0.035), (0.10, 0.15, 0.04), (0.20, 0.19, 0.04), (0.25, 0.17, 0.035), (0.08, 0.12, 0.05)]
)
POPLAR = np.array([0.06, 0.09, 0.03])
PLANK, SPAR, GUNWALE = (0.45, 0.32, 0.20), (0.32, 0.20, 0.10), (0.70, 0.62, 0.50)


def on_sphere(rng, count):
    """`count` random unit vectors."""
    vectors = rng.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def crown(scene, rng, centre, radii, colour, leaves, radius):
    """Leaves, each `radius` metres, on the surfaces of some lumps that together fill an ellipsoid."""
    lumps = max(1, leaves // 110)
    hearts = on_sphere(rng, lumps) * rng.uniform(0.15, 0.72, (lumps, 1)) * (lumps > 1)
    outward = on_sphere(rng, leaves)
    offset = hearts[rng.integers(lumps, size=leaves)] + outward * rng.uniform(0.75, 1.08, (leaves, 1)) / lumps**0.36
    # A leaf is lit as its lump and the whole crown are, with some play of its own.
    facing = outward + 0.7 * offset + 0.35 * rng.normal(size=(leaves, 3))
    facing /= np.linalg.norm(facing, axis=1, keepdims=True)
    colours = np.asarray(colour) * rng.uniform(0.7, 1.3, (leaves, 1)) * (0.75 + 0.25 * offset[:, 1:2])
    scene.cloud(np.asarray(centre) + offset * np.asarray(radii), facing, colours, radius, LEAVES)


def tree(scene, rng, base, height, spread, leaves, radius):
    """A tree with a trunk; `spread` is the radius of its crown."""
    x, y, z = base
    Frame(scene, base, (1.0, 0.3)).box((-0.18, 0.18), (-0.18, 0.18), (-1, 0.5 * height), (0.09, 0.07, 0.05), PAINT)
    radii = spread, 0.42 * height, spread
    crown(scene, rng, (x, y + 0.62 * height, z), radii, rng.choice(FOLIAGE), leaves, radius)


def poplar(scene, rng, base, height, leaves, radius):
    """A slender tree, dark."""
    x, y, z = base
    for middle, wide, tall in ((0.30, 0.100, 0.27), (0.52, 0.105, 0.30), (0.75, 0.075, 0.25)):
        radii = wide * height, tall * height, wide * height
        crown(scene, rng, (x, y + middle * height, z), radii, POPLAR, leaves // 3, radius)


def hull(frame, length, beam, freeboard, colour, inside):
    """A boat's hull along u, its bow at +u: planks between 13 stations, a light gunwale, an open inside."""
    t = np.linspace(-1, 1, 13)
    u = 0.5 * length * t
    half = 0.5 * beam * (1 - np.abs(t) ** 2.4 * np.where(t > 0, 1.0, 0.62))
    sheer = freeboard * (1 + 0.55 * t**2 + 0.15 * t)
    for side in (-1, 1):
        lines = [
            np.column_stack([0.94 * u, 0.72 * side * half, np.full(13, -0.25)]),
            np.column_stack([0.98 * u, 0.95 * side * half, 0.55 * sheer]),
            np.column_stack([u, side * half, sheer]),
            np.column_stack([u, 0.93 * side * half, sheer + 0.06]),
        ]
        for (low, high), tint in zip(pairwise(lines), (0.55 * np.asarray(colour), colour, GUNWALE), strict=True):
            for i in range(12):
                frame.panel([low[i], low[i + 1], high[i + 1], high[i]], tint, PAINT)
    left, right = (np.column_stack([u, 0.9 * side * half, 0.35 * sheer]) for side in (-1, 1))
    for i in range(12):
        frame.panel([left[i], left[i + 1], right[i + 1], right[i]], inside, PAINT)


def rowing_boat(frame, colour):
    """An open boat of 4.6 m with thwarts and a shipped oar."""
    hull(frame, 4.6, 1.7, 0.55, colour, (0.25, 0.17, 0.10))
    for u in (-1.2, 0.0, 1.2):
        frame.box((u - 0.16, u + 0.16), (-0.7, 0.7), (0.42, 0.50), PLANK, PAINT)
    frame.box((-1.9, 1.2), (0.25, 0.33), (0.56, 0.64), (0.55, 0.42, 0.27), PAINT)


def sailing_boat(frame, colour, cloth, length=8.0, mast=10.5):
    """A small gaffer under main and jib."""
    hull(frame, length, 2.5, 0.85, colour, (0.30, 0.22, 0.14))
    frame.box((-1.0, 1.0), (-0.75, 0.75), (0.5, 1.45), (0.72, 0.66, 0.55), PAINT)
    frame.box((0.95, 1.1), (-0.07, 0.07), (0, mast), SPAR, PAINT)
    frame.box((-3.9, 1.0), (-0.06, 0.06), (1.6, 1.72), SPAR, PAINT)
    sail(frame, [(0.9, 1.9), (-3.7, 1.7), (-2.6, 0.93 * mast), (0.95, 0.74 * mast)], 0.75, cloth)
    sail(frame, [(1.35, 1.5), (1.3, 1.6), (1.2, 0.78 * mast), (0.56 * length, 1.2)], 0.5, np.asarray(cloth) * 1.12)


def sail(frame, corners, belly, cloth, cells=10):
    """A cloth between four (u, h) corners that bulges by `belly` metres to leeward (+v), sewn of lengths."""
    a, b, c, d = np.asarray(corners, float)
    s, t = (grid[..., None] for grid in np.meshgrid(*2 * [np.linspace(0, 1, cells + 1)]))
    flat = (1 - s) * (1 - t) * a + s * (1 - t) * b + s * t * c + (1 - s) * t * d
    bulge = belly * np.sin(np.pi * s) * np.sin(np.pi * (0.1 + 0.8 * t))
    place = np.concatenate([flat[..., :1], bulge, flat[..., 1:]], axis=-1)
    for i in range(cells):
        tint = np.asarray(cloth) * (0.93 if i % 2 else 1.0)
        for j in range(cells):
            frame.panel([place[i, j], place[i, j + 1], place[i + 1, j + 1]], tint, PAINT)
            frame.panel([place[i, j], place[i + 1, j + 1], place[i + 1, j]], tint, PAINT)
