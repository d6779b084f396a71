"""How long a transfer takes, from a second or so of real work.

A few steps of the transfer's own objective and optimizer at a small size, and the time that one of them takes per
pixel. It hardly changes with the size from about 256 pixels on; smaller pictures are slower by the pixel, and larger
ones than the memory close to the processor holds may be, too. So what follows is an estimate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from .. import images, vgg
from ..errors import OptionError
from ..objective import Objective
from ..optim import minimize_adam, minimize_lbfgs
from .ladder import Rung
from .prepare import Prepared
from .rung import BETAS, BOUNDS

BUDGET = 1.5  # seconds, about
_FIRST = 128  # pixels, the long side that tells how large the second picture may be
_STEPS = 3  # that are timed, after one that makes the buffers; the fastest counts
_TARGETS = 0.5  # of a step: a forward pass alone


@dataclass(frozen=True)
class Pace:
    """What one step takes.

    Attributes
    ----------
    size : (height, width)
        At which it was measured.
    step : float
        Seconds of one evaluation and update there.
    """

    size: tuple[int, int]
    step: float

    def seconds(
        self, rungs: list[Rung], styles: list[list[tuple[int, int]]], work_of: Callable[[int, int], float]
    ) -> float:
        """An estimate for all sizes, their targets included.

        Parameters
        ----------
        rungs : list of Rung
        styles : list of list of (height, width)
            Of the styles at every size.
        work_of : callable (height, width) -> float
            What a step takes by the pixel, against the one that was measured; see `Network.work`.
        """
        work = 0.0  # pixels that go through a step
        for rung, sizes in zip(rungs, styles, strict=True):
            pictures = math.prod(rung.size), sum(map(math.prod, sizes))
            levels = 1 + sum(1 / k**2 for k in rung.blocks)
            steps = (rung.iterations + 1) * pictures[0] * work_of(*rung.size)
            work += levels * (steps + _TARGETS * sum(pictures))
        return work * self.step / math.prod(self.size)


def measure(prepared: Prepared, budget: float = BUDGET) -> Pace | None:
    """The pace of a transfer, from about so many seconds of work; None where the masks leave nothing of a picture as
    small as that."""
    begin = time.perf_counter()
    try:
        pace = _measured(prepared, _FIRST, 1)
        spent = time.perf_counter() - begin
        # Two steps and the targets took so long; with the steps that are timed, it is about twice as much by the pixel
        larger = int(max(pace.size) * math.sqrt(max(0.0, budget - spent) / (2 * spent)))
        return _measured(prepared, larger, _STEPS) if larger > max(pace.size) else pace
    except OptionError:
        return None


def _measured(prepared: Prepared, long_side: int, steps: int) -> Pace:
    pictures, needs = prepared.pictures, prepared.needs
    full = prepared.plan.size
    # As large as the network wants at least, and no larger than the result
    least = math.ceil(2 * vgg.SMALLEST_SIDE * max(full) / min(full))
    size = images.fit(full, min(max(full), max(long_side, least)))
    styles = [
        image if min(image.shape[:2]) >= 2 * vgg.SMALLEST_SIDE else pictures.content(size)
        for image in pictures.styles(max(size))
    ]
    objective = Objective(
        prepared.weights,
        pictures.content(size),
        styles,
        engine=prepared.engine,
        network=needs.network,
        **prepared.options | {"statistics": {}},
    )
    moments: list[float] = []

    def f(x: object) -> tuple[float, object]:
        moments.append(time.perf_counter())
        terms, gradient = objective(x)
        return terms.total, gradient

    start = prepared.engine.array(images.as_pixels(pictures.content(size)[..., :3]))
    vectors, optimizer = prepared.engine.vectors, prepared.optimizer
    if optimizer.name == "adam":
        minimize_adam(f, start, max_evaluations=steps + 1, bounds=BOUNDS, betas=BETAS, vectors=vectors)
    else:
        minimize_lbfgs(f, start, max_evaluations=steps + 1, bounds=BOUNDS, history=optimizer.history, vectors=vectors)
    moments.append(time.perf_counter())
    return Pace(size, min(b - a for a, b in pairwise(moments[1:] if len(moments) > 2 else moments)))
