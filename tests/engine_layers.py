"""What every engine's single layers are tested with: the engines, convolutions of awkward shapes, and their bounds.

A sum of n products may be off by n roundings of the sum of their sizes, u (n + a few) sum |w| |x|, in whatever order it
is added up; that sum is the book's own convolution of |x| with |w|. Data are drawn in float32, so they have no error.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest

from nstcore import ops
from nstcore.engines import create
from nstcore.engines.cpu import library
from nstcore.engines.operations import ACTIVATIONS
from nstcore.ops import conv

U = 2.0**-24
FEW = 8  # roundings besides those of the sum: the bias, the activation, a constant that is not exact


def implementations():
    """Every engine and kernels (see conftest.py: what is not here is skipped)."""
    yield pytest.param("reference", None, id="reference")
    for kernels in (library.NUMPY, *library.INSTRUCTIONS):
        yield pytest.param("cpu", kernels, id=f"cpu-{kernels}")
    yield pytest.param("cuda-on-cpu", None, id="cuda-on-cpu", marks=pytest.mark.slow)  # it compiles first
    yield pytest.param("cuda", None, id="cuda", marks=pytest.mark.gpu)


each_implementation = pytest.mark.parametrize(("device", "kernels"), [*implementations()])


@cache
def made(device, kernels, threads):
    """Operations; the environment names the kernels, by the fixture `chosen_machine`."""
    return create(device, "float32", threads).operations()


def drawn(*shape, seed=0):
    """float32 of either sign, in every channel with a mean that is not 0."""
    rng = np.random.default_rng((seed, *shape))
    return (rng.standard_normal(shape) + 0.3 * rng.standard_normal((*shape[:1], *[1] * (len(shape) - 1)))).astype(
        np.float32
    )


def wide(*arrays):
    return [None if a is None else a.astype(np.float64) for a in arrays]


def vector(layers, v):
    return layers.maps(v.reshape(-1, 1, 1))


def assert_within(y, expected, bound):
    """Element by element; a bound of 0 takes no error."""
    assert y.shape == expected.shape
    assert y.dtype == np.float32
    assert y.flags.c_contiguous
    error = np.abs(y - expected)
    assert np.isfinite(error).all()
    worst = np.unravel_index(np.argmax(error - bound), error.shape)
    assert np.all(error <= bound), f"off by {error[worst]:.2e} at {worst}, where rounding explains {bound[worst]:.2e}"


ACTIVATED = {
    "none": lambda x: x,
    "relu": ops.relu_forward,
    "relu6": ops.relu6_forward,
    "sigmoid": ops.sigmoid_forward,
}


def activated(y, bound, activation):
    """What an activation makes of y and of its bound: no slope is above 1, the sigmoid's not above 1/4."""
    if activation == "sigmoid":
        return ops.sigmoid_forward(y), bound / 4 + FEW * U
    return ACTIVATED[activation](y), bound


class Case(NamedTuple):
    """A convolution; K = 0 for a depthwise one."""

    C: int
    K: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "zero"
    amounts: conv.Amounts | str | None = None
    upsample: int = 1
    activation: str = "none"
    bias: bool = True

    def __str__(self):
        sizes = f"{self.C}x{self.size[0]}x{self.size[1]}-{self.K}x{self.kernel[0]}x{self.kernel[1]}"
        around = "" if self.amounts is None else f"-{self.amounts if self.amounts == 'same' else 'uneven'}"
        return f"{sizes}-stride{self.stride}-{self.padding}{around}-up{self.upsample}-{self.activation}"

    @property
    def around(self):
        """Amounts as the book takes them."""
        if self.amounts != "same":
            return self.amounts
        return conv.same_amounts(*(self.upsample * n for n in self.size), *self.kernel, self.stride)

    @property
    def options(self):
        """Those that conv and depthwise share."""
        shared = ("stride", self.stride), ("padding", self.padding), ("activation", self.activation)
        return dict(shared, amounts=self.around)


def awkward():
    """Every kernel, stride and padding twice, with whatever else is drawn."""
    draw = random.Random(9).choice
    channels, sizes = [1, 3, 5, 8, 16, 17, 32, 33], [(7, 16), (33, 2), (1, 50), (16, 7), (2, 33), (3, 3)]
    amounts = [None, "same", ((9, 8), (8, 10)), ((8, 12), (9, 8))]
    for kernel, stride, padding, _ in product([(1, 1), (3, 3), (9, 9), (2, 3)], [1, 2, 3], ops.PADDINGS, range(2)):
        shape = draw(channels), draw(channels), draw(sizes), kernel
        yield Case(*shape, stride, padding, draw(amounts), draw([1, 1, 2, 3]), draw(ACTIVATIONS), draw([True, False]))


AWKWARD = list(awkward())
NETWORKS = [  # those of Ghiasi et al., and others that are as regular
    Case(3, 8, (20, 23), (9, 9), 1, "reflect", activation="relu"),
    Case(8, 16, (20, 23), (3, 3), 2, "reflect", activation="relu"),
    Case(32, 32, (13, 18), (3, 3), 1, "reflect", bias=False),
    Case(32, 16, (9, 11), (3, 3), 1, "reflect", upsample=2),
    Case(8, 3, (20, 37), (9, 9), 1, "reflect", activation="sigmoid"),
    Case(3, 32, (33, 50), (3, 3), 2, "zero", "same", activation="relu6"),
    Case(24, 144, (7, 9), (1, 1), activation="relu6"),
    Case(160, 320, (3, 4), (1, 1)),
    Case(64, 64, (25, 34), (3, 3), 1, "reflect", activation="relu"),
]
DEPTHWISE = [
    *(case._replace(K=0, upsample=1) for case in AWKWARD[::2]),
    Case(96, 0, (33, 50), (3, 3), 2, "zero", "same", activation="relu6"),
    Case(144, 0, (17, 9), (3, 3), 1, "zero", "same", activation="relu6"),
]


@cache
def data_of(case):
    """x, w, b; y without the activation, and the sum of the sizes of its terms, in float64."""
    x = drawn(case.C, *case.size, seed=1)
    w = drawn(*((case.K, case.C) if case.K else (case.C,)), *case.kernel, seed=2)
    b = drawn(len(w), seed=3) if case.bias else None
    forward = ops.conv_forward if case.K else ops.depthwise_forward

    def of(x, w, b):
        enlarged = ops.resize_nearest_forward(x, *(case.upsample * n for n in case.size))
        return forward(enlarged, w, b, case.padding, case.stride, case.around)

    x_, w_, b_ = wide(x, w, b)
    sizes = of(np.abs(x_), np.abs(w_), None if b_ is None else np.abs(b_))
    return (x, w, b), of(x_, w_, b_), sizes


def assert_equals_the_book(y, case):
    _, expected, sizes = data_of(case)
    terms = case.kernel[0] * case.kernel[1] * (case.C if case.K else 1)
    assert_within(y, *activated(expected, (terms + FEW) * U * sizes, case.activation))
