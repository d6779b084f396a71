"""The rungs of kernels/cuda, on a GPU or on the CPU that stands in for it.

Features are (H, W, C) elements of the precision. Outputs begin as NaN, so that what nobody writes is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engines.cuda import block_mean, conv, general_conv, gram, pixels, pool
from ..engines.cuda.device import Array, Device
from ..engines.cuda.losses import Losses
from ..engines.cuda.moments import Moments, make_guide
from ..engines.cuda.operations import CudaOperations
from ..engines.cuda.precision import FLOAT32, PRECISIONS, Precision, from_elements, to_elements
from ..engines.cuda.vectors import CudaVectors
from ..optim.pairs import Pairs
from ..optim.states import LBFGSState
from . import layers
from .problems import ADAM, BLOCK, BORDER, PREPROCESSING, Problem, Size
from .runs import Machine, Run, Runs
from .two_loops import two_loops


class Place:
    """A problem on a device."""

    def __init__(self, problem: Problem, device: Device) -> None:
        self.problem, self.device, self.precision = problem, device, problem.precision

    def elements(self, name: str, axes: tuple[int, ...] = ()) -> Array:
        """An input as elements, its axes in another order."""
        a = self.problem.inputs[name]
        return self.device.to_device(to_elements(a.transpose(axes) if axes else a, self.precision))

    def floats(self, name: str) -> Array:
        """An input as float32."""
        return self.device.to_device(np.array(self.problem.inputs[name], np.float32, order="C"))

    def empty(self, shape: tuple[int, ...], precision: Precision | None = None) -> Array:
        """Elements (of another precision), all NaN."""
        a = self.device.empty(shape, (precision or self.precision).dtype)
        self.device.fill_bytes(a, 255)
        return a

    def read(self, a: Array, axes: tuple[int, ...] = (), precision: Precision | None = None) -> np.ndarray:
        """What an array of elements holds, its axes in another order."""
        found = from_elements(self.device.to_host(a), precision or self.precision)
        return found.transpose(axes) if axes else found

    def zero(self, *arrays: Array) -> Callable[[], None]:
        """A `begin` that fills arrays with zeros, for kernels that add to what is there."""

        def begin() -> None:
            for a in arrays:
                self.device.fill_bytes(a, 0)

        return begin

    def restore(self, *pairs: tuple[Array, Array]) -> Callable[[], None]:
        """A `begin` that copies the second array of each pair into the first."""

        def begin() -> None:
            for array, original in pairs:
                self.device.copy(original, array)

        return begin


LAST, FIRST = (1, 2, 0), (2, 0, 1)  # (C, H, W) -> (H, W, C), and back
ACROSS = (1, 0)  # (N, M) -> (M, N)


def rung(operation: str, short: str) -> Callable[[Problem, Machine], Runs]:
    """The operation as the file of that short name has it."""

    def make(problem: Problem, machine: Machine) -> Runs:
        assert machine.device is not None
        return MAKERS[operation](Place(problem, machine.device), short)

    return make


def precisions(operation: str, short: str) -> Sequence[str]:
    """Those that a rung has, the one that it is launched in first."""
    if operation in ("style", "total-variation", "block-mean", "adam", "lbfgs", *layers.MAKERS):
        return (FLOAT32.name,)
    tables: dict[str, Any] = {"conv": (conv.RUNGS, conv.PRODUCTION), "gram": (gram.RUNGS, gram.PRODUCTION)}
    if operation not in tables:
        return conv.EVERY_PRECISION
    rungs, production = tables[operation]
    have = rungs[short].precisions
    return tuple(sorted(have, key=lambda name: (production[name] != short, have.index(name))))


def refusal(operation: str, short: str, size: Size, precision: str) -> str | None:
    """Why a rung cannot take that size in that precision; None where it can."""
    words = 16 // PRECISIONS[precision].dtype.itemsize
    if operation == "conv" and conv.RUNGS[short].name == conv.tiles.BOXES and (size.C % words or size.K % words):
        return f"channels that are multiples of {words}"  # 07 would take its place
    if (operation, short) != ("general-conv", "02_register_tile"):
        return None
    filters = general_conv.Filters(None, None, size.K, size.C, size.kernel, size.kernel)
    shape = size.H, size.W, size.C
    layer = general_conv.describe(shape, filters, size.stride, BORDER, None, size.upsample, "relu")
    room = general_conv.tile(layer.flat(), general_conv.FORMS[0])
    return None if room else f"a kernel that fits {general_conv.SHARED_BYTES} bytes"


def _conv(at: Place, short: str) -> Runs:
    size, device, precision = at.problem.size, at.device, at.precision
    layer = conv.Convolution(device, precision, short, size.C, size.K, size.H, size.W, False)
    (w,), b = at.problem.floats("w"), at.floats("b")
    filters, turned = (device.to_device(pack(w, precision)) for pack in (layer.rung.filters, layer.rung.turned))
    x, dy = at.elements("x", LAST), at.elements("dy", LAST)
    y, dx = at.empty(dy.shape), at.empty(x.shape)
    found = {"forward": Run(lambda: layer.forward(x, filters, b, None, y), lambda: {"y": at.read(y, FIRST)})}
    if layer.rung.backward(precision) is layer.rung:
        found["backward"] = Run(
            lambda: layer.backward(dy, turned, None, x, None, 1.0, None, 0.0, True, dx),
            lambda: {"dx": at.read(dx, FIRST)},
        )
    return found


def _pool(at: Place, short: str) -> Runs:
    size = at.problem.size
    sides = size.C, size.H, size.W
    x, dy = at.elements("x", LAST), at.elements("dy", LAST)
    y, dx = at.empty(dy.shape), at.empty(x.shape)
    choices = at.device.empty(pool.choices_size(*sides), np.uint8)
    forward = lambda: pool.forward(at.device, at.precision, x, y, *sides, "max", True, choices, short)  # noqa: E731
    return {
        "forward": Run(forward, lambda: {"y": at.read(y, FIRST)}),
        "backward": Run(
            lambda: pool.backward(at.device, at.precision, dy, x, dx, *sides, "max", True, choices, short),
            lambda: {"dx": at.read(dx, FIRST)},
            *([forward] if short == pool.CHOICES else []),  # it leaves the choices
        ),
    }


def _gram(at: Place, short: str) -> Runs:
    N, M = at.problem.inputs["F"].shape
    grams = gram.Grams(at.device, at.precision, [(N, M)], short)
    F, G, dF = at.elements("F", ACROSS), at.empty((N, N), FLOAT32), at.empty((M, N))
    # dG is symmetric, and twice an element is one
    S = at.device.to_device(to_elements(2 * at.problem.inputs["dG"], at.precision))
    partials = at.empty((max(grams.partial_floats, 1),), FLOAT32)
    backward = F, S, 1.0, None, 0.0, False, False, dF
    return {
        "forward": Run(lambda: grams([F], partials, [G]), lambda: {"G": at.read(G, precision=FLOAT32)}),
        "backward": Run(
            lambda: gram.gram_backward(at.device, at.precision, *backward, rung=short),
            lambda: {"dF": at.read(dF, ACROSS)},
        ),
    }


def _moments(at: Place, short: str) -> Runs:
    N, M = at.problem.inputs["F"].shape
    compute, F = Moments(at.device, at.precision), at.elements("F", ACROSS)
    guide = make_guide(at.device, "features", at.problem.inputs["w"], N)
    Y, dF, s = at.empty((M, N)), at.empty((M, N)), [np.empty(0)]
    ds = at.problem.inputs["ds"]

    def sums() -> None:
        s[0] = compute.sums(F, guide)

    return {
        "sums": Run(sums, lambda: {"s": s[0]}),
        "weigh": Run(lambda: compute.weigh(F, guide, Y), lambda: {"Y": at.read(Y, ACROSS)}),
        "backward": Run(
            lambda: compute.backward(None, ds, F, guide, False, dF), lambda: {"dF": at.read(dF, ACROSS)}, at.zero(dF)
        ),
    }


def _content(at: Place, short: str) -> Runs:
    """Forward; the gradient comes with the kernel that finishes a layer's."""
    losses, (F, P) = Losses(at.device, at.precision), (at.elements(name, ACROSS) for name in "FP")
    loss = [0.0]

    def go() -> None:
        loss[0] = losses.squared_distance(F, P)

    return {"forward": Run(go, lambda: {"loss": loss[0]})}


def _style(at: Place, short: str) -> Runs:
    losses, G, A, kept = Losses(at.device, at.precision), at.floats("G"), at.floats("A"), at.floats("G")
    M, M_style, scale = (at.problem.inputs[name] for name in ("M", "M_style", "scale"))
    loss = [0.0]

    def go() -> None:
        loss[0], _ = losses.style(G, M, A, M_style, scale)

    return {"both": Run(go, lambda: {"loss": loss[0], "dG": at.read(G)}, at.restore((G, kept)))}


def _total_variation(at: Place, short: str) -> Runs:
    losses, x = Losses(at.device, at.precision), at.floats("x")
    dx, loss = at.empty(x.shape), [0.0]

    def go() -> None:
        loss[0] = losses.total_variation(x, 1.0, dx)

    return {"both": Run(go, lambda: {"loss": loss[0], "dx": at.read(dx)}, at.zero(dx))}


def _block_mean(at: Place, short: str) -> Runs:
    x, dy = at.floats("x"), at.floats("dy")
    y, dx = at.empty(dy.shape), at.empty(x.shape)
    return {
        "forward": Run(lambda: block_mean.forward(at.device, x, BLOCK, y), lambda: {"y": at.read(y)}),
        "backward": Run(
            lambda: block_mean.backward(at.device, dy, BLOCK, dx), lambda: {"dx": at.read(dx)}, at.zero(dx)
        ),
    }


def _preprocess(at: Place, short: str) -> Runs:
    size, device, precision = at.problem.size, at.device, at.precision
    picture, dy = at.floats("pixels"), at.elements("dy", LAST)
    w = device.to_device(pixels.turned_filters(at.problem.inputs["w"]))
    x, gradient = at.empty((size.H, size.W, pixels.PREPARED)), at.empty((3, size.H, size.W), FLOAT32)
    return {
        "forward": Run(
            lambda: pixels.prepare(device, precision, picture, x, PREPROCESSING),
            lambda: {"x": at.read(x, FIRST)[:3]},
        ),
        "backward": Run(
            lambda: pixels.backward(device, precision, dy, w, gradient, PREPROCESSING, 1.0, False),
            lambda: {"gradient": at.read(gradient, precision=FLOAT32)},
        ),
    }


def _adam(at: Place, short: str) -> Runs:
    vectors, g = CudaVectors(at.device), at.floats("g")
    x, m, v = (at.floats(name) for name in "xmv")
    begin = at.restore(*zip((x, m, v), (at.floats(name) for name in "xmv"), strict=True))
    return {
        "update": Run(
            lambda: vectors.adam(x, g, m, v, **ADAM),
            lambda: {"x": at.read(x), "m": at.read(m), "v": at.read(v)},
            begin,
        )
    }


def _lbfgs(at: Place, short: str) -> Runs:
    vectors, q = CudaVectors(at.device), at.floats("q")
    s, y = ([at.device.to_device(a.astype(np.float32)) for a in at.problem.inputs[name]] for name in "sy")
    out = at.empty(q.shape)
    if short == "02_fused":
        go: Callable[[], Any] = lambda: two_loops(vectors, q, s, y, out)  # noqa: E731
    else:
        pairs = Pairs(vectors, q, len(s), LBFGSState(list(zip(s, y, strict=True))))
        go = lambda: pairs.multiply(1.0, q, out=out)  # noqa: E731
    return {"direction": Run(go, lambda: {"d": at.read(out)})}


class OneRung(CudaOperations):
    """Layers of which every convolution, a fully connected layer too, is computed by one rung of kernels/cuda/conv."""

    def __init__(self, device: Device, short: str) -> None:
        super().__init__(device, CudaVectors(device))
        self.rung = short

    def conv(self, x: Array, filters: general_conv.Filters, **how: Any) -> Array:
        return general_conv.conv(self.device, x, filters, rung=self.rung, **how)


def _layer(operation: str) -> Callable[[Place, str], Runs]:
    return lambda at, short: layers.MAKERS[operation](OneRung(at.device, short), at.problem)


MAKERS: dict[str, Callable[[Place, str], Runs]] = {
    "conv": _conv,
    "pool": _pool,
    "gram": _gram,
    "moments": _moments,
    "content": _content,
    "style": _style,
    "total-variation": _total_variation,
    "block-mean": _block_mean,
    "preprocess": _preprocess,
    "adam": _adam,
    "lbfgs": _lbfgs,
    **{operation: _layer(operation) for operation in layers.MAKERS},
}
