"""A sign that is wrong on purpose, for those who want to see a check fail.

The function is replaced in every module of the package that holds it, so whatever computes with it computes wrongly:
the checks, the objective, the reference engine.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from ..errors import OptionError

Function = Callable[..., Any]


def _negative(result: Any) -> Any:
    return tuple(-part for part in result) if isinstance(result, tuple) else -result


def _result(right: Function) -> Function:
    """Returns the negative."""
    return lambda *a, **k: _negative(right(*a, **k))


def _content(right: Function) -> Function:
    """Objective._losses, with the content's part of the gradient turned round."""

    def wrong(self: Any) -> Any:
        terms, gradients = right(self)
        return terms, {tap: [replace(g, scale=-g.scale) for g in given] for tap, given in gradients.items()}

    return wrong


def _factor(right: Function) -> Function:
    """Pairs.multiply, out = -a H q."""
    return lambda self, a, *rest, **k: right(self, -a, *rest, **k)


def _rate(right: Function) -> Function:
    """Vectors.adam, x + learning_rate ..."""
    return lambda *a, learning_rate, **k: right(*a, learning_rate=-learning_rate, **k)


def _slope(right: Function) -> Function:
    """strong_wolfe, which sees -phi'."""

    def wrong(phi: Function, *a: Any, **k: Any) -> Any:
        def turned(alpha: float) -> tuple[float, float]:
            value, slope = phi(alpha)
            return value, -slope

        return right(turned, *a, **k)

    return wrong


@dataclass(frozen=True)
class Flip:
    """Where a sign is flipped.

    Attributes
    ----------
    module, name : str
        "nstcore.ops", "gram_backward", or a method: "Pairs.multiply".
    what : str
        What has the wrong sign then, after "the sign of".
    wrong : callable
        Makes the wrong function of the right one.
    """

    module: str
    name: str
    what: str = "its result"
    wrong: Callable[[Function], Function] = _result


FLIPS = {
    "preprocess": Flip("nstcore.ops", "preprocess_backward"),
    "conv": Flip("nstcore.ops", "conv_backward"),
    "bias": Flip("nstcore.ops", "bias_backward"),
    "relu": Flip("nstcore.ops", "relu_backward"),
    "pool": Flip("nstcore.ops", "pool_backward"),
    "gram": Flip("nstcore.ops", "gram_backward"),
    "moments": Flip("nstcore.ops", "moments_backward"),
    "covariance": Flip("nstcore.ops", "covariance_backward"),
    "matrix-sqrt": Flip("nstcore.ops", "matrix_sqrt_backward"),
    "content": Flip("nstcore.ops", "content_backward"),
    "style": Flip("nstcore.ops", "style_backward"),
    "centred": Flip("nstcore.ops", "centred_backward"),
    "mean-std": Flip("nstcore.ops", "mean_std_backward"),
    "w2": Flip("nstcore.ops", "w2_backward"),
    "total-variation": Flip("nstcore.ops", "total_variation_backward"),
    "block-mean": Flip("nstcore.ops", "block_mean_backward"),
    "objective": Flip("nstcore.objective", "Objective._losses", "the content loss's gradient", _content),
    "adam": Flip("nstcore.optim", "Vectors.adam", "the step", _rate),
    "lbfgs": Flip("nstcore.optim.pairs", "Pairs.multiply", "its product H q", _factor),
    "line-search": Flip("nstcore.optim.line_search", "strong_wolfe", "the slope phi' that it sees", _slope),
    "winograd": Flip("nstcore.engines.cpu.winograd", "transform_filters"),
    "depthwise": Flip("nstcore.ops", "depthwise_backward"),
    "relu6": Flip("nstcore.ops", "relu6_backward"),
    "global-average": Flip("nstcore.ops", "global_average_backward"),
    "linear": Flip("nstcore.ops", "linear_backward"),
    "instance-norm": Flip("nstcore.ops", "instance_norm_backward"),
    "resize": Flip("nstcore.ops", "resize_bilinear_backward"),
    "sigmoid": Flip("nstcore.ops", "sigmoid_backward"),
}


@contextmanager
def broken(topic: str) -> Iterator[str]:
    """As long as it lasts, one sign of that topic's code is flipped.

    Yields
    ------
    str
        Which, in a line for a person.
    """
    if topic not in FLIPS:
        raise OptionError(f"topic: expected one of {', '.join(FLIPS)}, got {topic!r}")
    flip = FLIPS[topic]
    owner_name, _, name = flip.name.rpartition(".")
    module = importlib.import_module(flip.module)
    owner = getattr(module, owner_name) if owner_name else module
    right = getattr(owner, name)
    wrong = wraps(right)(flip.wrong(right))
    owners = [owner] if owner_name else None
    _replace(name, right, wrong, owners)
    try:
        yield f"the sign of {flip.what} is flipped in {flip.module}.{flip.name}"
    finally:
        _replace(name, wrong, right, owners)


def _replace(name: str, old: Function, new: Function, owners: list[Any] | None) -> None:
    """Put one function in the place of another: in a class, or in every module of the package that holds it."""
    if owners is None:
        modules = [m for key, m in list(sys.modules.items()) if key.split(".")[0] == "nstcore"]
        owners = [m for m in modules if vars(m).get(name) is old]
    for owner in owners:
        setattr(owner, name, new)
