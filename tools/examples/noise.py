"""Noise, blurs and ramps: what both pictures are made of. All functions are pure; arrays are float."""

from functools import cache

import numpy as np

TABLE = 256


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a cubic with flat ends in between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a, b, t):
    """a where t = 0, b where t = 1."""
    return a + (b - a) * t


@cache
def _gradients(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random unit vectors for a lattice of TABLE x TABLE corners, which then repeats: their x and y, row-major."""
    angle = np.random.default_rng(seed).random(TABLE * TABLE, dtype=np.float32) * np.float32(2 * np.pi)
    return np.cos(angle), np.sin(angle)


def perlin(x: np.ndarray, y: np.ndarray, seed: int = 0) -> np.ndarray:
    """Gradient noise [1]_ at the points (x, y): smooth, about -0.7 ... 0.7, features about 1 unit wide.

    References
    ----------
    .. [1] Perlin, "Improving noise", SIGGRAPH 2002.
    """
    gradient_x, gradient_y = _gradients(seed)
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    column, row = np.floor(x), np.floor(y)
    fx, fy = x - column, y - row
    columns = [(column.astype(np.int32) + i) & (TABLE - 1) for i in (0, 1)]
    rows = [((row.astype(np.int32) + j) & (TABLE - 1)) * TABLE for j in (0, 1)]

    def corner(i, j):
        at = rows[j] + columns[i]
        return gradient_x.take(at) * (fx - i) + gradient_y.take(at) * (fy - j)

    u, v = (t * t * t * (t * (t * 6 - 15) + 10) for t in (fx, fy))
    return mix(mix(corner(0, 0), corner(1, 0), u), mix(corner(0, 1), corner(1, 1), u), v)


def fractal(x: np.ndarray, y: np.ndarray, octaves: int = 5, gain: float = 0.5, seed: int = 0) -> np.ndarray:
    """Sum of `octaves` of `perlin`, each twice as fine and `gain` times as strong as the one before."""
    total: np.ndarray = np.zeros(np.broadcast(x, y).shape, np.float32)
    amplitude = 1.0
    for octave in range(octaves):
        total = total + amplitude * perlin(x, y, seed + octave)
        # Turning each octave (by atan(0.6 / 0.8)) hides the lattice.
        x, y = 2 * (0.8 * x - 0.6 * y) + 17.3, 2 * (0.6 * x + 0.8 * y) - 9.1
        amplitude *= gain
    return total


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of an (H, W) or (H, W, C) array; edges are replicated."""
    if sigma <= 0:
        return image
    radius = max(1, int(3 * sigma + 0.5))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(image.dtype)
    for axis in (0, 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius, radius)
        padded, length = np.pad(image, pad, mode="edge"), image.shape[axis]
        image = sum(weight * _window(padded, at, length, axis) for at, weight in enumerate(kernel))
    return image


def _window(array: np.ndarray, start: int, length: int, axis: int) -> np.ndarray:
    """`length` rows (axis 0) or columns (axis 1) of `array` from `start`, as a view."""
    return array[start : start + length] if axis == 0 else array[:, start : start + length]


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean over `factor` x `factor` blocks of an (H, W, ...) array: the last step of supersampling."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, *image.shape[2:])
    return blocks.mean(axis=(1, 3))
