"""The problem of each operation: its inputs, what the book makes of them in float64, and the napkin's arithmetic.

Inputs are random numbers that an element of the precision holds exactly, so that all rungs of a precision get the same.
Arrays are channels first, as in the book.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import ops
from ..engines.cuda.precision import Precision, from_elements, to_elements
from ..optim import Vectors
from ..pretrained import Preprocessing
from .two_loops import two_loops

PREPROCESSING = Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
RUN = 64  # terms of a sum over everything that are added in float32; runs are added in float64
BLOCK = 4  # side of a block of block-mean
PAIRS = 10  # of lbfgs
EPSILON = 1e-5  # of instance-norm
BORDER = "reflect"  # of general-conv, as networks that paint have it
ADAM: dict[str, Any] = {  # its second update
    "betas": (0.9, 0.99),
    "corrections": (0.19, 0.0199),
    "learning_rate": 0.02,
    "epsilon": 1e-8,
    "lo": 0.0,
    "hi": 1.0,
}


@dataclass(frozen=True)
class Size:
    """H rows and W columns of positions, C channels, K filters; an operation uses those that it has.

    `kernel` is a side of the filters; `upsample` how many times each position is repeated first, down and across.
    """

    H: int
    W: int
    C: int
    K: int
    kernel: int = 3
    stride: int = 1
    upsample: int = 1

    @property
    def M(self) -> int:
        """Positions."""
        return self.H * self.W


@dataclass(frozen=True)
class Pass:
    """One direction of an operation, and its napkin.

    Attributes
    ----------
    expected : dict of ndarray
        What the book computes, float64, by name.
    operations : int
        Floating-point operations of the definition; a multiply-add is two.
    elements, floats : int
        Numbers that must be read or written once at least: of the precision, and float32 in any.
    length : int
        How many products the longest sum adds up; 0 where numbers are only copied.
    rounded : bool
        Whether the results are elements of the precision; else float32 or more in any.
    """

    expected: dict[str, np.ndarray]
    operations: int
    elements: int
    floats: int
    length: int
    rounded: bool = True


@dataclass(frozen=True)
class Problem:
    """An operation of one size, in one precision.

    Attributes
    ----------
    inputs : dict of ndarray
        float64, by the book's letters.
    passes : dict of Pass
    """

    operation: str
    size: Size
    precision: Precision
    inputs: dict[str, Any] = field(repr=False)
    passes: dict[str, Pass] = field(repr=False)

    def least_bytes(self, name: str) -> int:
        """Bytes that memory moves at least in a pass, if it moves every number once."""
        one = self.passes[name]
        return one.elements * self.precision.dtype.itemsize + 4 * one.floats

    def floats(self, *names: str) -> list[np.ndarray]:
        """Inputs as float32 copies."""
        return [np.array(self.inputs[name], np.float32, order="C") for name in names]


class Draw:
    """Random numbers; the same for every rung, another sequence for every size."""

    def __init__(self, size: Size, precision: Precision, seed: int) -> None:
        self._rng = np.random.default_rng([seed, size.H, size.W, size.C, size.K])
        self._precision = precision

    def __call__(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Normal numbers that are elements."""
        drawn = self._rng.standard_normal(shape, np.float32) * np.float32(scale)
        return self.rounded(drawn)

    def rounded(self, a: np.ndarray) -> np.ndarray:
        """The nearest elements, as float64."""
        return from_elements(to_elements(a, self._precision), self._precision).astype(np.float64)

    def floats(self, *shape: int) -> np.ndarray:
        """Normal numbers that float32 holds."""
        return self._rng.standard_normal(shape, np.float32).astype(np.float64)

    def shares(self, *shape: int) -> np.ndarray:
        """Numbers in [0, 1) that float32 holds."""
        return self._rng.random(shape, np.float32).astype(np.float64)

    def symmetric(self, n: int, scale: float = 1.0) -> np.ndarray:
        """An (n, n) matrix of elements."""
        a = self(n, n, scale=scale)
        return np.triu(a) + np.triu(a, 1).T


def conv(size: Size, draw: Draw) -> tuple[dict, dict]:
    """y = relu(conv(x, w) + b), and back to before the ReLU that x came out of."""
    C, K, M = size.C, size.K, size.M
    x = np.maximum(draw(C, size.H, size.W), 0)
    w, dy = draw(K, C, 3, 3, scale=(2 / (9 * C)) ** 0.5), draw(K, size.H, size.W)
    b = draw.floats(K)
    y = ops.relu_forward(ops.conv_forward(x, w, b))
    dx = ops.relu_backward(ops.conv_backward(dy, w), x)
    work, filters = 2 * 9 * C * K * M, 9 * C * K
    forward = Pass({"y": y}, work, (C + K) * M + filters, K, 9 * C)
    backward = Pass({"dx": dx}, work, (2 * C + K) * M + filters, 0, 9 * K)
    return {"x": x, "w": w, "b": b, "dy": dy}, {"forward": forward, "backward": backward}


def pool(size: Size, draw: Draw) -> tuple[dict, dict]:
    """Max pooling, and back to before the ReLU that x came out of."""
    C, H, W = size.C, size.H, size.W
    x = np.maximum(draw(C, H, W), 0)
    dy = draw(C, H // 2, W // 2)
    y, choice = ops.max_pool_forward(x)
    dx = ops.relu_backward(ops.max_pool_backward(dy, choice, x.shape), x)
    forward = Pass({"y": y}, 3 * y.size, x.size + y.size, 0, 0)
    backward = Pass({"dx": dx}, 3 * y.size, 2 * x.size + y.size, 0, 0)
    return {"x": x, "dy": dy}, {"forward": forward, "backward": backward}


def gram(size: Size, draw: Draw) -> tuple[dict, dict]:
    """G = F F^T, dF = (dG + dG^T) F."""
    N, M = size.C, size.M
    F = np.maximum(draw(N, M), 0)
    dG = draw.symmetric(N, scale=N**-0.5)
    forward = Pass({"G": ops.gram_forward(F)}, 2 * N * N * M, N * M, N * N, M, rounded=False)
    backward = Pass({"dF": ops.gram_backward(dG, F)}, 2 * N * N * M, 2 * N * M + N * N, 0, N)
    return {"F": F, "dG": dG}, {"forward": forward, "backward": backward}


def moments(size: Size, draw: Draw) -> tuple[dict, dict]:
    """What a guide adds to a Gram matrix: s = sum w F, the features sqrt(w) F, and the sums' gradient w ds."""
    N, M = size.C, size.M
    F, w, ds = np.maximum(draw(N, M), 0), draw.shares(M), draw.floats(N)
    w[0] = 1.0
    _, s = ops.moments_forward(F, w)
    sums = Pass({"s": s}, 2 * N * M, N * M, M, RUN, rounded=False)
    weigh = Pass({"Y": np.sqrt(w) * F}, N * M, 2 * N * M, M, 1)
    dF = ops.moments_backward(np.zeros((N, N)), ds, F, w)
    backward = Pass({"dF": dF}, 2 * N * M, N * M, M + N, 1)
    return {"F": F, "w": w, "ds": ds}, {"sums": sums, "weigh": weigh, "backward": backward}


def content(size: Size, draw: Draw) -> tuple[dict, dict]:
    """L = sum (F - P)^2, dF = 2 (F - P)."""
    N, M = size.C, size.M
    F, P = np.maximum(draw(N, M), 0), np.maximum(draw(N, M), 0)
    loss = np.array(ops.content_forward(F, P, 1.0))
    forward = Pass({"loss": loss}, 3 * N * M, 2 * N * M, 0, RUN, rounded=False)
    backward = Pass({"dF": ops.content_backward(F, P, 1.0)}, 2 * N * M, 3 * N * M, 0, 1)
    return {"F": F, "P": P}, {"forward": forward, "backward": backward}


def style(size: Size, draw: Draw) -> tuple[dict, dict]:
    """E = scale sum (G/M - A/M')^2, and dG, in one pass."""
    N = size.C
    G, A = draw.symmetric(N), draw.symmetric(N)
    settings = {"M": 2, "M_style": 3, "scale": 0.5}
    loss = np.array(ops.style_forward(G, 2, A, 3, 0.5))
    both = Pass({"loss": loss, "dG": ops.style_backward(G, 2, A, 3, 0.5)}, 6 * N * N, 0, 3 * N * N, RUN)
    return {"G": G, "A": A} | settings, {"both": both}


def total_variation(size: Size, draw: Draw) -> tuple[dict, dict]:
    """TV, and its gradient added to dx, in one pass."""
    x = draw.shares(3, size.H, size.W)
    loss = np.array(ops.total_variation_forward(x, 1.0))
    both = Pass({"loss": loss, "dx": ops.total_variation_backward(x, 1.0)}, 12 * x.size, 0, 3 * x.size, RUN)
    return {"x": x}, {"both": both}


def block_mean(size: Size, draw: Draw) -> tuple[dict, dict]:
    """y = the means of blocks of 4 x 4, and back, added to dx."""
    x = draw.shares(3, size.H, size.W)
    y = ops.block_mean_forward(x, BLOCK)
    dy = draw.floats(*y.shape)
    dx = ops.block_mean_backward(dy, BLOCK, x.shape)
    forward = Pass({"y": y}, x.size, 0, x.size + y.size, BLOCK**2)
    backward = Pass({"dx": dx}, 2 * x.size, 0, 2 * x.size + y.size, 1)
    return {"x": x, "dy": dy}, {"forward": forward, "backward": backward}


def preprocess(size: Size, draw: Draw) -> tuple[dict, dict]:
    """The picture as the network wants it; and back to it, through conv1_1."""
    K, M, p = size.K, size.M, PREPROCESSING
    pixels = draw.shares(3, size.H, size.W)
    x = ops.preprocess_forward(pixels, p.channel_order, p.range, p.mean, p.std)
    w, dy = draw.floats(K, 3, 3, 3) * (2 / 27) ** 0.5, draw(K, size.H, size.W)
    w = w.astype(np.float32).astype(np.float64)
    gradient = ops.preprocess_backward(ops.conv_backward(dy, w), p.channel_order, p.range, p.mean, p.std)
    forward = Pass({"x": x}, 9 * M, 3 * M, 3 * M, 4)
    backward = Pass({"gradient": gradient}, 2 * 27 * K * M + 6 * M, K * M, 3 * M + 27 * K, 9 * K, rounded=False)
    return {"pixels": pixels, "w": w, "dy": dy}, {"forward": forward, "backward": backward}


def adam(size: Size, draw: Draw) -> tuple[dict, dict]:
    """One update of the pixels."""
    shape = 3, size.H, size.W
    x, g, m, v = draw.shares(*shape), draw.floats(*shape), draw.floats(*shape), draw.shares(*shape)
    after = {"x": x.copy(), "m": m.copy(), "v": v.copy()}
    Vectors().adam(after["x"], g, after["m"], after["v"], **ADAM)
    return {"x": x, "g": g, "m": m, "v": v}, {"update": Pass(after, 16 * x.size, 0, 7 * x.size, 4)}


def lbfgs(size: Size, draw: Draw) -> tuple[dict, dict]:
    """The direction d = H q of L-BFGS from its pairs, of a function with curvatures from 1/2 to 2."""
    shape = 3, size.H, size.W
    curvature = 0.5 + 1.5 * draw.shares(*shape)
    q, s = draw.floats(*shape), [draw.floats(*shape) for _ in range(PAIRS)]
    y = [(curvature * a).astype(np.float32).astype(np.float64) for a in s]
    d = np.empty(shape)
    two_loops(Vectors(), q, s, y, d)
    n = q.size
    # Each pass of the recursion over a pair is an inner product and a sum, both 2 n; dots of float32 have 8192 terms
    direction = Pass({"d": d}, 8 * PAIRS * n + n, 0, (2 * PAIRS + 2) * n, 8192)
    return {"q": q, "s": s, "y": y}, {"direction": direction}


# -- the layers of feed-forward networks, forward only ----------------------------------------------------------------


def general_conv(size: Size, draw: Draw) -> tuple[dict, dict]:
    """y = relu(conv(x enlarged, w) + b)."""
    C, K, side, n = size.C, size.K, size.kernel, size.upsample
    x, w = draw(C, size.H, size.W), draw(K, C, side, side, scale=(2 / (side**2 * C)) ** 0.5)
    b = draw.floats(K)
    enlarged = ops.resize_nearest_forward(x, n * size.H, n * size.W)
    y = ops.relu_forward(ops.conv_forward(enlarged, w, b, BORDER, size.stride))
    return {"x": x, "w": w, "b": b}, _forward(y, 2 * w[0].size * y.size, x.size + w.size + K, w[0].size)


def depthwise(size: Size, draw: Draw) -> tuple[dict, dict]:
    """y = relu6(each channel convolved with its own filter + b)."""
    C, side = size.C, size.kernel
    x, w, b = draw(C, size.H, size.W), draw(C, side, side, scale=1 / side), draw.floats(C)
    y = ops.relu6_forward(ops.depthwise_forward(x, w, b, stride=size.stride))
    return {"x": x, "w": w, "b": b}, _forward(y, 2 * side**2 * y.size, x.size + w.size + C, side**2)


def linear(size: Size, draw: Draw) -> tuple[dict, dict]:
    """y = w x + b."""
    C, K = size.C, size.K
    x, w, b = draw(C), draw(K, C, scale=C**-0.5), draw.floats(K)
    y = ops.linear_forward(x, w, b).reshape(K, 1, 1)
    return {"x": x, "w": w, "b": b}, _forward(y, 2 * C * K, C + C * K + K, C)


def instance_norm(size: Size, draw: Draw) -> tuple[dict, dict]:
    """relu(y), and y + plus as at the end of a residual block; y with a mean and a deviation for each channel."""
    C, shape = size.C, (size.C, size.H, size.W)
    x, plus = draw(*shape) + draw(C, 1, 1), draw(*shape)
    scale, shift = 1 + draw.shares(C), draw.floats(C)
    x = draw.rounded(x.astype(np.float32))
    y = ops.instance_norm_forward(x, scale, shift, EPSILON)
    # Mean and variance take 1 + 3 operations for each number, what is made of them 3, a ReLU or a sum 1
    passes = {
        "forward": Pass({"y": ops.relu_forward(y)}, 8 * x.size, 0, 2 * x.size + 2 * C, RUN),
        "residual": Pass({"y": y + plus}, 8 * x.size, 0, 3 * x.size + 2 * C, RUN),
    }
    return {"x": x, "scale": scale, "shift": shift, "plus": plus}, passes


def global_average(size: Size, draw: Draw) -> tuple[dict, dict]:
    """The mean of each channel, of features behind a ReLU."""
    x = np.maximum(draw(size.C, size.H, size.W), 0)
    return {"x": x}, _forward(ops.global_average_forward(x).reshape(-1, 1, 1), x.size, x.size, RUN)


def maxima(size: Size, draw: Draw) -> tuple[dict, dict]:
    """Max pooling that rounds up: an odd last row or column has windows of its own."""
    x = draw(size.C, size.H, size.W)
    even = ops.conv.pad(x, "replicate", ((0, size.H % 2), (0, size.W % 2)))
    y, _ = ops.max_pool_forward(even)
    return {"x": x}, _forward(y, 3 * y.size, x.size, 0)


def resize(size: Size, draw: Draw) -> tuple[dict, dict]:
    """To 3/2 of both sides: by the nearest, and between the four nearest."""
    x, to = draw(size.C, size.H, size.W), resized(size)
    nearest, bilinear = ops.resize_nearest_forward(x, *to), ops.resize_bilinear_forward(x, *to)
    moved = x.size + nearest.size
    # Three times (1 - t) a + t b
    passes = {
        "nearest": Pass({"y": nearest}, 0, 0, moved, 0),
        "bilinear": Pass({"y": bilinear}, 9 * bilinear.size, 0, moved, 4),
    }
    return {"x": x}, passes


def resized(size: Size) -> tuple[int, int]:
    """Rows and columns after `resize`."""
    return 3 * size.H // 2, 3 * size.W // 2


def _forward(y: np.ndarray, operations: int, read: int, length: int) -> dict[str, Pass]:
    return {"forward": Pass({"y": y}, operations, 0, read + y.size, length)}


MAKERS: dict[str, Callable[[Size, Draw], tuple[dict, dict]]] = {
    "conv": conv,
    "pool": pool,
    "gram": gram,
    "moments": moments,
    "content": content,
    "style": style,
    "total-variation": total_variation,
    "block-mean": block_mean,
    "preprocess": preprocess,
    "adam": adam,
    "lbfgs": lbfgs,
    "general-conv": general_conv,
    "depthwise": depthwise,
    "linear": linear,
    "instance-norm": instance_norm,
    "global-average": global_average,
    "maxima": maxima,
    "resize": resize,
}


def make(operation: str, size: Size, precision: Precision, seed: int = 0) -> Problem:
    """The problem of an operation: the same numbers for the same size, precision and seed."""
    inputs, passes = MAKERS[operation](size, Draw(size, precision, seed))
    return Problem(operation, size, precision, inputs, passes)
