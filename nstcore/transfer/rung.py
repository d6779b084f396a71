"""The optimisation at one size, and what is carried to the next."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from .. import images
from ..disk import release, strips
from ..errors import NotFinite
from ..objective import Objective, Terms
from ..optim import AdamState, Average, LBFGSState, Minimum, State, minimize_adam, minimize_lbfgs
from ..optim.adam import Halves
from .progress import Progress
from .snapshot import Arrays

BOUNDS = (0.0, 1.0)
# Of Adam. Programs take 0.99 or 0.999 for the second, which remembers the steep first gradients for long: at 256 pixels
# and 150 iterations the loss of three pairs then ends 3, 26 and 29 % higher (0.99).
BETAS = (0.9, 0.9)

_RETRIES = 3  # from the best picture, each with half the learning rate, after a loss that was not finite
_RESCUES = 3  # by Adam, of an L-BFGS that finds no lower loss
_RESCUE = 20  # evaluations of one
_RESCUE_RATE = 0.1  # of Adam's learning rate: L-BFGS stalls where it is near a minimum


@dataclass(frozen=True)
class Optimizer:
    """Which one, and its options."""

    name: str
    learning_rate: float
    history: int
    average: float


@dataclass(frozen=True)
class Leg:
    """A stretch of the way at one size, with one optimizer; there is more than one only where something went wrong.

    Attributes
    ----------
    optimizer : {"adam", "lbfgs"}
    learning_rate : float
    until : int
        Evaluations at this size after which it ends.
    retries, rescues : int
        How often something has gone wrong so far.
    stalled : float or None
        The loss that L-BFGS could not lower, in a rescue.
    """

    optimizer: str
    learning_rate: float
    until: int
    retries: int = 0
    rescues: int = 0
    stalled: float | None = None


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
    keep : callable (Painting, State) -> bool
        Called between two iterations, the only moments from which a run can go on; True ends it.
    raised : callable () -> Objective or None
        The same objective in a higher precision, if there is one.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        progress: Progress,
        number: int,
        finished: Callable[[np.ndarray], np.ndarray],
        keep: Callable[[Painting, State], bool],
        raised: Callable[[], Objective | None],
    ) -> None:
        self.objective, self.optimizer, self.progress, self.number = objective, optimizer, progress, number
        self.finished, self.keep, self.raised = finished, keep, raised
        self.vectors = objective.engine.vectors
        self.best: Any = None
        self.terms: Terms | None = None  # of the best
        self.count = 0  # evaluations at this size
        self.limit = progress.rungs[number].iterations + 1
        self.leg = Leg(optimizer.name, optimizer.learning_rate, self.limit)
        self._spare: Any = None
        self._seen: float | None = None  # the loss where an evaluation is only made again
        self._again = False
        averaged = optimizer.name == "adam" and optimizer.average > 0
        self._average = Average(optimizer.average, self.vectors) if averaged else None

    # -- the way ------------------------------------------------------------------------------------------------------

    def paint(self, start: np.ndarray, state: Any, on_first: Callable[[Painting], object]) -> tuple[Any, str]:
        """Optimise from a picture (3, H, W), with the optimizer's state where it is carried on.

        `on_first` is called as soon as there is something to show. Returns the optimizer's state, and why it ended.
        """
        self._on_first = on_first
        x = self.objective.engine.array(start)
        while True:
            try:
                end = self._minimize(x, state)
            except NotFinite as error:
                x = self._retried(x, error)
                state = None
                if self.count >= self.limit:
                    return None, "the evaluation limit was reached"
                continue
            if not self._goes_on(end):
                return end.state, end.status
            x, state = self._from_best(), None

    def _minimize(self, x: Any, state: Any) -> Minimum:
        common: dict[str, Any] = {
            # One that is only made again is none
            "max_evaluations": self.leg.until - self.count + self._again,
            "bounds": BOUNDS,
            "vectors": self.vectors,
            "state": state,
            "callback": self._iterated,
        }
        f = Halves(self.objective, self._evaluated)
        if self.leg.optimizer == "adam":
            return minimize_adam(f, x, learning_rate=self.leg.learning_rate, betas=BETAS, **common)
        return minimize_lbfgs(f, x, history=self.optimizer.history, **common)

    def _iterated(self, state: State) -> bool:
        self.progress.step_length = state.step
        if state.dropped:
            self.progress.note("L-BFGS: the remembered steps led nowhere lower and were dropped")
        return self.keep(self, state)

    def _goes_on(self, end: Minimum) -> bool:
        """Whether there is another leg after this one, which has ended; it is `leg` then."""
        if self.progress.stopped or self.count >= self.limit:
            return False
        leg = self.leg
        assert self.terms is not None
        if leg.stalled is None:  # L-BFGS: Adam ends at the limit alone
            if end.converged or leg.rescues == _RESCUES:
                return False
            self.progress.note(f"L-BFGS: {end.status}; Adam takes up to {_RESCUE} steps, then L-BFGS begins anew")
            self.leg = replace(
                leg,
                optimizer="adam",
                learning_rate=_RESCUE_RATE * self.optimizer.learning_rate,
                until=min(self.count + _RESCUE, self.limit),
                rescues=leg.rescues + 1,
                stalled=self.terms.total,
            )
            return True
        if self.terms.total >= leg.stalled:
            self.progress.note("Adam found no lower loss either")
            return False
        self.leg = replace(
            leg, optimizer="lbfgs", learning_rate=self.optimizer.learning_rate, until=self.limit, stalled=None
        )
        return True

    def _retried(self, x: Any, error: NotFinite) -> Any:
        """Where to go on after a loss that was not finite; raises the error again where there is no way."""
        cause = self.progress.cause() or str(error)
        higher = self.raised()
        if higher is not None:
            start = self.objective.engine.numpy(x) if self.best is None else self.picture()
            was, self.objective, self.vectors = self.objective.engine.precision, higher, higher.engine.vectors
            self.progress.note(f"{cause}; {was} does not hold it: going on in {higher.engine.precision}")
            self.best = self.terms = self._spare = None
            if self._average is not None:
                self._average = Average(self.optimizer.average, self.vectors)
            self._again = False
            return higher.engine.array(start)
        if self.best is None or self.leg.optimizer != "adam" or self.leg.retries == _RETRIES:
            raise NotFinite(cause) from error
        rate = self.leg.learning_rate / 2
        self.leg = replace(self.leg, learning_rate=rate, retries=self.leg.retries + 1)
        self.progress.note(f"{cause}; back to the best picture, with the learning rate {rate:g}")
        return self._from_best()

    def _from_best(self) -> Any:
        assert self.terms is not None
        self._again, self._seen = True, self.terms.total
        return self.best

    # -- one evaluation -----------------------------------------------------------------------------------------------

    def _evaluated(self, x: Any, terms: Terms) -> float:
        """What becomes of the losses at x, now that they are known; a GPU may be at the next x already."""
        if self._again:
            self._again = False
            if terms.total != self._seen:
                self.progress.note("this machine rounds otherwise: the picture will not be the same bit for bit")
            return terms.total
        if self.terms is None or terms.total < self.terms.total:
            self._remember(x, terms)
        if self._average is not None and self.count > 0 and math.isfinite(terms.total):
            self._average.add(x)
        self.count += 1
        self.progress.step(self.number, self.count - 1, terms, self.pixels)
        return terms.total

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

    # -- what there is to show ----------------------------------------------------------------------------------------

    def _reached(self) -> Any:
        """The average of the iterates, or the best one where there is none: an array of the engine."""
        mean = None if self._average is None else self._average.mean
        return self.best if mean is None else mean

    def picture(self) -> np.ndarray:
        """What has been reached (3, H, W)."""
        return self.objective.engine.numpy(self._reached())

    def pixels(self) -> np.ndarray:
        """The same, as it is to be shown: protected parts and colours as they were asked for."""
        return self.finished(self.objective.engine.numpy(self.objective.composed(self._reached())))

    def drop_average(self) -> None:
        """Show the best picture from now on."""
        self._average = None

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

    # -- in a file ----------------------------------------------------------------------------------------------------

    def record(self, state: State) -> tuple[dict[str, Any], Arrays]:
        """All that there is to know between two iterations: numbers and words, and arrays."""
        numpy = self.objective.engine.numpy
        assert self.terms is not None
        arrays = {"x": state.x, "best": self.best}
        record = {"count": self.count, "loss": state.loss, "terms": asdict(self.terms), "leg": asdict(self.leg)}
        if self._average is not None and self._average.mean is not None:
            arrays["mean"], record["averaged"] = self._average.mean, self._average.count
        memory = state.state
        if isinstance(memory, AdamState):
            arrays |= {"m": memory.m, "v": memory.v}
            record["updates"] = memory.t
        else:
            for number, (s, y) in enumerate(memory.pairs):
                arrays |= {f"s{number}": s, f"y{number}": y}
            record |= {"pairs": len(memory.pairs), "first_norm": memory.first_norm, "flat": memory.flat}
        return record, {name: lambda a=a: numpy(a) for name, a in arrays.items()}

    def restore(self, record: dict[str, Any], read: Callable[[str], np.ndarray]) -> tuple[np.ndarray, Any]:
        """Be as when `record` was made; returns x and the optimizer's state."""
        array = self.objective.engine.array
        self.count, self.leg, self.terms = record["count"], Leg(**record["leg"]), Terms.from_dict(record["terms"])
        self._again, self._seen = True, record["loss"]
        self.best = array(read("best"))
        if "averaged" in record and self._average is not None:
            self._average.mean, self._average.count = array(read("mean")), record["averaged"]
        if "updates" in record:
            return read("x"), AdamState(array(read("m")), array(read("v")), record["updates"])
        pairs = [(array(read(f"s{i}")), array(read(f"y{i}"))) for i in range(record["pairs"])]
        return read("x"), LBFGSState(pairs, record["first_norm"], record["flat"])


def carried(state: Any, optimizer: str, objective: Objective, size: tuple[int, int]) -> Any:
    """An optimizer's state, brought to another size; None where the last one was another's.

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
        values = images.resample(engine.numpy(array), size, filter, engine.room((3, *size)))
        for rows in strips(values):
            values[:, rows] *= np.float32(factor)
            np.maximum(values[:, rows], np.float32(least), out=values[:, rows])
            release(values)
        return engine.array(values)

    if optimizer == "adam" and isinstance(state, AdamState):
        first, second = ((1 - beta) / (1 - beta**state.t) if state.t else 1.0 for beta in BETAS)
        found = state.map(
            lambda m: resampled(m, "bicubic", ratio * first),
            lambda v: resampled(v, "bilinear", ratio**2 * second, least=0.0),
        )
        found.t = min(state.t, 1)
        return found
    if optimizer == "lbfgs" and isinstance(state, LBFGSState):
        return state.map(lambda s: resampled(s, "bicubic", 1.0), lambda y: resampled(y, "bicubic", 1.0))
    return None
