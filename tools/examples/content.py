"""The content picture: an old town on a river, late on a summer's afternoon. 768 x 512 at scale 1.

A three-dimensional scene in metres (see render.py for the axes), lit by a low sun on the left, behind the viewer. It is
rendered twice, as seen and as mirrored in the water, at a multiple of the final resolution.
"""

import numpy as np

from examples.ground import QUAY, Bank
from examples.houses import house
from examples.landmarks import bridge, church, gate_tower, keep, lamp
from examples.light import TO_SUN, Shadows, develop, shade, water
from examples.noise import shrink
from examples.planting import crown, poplar, rowing_boat, sailing_boat, tree
from examples.render import NOTHING, Eye, Scene, Sun, rasterise
from examples.solids import Frame

SIZE = 768, 512
SEED = 3
EYE = (6.5, 6.5, 0.0)
FOCAL, HORIZON = 1.18, 0.63

TOWN_SIDE = Bank(
    [(96, 24), (64, 50), (38, 74), (14, 98), (-6, 116), (-16, 140), (-34, 180), (-75, 240), (-190, 330)],
    side=1,
    rise=44,
)
FAR_SIDE = Bank([(-46, 40), (-39, 70), (-35, 92), (-33.5, 108), (-39, 132), (-62, 180), (-130, 250)], side=-1, rise=16)


def streets(scene, rng):
    """Rows of houses along the river, one above the other: wall to wall on the quay, looser up the hill."""
    rows = [  # inland, from, to (metres along the bank), eaves, share of gables to the front
        (13, 30, 127, (9.5, 13.5), 0.55),
        (29, 20, 150, (8.0, 11.0), 0.40),
        (47, 4, 190, (7.0, 10.0), 0.30),
        (66, 9, 185, (6.5, 9.0), 0.30),
        (88, 9, 160, (6.5, 8.0), 0.30),
    ]
    for inland, along, end, (lowest, highest), gables in rows:
        while along < end:
            width, depth = rng.uniform(6.5, 10.5), rng.uniform(9, 11.5)
            tangent = TOWN_SIDE.tangent(along + width / 2)
            ground = float(TOWN_SIDE.height(along, inland + 4))
            # A house's v goes inland if its u runs against the bank.
            corner = TOWN_SIDE.at(along + width / 2, inland, ground) + width / 2 * np.array([tangent[0], 0, tangent[1]])
            eaves, rise = rng.uniform(lowest, highest), rng.uniform(4.2, 6.2)
            house(rng, Frame(scene, corner, -tangent), width, depth, eaves, rise, rng.random() < gables)
            gap = rng.random() < (0.12 if inland < 20 else 0.5)
            along += width + (rng.uniform(2, 5) if gap else 0.05)


def hamlet(scene, rng):
    """Scattered houses, and an old keep, on the hill beyond the bridge."""
    for along, inland in [
        (190, 32),
        (205, 55),
        (222, 40),
        (238, 70),
        (252, 36),
        (262, 84),
        (281, 52),
        (296, 40),
        (310, 76),
    ]:
        frame = Frame(scene, TOWN_SIDE.at(along, inland), (1, rng.uniform(-0.5, 0.1)))
        house(rng, frame, rng.uniform(8, 11), 8, 5.5, 4.5, gable_to_front=False)
    keep(Frame(scene, TOWN_SIDE.at(318, 100), (1, -0.3)))


def woods(scene, rng, bank, count, nearest):
    """Trees on the hill behind a bank, small and many; those that cannot be seen are left out."""
    for _ in range(count):
        along, inland = rng.uniform(2, bank.length - 2), nearest + (190 - nearest) * rng.random() ** 1.3
        size, tall = rng.uniform(3.0, 5.5), rng.random() < 0.12
        x, y, z = bank.at(along, inland)
        if z < 40 or abs(x) > 0.55 * z:
            continue
        if tall:
            poplar(scene, rng, (x, y, z), 2.6 * size, 500, 0.3)
        else:
            autumn = rng.uniform(0, 0.05) * np.array([2.0, 0.8, 0.0])
            tint = np.array([0.10, 0.14, 0.035]) * rng.uniform(0.8, 1.25) + autumn
            crown(scene, rng, (x, y + 0.6 * size, z), (size, 0.95 * size, size), tint, 420, 0.33)


def waterside(scene, rng):
    """Trees, lamps and moored boats along the quay; trees on the far side; boats on the river."""
    for along in (76, 91, 105, 118):
        base = TOWN_SIDE.at(along, 6.5, QUAY)
        tree(scene, rng, base, rng.uniform(7, 9.5), rng.uniform(2.8, 3.6), 5200, 0.11)
        lamp(Frame(scene, TOWN_SIDE.at(along + 8, 1.5, QUAY), (1, 0)))
    for x, z, height in ((-35.5, 114, 17), (-38.5, 118, 21), (-42, 116, 18)):
        poplar(scene, rng, (x, QUAY, z), height, 4000, 0.15)
    for x, z, height in ((-38, 93, 8), (-36, 82, 9), (-41, 84, 10), (-37, 100, 6)):
        tree(scene, rng, (x, QUAY, z), height, 0.42 * height, 5000, 0.14)
    moored = ((83, (0.50, 0.46, 0.38)), (89, (0.14, 0.24, 0.32)), (115, (0.42, 0.13, 0.07)), (122, (0.5, 0.4, 0.2)))
    for along, colour in moored:
        rowing_boat(Frame(scene, TOWN_SIDE.at(along, -1.6, 0), TOWN_SIDE.tangent(along)), colour)
    sailing_boat(Frame(scene, (-9.5, 0, 58), (-0.90, 0.42)), (0.62, 0.58, 0.50), (0.30, 0.09, 0.05))
    rowing_boat(Frame(scene, (4.6, 0, 40), (0.92, 0.40)), (0.38, 0.08, 0.05))
    rowing_boat(Frame(scene, (9.6, 0, 44.5), (0.75, 0.66)), (0.10, 0.24, 0.26))


def build() -> Scene:
    """The whole scene."""
    rng, scene = np.random.default_rng(SEED), Scene()
    TOWN_SIDE.build(scene)
    FAR_SIDE.build(scene)
    streets(scene, rng)
    church(Frame(scene, TOWN_SIDE.at(90, 40) * (0, 1, 0) + (20, -1, 130), (0.93, -0.36)))
    start, end = np.array([-37, 103]), np.array([-4, 113])
    bridge(Frame(scene, (start[0], 0, start[1]), end - start), np.hypot(*(end - start)))
    gate_tower(Frame(scene, (-1.5, QUAY, 120.5), (1, 0)))
    woods(scene, rng, TOWN_SIDE, 420, nearest=78)
    woods(scene, rng, FAR_SIDE, 260, nearest=12)
    hamlet(scene, rng)
    waterside(scene, rng)
    return scene.freeze()


def draw(scale: float = 1.0, supersampling: int = 3) -> np.ndarray:
    """The picture.

    Parameters
    ----------
    scale : float
        1 draws 768 x 512 pixels.
    supersampling : int
        Pixels rendered for one of the picture, along each side.

    Returns
    -------
    ndarray of shape (512 * scale, 768 * scale, 3), uint8
    """
    width, height = (max(16, round(side * scale)) for side in SIZE)
    wide, high = width * supersampling, height * supersampling
    scene = build()
    sun = Sun(TO_SUN, centre=(5, 8, 110), span=300, size=min(4096, max(256, 2 * wide)))
    shadows = Shadows(sun, rasterise(scene, sun)[0])

    mirror = Eye(EYE, wide, high, FOCAL, HORIZON, mirrored=True)
    mirror_image = shade(scene, mirror, *rasterise(scene, mirror), shadows)
    eye = Eye(EYE, wide, high, FOCAL, HORIZON)
    nearness, index = rasterise(scene, eye)
    image = shade(scene, eye, nearness, index, shadows)
    river, distance = water(eye, mirror_image)
    wet = (eye.rays()[1] < 0) & (1 / distance > nearness)
    image[wet] = river[wet]
    return develop(shrink(image, supersampling), np.random.default_rng(SEED))


def sky(scale: float = 1.0, supersampling: int = 3) -> np.ndarray:
    """A mask of the sky: white where the picture shows nothing else.

    Returns
    -------
    ndarray of shape (512 * scale, 768 * scale), uint8
        Grey along edges: the share of a pixel.
    """
    width, height = (max(16, round(side * scale)) for side in SIZE)
    eye = Eye(EYE, width * supersampling, height * supersampling, FOCAL, HORIZON)
    _, index = rasterise(build(), eye)
    above = (index == NOTHING) & (eye.rays()[1] >= 0)
    return np.rint(
        255 * shrink(np.repeat(above[..., None], 3, axis=2).astype(np.float32), supersampling)[..., 0]
    ).astype(np.uint8)
