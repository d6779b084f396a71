"""The comparisons of tools/precision.py: errors against the book, and paintings."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from bench_common import planes

from nstcore import Objective, Terms, Weights, engines, stylize, vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.commands.progress import Progress
from nstcore.engines import Engine
from nstcore.engines.reference import ReferenceEngine
from nstcore.objective import CONTENT_LAYERS, STYLE_LAYERS

HALF = 30  # steps of the painting half way
LEVELS = 255
CPU = "float32, the cpu engine"

Array = np.ndarray


@dataclass(frozen=True)
class Errors:
    """One precision at one picture, relative to the book.

    Attributes
    ----------
    picture, precision : str
    loss, gradient, largest : float
        With the precision's decisions: of the total; of the gradient, in L2 and max norm.
    free_loss, free_gradient, free_largest : float
        With the book's own.
    terms : dict of float
        By layer, of its content or style term, with the book's own decisions.
    """

    picture: str
    precision: str
    loss: float
    gradient: float
    largest: float
    free_loss: float
    free_gradient: float
    free_largest: float
    terms: Mapping[str, float]


@dataclass(frozen=True)
class Painting:
    """What came of some steps of Adam: pixels (3, H, W), and their loss as the book sees it."""

    name: str
    pixels: Array
    loss: float

    def levels(self, other: Painting) -> Array:
        """How far every value is from another painting's, in levels of 255."""
        return LEVELS * np.abs(self.pixels.astype(np.float64) - other.pixels)

    def psnr(self, other: Painting) -> float:
        """Peak signal-to-noise ratio in dB; infinite where both are the same."""
        mean = float((self.levels(other) ** 2).mean())
        return 10 * np.log10(LEVELS**2 / mean) if mean else np.inf


class Study:
    """All that is compared: one pair of pictures, one network.

    Parameters
    ----------
    weights : Weights
    content, style : arrays (H, W, 3) float32 in [0, 1]
    device : {"cuda", "cuda-on-cpu"}
    precisions : sequence of str
    steps : int
        Of Adam, for every painting.
    half : int
        Of the painting half way.
    content_layers, style_layers : sequence of str
    """

    def __init__(
        self,
        weights: Weights,
        content: Array,
        style: Array,
        device: str,
        precisions: Sequence[str],
        steps: int,
        half: int = HALF,
        content_layers: Sequence[str] = CONTENT_LAYERS,
        style_layers: Sequence[str] = STYLE_LAYERS,
    ) -> None:
        self.weights, self.content, self.style, self.device = weights, content, style, device
        self.precisions, self.steps, self.half = tuple(precisions), steps, half
        self.layers: dict[str, Any] = {"content_layers": content_layers, "style_layers": style_layers}
        self.book = self._objective(ReferenceEngine("float64"))

    @cached_property
    def engines(self) -> dict[str, Engine]:
        """One for each precision."""
        return {precision: engines.create(self.device, precision) for precision in self.precisions}

    @cached_property
    def pictures(self) -> dict[str, Array]:
        """What is looked at, (3, H, W)."""
        noise = np.random.default_rng(0).random(self.content.shape, np.float32)
        half = self._painted(engines.create("cpu"), self.half).astype(np.float32)
        return {"content": planes(self.content), "noise": planes(noise), "half way": half}

    def errors(self) -> Iterator[Errors]:
        """Every picture in every precision."""
        own = {name: self._evaluated(self.book, x) for name, x in self.pictures.items()}
        for precision, engine in self.engines.items():
            decisions: deque[Any] = deque()
            mine = self._objective(engine, decisions, follows=False)
            book = self._objective(ReferenceEngine("float64"), decisions, follows=True)
            for name, x in self.pictures.items():
                decisions.clear()
                found = self._evaluated(mine, x)
                yield _errors(name, precision, found, self._evaluated(book, x), own[name])

    def paintings(self, progress: Progress) -> Iterator[Painting]:
        """Float32 on the CPU's own kernels, then every precision."""
        every = {CPU: engines.create("cpu"), **self.engines}
        for i, (name, engine) in enumerate(every.items()):
            pixels = self._painted(engine, self.steps, name, progress, i, len(every))
            yield Painting(name, pixels, self._evaluated(self.book, pixels)[0].total)

    def _painted(
        self,
        engine: Engine,
        steps: int,
        name: str = "",
        progress: Progress | None = None,
        before: int = 0,
        count: int = 1,
    ) -> Array:
        """What `run` makes of so many steps of Adam, from the content, at one size."""

        def on_step(step: Any) -> None:
            if progress is not None:
                progress(before * (steps + 1) + step.iteration + 1, count * (steps + 1), name)

        options: dict[str, Any] = {"size": max(self.content.shape), "ladder": "off", "pyramid": "off", **self.layers}
        return stylize(
            self.content, self.style, weights=self.weights, engine=engine, iterations=steps, on_step=on_step, **options
        ).pixels

    def _objective(self, engine: Engine, decisions: deque[Any] | None = None, follows: bool = False) -> Objective:
        """With `decisions`, every forward pass leaves its own there, or takes the next ones from there."""
        wanted = {layer for layers in self.layers.values() for layer in layers}
        taps = [tap for tap in vgg.layers(self.weights.architecture) if tap in wanted]
        network: Any = engine.network(self.weights, taps, self.weights.pooling)
        forward = network.forward

        if decisions is not None:

            def decide(pixels: Any) -> None:
                forward(pixels)
                decisions.append(network.decisions())

            def follow(pixels: Any) -> None:
                forward(pixels, decisions=decisions.popleft())

            network.forward = follow if follows else decide
        return Objective(self.weights, self.content, self.style, engine=engine, network=network, **self.layers)

    def _evaluated(self, objective: Objective, x: Array) -> tuple[Terms, Array]:
        terms, gradient = objective(x)
        return terms, objective.engine.numpy(gradient).copy()


def _errors(
    picture: str,
    precision: str,
    mine: tuple[Terms, Array],
    followed: tuple[Terms, Array],
    own: tuple[Terms, Array],
) -> Errors:
    each = {}
    for found, right in ((mine[0].content_layers, own[0].content_layers), (mine[0].style_layers, own[0].style_layers)):
        for layer, value in right.items():
            each[layer] = _relative(found[layer], value)
    fixed, free = (
        (_relative(mine[0].total, b.total), relative_error(mine[1], g), _largest(mine[1], g))
        for b, g in (followed, own)
    )
    return Errors(picture, precision, *fixed, *free, each)


def _relative(a: float, b: float) -> float:
    """|a - b| / |b|; 0 where both are 0."""
    return abs(a - b) / abs(b) if b else abs(a - b)


def _largest(a: Array, b: Array) -> float:
    """max |a - b| / max |b|"""
    return float(np.abs(a - b).max() / np.abs(b).max())
