"""The proofs of each operation of the book: its gradients against differences, and of linear ones the adjoint.

Gradients are checked twice: every element on a small odd size, and random directions on a larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from .. import ops
from .cases import FILTERS, LARGE, SMALL, Case, Rng
from .check import Proof
from .gradcheck import TOLERANCE, direction_error, element_error
from .layers import GEOMETRIES, Convolution, Geometry, resized
from .operations import OPERATIONS, draw_moments

LINEAR = 1e-12  # two sums of some 1e5 products, of either sign, in another order


def proofs(topic: str, seed: int) -> Iterator[Proof]:
    """Those of one operation."""
    draw = OPERATIONS[topic]
    small, large = (draw(np.random.default_rng(seed), size) for size in (SMALL, LARGE))
    for name in small:
        yield Proof(name, partial(_worst, small[name], large[name], seed), TOLERANCE)
    for name, error in ADJOINTS.get(topic, {}).items():
        yield Proof(name, partial(error, np.random.default_rng(seed)), LINEAR)


def _worst(small: Case, large: Case, seed: int) -> float:
    """The larger error of both sizes."""
    f, backward, x = small
    worst = element_error(f, backward(), x)
    f, backward, x = large
    return max(worst, direction_error(f, backward(), x, seed=seed))


def _adjoint(
    forward: Callable[[np.ndarray], np.ndarray], backward: Callable[[np.ndarray], np.ndarray], x: np.ndarray, rng: Rng
) -> float:
    """<forward(x), dy> = <x, backward(dy)> for a linear forward: off by so much of |y| |dy|."""
    y = forward(x)
    dy = rng.standard_normal(y.shape)
    size = float(np.linalg.norm(y) * np.linalg.norm(dy))
    return abs(float(np.vdot(y, dy) - np.vdot(x, backward(dy)))) / size


def _convolution_adjoint(rng: Rng, name: str, geometry: Geometry) -> float:
    """By the input and by the filters; the larger error."""
    layer = Convolution(name, geometry, rng, LARGE)
    by_input = _adjoint(lambda x: layer.forward(x, layer.w, None), layer.backward, layer.x, rng)
    return max(by_input, _adjoint(lambda w: layer.forward(layer.x, w, None), layer.backward_filters, layer.w, rng))


def _convolution_adjoints(name: str) -> dict[str, Callable[[Rng], float]]:
    return {
        f"backward is the adjoint, {label}": partial(_convolution_adjoint, name=name, geometry=geometry)
        for label, geometry in GEOMETRIES.items()
    }


def _preprocess_adjoint(rng: Rng) -> float:
    linear = ("bgr", 255.0, (0.0, 0.0, 0.0), (58.0, 57.0, 56.0))
    x = rng.standard_normal((3, *LARGE[1:]))
    return _adjoint(
        lambda x: ops.preprocess_forward(x, *linear), lambda dy: ops.preprocess_backward(dy, *linear), x, rng
    )


def _pool_adjoint(rng: Rng) -> float:
    x = rng.standard_normal(LARGE)
    y, _ = ops.pool_forward(x, "average")
    return _adjoint(
        lambda x: ops.pool_forward(x, "average")[0], lambda dy: ops.pool_backward(dy, x, y, None, "average"), x, rng
    )


def _block_mean_adjoint(rng: Rng) -> float:
    x = rng.standard_normal(LARGE)
    return _adjoint(lambda x: ops.block_mean_forward(x, 4), lambda dy: ops.block_mean_backward(dy, 4, LARGE), x, rng)


def _global_average_adjoint(rng: Rng) -> float:
    x = rng.standard_normal(LARGE)
    return _adjoint(ops.global_average_forward, lambda dy: ops.global_average_backward(dy, LARGE[1:]), x, rng)


def _linear_adjoint(rng: Rng) -> float:
    x, w = rng.standard_normal(LARGE[0]), rng.standard_normal((FILTERS[LARGE], LARGE[0]))
    by_input = _adjoint(lambda x: ops.linear_forward(x, w), lambda dy: ops.linear_backward(dy, w), x, rng)
    return max(
        by_input,
        _adjoint(lambda w: ops.linear_forward(x, w), lambda dy: ops.linear_backward_filters(dy, x)[0], w, rng),
    )


def _resize_adjoint(rng: Rng, kind: str) -> float:
    """Larger and smaller; the larger error."""
    x, errors = rng.standard_normal(LARGE), []
    for height, width in resized(LARGE[1:]).values():
        forward = partial(getattr(ops, f"resize_{kind}_forward"), height=height, width=width)
        backward = partial(getattr(ops, f"resize_{kind}_backward"), size=LARGE[1:])
        errors.append(_adjoint(forward, backward, x, rng))
    return max(errors)


def _lyapunov(rng: Rng) -> float:
    """S dC + dC S = dS, from which the gradient of a square root follows."""
    C = ops.covariance_forward(*draw_moments(rng, LARGE))
    S, roots = ops.matrix_sqrt_forward(C)
    D = rng.standard_normal(C.shape)
    dS = D + D.T
    dC = ops.matrix_sqrt_backward(dS, roots)
    return float(np.linalg.norm(S @ dC + dC @ S - dS) / np.linalg.norm(dS))


ADJOINTS: dict[str, dict[str, Callable[[Rng], float]]] = {
    "preprocess": {"backward is the adjoint": _preprocess_adjoint},
    "conv": _convolution_adjoints("conv"),
    "pool": {"backward is the adjoint, average": _pool_adjoint},
    "matrix-sqrt": {"S dC + dC S = dS": _lyapunov},
    "block-mean": {"backward is the adjoint": _block_mean_adjoint},
    "depthwise": _convolution_adjoints("depthwise"),
    "global-average": {"backward is the adjoint": _global_average_adjoint},
    "linear": {"backward is the adjoint": _linear_adjoint},
    "resize": {
        f"backward is the adjoint, {kind}": partial(_resize_adjoint, kind=kind) for kind in ("nearest", "bilinear")
    },
}
