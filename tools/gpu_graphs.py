"""A step as a run has it, one at a time, and whether what is recorded in graphs has the bits of its launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import numpy as np
from bench_common import pictures, planes

from nstcore import Objective, Weights, engines, minimize_adam
from nstcore.engines import Engine
from nstcore.engines.cuda import CudaEngine, loss_scale
from nstcore.errors import NotFinite
from nstcore.objective import Terms
from nstcore.optim import AdamState, Average
from nstcore.optim.adam import Halves, Rule

STANDSTILL = 1e-12  # a learning rate at which no pixel moves: every step has the same loss, and takes as long as any
AVERAGE = 0.9
BETAS, EPSILON = (0.9, 0.99), 1e-8
BOUNDS = (0.0, 1.0)
STEPS = 1 << 20  # of one run, at most
SHORT = 5  # steps of a run whose bits are compared
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


# -- bits --------------------------------------------------------------------------------------------------------------


def unlike(weights: Weights, device: str, side: int, precisions: Sequence[str]) -> list[str]:
    """A line for each precision whose graphs do not compute, to the bit, what its launches do one by one.

    float16 is looked at again with a loss scale that overflows once in every evaluation.
    """
    found = []
    for precision in precisions:
        cases = {precision: loss_scale.ATTEMPTS}
        if precision == "float16":
            cases["float16 that overflows"] = OVERFLOWING
        for name, attempts in cases.items():
            with patch.object(loss_scale, "ATTEMPTS", attempts):
                ways = [bits(weights, device, side, precision, graphs) for graphs in (True, False)]
            found += [
                f"graphs, {name}: {what} expected the bits of a step launch by launch, got others"
                for what, (mine, expected) in _named(*ways).items()
                if mine != expected
            ]
    return found


def bits(weights: Weights, device: str, side: int, precision: str, graphs: bool) -> list[bytes]:
    """Losses and gradients of four evaluations of two pictures, then the losses and the picture of a short run."""
    content, style, start = pictures(side)
    engine: Engine = engines.create(device, precision)
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
