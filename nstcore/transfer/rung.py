"""The optimisation at one size, and what is carried to the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import images
from ..objective import Objective, Terms
from ..optim import AdamState, Average, LBFGSState, Minimum, minimize_adam, minimize_lbfgs
from .ladder import Rung
from .result import Step

BOUNDS = (0.0, 1.0)
# Of Adam. Programs take 0.99 or 0.999 for the second, which remembers the steep first gradients for long: at 256 pixels
# and 150 iterations the loss of three pairs then ends 3, 26 and 29 % higher (0.99).
BETAS = (0.9, 0.9)


@dataclass(frozen=True)
class Optimizer:
    """Which one, and its options."""

    name: str
    learning_rate: float
    history: int
    average: float


@dataclass
class Progress:
    """What has been done at all sizes together."""

    rungs: list[Rung]
    on_step: Callable[[Step], object] | None
    losses: list[Terms] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def step(self, number: int, iteration: int, terms: Terms, pixels: Callable[[], np.ndarray]) -> None:
        """One evaluation: the one after `iteration` others on rung `number`."""
        self.losses.append(terms)
        if self.on_step is None:
            return
        before, rung = self.rungs[:number], self.rungs[number]
        work = sum((r.iterations + 1) * r.cost for r in self.rungs)
        done = sum((r.iterations + 1) * r.cost for r in before) + (iteration + 1) * rung.cost
        self.on_step(
            Step(
                iteration=sum(r.iterations for r in before) + iteration,
                iterations=sum(r.iterations for r in self.rungs),
                size=max(rung.size),
                share=min(1.0, done / work),
                terms=terms,
                seconds=self.seconds,
                pixels=pixels,
            )
        )


class Painting:
    """A picture at one size, being optimised.

    Parameters
    ----------
    objective : Objective
    optimizer : Optimizer
    progress : Progress
    number : int
        Of the rung in the ladder.
    finished : callable (pixels) -> pixels
        What makes of the optimised picture the one that is shown.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        progress: Progress,
        number: int,
        finished: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self.objective, self.optimizer, self.progress, self.number = objective, optimizer, progress, number
        self.finished = finished
        self.vectors = objective.engine.vectors
        self.best: Any = None
        self.terms: Terms | None = None
        self._spare: Any = None
        self._count = 0
        averaged = optimizer.name == "adam" and optimizer.average > 0
        self._average = Average(optimizer.average, self.vectors) if averaged else None

    def paint(self, start: np.ndarray, state: Any, on_first: Callable[[Painting], object]) -> Minimum:
        """Optimise from a picture (3, H, W), with the optimizer's state where it is carried on; `on_first` is called as
        soon as there is something to show."""
        self._on_first = on_first
        common: dict[str, Any] = {
            "max_evaluations": self.progress.rungs[self.number].iterations + 1,
            "bounds": BOUNDS,
            "vectors": self.vectors,
            "state": state,
        }
        x = self.objective.engine.array(start)
        if self.optimizer.name == "adam":
            return minimize_adam(self._evaluate, x, learning_rate=self.optimizer.learning_rate, betas=BETAS, **common)
        return minimize_lbfgs(self._evaluate, x, history=self.optimizer.history, **common)

    def _evaluate(self, x: Any) -> tuple[float, Any]:
        terms, gradient = self.objective(x)
        if self.terms is None or terms.total < self.terms.total:
            self._remember(x, terms)
        if self._average is not None and self._count > 0 and math.isfinite(terms.total):
            self._average.add(x)
        self._count += 1
        self.progress.step(self.number, self._count - 1, terms, self.pixels)
        return terms.total, gradient

    def _remember(self, x: Any, terms: Terms) -> None:
        if not math.isfinite(terms.total):
            return
        if self._spare is None:
            self._spare = self.vectors.empty_like(x)
        self.vectors.copy(x, out=self._spare)
        # An interrupt may fall anywhere: `best` is a whole picture before this line and after it
        first, self.best, self._spare, self.terms = self.best is None, self._spare, self.best, terms
        if first:
            self._on_first(self)

    def picture(self) -> np.ndarray:
        """What has been reached (3, H, W): the average of the iterates, or the best one where there is none."""
        found = self.best
        if self._average is not None and self._average.mean is not None:
            found = self._average.mean
        return self.objective.engine.numpy(found)

    def pixels(self) -> np.ndarray:
        """The same, as it is to be shown: protected parts and colours as they were asked for."""
        return self.finished(
            self.objective.engine.numpy(self.objective.composed(self.objective.engine.array(self.picture())))
        )

    def settle(self) -> None:
        """Take the average for the best picture if its loss is lower."""
        if self._average is None or self._average.mean is None:
            return
        terms, _ = self.objective(self._average.mean)
        assert self.terms is not None
        if terms.total < self.terms.total:
            self.vectors.copy(self._average.mean, out=self.best)
            self.terms = terms
        self._average = None


def carried(state: Any, objective: Objective, size: tuple[int, int]) -> Any:
    """An optimizer's state, brought to another size.

    The losses are means over positions: with k times as many pixels, the gradient of each is 1/k of what it was. So m
    is divided by k, and v by k^2. Adam's averages then count as a single update, which its corrections take as
    such: as a first guess of the gradient's size they save the jump of the first steps; with the weight of all the
    updates that they come from they would hold the larger picture back.

    The pairs of L-BFGS stay as they are: dividing y by k, as the gradient asks, lengthens the first steps too much
    (three pictures from 91 to 128, 128 to 181 and 181 to 256 pixels: 1 % above a run without pairs after ten
    evaluations; as they are, 5 % below it).
    """
    engine = objective.engine
    ratio = math.prod(objective.shape[1:]) / math.prod(size)

    def resampled(array: Any, filter: str, factor: float, least: float = -math.inf) -> Any:
        values = images.resample(engine.numpy(array), size, filter) * np.float32(factor)
        return engine.array(np.maximum(values, np.float32(least)))

    if isinstance(state, AdamState):
        first, second = ((1 - beta) / (1 - beta**state.t) if state.t else 1.0 for beta in BETAS)
        found = state.map(
            lambda m: resampled(m, "bicubic", ratio * first),
            lambda v: resampled(v, "bilinear", ratio**2 * second, least=0.0),
        )
        found.t = min(state.t, 1)
        return found
    if isinstance(state, LBFGSState):
        return state.map(lambda s: resampled(s, "bicubic", 1.0), lambda y: resampled(y, "bicubic", 1.0))
    return None
