"""Every engine against the book in float64, on a small random network: features, Gram matrices, loss and gradient.

Near ties a ReLU or a max pooling decides one way or the other by the last bit of rounding, and the gradient with it. So
the book follows the decisions of the engine; what is left is the error of its arithmetic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from .. import engines, ops, vgg
from ..engines import Engine, Network
from ..engines.cpu import CpuEngine, library
from ..engines.cuda import gpu
from ..engines.cuda.precision import PRECISIONS
from ..engines.reference import ReferenceEngine
from ..errors import DeviceError
from ..objective import Objective
from ..optim import LBFGSState, Vectors
from ..optim.pairs import Pairs
from . import engine_layers
from .check import Check, Proof, prove
from .gradcheck import relative_error
from .samples import random_weights, smooth_picture

DEVICES = ("reference", "cpu", "cuda", "cuda-on-cpu")
SIZE, STYLE_SIZE = (37, 50), (21, 67)
OPTIONS: dict[str, Any] = {
    "content_layers": ["conv2_2", "relu3_1"],
    "style_layers": ["conv1_1", "relu1_1", "pool1", "relu2_1", "relu3_1"],
    "tv_weight": 0.3,
    "pooling": "max",
}


class Machine(NamedTuple):
    """An engine that is here.

    Attributes
    ----------
    name : str
        "cpu float32 avx512"
    device, precision : str
    kernels : str or None
        Of the cpu engine.
    features, gradient : float
        Bounds of the relative errors.
    """

    name: str
    device: str
    precision: str
    kernels: str | None
    features: float
    gradient: float

    def engine(self) -> Engine:
        """A new one."""
        if self.device == "cpu":
            return CpuEngine(self.precision, kernels=self.kernels)
        return engines.create(self.device, self.precision)

    @property
    def loss(self) -> float:
        """Bound of the loss: squares, which double an error, of differences, in which some digits cancel."""
        return 4 * self.features


def bounds(device: str, precision: str) -> tuple[float, float]:
    """Of features and of gradients.

    A rounding in float32 is 6e-8; some twenty steps and sums of thousands of terms lie between pixels and their
    gradient, and Winograd's transforms lose a digit. Where features and filters are rounded to fewer bits, that alone
    counts: each layer adds about one rounding of its own, at random.
    """
    if precision == "float64":
        return 1e-13, 1e-12
    if precision == "float32":
        return (5e-6, 1e-5) if device == "reference" else (2e-5, 1e-4)
    unit = PRECISIONS[precision].unit
    return 4 * unit, 10 * unit


def available(devices: Sequence[str] | None = None) -> list[Machine]:
    """The engines that this machine has, in each of their precisions.

    Parameters
    ----------
    devices : sequence of str, optional
        Only these, of `DEVICES`; all but "cuda-on-cpu", which compiles its kernels first, if not given.

    Raises
    ------
    DeviceError
        For one that is not there.
    """
    if devices is None:
        devices = [d for d in DEVICES if d != "cuda-on-cpu" and (d != "cuda" or gpu.problem() is None)]
    found = []
    for device in dict.fromkeys(devices):
        if device not in DEVICES:
            raise DeviceError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
        if device == "reference":
            found.append(_machine(device, "float32"))
        elif device == "cpu":
            found.append(_machine(device, "float64"))
            found += [_machine(device, "float32", kernels) for kernels in (library.NUMPY, *library.available())]
        else:
            best: Any = engines.create(device, None)  # refuses a device that is not there
            found += [
                _machine(device, p.name) for p in PRECISIONS.values() if p.architecture <= best.device.architecture
            ]
    return found


def _machine(device: str, precision: str, kernels: str | None = None) -> Machine:
    name = " ".join(part for part in (device, precision, kernels) if part)
    return Machine(name, device, precision, kernels, *bounds(device, precision))


def missing() -> dict[str, str]:
    """Engines that this machine could have and has not, and why."""
    found = {}
    if problem := gpu.problem():
        found["cuda"] = problem
    if not library.available():
        found["cpu, native"] = library.MISSING
    return found


def checks(devices: Sequence[str] | None, seed: int) -> Iterator[Check]:
    """Those of `run_engines`; refuses at once what is not there."""
    found = available(devices)
    return (check for machine in found for check in checks_of(machine, seed))


def checks_of(machine: Machine, seed: int) -> Iterator[Check]:
    """Those of one engine."""
    name, engine = machine.name, machine.engine()
    pair = Pair(engine, seed)
    yield prove("conv", Proof(f"{name}: features", pair.features, machine.features))
    yield prove("gram", Proof(f"{name}: Gram matrices", pair.grams, 2 * machine.features))
    yield prove("objective", Proof(f"{name}: loss", pair.loss, machine.loss))
    yield prove("objective", Proof(f"{name}: gradient", pair.gradient, machine.gradient))
    masked = Pair(engine, seed, masks=True, style_loss="mean-std")
    yield prove("moments", Proof(f"{name}: masks", masked.gradient, machine.gradient))
    for pooling in ("average", "l2"):
        other = Pair(engine, seed, pooling=pooling)
        bound = machine.gradient
        if pooling == "l2" and machine.precision not in ("float32", "float64"):
            # x/y has a kink at 0: where all four values are of the size of a rounding, their direction is anything. The
            # share of such windows is of the order of a rounding, and so is the square of the error that they make
            bound = 2 * PRECISIONS[machine.precision].unit ** 0.5
        yield prove("pool", Proof(f"{name}: {pooling} pooling", other.gradient, bound))
    # Pixels and what optimizers do with them are float32 in every precision but float64
    unit = float(np.finfo(engine.dtype).eps) / 2
    yield prove("block-mean", Proof(f"{name}: block means", partial(_block_means, engine, seed), 10 * unit))
    yield prove("adam", Proof(f"{name}: a step", partial(_adam, engine, seed), 10 * unit))
    yield prove("lbfgs", Proof(f"{name}: H g", partial(_two_loops, engine, seed), 1000 * unit))
    for topic, layer in engine_layers.proofs(engine, seed):
        yield prove(topic, layer._replace(what=f"{name}: {layer.what}"))


class Pair:
    """The same objective twice: by an engine, and by the book in float64, which follows the engine's decisions.

    Parameters
    ----------
    engine : Engine
    seed : int
        Of filters and pictures.
    masks : bool
        Whether two styles go to two regions.
    **options
        Of the objective.
    """

    def __init__(self, engine: Engine, seed: int, masks: bool = False, **options: Any) -> None:
        self._engine, self._seed, self._options = engine, seed, OPTIONS | options
        self._decisions: deque[Any] = deque()
        # Rounded to float32, so that both see the same numbers
        self._content, style, other, self._x, mask = (
            smooth_picture(*size, 5 * seed + i).astype(np.float32)
            for i, size in enumerate((SIZE, STYLE_SIZE, STYLE_SIZE, SIZE, SIZE))
        )
        self._styles = [style]
        if masks:
            self._styles.append(other)
            soft = np.clip(2 * mask[..., 0] - 0.5, 0, 1)
            self._options |= {"regions": [(soft, ["all", "none"]), (1 - soft, ["none", "all"])]}

    @cached_property
    def _objectives(self) -> tuple[Objective, Objective]:
        """The engine's is made first: it decides."""
        return self._objective(self._engine, follows=False), self._objective(ReferenceEngine("float64"), follows=True)

    def _objective(self, engine: Engine, follows: bool) -> Objective:
        weights = random_weights(deepest="conv3_1", seed=self._seed)
        wanted = {*OPTIONS["content_layers"], *OPTIONS["style_layers"]}
        taps = [tap for tap in vgg.layers(weights.architecture) if tap in wanted]
        network: Any = engine.network(weights, taps, self._options["pooling"])
        forward = network.forward

        def decide(pixels: Any) -> None:
            forward(pixels)
            self._decisions.append(network.decisions())

        def follow(pixels: Any) -> None:
            forward(pixels, decisions=self._decisions.popleft())

        network.forward = follow if follows else decide
        return Objective(weights, self._content, self._styles, engine=engine, network=network, **self._options)

    def _pixels(self) -> np.ndarray:
        return np.ascontiguousarray(self._x.transpose(2, 0, 1))

    def _forward(self) -> tuple[Network, Network]:
        """Both networks, with the features of the picture."""
        for f in self._objectives:
            f.network.forward(f.engine.array(self._pixels()))
        mine, book = self._objectives
        return mine.network, book.network

    def features(self) -> float:
        """The largest error of a tap."""
        mine, book = self._forward()
        return max(relative_error(mine.features(tap), book.features(tap)) for tap in mine.taps)

    def grams(self) -> float:
        """The largest error of a tap's Gram matrix."""
        mine, book = self._forward()
        return max(relative_error(self._engine.numpy(mine.gram(tap)), book.gram(tap)) for tap in mine.taps)

    @cached_property
    def _results(self) -> list[tuple[float, np.ndarray]]:
        """Loss and gradient of both."""
        found = []
        for f in self._objectives:
            terms, gradient = f(self._pixels())
            found.append((terms.total, f.engine.numpy(gradient)))
        self._decisions.clear()  # float16 computes again where a gradient overflows, and decides the same twice
        return found

    def loss(self) -> float:
        """Content, style and total variation together."""
        (mine, _), (book, _) = self._results
        return abs(mine - book) / abs(book)

    def gradient(self) -> float:
        """With respect to the pixels."""
        (_, mine), (_, book) = self._results
        return relative_error(mine, book)


def _drawn(engine: Engine, seed: int, count: int) -> list[np.ndarray]:
    """Arrays like pixels, as the engine rounds them."""
    drawn = np.random.default_rng(seed).standard_normal((count, 3, 37, 42))
    return list(drawn.astype(engine.dtype))


def _block_means(engine: Engine, seed: int) -> float:
    """Both ways."""
    x, before = _drawn(engine, seed, 2)
    wide = x.astype(np.float64)
    small, gradient = engine.block_mean(engine.array(x), 4), engine.array(before)
    engine.add_block_mean_gradient(small, 4, gradient)
    y = ops.block_mean_forward(wide, 4)
    expected = before + ops.block_mean_backward(engine.numpy(small).astype(np.float64), 4, x.shape)
    return max(relative_error(engine.numpy(small), y), relative_error(engine.numpy(gradient), expected))


def _adam(engine: Engine, seed: int) -> float:
    """x, m and v after an update, against `Vectors` in float64."""
    x, g, m, v = _drawn(engine, seed, 4)
    options: dict[str, Any] = {"betas": (0.9, 0.99), "corrections": (0.271, 0.0297), "learning_rate": 0.02}
    options |= {"epsilon": 1e-8, "lo": -2.0, "hi": 2.0}
    mine = [engine.array(a) for a in (x, g, m, v * v)]
    book = [a.astype(np.float64) for a in (x, g, m, v * v)]
    engine.vectors.adam(*mine, **options)
    Vectors().adam(*book, **options)
    return max(relative_error(engine.numpy(a), b) for a, b in zip(mine, book, strict=True))


def _two_loops(engine: Engine, seed: int) -> float:
    """H g of five pairs, against `Vectors` in float64."""
    g, *steps = _drawn(engine, seed, 6)
    curvature = np.linspace(1, 20, g.size).reshape(g.shape).astype(engine.dtype)
    found = []
    for vectors, array in ((engine.vectors, engine.array), (Vectors(), np.float64)):
        state = LBFGSState([(array(s), array(curvature * s)) for s in steps])
        pairs, out = Pairs(vectors, array(g), 5, state), vectors.empty_like(array(g))
        pairs.multiply(1.0, array(g), out=out)
        found.append(engine.numpy(out) if vectors is engine.vectors else out)
    return relative_error(*found)
