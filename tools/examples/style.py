"""The style picture: an oil painting of a windy evening, by our own hand. 640 x 512 at scale 1.

First a plan for every pixel: which thing it belongs to, its colour, and the direction in which a brush would move
there. Both come from a stream function: strokes follow its level lines, and colour changes across them. Then the canvas
is painted over, from broad strokes to fine ones.
"""

import numpy as np

from examples.noise import fractal, gaussian_blur, mix, perlin, shrink, smoothstep
from examples.strokes import Brush, Canvas, trace

SIZE = 640, 512
SEED = 20

INDIGO, ULTRAMARINE, COBALT = (0.06, 0.07, 0.22), (0.10, 0.17, 0.50), (0.16, 0.36, 0.66)
TEAL, TURQUOISE, CREAM = (0.09, 0.44, 0.48), (0.50, 0.74, 0.68), (0.97, 0.91, 0.73)
NAPLES, OCHRE, ORANGE = (0.96, 0.79, 0.40), (0.83, 0.57, 0.17), (0.88, 0.41, 0.12)
VERMILION, UMBER, OLIVE = (0.74, 0.20, 0.11), (0.24, 0.13, 0.10), (0.33, 0.38, 0.15)

SKY, RIDGE, HILLS, FIELD, RIVER, FLAMES = range(6)
WHIRLS = [  # middle, radius, strength (sign: sense of turning), spiral arms
    ((0.40, 0.25), 0.15, 0.62, 2),
    ((0.66, 0.47), 0.08, 0.18, 1),
    ((0.13, 0.08), 0.09, -0.26, 1),
    ((1.19, 0.46), 0.09, 0.2, 1),
]
TREES = [((0.095, 0.93), 0.78, 0.05), ((0.235, 0.91), 0.44, 0.04), ((1.14, 0.80), 0.26, 0.03)]  # foot, height, lean
ACCENTS = {
    SKY: [CREAM, TURQUOISE, NAPLES, ULTRAMARINE, ORANGE],
    RIDGE: [COBALT, TURQUOISE, ORANGE],
    HILLS: [TURQUOISE, OCHRE, INDIGO, VERMILION],
    FIELD: [VERMILION, NAPLES, CREAM, TEAL, ULTRAMARINE],
    RIVER: [CREAM, COBALT, NAPLES],
    FLAMES: [VERMILION, INDIGO, ORANGE, TEAL],
}
BRUSHES = [
    Brush(width=34, length=150, strokes=420, strength=0.25),
    Brush(width=18, length=95, strokes=1500, strength=0.45, accent=0.02),
    Brush(width=10.5, length=58, strokes=3300, strength=0.6, accent=0.05),
    Brush(width=6.5, length=40, strokes=3000, strength=0.8, accent=0.10),
    Brush(width=3.2, length=34, strokes=1500, strength=1.0, accent=0.20),
]


def ramp(colours: list, phase: np.ndarray) -> np.ndarray:
    """Colours along a closed loop: `phase` 0 ... 1 goes once around; soft steps, as of separate paints."""
    loop = np.asarray(colours, np.float32)
    at = (phase % 1) * len(loop)
    low = at.astype(int) % len(loop)
    return mix(loop[low], loop[(low + 1) % len(loop)], smoothstep(0.55, 0.95, at % 1)[..., None])


def along_levels(psi: np.ndarray) -> np.ndarray:
    """Angle of the level lines of psi: the flow of a stream function."""
    d_row, d_column = np.gradient(psi)
    return np.arctan2(-d_column, d_row)


def sun(x, y):
    """Distance from the sun's middle, in radii."""
    return np.hypot(x - 0.865, y - 0.215) / 0.070


def sky(x, y):
    """Colour and angle of the sky: whirls and the sun's halo in a wind from the left."""
    psi = 1.5 * y + 0.16 * fractal(1.6 * x, 2.1 * y, 3, seed=1) + 0.05 * np.sin(5 * x + 2 * y)
    phase = 0.0
    for (cx, cy), radius, strength, arms in WHIRLS:
        dx, dy = x - cx, y - cy
        near = np.exp(-(dx * dx + dy * dy) / (2 * radius**2))
        psi = psi + strength * near
        # Spiral arms, continuous all around; they fade with the whirl.
        turn = arms * np.arctan2(dy, dx) + 1.5 * np.hypot(dx, dy) / radius
        phase = phase + 0.16 * np.sin(turn) * smoothstep(0.04, 0.6, near)
    away = sun(x, y)
    halo = smoothstep(4.6, 2.2, away)
    psi = mix(psi, 0.085 * away, halo)
    blues = [ULTRAMARINE, COBALT, TEAL, TURQUOISE, CREAM, TURQUOISE, COBALT, INDIGO]
    colour = ramp(blues, 1.9 * psi + phase + 0.10 * fractal(3 * x, 3 * y, 3, seed=2))
    glow = [CREAM, CREAM, NAPLES, ORANGE, NAPLES, OCHRE, TURQUOISE, TEAL, TURQUOISE, COBALT]
    rings = np.asarray(glow, np.float32)[np.clip(away * 2.2, 0, len(glow) - 1).astype(int)]
    colour = mix(colour, rings, smoothstep(4.5, 3.3, away + 0.25 * perlin(9 * x, 9 * y, 4))[..., None])
    # Towards the horizon the evening is orange.
    evening = smoothstep(0.40, 0.60, y + 0.06 * fractal(2 * x, 6 * y, 3, seed=5) + 0.03 * np.sin(9 * x))
    warm = ramp([OCHRE, ORANGE, NAPLES, CREAM, ORANGE, VERMILION], 2.6 * psi + 0.2)
    return mix(colour, warm, (0.9 * evening)[..., None]), along_levels(psi)


def hillside(x, y, crest, colours, seed):
    """Colour and angle of a hill below the line y = crest: strokes fall along its flanks."""
    psi = (y - crest) + 0.10 * fractal(2.5 * x, 3 * y, 3, seed=seed)
    return ramp(colours, 5.2 * psi + 0.6 * fractal(2.2 * x, 2.2 * y, 2, seed=seed + 1)), along_levels(psi)


def field(x, y):
    """Colour and angle of the ploughed field in front: furrows that bend towards a far point."""
    run = (x - 0.42) / np.maximum(y - 0.48, 0.06)
    psi = 0.30 * run + 0.35 * np.sin(3.1 * (y - 0.6)) + 0.03 * fractal(3 * x, 3 * y, 2, seed=7)
    earth = [OCHRE, NAPLES, ORANGE, OCHRE, UMBER, VERMILION, ORANGE, NAPLES, TEAL]
    return ramp(earth, 1.7 * psi), along_levels(psi)


def flame(x, y, foot, height, lean):
    """Inside (> 0) of a tree like a flame with its foot at `foot` (x, y), and its middle; `lean` bends its tip."""
    up = (foot[1] - y) / height
    middle = foot[0] + lean * np.clip(up, 0, 1) ** 2 + 0.012 * np.sin(13 * up + 5 * foot[0])
    taper = np.clip(up + 0.012, 0, 1) ** 0.5 * (1 - np.clip(up, 0, 1)) ** 0.95
    wide = 0.34 * height * taper + 0.010 * fractal(16 * x, 16 * y, 2, seed=9)
    return np.where((up > -0.02) & (up < 1), wide - np.abs(x - middle), -1.0), middle


def plan(width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plan of the picture: colour (H, W, 3), angle (H, W), region (H, W)."""
    row, column = np.mgrid[:height, :width].astype(np.float32)
    x, y = (column + 0.5) / height, (row + 0.5) / height
    region = np.full((height, width), SKY)
    colour, angle = sky(x, y)

    def put(label, where, look):
        region[where] = label
        colour[where], angle[where] = look[0][where], look[1][where]

    crest = 0.535 + 0.055 * np.sin(3.3 * x + 0.6) + 0.025 * np.sin(9 * x)
    put(RIDGE, y > crest, hillside(x, y, crest, [INDIGO, ULTRAMARINE, COBALT, ULTRAMARINE, TEAL], 11))
    crest = 0.615 + 0.06 * np.sin(4.3 * x + 3.4) + 0.012 * np.sin(14 * x)
    put(HILLS, y > crest, hillside(x, y, crest, [TEAL, OLIVE, TURQUOISE, TEAL, INDIGO, OLIVE], 14))
    crest = 0.70 - 0.05 * np.sin(2.7 * x + 0.4)
    put(FIELD, y > crest, field(x, y))

    bend = 0.80 + 0.16 * np.sin(8.5 * (y - 0.62)) + 0.5 * (y - 0.75)
    breadth = 0.012 + 0.26 * np.clip(y - 0.64, 0, 1) ** 1.15
    across = (x - bend) / breadth
    stream = ramp(
        [TURQUOISE, CREAM, COBALT, TURQUOISE, ULTRAMARINE, CREAM, TEAL],
        0.45 * across + 0.25 * fractal(4 * x, 4 * y, 2, seed=17),
    )
    put(RIVER, (np.abs(across) < 1) & (y > crest - 0.03), (stream, along_levels(across)))

    for foot, tall, _ in TREES[:2]:
        # Long cool shadows, away from the sun.
        slope = (y - foot[1]) + 0.30 * (x - foot[0])
        where = (np.abs(slope - 0.02) < 0.022) & (x < foot[0] + 0.02) & (x > foot[0] - 0.8 * tall)
        colour[where], angle[where] = mix(colour[where], np.array(ULTRAMARINE, np.float32), 0.8), np.arctan2(-0.30, 1.0)
    for foot, tall, lean in TREES:
        inside, middle = flame(x, y, foot, tall, lean)
        lick = (x - middle) / (0.17 * tall)
        twist = lick + 0.30 * np.sin(5.5 * y / tall + 2.5 * lick + 9 * foot[0])
        # Lit on the side of the sun, dark on the other.
        leaves = ramp([INDIGO, UMBER, INDIGO, VERMILION, UMBER, ORANGE, VERMILION, NAPLES, ORANGE], 0.42 + 0.36 * twist)
        put(FLAMES, inside > 0, (leaves, along_levels(twist)))
    return colour, angle, region


def paint(canvas, colour, angle, region, brush, unit, rng):
    """One pass of one brush over the whole canvas; `unit` is the number of pixels to one at scale 1."""
    height, width = angle.shape
    # One start per cell of a jittered grid, in random order: even cover without a pattern.
    columns = int(np.sqrt(brush.strokes * width / height))
    rows = max(1, round(brush.strokes / columns))
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    starts = (grid + rng.random(grid.shape)) * (width / columns, height / rows)
    starts = rng.permutation(np.clip(starts, 0, (width - 1, height - 1)))
    clusters = fractal(*(np.mgrid[:height, :width][::-1] / (60 * unit)), 2, seed=30)
    length = brush.length * unit * rng.uniform(0.6, 1.3, len(starts))
    paths = trace(starts, angle, region, length, steps=5)
    for start, path in zip(starts, paths, strict=True):
        column, row = start.astype(int)
        own, accents = colour[row, column], ACCENTS[int(region[row, column])]
        other = np.asarray(accents[rng.integers(len(accents))], np.float32)
        first = mix(own, other, brush.strength * 0.16 * rng.random())
        if rng.random() < brush.accent * (1 + 2.2 * clusters[row, column]):
            first = mix(own, other, rng.uniform(0.6, 1.0))
        value = 1 + brush.strength * 0.16 * rng.normal()
        second = mix(first, other, brush.strength * rng.uniform(0, 0.45))
        load = rng.uniform(0.55, 1.0)
        canvas.stroke(
            path,
            brush.width * unit * rng.uniform(0.7, 1.25),
            np.clip(first * value, 0, 1),
            np.clip(second * (2 - value), 0, 1),
            load,
            rng,
        )


def draw(scale: float = 1.0, supersampling: int = 2) -> np.ndarray:
    """The picture.

    Parameters
    ----------
    scale : float
        1 draws 640 x 512 pixels; strokes grow and shrink with it.
    supersampling : int
        Pixels painted for one of the picture, along each side.

    Returns
    -------
    ndarray of shape (512 * scale, 640 * scale, 3), uint8
    """
    width, height = (max(16, round(side * scale)) for side in SIZE)
    rng, unit = np.random.default_rng(SEED), supersampling * height / SIZE[1]
    colour, angle, region = plan(width * supersampling, height * supersampling)
    ground = mix(np.array(UMBER, np.float32), gaussian_blur(colour, 6 * unit), 0.35)
    canvas = Canvas(ground, rng)
    for brush in BRUSHES:
        if brush.width * unit < 2:
            break  # too fine to leave a mark at this scale
        paint(canvas, colour, angle, region, brush, unit, rng)
    return (shrink(canvas.lit(unit), supersampling) * 255 + 0.5).astype(np.uint8)
