"""The book as a rung: `nstcore.ops` and `nstcore.optim.Vectors` in float32.

Each function here and in `numpy_form`, `native` and `cuda` makes a rung ready for a problem on a machine: a `Run` for
each pass that it has.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..optim import Vectors
from .problems import ADAM, BLOCK, PREPROCESSING, Problem
from .runs import Machine, Run, Runs, computed, restoring
from .two_loops import two_loops


def conv(problem: Problem, machine: Machine) -> Runs:
    """Nine products, one for each tap."""
    x, w, b, dy = problem.floats("x", "w", "b", "dy")
    return {
        "forward": computed("y", lambda: ops.relu_forward(ops.conv_forward(x, w, b))),
        "backward": computed("dx", lambda: ops.relu_backward(ops.conv_backward(dy, w), x)),
    }


def pool(problem: Problem, machine: Machine) -> Runs:
    """The largest of each window."""
    x, dy = problem.floats("x", "dy")
    _, choice = ops.max_pool_forward(x)
    return {
        "forward": computed("y", lambda: ops.max_pool_forward(x)[0]),
        "backward": computed("dx", lambda: ops.relu_backward(ops.max_pool_backward(dy, choice, x.shape), x)),
    }


def gram(problem: Problem, machine: Machine) -> Runs:
    """One product."""
    F, dG = problem.floats("F", "dG")
    return {
        "forward": computed("G", lambda: ops.gram_forward(F)),
        "backward": computed("dF", lambda: ops.gram_backward(dG, F)),
    }


def moments(problem: Problem, machine: Machine) -> Runs:
    """The Gram matrix is computed along, as the book's functions have it."""
    F, w, ds = problem.floats("F", "w", "ds")
    none = np.zeros((len(F), len(F)), np.float32)
    return {
        "sums": computed("s", lambda: ops.moments_forward(F, w)[1]),
        "backward": computed("dF", lambda: ops.moments_backward(none, ds, F, w)),
    }


def content(problem: Problem, machine: Machine) -> Runs:
    """Whole arrays, one operation after another."""
    F, P = problem.floats("F", "P")
    return {
        "forward": computed("loss", lambda: ops.content_forward(F, P, 1.0)),
        "backward": computed("dF", lambda: ops.content_backward(F, P, 1.0)),
    }


def style(problem: Problem, machine: Machine) -> Runs:
    """The loss, then its gradient."""
    G, A = problem.floats("G", "A")
    given = [problem.inputs[name] for name in ("M", "M_style", "scale")]
    kept: dict[str, Any] = {}

    def go() -> None:
        kept["loss"] = ops.style_forward(G, given[0], A, *given[1:])
        kept["dG"] = ops.style_backward(G, given[0], A, *given[1:])

    return {"both": Run(go, lambda: kept)}


def total_variation(problem: Problem, machine: Machine) -> Runs:
    """The loss, then its gradient."""
    (x,) = problem.floats("x")
    kept: dict[str, Any] = {}

    def go() -> None:
        kept["loss"] = ops.total_variation_forward(x, 1.0)
        kept["dx"] = ops.total_variation_backward(x, 1.0)

    return {"both": Run(go, lambda: kept)}


def block_mean(problem: Problem, machine: Machine) -> Runs:
    """Means of the rows, then of these."""
    x, dy = problem.floats("x", "dy")
    return {
        "forward": computed("y", lambda: ops.block_mean_forward(x, BLOCK)),
        "backward": computed("dx", lambda: ops.block_mean_backward(dy, BLOCK, x.shape)),
    }


def preprocess(problem: Problem, machine: Machine) -> Runs:
    """The picture, prepared; the convolution's gradient, then the picture's."""
    p = PREPROCESSING
    pixels, w, dy = problem.floats("pixels", "w", "dy")
    facts = p.channel_order, p.range, p.mean, p.std
    return {
        "forward": computed("x", lambda: ops.preprocess_forward(pixels, *facts)),
        "backward": computed("gradient", lambda: ops.preprocess_backward(ops.conv_backward(dy, w), *facts)),
    }


def adam(problem: Problem, machine: Machine) -> Runs:
    """Block by block."""
    return adam_with(Vectors(), problem)


def adam_with(vectors: Vectors, problem: Problem) -> Runs:
    """One update with any implementation of `Vectors` on NumPy's arrays."""
    x, g, m, v = problem.floats("x", "g", "m", "v")
    begin = restoring((x, x.copy()), (m, m.copy()), (v, v.copy()))
    go = lambda: vectors.adam(x, g, m, v, **ADAM)  # noqa: E731
    return {"update": Run(go, lambda: {"x": x, "m": m, "v": v}, begin)}


def lbfgs(problem: Problem, machine: Machine) -> Runs:
    """The two loops as they stand: some 4 passes for each pair."""
    vectors, (q,) = Vectors(), problem.floats("q")
    s, y = ([np.array(a, np.float32) for a in problem.inputs[name]] for name in "sy")
    out = np.empty_like(q)
    return {"direction": Run(lambda: two_loops(vectors, q, s, y, out), lambda: {"d": out})}
