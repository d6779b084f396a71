"""What the proofs compute with: pictures and filters drawn at random, small enough to take no time."""

from __future__ import annotations

import numpy as np

from .. import vgg
from ..pretrained import Preprocessing, Weights
from ..pretrained.weights import Padding, Pooling


def random_weights(
    architecture: str = "vgg19",
    deepest: str = "conv5_1",
    padding: Padding = "zero",
    pooling: Pooling = "max",
    seed: int = 0,
) -> Weights:
    """He-initialised filters and small biases: a network whose features neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    filters = {}
    for name, shape in vgg.convolutions(architecture).items():
        w = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / (9 * shape[1])))
        filters[name] = (w, rng.standard_normal(shape[0], np.float32) * np.float32(0.1))
        if name == deepest:
            break
    preprocessing = Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (58.0, 57.0, 57.5))
    facts = {"source": "random", "source_sha256": "0" * 64, "licence": "MIT", "converter": "nstcore.checks"}
    return Weights("random", architecture, filters, preprocessing, padding, pooling, facts)


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) float64 in [0, 1]: noise with the slow variation of a picture, no two pixels alike."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.full((height, width, 3), 0.5)
    for _ in range(6):
        wave = rng.normal(size=2) * 0.3
        picture += (
            0.08 * np.sin(rows * wave[0] + columns * wave[1] + rng.uniform(0, 6, 1))[..., None] * rng.normal(size=3)
        )
    return np.clip(picture + 0.05 * rng.random((height, width, 3)), 0.01, 0.99)


def distinct(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers between -2 and 2 in any order, no two alike, none 0: away from the kinks of ReLU and max pooling."""
    n = int(np.prod(shape))
    return ((rng.permutation(n) - n // 2 + 0.5) * (4 / n)).reshape(shape)
