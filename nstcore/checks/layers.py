"""Cases for the layers of networks: those of VGG, and those that feed-forward networks have besides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from .. import ops
from ..ops.conv import Amounts
from .cases import FILTERS, Case, Cases, Rng, Size, through
from .samples import distinct

PREPROCESSING = ("bgr", 255.0, (104.0, 117.0, 124.0), (58.0, 57.0, 56.0))
EPSILON = 1e-2  # of variances of the size of 1: not so small that one left out would not show


class Geometry(NamedTuple):
    """What a convolution has besides its numbers."""

    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: str = "zero"
    amounts: Amounts | None = None


# One of each kind: among them borders that are not the same on all sides, and one wider than the picture
GEOMETRIES = {
    **{padding: Geometry(padding=padding) for padding in ops.PADDINGS},
    "1x1/3": Geometry((1, 1), 3),
    "2x3/2": Geometry((2, 3), 2, "replicate", ((0, 1), (2, 1))),
    "3x3/2": Geometry((3, 3), 2, "zero", ((1, 1), (0, 1))),
    "9x9": Geometry((9, 9), 1, "reflect"),
    "wide": Geometry((3, 3), 1, "reflect", ((23, 0), (2, 30))),
}


class Convolution:
    """`conv` or `depthwise` of one geometry, with what it convolves.

    Parameters
    ----------
    name : {"conv", "depthwise"}
    geometry : Geometry
    rng : numpy.random.Generator
    size : (C, H, W)
    """

    def __init__(self, name: str, geometry: Geometry, rng: Rng, size: Size) -> None:
        self.x = distinct(rng, *size)
        first = (FILTERS[size], size[0]) if name == "conv" else size[:1]
        self.w = rng.standard_normal((*first, *geometry.kernel))
        self.b = rng.standard_normal(first[0])
        self._ops = [getattr(ops, f"{name}_{which}") for which in ("forward", "backward", "backward_filters")]
        self._geometry = geometry

    def forward(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        """y."""
        _, stride, padding, amounts = self._geometry
        return self._ops[0](x, w, b, padding, stride, amounts)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """dx."""
        _, stride, padding, amounts = self._geometry
        return self._ops[1](dy, self.w, padding, stride, amounts, self.x.shape[1:])

    def backward_filters(self, dy: np.ndarray) -> np.ndarray:
        """dw."""
        kernel, stride, padding, amounts = self._geometry
        return self._ops[2](dy, self.x, padding, stride, amounts, kernel)[0]

    def by_input(self) -> Case:
        return through(lambda x: self.forward(x, self.w, self.b), self.backward, self.x)

    def by_filters(self) -> Case:
        return through(lambda w: self.forward(self.x, w, self.b), self.backward_filters, self.w)


def preprocess(rng: Rng, size: Size) -> Cases:
    """Pixels to what the network takes."""
    x = distinct(rng, 3, *size[1:])

    def forward(x: np.ndarray) -> np.ndarray:
        return ops.preprocess_forward(x, *PREPROCESSING)

    return {"preprocess_backward": through(forward, lambda dy: ops.preprocess_backward(dy, *PREPROCESSING), x)}


def convolutions(name: str, rng: Rng, size: Size) -> Cases:
    """By the input and by the filters, of each geometry."""
    found = {}
    for label, geometry in GEOMETRIES.items():
        layer = Convolution(name, geometry, rng, size)
        found[f"{name}_backward, {label}"] = layer.by_input()
        if label != "9x9":  # too many numbers to go through one by one; that they are right, their adjoint says
            found[f"{name}_backward_filters, {label}"] = layer.by_filters()
    return found


def bias(rng: Rng, size: Size) -> Cases:
    """By the input, which it passes on, and by the bias."""
    x, b = distinct(rng, *size), rng.standard_normal(size[0])
    return {
        "bias_backward, input": through(lambda x: ops.bias_forward(x, b), lambda dy: ops.bias_backward(dy)[0], x),
        "bias_backward, bias": through(lambda b: ops.bias_forward(x, b), lambda dy: ops.bias_backward(dy)[1], b),
    }


def relu(rng: Rng, size: Size) -> Cases:
    """Where x > 0."""
    x = distinct(rng, *size)
    return {"relu_backward": through(ops.relu_forward, lambda dy: ops.relu_backward(dy, ops.relu_forward(x)), x)}


def pool(rng: Rng, size: Size) -> Cases:
    """All three kinds, on an odd size: the last row or column gets no gradient."""
    x = distinct(rng, *size)

    def forward(x: np.ndarray, kind: str) -> np.ndarray:
        return ops.pool_forward(x, kind)[0]

    def backward(dy: np.ndarray, kind: str) -> np.ndarray:
        return ops.pool_backward(dy, x, *ops.pool_forward(x, kind), kind)

    return {
        f"{kind}_pool_backward": through(partial(forward, kind=kind), partial(backward, kind=kind), x)
        for kind in ops.POOLINGS
    }


def _of_output(name: str, rng: Rng, size: Size) -> Cases:
    """An activation whose backward needs the output: between -8 and 8, on both sides of every kink."""
    forward, backward = getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward")
    x = 4 * distinct(rng, *size)
    return {f"{name}_backward": through(forward, lambda dy: backward(dy, forward(x)), x)}


def instance_norm(rng: Rng, size: Size) -> Cases:
    """By the input, by the scale and by the shift."""
    x, scale, shift = distinct(rng, *size), rng.standard_normal(size[0]), rng.standard_normal(size[0])

    def backward(which: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda dy: ops.instance_norm_backward(dy, x, scale, EPSILON)[which]

    return {
        "instance_norm_backward, input": through(
            lambda x: ops.instance_norm_forward(x, scale, shift, EPSILON), backward(0), x
        ),
        "instance_norm_backward, scale": through(
            lambda scale: ops.instance_norm_forward(x, scale, shift, EPSILON), backward(1), scale
        ),
        "instance_norm_backward, shift": through(
            lambda shift: ops.instance_norm_forward(x, scale, shift, EPSILON), backward(2), shift
        ),
    }


def resized(size: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Sizes that x of size (H, W) is resized to: twice as large, as networks enlarge, and two that are no multiples."""
    H, W = size
    return {"twice": (2 * H, 2 * W), "larger": (H + 2, 3 * W - 1), "smaller": (H - 2, W // 3)}


def resize(rng: Rng, size: Size) -> Cases:
    """Nearest and bilinear, to larger and smaller."""
    x, found = distinct(rng, *size), {}
    for kind in ("nearest", "bilinear"):
        for label, new in resized(size[1:]).items():
            forward = partial(getattr(ops, f"resize_{kind}_forward"), height=new[0], width=new[1])
            backward = partial(getattr(ops, f"resize_{kind}_backward"), size=size[1:])
            found[f"resize_{kind}_backward, {label}"] = through(forward, backward, x)
    return found


def global_average(rng: Rng, size: Size) -> Cases:
    """All positions of a channel have one gradient."""
    return {
        "global_average_backward": through(
            ops.global_average_forward, lambda dy: ops.global_average_backward(dy, size[1:]), distinct(rng, *size)
        )
    }


def linear(rng: Rng, size: Size) -> Cases:
    """By the input, the weights and the bias."""
    C, K = size[1] * size[2], FILTERS[size]
    x, w, b = distinct(rng, C), rng.standard_normal((K, C)), rng.standard_normal(K)
    return {
        "linear_backward": through(lambda x: ops.linear_forward(x, w, b), lambda dy: ops.linear_backward(dy, w), x),
        "linear_backward_filters": through(
            lambda w: ops.linear_forward(x, w, b), lambda dy: ops.linear_backward_filters(dy, x)[0], w
        ),
        "linear_backward_filters, bias": through(
            lambda b: ops.linear_forward(x, w, b), lambda dy: ops.linear_backward_filters(dy, x)[1], b
        ),
    }


# By topic, in the order of the map
VGG: dict[str, Callable[[Rng, Size], Cases]] = {
    "preprocess": preprocess,
    "conv": partial(convolutions, "conv"),
    "bias": bias,
    "relu": relu,
    "pool": pool,
}
FEED_FORWARD: dict[str, Callable[[Rng, Size], Cases]] = {
    "depthwise": partial(convolutions, "depthwise"),
    "relu6": partial(_of_output, "relu6"),
    "global-average": global_average,
    "linear": linear,
    "instance-norm": instance_norm,
    "resize": resize,
    "sigmoid": partial(_of_output, "sigmoid"),
}
