"""A small z-buffer renderer: flat polygons and points in, for each pixel the nearest of them out.

World coordinates in metres: x to the right, y up (water is y = 0), z away from the viewer. A view turns vertices into
(column, row, nearness), where nearness is affine over the screen for a plane: 1/z in perspective, -depth in a parallel
projection. Rasterising is then the same for the eye and for the sun (whose z-buffer is the shadow map).
"""

import numpy as np

NOTHING = -1


class Scene:
    """Primitives (convex flat polygons, and points that cover a small disc), each with a colour and a material."""

    def __init__(self):
        self.polygons, self.points, self.radii = [], [], []  # vertices (n, 3) each; centres; metres
        self._polygon_looks, self._point_looks, self._point_normals = [], [], []

    def polygon(self, vertices, colour, material):
        """Add one convex flat polygon: `vertices` (n, 3), `colour` RGB, linear light."""
        self.polygons.append(np.asarray(vertices, float))
        self._polygon_looks.append((*colour, material))

    def cloud(self, points, normals, colours, radius, material):
        """Add n points: `points`, `normals`, `colours` (n, 3); each covers a disc of `radius` metres."""
        self.points.append(points)
        self.radii.append(np.full(len(points), radius))
        self._point_normals.append(normals)
        self._point_looks.append(np.column_stack([colours, np.full(len(points), material)]))

    def freeze(self):
        """Concatenate; afterwards `normal`, `colour`, `material` are indexed by primitive, polygons first."""
        self.points, self.radii = np.concatenate(self.points), np.concatenate(self.radii)
        corner = np.array([vertices[:3] for vertices in self.polygons])
        normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        self.normal = np.concatenate([normal, *self._point_normals]).astype(np.float32)
        looks = np.concatenate([np.array(self._polygon_looks), *self._point_looks]).astype(np.float32)
        self.colour, self.material = looks[:, :3], looks[:, 3].astype(int)
        return self


class Eye:
    """Perspective view along +z from `position`; verticals stay vertical, the horizon lies at `horizon` * height.

    `mirrored` looks at the world below the water: what a flat mirror at y = 0 would show.
    """

    def __init__(self, position, width, height, focal, horizon, mirrored=False):
        self.position, self.width, self.height, self.mirrored = np.asarray(position, float), width, height, mirrored
        self.focal, self.centre = focal * width, (0.5 * width, horizon * height)

    def project(self, points):
        """(n, 3) world points -> (n, 3) columns, rows, nearness 1/z; NaN behind the eye."""
        relative = points * (1, -1 if self.mirrored else 1, 1) - self.position
        z = np.where(relative[:, 2] > 0.5, relative[:, 2], np.nan)
        column = self.centre[0] + self.focal * relative[:, 0] / z
        row = self.centre[1] - self.focal * relative[:, 1] / z
        return np.column_stack([column, row, 1 / z])

    def scale(self, nearness):
        """Pixels per metre at that nearness."""
        return self.focal * nearness

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """Direction (x, y, 1) through every pixel's centre: two arrays (height, width)."""
        row, column = np.mgrid[: self.height, : self.width].astype(np.float32) + np.float32(0.5)
        return (column - self.centre[0]) / self.focal, (self.centre[1] - row) / self.focal

    def locate(self, nearness: np.ndarray) -> np.ndarray:
        """World point (height, width, 3) seen in each pixel, given its nearness; never mirrored."""
        x, y = self.rays()
        z = 1 / np.maximum(nearness, 1e-6)
        height = self.position[1] + y * z
        return np.stack([self.position[0] + x * z, -height if self.mirrored else height, self.position[2] + z], axis=-1)


class Sun:
    """Parallel view from the direction `towards`: a square of `size` pixels over `span` metres about `centre`."""

    def __init__(self, towards, centre, span, size):
        self.towards = np.asarray(towards, float) / np.linalg.norm(towards)
        self.right = np.cross([0.0, 1.0, 0.0], self.towards)
        self.right /= np.linalg.norm(self.right)
        self.up = np.cross(self.towards, self.right)
        self.centre, self.pixels_per_metre, self.width, self.height = np.asarray(centre, float), size / span, size, size

    def project(self, points):
        """(..., 3) world points -> (..., 3) columns, rows, nearness in metres towards the sun."""
        relative = points - self.centre
        plane = (
            np.stack([relative @ self.right, -(relative @ self.up)], axis=-1) * self.pixels_per_metre + self.width / 2
        )
        return np.concatenate([plane, (relative @ self.towards)[..., None]], axis=-1)

    def scale(self, nearness):
        """Pixels per metre, the same everywhere."""
        return np.full(len(nearness), self.pixels_per_metre)


def rasterise(scene: Scene, view: Eye | Sun) -> tuple[np.ndarray, np.ndarray]:
    """The nearest primitive in every pixel.

    Returns
    -------
    nearness : ndarray of shape (height, width), float32
        Of the primitive seen; -inf where there is none.
    index : ndarray of shape (height, width), int32
        Of that primitive in the scene; NOTHING where there is none.
    """
    nearness = np.full((view.height, view.width), -np.inf, np.float32)
    index = np.full((view.height, view.width), NOTHING, np.int32)
    starts = np.cumsum([0, *(len(vertices) for vertices in scene.polygons)])
    corners = view.project(np.concatenate(scene.polygons))
    # Most polygons lie outside the view, behind the eye (NaN) or between the centres of pixels.
    first = np.ceil(np.maximum(np.minimum.reduceat(corners[:, :2], starts[:-1]), 0) - 0.5)
    limit = np.minimum(np.maximum.reduceat(corners[:, :2], starts[:-1]), (view.width, view.height))
    for number in np.flatnonzero((first + 0.5 <= limit).all(axis=1)):
        _fill(nearness, index, number, corners[starts[number] : starts[number + 1]])
    _splat(nearness, index, len(scene.polygons), view.project(scene.points), scene.radii, view)
    return nearness, index


def _fill(nearness, index, number, corners):
    """Draw one convex polygon, given (column, row, nearness) of its corners."""
    height, width = nearness.shape
    (left, top), (right, bottom) = corners[:, :2].min(axis=0), corners[:, :2].max(axis=0)
    c0, c1 = max(0, int(np.floor(left))), min(width, int(np.ceil(right)) + 1)
    r0, r1 = max(0, int(np.floor(top))), min(height, int(np.ceil(bottom)) + 1)
    (ax, ay, a), (bx, by, b), (cx, cy, c) = corners[:3]
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    if c0 >= c1 or r0 >= r1 or abs(area) < 1e-6:
        return
    slope_x = ((b - a) * (cy - ay) - (c - a) * (by - ay)) / area
    slope_y = ((c - a) * (bx - ax) - (b - a) * (cx - ax)) / area
    x, y = np.arange(c0, c1) + 0.5, np.arange(r0, r1)[:, None] + 0.5
    inside = np.ones((r1 - r0, c1 - c0), bool)
    turn = 1 if area > 0 else -1
    for edge in range(len(corners)):
        (px, py, _), (qx, qy, _) = corners[edge - 1], corners[edge]
        inside &= turn * (qx - px) * (y - py) >= turn * (qy - py) * (x - px)
    near = a + slope_x * (x - ax) + slope_y * (y - ay)
    seen = inside & (near > nearness[r0:r1, c0:c1])
    nearness[r0:r1, c0:c1][seen] = near[seen]
    index[r0:r1, c0:c1][seen] = number


def _splat(nearness, index, first, centres, radii, view):
    """Draw the points as discs, nearest on top; `first` is the primitive number of the first point."""
    height, width = nearness.shape
    known = np.flatnonzero(~np.isnan(centres).any(axis=1))
    radius = np.clip(radii[known] * view.scale(centres[known, 2]), 0.5, 12)
    reach = int(np.ceil(radius.max())) if len(known) else 0
    numbers, cells, nears = [], [], []
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            pick = known[dx * dx + dy * dy <= radius * radius]
            column = np.floor(centres[pick, 0]).astype(int) + dx
            row = np.floor(centres[pick, 1]).astype(int) + dy
            on = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            numbers.append(first + pick[on])
            cells.append(row[on] * width + column[on])
            nears.append(centres[pick[on], 2])
    if numbers:
        numbers, cells, nears = np.concatenate(numbers), np.concatenate(cells), np.concatenate(nears).astype(np.float32)
        order = np.lexsort((nears, cells))
        cells, nears, numbers = cells[order], nears[order], numbers[order]
        last = np.flatnonzero(np.append(cells[1:] != cells[:-1], True))
        last = last[nears[last] > nearness.ravel()[cells[last]]]
        nearness.ravel()[cells[last]] = nears[last]
        index.ravel()[cells[last]] = numbers[last]
