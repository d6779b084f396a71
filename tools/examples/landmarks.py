"""What the town of the content picture is known by: church, gate tower, bridge, keep; and its lamps."""

from itertools import pairwise

import numpy as np

from examples.houses import gabled_roof
from examples.solids import COBBLES, DARK, GLASS, IRON, LIMESTONE, PAINT, RED_TILE, SLATE, STONE, TILES, Frame

GILT = (0.60, 0.45, 0.15)


def lancet(frame, u, h, width, height):
    """A pointed window in the wall v = 0, its lower left corner at (u, h)."""
    for grow, out, colour, material in ((0.2, 0.03, LIMESTONE * 1.3, STONE), (0.0, 0.06, DARK, GLASS)):
        left, right, low = u - grow, u + width + grow, h - grow
        spring, tip = h + height - width, h + height + grow
        haunch = spring + 0.65 * (tip - spring)
        shoulder = 0.2 * width - grow
        arch = [(right - shoulder - grow, haunch), (u + width / 2, tip), (left + shoulder + grow, haunch)]
        outline = [(left, low), (right, low), (right, spring), *arch, (left, spring)]
        frame.upright(outline, out, colour, material)


def clock(frame, u, h, radius):
    """A pale dial with a dark rim, centred at (u, h) in the wall v = 0."""
    turn = np.arange(16) * np.pi / 8
    for size, out, colour in ((1.2 * radius, 0.30, SLATE), (radius, 0.32, (0.75, 0.68, 0.50))):
        frame.upright(np.column_stack([u + size * np.cos(turn), h + size * np.sin(turn)]), out, colour, PAINT)


def church(frame):
    """A nave with a steep roof, and at its left end a square tower with belfry, clock and spire."""
    stone, side, height = LIMESTONE * 1.12, 7.6, 25.0
    nave = frame.moved(side, -0.5)
    nave.box((0, 24), (0, 11), (-6, 11), stone, STONE, top=False)
    gabled_roof(nave, 24, 11, 11, 9.5, SLATE)
    nave.panel([(24, 0, 11), (24, 11, 11), (24, 5.5, 20.5)], stone, STONE)
    for u in 2.6 + 4.6 * np.arange(5):
        lancet(nave, u, 3.4, 1.5, 5.2)
        nave.box((u + 2.6, u + 3.4), (-0.9, 0), (-6, 8.2), stone * 0.95, STONE)

    frame.box((0, side), (0, side), (-6, height), stone, STONE)
    for level in (9.0, 16.5, height - 0.3):
        frame.box((-0.3, side + 0.3), (-0.3, side + 0.3), (level, level + 0.5), stone * 1.1, STONE)
    for face in (frame, frame.moved(0, side, quarters=3)):
        for u in (1.5, 4.6):
            lancet(face, u, height - 6.6, 1.5, 4.6)
        lancet(face, 3.1, 10.6, 1.3, 3.6)
        clock(face, side / 2, 15.2, 1.25)
    for u in (0.5, side - 0.5):
        for v in (0.5, side - 0.5):
            frame.moved(u, v).pyramid(4, 0.9, (height + 0.2, height + 4.5), SLATE, TILES, phase=0.5)
    middle = frame.moved(side / 2, side / 2, height)
    middle.pyramid(8, 4.1, (0.2, 17), SLATE, TILES, phase=0.5)
    middle.box((-0.1, 0.1), (-0.1, 0.1), (16, 19.2), GILT, PAINT)
    middle.box((-0.7, 0.7), (-0.1, 0.1), (18, 18.25), GILT, PAINT)


def gate_tower(frame):
    """A round tower with a gallery and a pointed roof, about the origin of `frame`."""
    stone = LIMESTONE * 0.95
    frame.pyramid(28, 4.3, (-5, 15), stone, STONE, top_radius=4.0)
    frame.pyramid(28, 4.1, (14.6, 15.6), stone * 0.9, STONE, top_radius=4.9)
    frame.pyramid(28, 4.9, (15.6, 18), stone, STONE, top_radius=4.9)
    frame.pyramid(28, 5.5, (17.8, 27), RED_TILE, TILES)
    for turn in np.arange(14) * 2 * np.pi / 14:
        c, s = np.cos(turn), np.sin(turn)
        face = Frame(frame.scene, frame.at(4.93 * c, 4.93 * s, 0), (-s, c))
        for out in (-0.03, 0.03):
            face.slab((-0.35, 0.35), (16.2, 17.4), out, DARK, GLASS)


def keep(frame):
    """A square keep with a pointed roof and a stretch of wall."""
    stone = LIMESTONE * 0.8
    frame.box((0, 9), (0, 9), (-5, 22), stone, STONE)
    frame.box((9, 24), (1, 8), (-5, 9), stone, STONE)
    frame.moved(4.5, 4.5).pyramid(4, 7, (22, 29), SLATE, TILES, phase=0.5)


def lamp(frame):
    """A street lamp, 4.5 m high."""
    frame.box((-0.07, 0.07), (-0.07, 0.07), (0, 3.4), IRON, PAINT)
    frame.box((-0.25, 0.25), (-0.25, 0.25), (3.4, 4.1), (0.50, 0.42, 0.25), PAINT)
    frame.pyramid(4, 0.45, (4.1, 4.5), IRON, PAINT)


def bridge(frame, length, arches=3, crown=7.4, width=6.0, pier=2.2):
    """A stone bridge along u, humped a little: arches between piers with cutwaters, parapets and lamps."""
    stone = LIMESTONE * 0.95
    span = (length - pier * (arches + 1)) / arches

    def deck(u):
        return crown + 1.9 * (1 - (2 * u / length - 1) ** 2)

    for left in pier + np.arange(arches) * (span + pier):
        rise = min(0.68 * span, deck(left + span / 2) - 1.6)
        turn = np.linspace(0, np.pi, 18)
        vault = np.column_stack([left + span / 2 * (1 - np.cos(turn)), 0.4 + rise * np.sin(turn).clip(0) ** 0.9])
        for (u0, h0), (u1, h1) in pairwise(vault):
            for v in (0, width):
                frame.panel([(u0, v, h0), (u1, v, h1), (u1, v, deck(u1)), (u0, v, deck(u0))], stone, STONE)
            frame.panel([(u0, 0, h0), (u1, 0, h1), (u1, width, h1), (u0, width, h0)], stone * 0.8, STONE)
            frame.upright([(u0, h0), (u1, h1), (u1, h1 + 0.7), (u0, h0 + 0.7)], 0.12, stone * 1.25, PAINT)
    for number in range(arches + 1):
        u = number * (span + pier)
        frame.box((u, u + pier), (0, width), (-2, deck(u)), stone, STONE)
        nose = [(u, -0.05), (u + pier / 2, -2.0), (u + pier, -0.05)]
        for (ua, va), (ub, vb) in pairwise(nose):
            frame.panel([(ua, va, -2), (ub, vb, -2), (ub, vb, 3.4), (ua, va, 3.4)], stone * 0.9, STONE)
            frame.panel([(ua, va, 3.4), (ub, vb, 3.4), (u + pier / 2, 0, 4.6)], stone * 1.1, STONE)
        if 0 < number < arches:
            lamp(frame.moved(u + pier / 2, 0, deck(u)))
    for u0, u1 in pairwise(np.linspace(0, length, 25)):
        h0, h1 = deck(u0), deck(u1)
        frame.panel([(u0, 0, h0), (u1, 0, h1), (u1, width, h1), (u0, width, h0)], stone, COBBLES)
        low, high = (h0 - 0.25, h1 - 0.25), (h0 + 0.95, h1 + 0.95)
        for v in (-0.3, width - 0.2):
            frame.panel([(u0, v, low[0]), (u1, v, low[1]), (u1, v, high[1]), (u0, v, high[0])], stone * 1.12, STONE)
            rail = [(u0, v, high[0]), (u1, v, high[1]), (u1, v + 0.5, high[1]), (u0, v + 0.5, high[0])]
            frame.panel(rail, stone * 1.35, PAINT)
