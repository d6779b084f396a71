"""Rungs between the book and the native kernels: NumPy, with more thought.

Features are channels last, (H, W, C), as in the NumPy form of the `cpu` engine, whose functions these are.
"""

from __future__ import annotations

import numpy as np

from .. import ops
from ..engines.cpu import layers, statistics
from ..engines.cpu.arena import Arena
from ..engines.cpu.team import Team
from ..engines.cpu.winograd import WinogradConv, plan_scratch, rotate_filters, transform_filters
from ..optim import Vectors
from ..optim.pairs import Pairs
from ..optim.states import LBFGSState
from .im2col import im2col_backward, im2col_forward
from .problems import Problem
from .runs import Machine, Run, Runs, computed

FLOAT = np.dtype(np.float32)


def im2col(problem: Problem, machine: Machine) -> Runs:
    """One product instead of nine."""
    x, w, b, dy = problem.floats("x", "w", "b", "dy")
    return {
        "forward": computed("y", lambda: ops.relu_forward(im2col_forward(x, w, b, "zero"))),
        "backward": computed("dx", lambda: ops.relu_backward(im2col_backward(dy, w, "zero"), x)),
    }


def winograd(problem: Problem, machine: Machine) -> Runs:
    """36 products for a quarter of the multiplications."""
    size, team = problem.size, Team(machine.threads)
    w, b = problem.floats("w", "b")
    x, dy = (last(a) for a in problem.floats("x", "dy"))
    y, dx, mask = np.empty_like(dy), np.empty_like(x), np.empty(x.size, bool)
    forward = WinogradConv(size.C, size.K, size.H, size.W, FLOAT, team)
    backward = WinogradConv(size.K, size.C, size.H, size.W, FLOAT, team)
    arena = Arena()
    plan_scratch([forward, backward], arena, FLOAT)
    work = arena.allocate()
    U, turned = transform_filters(w, FLOAT), transform_filters(rotate_filters(w), FLOAT)

    def go_forward() -> None:
        with team.at_work():
            forward(x, U, y, work, b)
            layers.relu_forward(y, y, team)

    def go_backward() -> None:
        with team.at_work():
            backward(dy, turned, dx, work)
            layers.relu_backward(dx, x, mask, team)

    return {
        "forward": Run(go_forward, lambda: {"y": first(y)}),
        "backward": Run(go_backward, lambda: {"dx": first(dx)}),
    }


def pool(problem: Problem, machine: Machine) -> Runs:
    """Row by row of windows, each in the cache until it is done."""
    team = Team(machine.threads)
    x, dy = (last(a) for a in problem.floats("x", "dy"))
    y, dx, choice = np.empty_like(dy), np.empty_like(x), np.empty(dy.shape, np.uint8)
    work, mask = np.empty(dy.size, FLOAT), np.empty(x.size, bool)
    layers.pool_forward(x, y, "max", choice, work, mask, team)

    def go_forward() -> None:
        with team.at_work():
            layers.pool_forward(x, y, "max", choice, work, mask, team)

    def go_backward() -> None:
        with team.at_work():
            layers.pool_backward(dy, x, y, dx, "max", choice, mask, team)
            layers.relu_backward(dx, x, mask, team)

    return {
        "forward": Run(go_forward, lambda: {"y": first(y)}),
        "backward": Run(go_backward, lambda: {"dx": first(dx)}),
    }


def gram(problem: Problem, machine: Machine) -> Runs:
    """A product of a matrix with its own transpose, which BLAS computes by half; a share of the positions a thread."""
    team = Team(machine.threads)
    F, dG = (np.ascontiguousarray(a.T) for a in problem.floats("F", "dG"))
    N = F.shape[1]
    dF, parts, work = np.empty_like(F), np.empty(team.threads * N * N, FLOAT), _work(team, N)
    G: list[np.ndarray] = [dG]

    def go_forward() -> None:
        with team.at_work():
            G[0] = statistics.gram(F, None, parts, work, team)

    def go_backward() -> None:
        with team.at_work():
            statistics.moments_backward(dG, None, F, None, dF, work, team)

    return {
        "forward": Run(go_forward, lambda: {"G": G[0]}),
        "backward": Run(go_backward, lambda: {"dF": dF.T}, lambda: dF.fill(0)),
    }


def moments(problem: Problem, machine: Machine) -> Runs:
    """Sums without the Gram matrix, block by block."""
    team = Team(machine.threads)
    (F,) = (np.ascontiguousarray(a.T) for a in problem.floats("F"))
    w, ds = problem.floats("w", "ds")
    guide = statistics.Guide(w[:, None], np.sqrt(w)[:, None])
    dF, work = np.empty_like(F), _work(team, F.shape[1])
    s: list[np.ndarray] = [ds]

    def go_sums() -> None:
        with team.at_work():
            s[0] = statistics.sums(F, guide, work, team)

    def go_backward() -> None:
        with team.at_work():
            statistics.moments_backward(None, ds, F, guide, dF, work, team)

    return {
        "sums": Run(go_sums, lambda: {"s": s[0]}),
        "backward": Run(go_backward, lambda: {"dF": dF.T}, lambda: dF.fill(0)),
    }


def content(problem: Problem, machine: Machine) -> Runs:
    """Block by block: the difference stays in the cache."""
    team = Team(machine.threads)
    F, P = (np.ascontiguousarray(a.T) for a in problem.floats("F", "P"))
    dF, work = np.empty_like(F), _work(team, F.shape[1])
    loss = [0.0]

    def go_forward() -> None:
        with team.at_work():
            loss[0] = statistics.squared_distance(F, P, None, work, team)

    def go_backward() -> None:
        with team.at_work():
            statistics.content_backward(F, P, 1.0, None, dF, work, team)

    return {
        "forward": Run(go_forward, lambda: {"loss": loss[0]}),
        "backward": Run(go_backward, lambda: {"dF": dF.T}, lambda: dF.fill(0)),
    }


def pairs(problem: Problem, machine: Machine) -> Runs:
    """All inner products in one pass, then the direction in another."""
    return pairs_with(Vectors(), problem)


def pairs_with(vectors: Vectors, problem: Problem) -> Runs:
    """The direction with any implementation of `Vectors` on NumPy's arrays."""
    (q,) = problem.floats("q")
    s, y = ([np.array(a, np.float32) for a in problem.inputs[name]] for name in "sy")
    out = np.empty_like(q)
    kept = Pairs(vectors, q, len(s), LBFGSState(list(zip(s, y, strict=True))))
    return {"direction": Run(lambda: kept.multiply(1.0, q, out=out), lambda: {"d": out})}


def last(a: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (H, W, C)."""
    return np.ascontiguousarray(a.transpose(1, 2, 0))


def first(a: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (C, H, W)."""
    return a.transpose(2, 0, 1)


def _work(team: Team, N: int) -> np.ndarray:
    return np.empty(team.threads * max(layers.BLOCK, N), FLOAT)
