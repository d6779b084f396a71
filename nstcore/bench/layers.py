"""The layers of feed-forward networks as rungs: one call of `Operations` each, whoever implements them.

A call makes the memory of its result, too, as in a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engines.operations import BookOperations, Operations
from .problems import BORDER, EPSILON, Problem, Size, resized
from .runs import Machine, Run, Runs

Maker = Callable[[Operations, Problem], Runs]

# Those of Magenta's networks for a picture of 512x512 and a style of 256x256; of the last two, one is AdaIN's
STANDARD = (
    ("general-conv", Size(512, 512, 3, 8, kernel=9)),
    ("general-conv", Size(512, 512, 8, 16, stride=2)),
    ("general-conv", Size(256, 256, 16, 32, stride=2)),
    ("general-conv", Size(128, 128, 32, 32)),
    ("general-conv", Size(128, 128, 32, 16, upsample=2)),
    ("general-conv", Size(256, 256, 16, 8, upsample=2)),
    ("general-conv", Size(512, 512, 8, 3, kernel=9)),
    ("general-conv", Size(64, 64, 24, 144, kernel=1)),
    ("general-conv", Size(8, 8, 960, 160, kernel=1)),
    ("depthwise", Size(128, 128, 96, 96, stride=2)),
    ("depthwise", Size(64, 64, 144, 144)),
    ("depthwise", Size(8, 8, 960, 960)),
    ("linear", Size(1, 1, 1280, 100)),
    ("global-average", Size(8, 8, 1280, 1280)),
    ("instance-norm", Size(128, 128, 32, 32)),
    ("instance-norm", Size(512, 512, 8, 8)),
    ("instance-norm", Size(512, 512, 3, 3)),
    ("maxima", Size(512, 512, 64, 64)),
    ("resize", Size(512, 512, 3, 3)),
)


def in_book(operation: str) -> Callable[[Problem, Machine], Runs]:
    """The operation as the book has it, in float32."""
    return lambda problem, machine: MAKERS[operation](BookOperations(np.dtype(np.float32)), problem)


def _general_conv(layers: Operations, problem: Problem) -> Runs:
    x, w, b = problem.floats("x", "w", "b")
    maps, filters, stride, upsample = layers.maps(x), layers.filters(w, b), problem.size.stride, problem.size.upsample

    def go() -> Any:
        return layers.conv(maps, filters, stride=stride, padding=BORDER, upsample=upsample, activation="relu")

    return _forward(layers, go)


def _depthwise(layers: Operations, problem: Problem) -> Runs:
    x, w, b = problem.floats("x", "w", "b")
    maps, filters, stride = layers.maps(x), layers.depthwise_filters(w, b), problem.size.stride
    return _forward(layers, lambda: layers.depthwise(maps, filters, stride=stride, activation="relu6"))


def _linear(layers: Operations, problem: Problem) -> Runs:
    x, w, b = problem.floats("x", "w", "b")
    vector, filters = layers.maps(x[:, None, None]), layers.filters(w[:, :, None, None], b)
    return _forward(layers, lambda: layers.linear(vector, filters))


def _instance_norm(layers: Operations, problem: Problem) -> Runs:
    """Of one x for the result that counts; then of what is in its place, which takes as long."""
    x, scale, shift, plus = problem.floats("x", "scale", "shift", "plus")
    scales, shifts = (layers.maps(a[:, None, None]) for a in (scale, shift))
    added, maps = layers.maps(plus), [layers.maps(x)]

    def begin() -> None:
        maps[0] = layers.maps(x)

    def forward() -> None:
        maps[0] = layers.instance_norm(maps[0], scales, shifts, EPSILON, activation="relu")

    def residual() -> None:
        maps[0] = layers.instance_norm(maps[0], scales, shifts, EPSILON, plus=added)

    def result() -> dict[str, Any]:
        return {"y": layers.numpy(maps[0])}

    return {"forward": Run(forward, result, begin), "residual": Run(residual, result, begin)}


def _global_average(layers: Operations, problem: Problem) -> Runs:
    maps = layers.maps(*problem.floats("x"))
    return _forward(layers, lambda: layers.global_average(maps))


def _maxima(layers: Operations, problem: Problem) -> Runs:
    maps = layers.maps(*problem.floats("x"))
    return _forward(layers, lambda: layers.max_pool(maps))


def _resize(layers: Operations, problem: Problem) -> Runs:
    maps, to = layers.maps(*problem.floats("x")), resized(problem.size)
    return {
        "nearest": _run(layers, lambda: layers.resize_nearest(maps, *to)),
        "bilinear": _run(layers, lambda: layers.resize_bilinear(maps, *to)),
    }


MAKERS: dict[str, Maker] = {
    "general-conv": _general_conv,
    "depthwise": _depthwise,
    "linear": _linear,
    "instance-norm": _instance_norm,
    "global-average": _global_average,
    "maxima": _maxima,
    "resize": _resize,
}


def _forward(layers: Operations, call: Callable[[], Any]) -> Runs:
    return {"forward": _run(layers, call)}


def _run(layers: Operations, call: Callable[[], Any]) -> Run:
    """A run of a layer that leaves its inputs as they are."""
    kept: list[Any] = [None]

    def go() -> None:
        kept[0] = call()

    return Run(go, lambda: {"y": layers.numpy(kept[0])})
