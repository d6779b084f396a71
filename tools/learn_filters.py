"""Learns the built-in filters, without labels and without a backward pass, from pictures that it draws itself.

    python tools/learn_filters.py [-o weights/builtin.h5] [--seed 0] [--drawings FOLDER]

The network has VGG19's shape, conv1_1 to conv5_1. Layer after layer, from the features that the layers below give of
the drawings (`tools/draw_training.py`), following Coates and Ng [1]_:

    patches     p: 3x3 neighbourhoods of the layer below, at random positions of every drawing
    whitening   z = V^T (p - m) / sqrt(e + eps mean(e))        m mean, e, V largest eigenvalues and vectors of cov(p)
    contrast    z / |z|
    k-means     K unit vectors d_k; every z belongs to the d_k with the largest <z, d_k>, and each d_k is moved to the
                direction of the sum of <z, d_k> z over those that belong to it (spherical, as in [1]_)
    filter      w_k = V diag(1 / sqrt(e + eps mean(e))) d_k: the response <w_k, p - m> is <z, d_k> before the contrast
    threshold   b_k = -<w_k, m> - t * (standard deviation of the response): what is below stays off
    scale       w_k, b_k are divided by the mean of relu(response), which is 1 then, as Gatys et al. do to the VGG

Pooling is average while learning and maximum when painting. Borders are replicated: the filters have only ever seen the
inside of pictures, and a frame of zeros is to them a strange texture that they paint along the edges.

The same seed gives the same filters on the same machine; another BLAS rounds differently, and k-means then ends
elsewhere, equally good.

References
----------
.. [1] Coates, Ng, "Learning feature representations with k-means", in Neural Networks: Tricks of the Trade, 2012.
.. [2] Gatys, Ecker, Bethge, "A neural algorithm of artistic style", 2015.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]

import draw_training  # noqa: E402

from nstcore import vgg  # noqa: E402
from nstcore.pretrained import Preprocessing, Weights, write_weights  # noqa: E402

ARCHITECTURE = "vgg19"
DEEPEST = "conv5_1"
# Roughly the mean and deviation of the channels over natural pictures, as the whole field uses them.
PREPROCESSING = Preprocessing("rgb", 1.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

_STRIP = 1 << 20  # values of one strip of im2col: small enough for a processor's cache
_BLOCK = 4096  # patches compared with all centroids at a time


@dataclass(frozen=True)
class Recipe:
    """What can be turned.

    Attributes
    ----------
    count, size : int
        Number of drawings, and their height and width in pixels.
    patches : int
        Patches per layer.
    components : int
        Most eigenvectors kept of a layer's patches.
    eps : float
        Damping of the whitening, in mean eigenvalues: smaller ones raise rare detail and noise.
    thresholds : tuple of five floats
        t of each block, in standard deviations of the response.
    iterations : int
        Of k-means.
    """

    count: int = 48
    size: int = 192
    patches: int = 40000
    components: int = 640
    eps: float = 0.5
    thresholds: tuple[float, ...] = (0.0, 0.0, 0.0, 0.25, 0.25)
    iterations: int = 10


def learn(
    drawings: np.ndarray,
    seed: int,
    recipe: Recipe,
    shapes: dict[str, tuple[int, int, int, int]] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Filters of every convolution.

    Parameters
    ----------
    drawings : ndarray of shape (count, 3, H, W), float32
        RGB in [0, 1].
    seed : int
        Of the patches' positions and of the first centroids.
    recipe : Recipe
    shapes : dict of str to (K, C, 3, 3), optional
        Convolutions by name, in the order of the data; a pooling comes before each new block. VGG19's up to conv5_1 if
        not given.
    report : callable
        Told one line a layer.

    Returns
    -------
    dict of str to (weight, bias)
        Shapes (K, C, 3, 3) and (K,), float32.
    """
    rng = np.random.default_rng(seed)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (PREPROCESSING.mean, PREPROCESSING.std))
    x = (drawings - mean) / std
    filters = {}
    for name, (K, C, *_) in (shapes or default_shapes()).items():
        if filters and block(name) > block(next(reversed(filters))):
            x = average_pool(x)
        w, m = filter_directions(sample_patches(x, recipe.patches, rng), K, recipe, rng)
        w = w.reshape(K, C, 3, 3)
        y = convolve(x, w)
        # threshold and scale, both from the responses to the whole drawings
        y -= (w.reshape(K, -1) @ m)[:, None, None]
        lowest = recipe.thresholds[block(name) - 1] * y.std(axis=(0, 2, 3))
        y -= lowest[:, None, None]
        x = np.maximum(y, 0.0, out=y)
        scale = 1.0 / x.mean(axis=(0, 2, 3))
        x *= scale[:, None, None]
        bias = -(w.reshape(K, -1) @ m + lowest) * scale
        filters[name] = np.ascontiguousarray(w * scale[:, None, None, None]), bias
        report(f"{name}: {K} filters, {np.mean(x > 0):.0%} of the activations on")
    return filters


def block(name: str) -> int:
    """4 for conv4_2."""
    return int(name.removeprefix("conv").split("_")[0])


def default_shapes() -> dict[str, tuple[int, int, int, int]]:
    """(K, C, 3, 3) of VGG19's convolutions up to conv5_1."""
    wanted = {step.name for step in vgg.steps_for(ARCHITECTURE, [DEEPEST])}
    return {name: shape for name, shape in vgg.convolutions(ARCHITECTURE).items() if name in wanted}


def filter_directions(p: np.ndarray, K: int, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Whitening and k-means: filters (K, D) for patches `p` (n, D), and the patches' mean (D,). `p` is centred."""
    m = p.mean(axis=0)
    p -= m
    covariance = p.T @ p / np.float32(len(p))
    e, V = largest_eigenpairs(covariance, min(4 * K, recipe.components), rng)
    V /= np.sqrt(e + recipe.eps * np.trace(covariance) / len(covariance))
    z = p @ V
    z /= np.linalg.norm(z, axis=1, keepdims=True) + 1e-3
    return spherical_kmeans(z, K, recipe.iterations, rng) @ V.T, m


def largest_eigenpairs(a: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The `count` largest eigenvalues (ascending) and eigenvectors (D, count) of a covariance matrix (D, D).

    Exact where nearly all are wanted. Otherwise subspace iteration: the spectra here fall so fast that three rounds
    with an eighth more vectors are plenty.
    """
    if count > 0.6 * len(a):
        e, V = np.linalg.eigh(a)
    else:
        Q = orthonormal(a @ rng.standard_normal((len(a), count + count // 8)).astype(np.float32))
        for _ in range(2):
            Q = orthonormal(a @ Q)
        e, U = np.linalg.eigh(Q.T @ (a @ Q))
        V = Q @ U
    return np.maximum(e[-count:], 0.0), V[:, -count:].astype(np.float32)


def orthonormal(Y: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the columns, through the eigenvectors of Y^T Y: matrix products, unlike a QR."""
    Y = Y / (np.linalg.norm(Y, axis=0) + 1e-20)
    e, V = np.linalg.eigh(Y.T @ Y)
    return Y @ (V / np.sqrt(np.maximum(e, 1e-7 * e[-1])))


def spherical_kmeans(z: np.ndarray, K: int, iterations: int, rng: np.random.Generator) -> np.ndarray:
    """K unit vectors (K, d) that the unit vectors `z` (n, d) gather around; one that loses all its own starts anew."""
    d = z[rng.permutation(len(z))[:K]]
    for _ in range(iterations):
        nearest, closeness = nearest_centroids(z, d)
        order = np.argsort(nearest, kind="stable")
        ends = np.searchsorted(nearest[order], np.arange(K + 1))
        d = np.empty_like(d)
        for k in range(K):
            own = order[ends[k] : ends[k + 1]]
            d[k] = closeness[own] @ z[own] if len(own) else z[rng.integers(len(z))]
        d /= np.linalg.norm(d, axis=1, keepdims=True) + 1e-9
    return d


def nearest_centroids(z: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every z the index of the centroid with the largest <z, d_k>, and that value."""
    nearest, closeness = np.empty(len(z), np.intp), np.empty(len(z), z.dtype)
    for i in range(0, len(z), _BLOCK):
        s = z[i : i + _BLOCK] @ d.T
        nearest[i : i + _BLOCK] = s.argmax(axis=1)
        closeness[i : i + _BLOCK] = s.max(axis=1)
    return nearest, closeness


def sample_patches(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """About `count` 3x3 patches (n, C*9) of features `x` (N, C, H, W), as many from each picture."""
    N, C, H, W = x.shape
    each = count // N
    p = np.empty((N, each, C, 3, 3), np.float32)
    for n in range(N):
        row, column = rng.integers(0, H - 2, each), rng.integers(0, W - 2, each)
        for r in range(3):
            for s in range(3):
                p[n, :, :, r, s] = x[n][:, row + r, column + s].T
    return p.reshape(N * each, C * 9)


def convolve(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """y (N, K, H, W) of x (N, C, H, W) and w (K, C, 3, 3), borders replicated: im2col, a few rows at a time.

    `nstcore.ops.conv_forward(..., padding="replicate")` is the same for one picture; this one is several times faster.
    """
    N, C, H, W = x.shape
    y = np.empty((N, len(w), H, W), np.float32)
    rows = max(1, _STRIP // (9 * C * W))
    for n in range(N):
        xp = np.pad(x[n], ((0, 0), (1, 1), (1, 1)), mode="edge")
        for top in range(0, H, rows):
            high = min(rows, H - top)
            columns = np.empty((C, 3, 3, high, W), np.float32)
            for r in range(3):
                for s in range(3):
                    columns[:, r, s] = xp[:, top + r : top + r + high, s : s + W]
            y[n, :, top : top + high] = (w.reshape(len(w), -1) @ columns.reshape(C * 9, -1)).reshape(-1, high, W)
    return y


def average_pool(x: np.ndarray) -> np.ndarray:
    """2x2 means of (N, C, H, W) with even H and W."""
    return 0.25 * (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2])


def builtin_weights(filters: dict[str, tuple[np.ndarray, np.ndarray]], seed: int) -> Weights:
    """The filters with what a weights file states about them."""
    scripts = hashlib.sha256(b"".join(file.read_bytes() for file in scripts_read()))
    return Weights(
        name="builtin",
        architecture=ARCHITECTURE,
        filters=filters,
        preprocessing=PREPROCESSING,
        padding="replicate",
        pooling="max",
        provenance={
            "source": f"tools/learn_filters.py seed {seed}",
            "source_sha256": scripts.hexdigest(),
            "licence": "MIT",
            "converter": f"tools/learn_filters.py, numpy {np.__version__}",
        },
    )


def scripts_read() -> Iterator[Path]:
    """What determines the filters: the two scripts, in the order in which `source_sha256` takes them."""
    yield TOOLS / "draw_training.py"
    yield TOOLS / "learn_filters.py"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Learns the built-in filters from pictures that it draws itself.")
    parser.add_argument("-o", "--output", type=Path, default=TOOLS.parent / "weights" / "builtin.h5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawings", type=Path, help="folder to write the drawings to, with a contact sheet")
    options = parser.parse_args(argv)

    start = time.perf_counter()

    def report(line: str) -> None:
        print(f"{time.perf_counter() - start:5.0f} s  {line}", flush=True)

    recipe = Recipe()
    drawings = draw_training.pictures(options.seed, recipe.count, recipe.size)
    report(f"{recipe.count} drawings of {recipe.size}x{recipe.size} pixels")
    if options.drawings:
        draw_training.save(drawings, options.drawings)
    filters = learn(drawings, options.seed, recipe, report=report)
    stored = write_weights(options.output, builtin_weights(filters, options.seed), storage="int8")
    report(
        f"{options.output}: {os.path.getsize(options.output) / 2**20:.1f} MiB, rounding {stored.provenance['rounding']}"
    )


if __name__ == "__main__":
    main()
