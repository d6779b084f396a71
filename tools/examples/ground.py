"""The land of the content picture: two banks with quays, and hills behind them."""

from itertools import pairwise

import numpy as np

from examples.noise import fractal, smoothstep
from examples.solids import COBBLES, GROUND, LIMESTONE, PAINT, STONE

QUAY = 2.4


class Bank:
    """A shore along a polyline of (x, z) points, with land on one side that rises to a hill.

    Parameters
    ----------
    corners : sequence of (x, z)
    side : 1 or -1
        Whether the land lies to the right or to the left of the polyline.
    rise : float
        Height of the hill, in metres.
    """

    def __init__(self, corners, side, rise):
        self.corners, self.side, self.rise = np.array(corners, float), side, rise
        self.travelled = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(self.corners, axis=0).T))])
        self.length = self.travelled[-1]

    def shore(self, along):
        """(x, z) on the shore `along` metres from its start."""
        return np.array([np.interp(along, self.travelled, self.corners[:, axis]) for axis in (0, 1)])

    def tangent(self, along):
        """Unit vector (x, z) along the shore there."""
        ahead = self.shore(along + 1) - self.shore(along - 1)
        return ahead / np.hypot(*ahead)

    def height(self, along, inland):
        """Height of the land, `along` metres down the river and `inland` metres behind the shore."""
        slope = self.rise * smoothstep(14, 130, inland)
        return QUAY + slope + 0.12 * slope * fractal(inland / 60, along / 70, 2, seed=3)

    def at(self, along, inland, height=None):
        """World point there, on the ground unless a `height` is given."""
        tangent = self.tangent(along)
        x, z = self.shore(along) + self.side * inland * np.array([tangent[1], -tangent[0]])
        return np.array([x, float(self.height(along, inland)) if height is None else height, z])

    def build(self, scene, step=5.0):
        """The quay's wall and paving, and the hill as a mesh."""
        inland = np.array([0, 0.5, 6, 13, 20, 28, 37, 48, 62, 80, 105, 140, 200])
        looks = [((0.62, 0.55, 0.45), PAINT), ((0.36, 0.31, 0.25), COBBLES), ((0.34, 0.30, 0.24), COBBLES)]
        looks += [((0.085, 0.10, 0.036), GROUND)] * (len(inland) - 1 - len(looks))
        stations = np.arange(0, self.length, step)
        mesh = np.array([[self.at(along, deep) for deep in inland] for along in stations])
        for near, far in pairwise(mesh):
            feet = [near[0] * (1, 0, 1) - (0, 1.5, 0), far[0] * (1, 0, 1) - (0, 1.5, 0)]
            scene.polygon([*feet, far[0], near[0]], LIMESTONE * 0.72, STONE)
            for j, (colour, material) in enumerate(looks):
                scene.polygon([near[j], far[j], far[j + 1]], colour, material)
                scene.polygon([near[j], far[j + 1], near[j + 1]], colour, material)
