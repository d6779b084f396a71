"""A step as a run has it, of one picture or of several at once, and whether what is recorded in graphs has the bits of
its launches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from bench_common import pictures, planes

from nstcore import Objective, Weights, engines, minimize_adam
from nstcore.engines.cuda import CudaEngine, loss_scale
from nstcore.engines.cuda.rounds import Rounds
from nstcore.errors import NotFinite
from nstcore.objective import Terms
from nstcore.objective.statistics import STYLE_LOSSES
from nstcore.optim import AdamState, Average
from nstcore.optim.adam import Halves, Rule

STANDSTILL = 1e-12  # a learning rate at which no pixel moves: every step has the same loss, and takes as long as any
AVERAGE = 0.9
BETAS, EPSILON = (0.9, 0.99), 1e-8
BOUNDS = (0.0, 1.0)
STEPS = 1 << 20  # of one run, at most
SHORT = 5  # steps of a run whose bits are compared
TURNS = (0, 1, 2)  # quarter turns that make other pictures of the same, for a few at once
FIRST = 4  # steps of which the first compiles, and the others record: untimed
OVERFLOWING = (-19, 0)  # loss scales of which the first is too large for float16, whatever the picture


def engine_of(device: str, precision: str, convolution: str | None = None) -> Any:
    """An engine, its convolution by a rung's short name where it is not the production one."""
    engine = engines.create(device, precision)
    return engine if convolution is None else CudaEngine(engine.device, precision, convolution)


class Steps:
    """The steps of a run, one at a time: Adam's update, loss and gradient, and the average of the iterates.

    They are those of `minimize_adam`, whose loop nobody can leave in between, at a learning rate of next to nothing.

    Parameters
    ----------
    objective : Objective
    start : float32 array (3, H, W)
    """

    def __init__(self, objective: Objective, start: np.ndarray) -> None:
        engine: Any = objective.engine
        vectors, x = engine.vectors, engine.array(start)
        self._average, self._begun = Average(AVERAGE, vectors), False
        rule, state = Rule(STANDSTILL, BETAS, EPSILON, *BOUNDS), AdamState.zero(x, vectors)
        self._adam = vectors.adam_ahead(Halves(objective, self._told), x, state, rule, STEPS)

    def _told(self, x: Any, terms: Terms) -> float:
        self._average.add(x)
        return terms.total

    def __call__(self) -> float:
        """One more; its loss."""
        if self._begun:
            self._adam.update()
        self._begun = True
        return self._adam.evaluate()


# -- several at once ---------------------------------------------------------------------------------------------------


def at_once(
    weights: Weights, device: str, size: int, precision: str, counts: Sequence[int], steps: int
) -> Iterator[tuple[int, float, bool]]:
    """(pictures, seconds of a step of one of them, whether each has the loss that it has alone), by the wall clock.

    Each has an engine of its own, as with --at-once.
    """
    content, style, start = pictures(size)
    alone = Objective(weights, content, style, engine=engines.create(device, precision))(planes(start))[0].total
    for count in counts:
        first = engines.create(device, precision)
        places = [
            Steps(Objective(weights, content, style, engine=CudaEngine(first.device, precision)), planes(start))
            for _ in range(count)
        ]
        begun: list[float] = []
        losses: list[float] = []

        Rounds(first.device).run([partial(_timed, step, steps, begun, losses) for step in places])
        lasted = time.perf_counter() - max(begun)
        yield count, lasted / (steps * count), set(losses) == {alone}


def _timed(step: Steps, steps: int, begun: list[float], losses: list[float]) -> None:
    for _ in range(FIRST):
        step()
    begun.append(time.perf_counter())
    losses.append([step() for _ in range(steps)][-1])


def launch_by_launch(weights: Weights, device: str, side: int, precision: str) -> list[str]:
    """The style losses whose evaluations are no graph: the host computes them from Gram matrices and sums in float64,
    W2 with square roots of matrices."""
    content, style, start = pictures(side)
    found = []
    for name in STYLE_LOSSES:
        objective = Objective(weights, content, style, engine=engines.create(device, precision), style_loss=name)
        for _ in range(3):
            objective(planes(start))
        if objective._repeated._graph is None:
            found.append(name)
    return found


# -- bits --------------------------------------------------------------------------------------------------------------


def unlike(weights: Weights, device: str, side: int, precisions: Sequence[str]) -> list[str]:
    """A line for each precision whose graphs do not compute, to the bit, what its launches do one by one; or several
    pictures at once what one does alone.

    float16 is looked at again with a loss scale that overflows once in every evaluation.
    """
    found = []
    for precision in precisions:
        cases = {precision: loss_scale.ATTEMPTS}
        if precision == "float16":
            cases["float16 that overflows"] = OVERFLOWING
        for name, attempts in cases.items():
            with patch.object(loss_scale, "ATTEMPTS", attempts):
                ways = [bits(weights, engines.create(device, precision), side, graphs) for graphs in (True, False)]
                alone = [bits(weights, engines.create(device, precision), side, True, turns) for turns in TURNS]
                together = _together(weights, device, side, precision)
            found += [
                f"graphs, {name}: {what} expected the bits of a step launch by launch, got others"
                for what, (mine, expected) in _named(*ways).items()
                if mine != expected
            ]
            if together != alone:
                found.append(
                    f"graphs, {name}: {len(alone)} pictures at once: expected the bits of each alone, got others"
                )
    return found


def _together(weights: Weights, device: str, side: int, precision: str) -> list[list[bytes]]:
    """`bits` of several pictures that are painted at once."""
    shared: Any = engines.create(device, precision)
    found: dict[int, list[bytes]] = {}

    def paint(turns: int) -> None:
        found[turns] = bits(weights, CudaEngine(shared.device, precision), side, True, turns)

    Rounds(shared.device).run([partial(paint, turns) for turns in TURNS])
    return [found[turns] for turns in TURNS]


def bits(weights: Weights, engine: Any, side: int, graphs: bool, turns: int = 0) -> list[bytes]:
    """Losses and gradients of four evaluations of two pictures, then the losses and the picture of a short run; of the
    pictures after so many quarter turns."""
    content, style, start = (np.ascontiguousarray(np.rot90(picture, turns)) for picture in pictures(side))
    objective = Objective(weights, content, style, engine=engine)
    if not graphs:
        objective._repeated = lambda evaluate, x: evaluate(x)
    found = []
    for picture in (start, content, start, content):
        terms, gradient = objective(engine.array(planes(picture)))
        found.append(np.float64(terms.total).tobytes() + engine.numpy(gradient).tobytes())
    losses: list[float] = []

    def told(x: Any, terms: Terms) -> float:
        losses.append(terms.total)
        return terms.total

    halves = Halves(objective, told)
    f: Callable[[Any], Any] = halves if graphs else lambda x: halves(x)
    painted = b""
    with suppress(NotFinite):  # then the losses, too, are others
        end = minimize_adam(
            f, engine.array(planes(start)), max_evaluations=SHORT, bounds=BOUNDS, vectors=engine.vectors
        )
        painted = engine.numpy(end.x).tobytes()
    return [*found, np.array(losses).tobytes() + painted]


def _named(mine: list[bytes], expected: list[bytes]) -> dict[str, tuple[bytes, bytes]]:
    names = [*(f"evaluation {n}" for n in range(1, len(mine))), f"a run of {SHORT} steps"]
    return dict(zip(names, zip(mine, expected, strict=True), strict=True))
