"""What has been done at all sizes together, told step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..objective import Terms
from .ladder import Rung
from .result import Step


@dataclass
class Progress:
    """Steps so far.

    Attributes
    ----------
    rungs : list of Rung
    on_step : callable (Step), or None
    losses : list of Terms
        One per evaluation.
    events : list of str
        What happened beside the plan.
    before : float
        Seconds that went into it before this process.
    step_length : float
        Of the last iteration.
    stopped : bool
        Whether the run was asked to end.
    """

    rungs: list[Rung]
    on_step: Callable[[Step], object] | None
    losses: list[Terms] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    before: float = 0.0
    step_length: float = 0.0
    stopped: bool = False

    def __post_init__(self) -> None:
        self._began = time.perf_counter()
        self._told = 0  # events

    @property
    def seconds(self) -> float:
        """Time in the loop."""
        return self.before + time.perf_counter() - self._began

    def note(self, event: str) -> None:
        """Something that happened; the next step tells it."""
        self.events.append(event)

    def step(self, number: int, iteration: int, terms: Terms, pixels: Callable[[], np.ndarray]) -> None:
        """One evaluation: the one after `iteration` others on rung `number`."""
        self.losses.append(terms)
        if self.on_step is None:
            return
        before, rung = self.rungs[:number], self.rungs[number]
        work = sum((r.iterations + 1) * r.cost for r in self.rungs)
        done = sum((r.iterations + 1) * r.cost for r in before) + (iteration + 1) * rung.cost
        new, self._told = self.events[self._told :], len(self.events)
        self.on_step(
            Step(
                iteration=sum(r.iterations for r in before) + iteration,
                iterations=sum(r.iterations for r in self.rungs),
                evaluations=len(self.losses),
                size=max(rung.size),
                share=min(1.0, done / work),
                terms=terms,
                step_length=self.step_length,
                seconds=self.seconds,
                note="; ".join(new) or None,
                pixels=pixels,
            )
        )

    def cause(self) -> str | None:
        """Which term was not finite at the last evaluation, in words; None if all were."""
        if not self.losses:
            return None
        terms = self.losses[-1]
        values = {f"the content term at {tap}": v for tap, v in terms.content_layers.items()}
        values |= {f"the style term at {tap}": v for tap, v in terms.style_layers.items()}
        values |= {"total variation": terms.tv, "the loss": terms.total}
        for name, value in values.items():
            if not math.isfinite(value):
                return f"{name} became {value} at evaluation {len(self.losses)}"
        return None
