"""The proofs of each operation of the book: its gradients against differences, and of linear ones the adjoint.

Gradients are checked twice: every element on a small odd size, and random directions on a larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from .. import ops
from .check import Proof
from .gradcheck import TOLERANCE, direction_error, element_error
from .operations import FILTERS, LARGE, OPERATIONS, SMALL, Case, Rng, draw_moments

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


def _conv_adjoint(rng: Rng, padding: str) -> float:
    x, w = rng.standard_normal(LARGE), rng.standard_normal((FILTERS[LARGE], LARGE[0], 3, 3))
    return _adjoint(
        lambda x: ops.conv_forward(x, w, None, padding), lambda dy: ops.conv_backward(dy, w, padding), x, rng
    )


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
    "conv": {
        f"backward is the adjoint, {padding}": partial(_conv_adjoint, padding=padding) for padding in ops.PADDINGS
    },
    "pool": {"backward is the adjoint, average": _pool_adjoint},
    "matrix-sqrt": {"S dC + dC S = dS": _lyapunov},
    "block-mean": {"backward is the adjoint": _block_mean_adjoint},
}
