"""Materials, and a frame to build in: flat panels, boxes and pyramids in a building's own coordinates."""

import numpy as np

PLASTER, STONE, TILES, GLASS, PAINT, GROUND, LEAVES, COBBLES = range(8)
LIMESTONE = np.array([0.56, 0.48, 0.37])
SLATE = np.array([0.10, 0.13, 0.16])
RED_TILE = np.array([0.36, 0.13, 0.07])
WOOD = np.array([0.16, 0.10, 0.06])
IRON = np.array([0.03, 0.035, 0.03])
DARK = np.array([0.03, 0.04, 0.05])


class Frame:
    """A place to build in `scene`: from `origin`, u goes along a front, v into the building (left of u), h upwards.

    Parameters
    ----------
    scene : render.Scene
    origin : (x, y, z)
    along : (x, z)
        Direction of u; any length.
    """

    def __init__(self, scene, origin, along):
        self.scene, self.origin = scene, np.asarray(origin, float)
        self.u = np.array([along[0], 0.0, along[1]]) / np.hypot(*along)
        self.v = np.array([-self.u[2], 0.0, self.u[0]])

    def at(self, u, v, h):
        """World point of (u, v, h)."""
        return self.origin + u * self.u + v * self.v + np.array([0.0, h, 0.0])

    def moved(self, u, v, h=0.0, quarters=0):
        """A frame whose origin is at (u, v, h), turned to the left by `quarters` right angles."""
        along = (self.u, self.v, -self.u, -self.v)[quarters % 4]
        return Frame(self.scene, self.at(u, v, h), (along[0], along[2]))

    def panel(self, corners, colour, material):
        """One convex flat polygon with the given (u, v, h) corners."""
        self.scene.polygon([self.at(*corner) for corner in corners], colour, material)

    def upright(self, outline, out, colour, material):
        """One polygon `out` metres in front of the wall v = 0, with the given (u, h) corners."""
        self.panel([(u, -out, h) for u, h in outline], colour, material)

    def slab(self, u, h, out, colour, material):
        """A rectangle over the ranges `u`, `h`, `out` metres in front of the wall v = 0."""
        (u0, u1), (h0, h1) = u, h
        self.upright([(u0, h0), (u1, h0), (u1, h1), (u0, h1)], out, colour, material)

    def box(self, u, v, h, colour, material, top=True):
        """A cuboid over the ranges `u`, `v`, `h`."""
        (u0, u1), (v0, v1), (h0, h1) = u, v, h
        ring = [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]
        for (ua, va), (ub, vb) in zip(ring, ring[1:] + ring[:1], strict=True):
            self.panel([(ua, va, h0), (ub, vb, h0), (ub, vb, h1), (ua, va, h1)], colour, material)
        if top:
            self.panel([(*corner, h1) for corner in ring], colour, material)

    def pyramid(self, sides, radius, h, colour, material, top_radius=0.0, phase=0.0):
        """A spire, cone or drum about the origin over the range `h`; `phase` turns it, in sides."""
        for side in range(sides):
            angles = 2 * np.pi * (np.array([side, side + 1]) + phase) / sides
            (c0, c1), (s0, s1) = np.cos(angles), np.sin(angles)
            low = [(radius * c0, radius * s0, h[0]), (radius * c1, radius * s1, h[0])]
            high = [(top_radius * c1, top_radius * s1, h[1]), (top_radius * c0, top_radius * s0, h[1])]
            self.panel(low + (high if top_radius > 0 else high[:1]), colour, material)
