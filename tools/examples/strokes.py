"""Oil paint: brush strokes with bristles, laid along a flow, that leave colour and relief.

A canvas holds colour and the height of the paint. A stroke is a ribbon about a curved path; within it, `s` runs from 0
to 1 along the path and `t` from -1 to 1 across. Hairs of the brush are rows of one noise texture, long along s and
about a pixel and a half wide across, and decide where paint is dense, how it is streaked and how high it stands.
"""

from dataclasses import dataclass

import numpy as np

from examples.noise import gaussian_blur, mix, smoothstep

TEXTURE = 512


@dataclass(frozen=True)
class Brush:
    """One pass over the picture: lengths in pixels at scale 1."""

    width: float
    length: float
    strokes: int
    strength: float  # how much a stroke's colour strays from the plan, 0 ... 1
    accent: float = 0.0  # share of strokes in a contrasting colour


class Canvas:
    """Colour (H, W, 3) in [0, 1] and paint height (H, W), in arbitrary units."""

    def __init__(self, ground, rng):
        self.colour = ground.astype(np.float32)
        height, width = ground.shape[:2]
        row, column = np.mgrid[:height, :width]
        weave = np.sin(column * 1.6) * np.sin(row * 1.6)
        self.height = (0.10 * weave + 0.08 * rng.normal(size=(height, width))).astype(np.float32)
        hairs = rng.normal(size=(TEXTURE, TEXTURE)).astype(np.float32)
        # Hairs: long along the first axis (s), narrow along the second (t); wrapped, so that any offset will do.
        spectrum = np.fft.rfft2(hairs)
        along, across = np.fft.fftfreq(TEXTURE)[:, None], np.fft.rfftfreq(TEXTURE)[None, :]
        spectrum *= np.exp(-0.5 * (along * 2 * np.pi * 26) ** 2 - 0.5 * (across * 2 * np.pi * 1.1) ** 2)
        hairs = np.fft.irfft2(spectrum, (TEXTURE, TEXTURE))
        self.hairs = (hairs / hairs.std()).astype(np.float32)

    def stroke(self, path, width, colour, second, load, rng):
        """Lay one stroke: `path` (n, 2) of (column, row), two colours that streak it, `load` of paint 0 ... 1."""
        half = width / 2
        rows, columns = self.colour.shape[:2]
        (left, top), (right, bottom) = path.min(axis=0) - half - 1, path.max(axis=0) + half + 2
        c0, c1, r0, r1 = max(0, int(left)), min(columns, int(right)), max(0, int(top)), min(rows, int(bottom))
        if c0 >= c1 or r0 >= r1:
            return
        along, across, total = ribbon(path, np.arange(c0, c1) + 0.5, np.arange(r0, r1) + 0.5)
        s, t = along / total, across / half
        at = (
            (along + rng.integers(TEXTURE)).astype(int) % TEXTURE,
            (across + rng.integers(TEXTURE)).astype(int) % TEXTURE,
        )
        hair = self.hairs[at]

        # Round at the start, ragged at the end, where the brush runs dry; hairs stray at the sides.
        ends = np.maximum(-along, along - total) / half
        side = np.sqrt(t * t + np.clip(ends, 0, None) ** 2)
        inside = smoothstep(1.0, 0.80, side + 0.12 * hair)
        dry = smoothstep(-0.25, 0.25, load * (1.35 - 1.15 * s**2) + 0.50 * hair - 0.25)
        alpha = (inside * dry)[..., None]
        streak = smoothstep(-1.6, 1.6, self.hairs[at[0], (at[1] + 71) % TEXTURE])[..., None]
        paint = mix(colour, second, streak) * (1 + 0.045 * hair[..., None])
        ridge = 0.55 * smoothstep(0.45, 0.9, np.abs(t)) + 0.35 * smoothstep(0.75, 1.0, s)
        relief = load * (0.75 + 0.38 * hair + ridge) * min(1.6, 0.5 + 0.05 * width)

        area = np.s_[r0:r1, c0:c1]
        self.colour[area] = mix(self.colour[area], paint, alpha)
        self.height[area] = mix(self.height[area], 0.35 * self.height[area] + relief, alpha[..., 0])

    def lit(self, unit, strength=0.30):
        """The canvas under a lamp at the upper left: relief shading and a little gloss; `unit` is pixels at scale 1."""
        height = gaussian_blur(self.height, 0.45 * unit)
        slope_y, slope_x = np.gradient(height * unit)
        normal = np.stack([-slope_x, -slope_y, np.full_like(height, 1 / 0.75)], axis=-1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        lamp = np.array([-0.48, -0.56, 0.67], np.float32)
        halfway = lamp + np.array([0, 0, 1], np.float32)
        diffuse = normal @ lamp / lamp[2]
        gloss = np.clip(normal @ (halfway / np.linalg.norm(halfway)), 0, 1) ** 40
        broad = height - gaussian_blur(height, 3.0 * unit)
        image = self.colour * (1 + strength * 2 * (diffuse - 1) + 0.05 * np.clip(broad, -1, 1))[..., None]
        return np.clip(image + 0.10 * (gloss - 0.45)[..., None] * (0.25 + self.colour), 0, 1)


def ribbon(path: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Distance along and (signed) across a path for a grid of pixels; before its start, `along` is negative.

    Returns
    -------
    along, across : ndarray of shape (len(rows), len(columns))
    total : float
        Length of the path.
    """
    start, step = path[:-1].astype(np.float32), np.diff(path, axis=0).astype(np.float32)
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-3)
    before = np.concatenate([[0], np.cumsum(length)]).astype(np.float32)
    dx = columns[None, None, :].astype(np.float32) - start[:, 0, None, None]
    dy = rows[None, :, None].astype(np.float32) - start[:, 1, None, None]
    ux, uy = (step / length[:, None]).T[..., None, None]
    forward, sideways = dx * ux + dy * uy, dy * ux - dx * uy
    beyond = forward - np.clip(forward, 0, length[:, None, None])
    nearest = (beyond**2 + sideways**2).argmin(axis=0)[None]
    low = np.zeros(len(length), np.float32)
    low[0] = -np.inf
    high = length.copy()
    high[-1] = np.inf
    forward = np.clip(forward, low[:, None, None], high[:, None, None]) + before[:-1, None, None]
    along = np.take_along_axis(forward, nearest, 0)[0]
    return along, np.take_along_axis(sideways, nearest, 0)[0], before[-1]


def trace(
    starts: np.ndarray, angle: np.ndarray, region: np.ndarray, length: np.ndarray, steps: int
) -> list[np.ndarray]:
    """Follow the flow from each start, both ways, without leaving the start's region.

    Parameters
    ----------
    starts : ndarray of shape (n, 2)
        (column, row), inside the picture.
    angle, region : ndarray of shape (H, W)
        Direction of the flow in radians; label of the thing that each pixel belongs to.
    length : ndarray of shape (n,)
        Of the paths, in pixels.

    Returns
    -------
    list of n ndarrays of shape (m, 2), m >= 2
    """
    height, width = angle.shape
    cell = starts.astype(int)
    home = region[cell[:, 1], cell[:, 0]]
    halves = []
    for sign in (-1, 1):
        at, alive, visited = starts.astype(float), np.ones(len(starts), bool), []
        for _ in range(steps):
            c, r = np.clip(at[:, 0], 0, width - 1).astype(int), np.clip(at[:, 1], 0, height - 1).astype(int)
            heading = angle[r, c]
            move = sign * (length / (2 * steps))[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
            target = at + move
            c, r = np.clip(target[:, 0], 0, width - 1).astype(int), np.clip(target[:, 1], 0, height - 1).astype(int)
            alive &= region[r, c] == home
            at = np.where(alive[:, None], target, at)
            visited.append((at, alive.copy()))
        halves.append(visited)
    paths = []
    for i, start in enumerate(starts):
        back = [at[i] for at, alive in halves[0] if alive[i]][::-1]
        ahead = [at[i] for at, alive in halves[1] if alive[i]]
        path = np.array([*back, start, *ahead])
        paths.append(path if len(path) > 1 else np.stack([start, start + np.array([0.5, 0.0])]))
    return paths
