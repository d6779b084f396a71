"""What an optimizer tells: while it runs (`State`), and at the end (`Minimum`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .line_search import Search


@dataclass(frozen=True)
class State:
    """One accepted iterate, as a callback sees it.

    Attributes
    ----------
    evaluations : int
        Calls of f so far.
    iterations : int
        Updates of x so far: 0 at the starting point.
    loss : float
        f at `x`.
    x : array
        The iterate itself, not a copy: to be read only, and only until the callback returns.
    step : float
        What the search direction was multiplied by to come here (L-BFGS), or the learning rate (Adam); 0 at the
        starting point.
    gradient_norm : float or None
        Largest absolute element of the projected gradient at `x`, which is 0 at a minimum (L-BFGS); None (Adam).
    search : Search or None
        The line search that led here (L-BFGS); None at the starting point, and for Adam.
    dropped : bool
        Whether the pairs misled, and were dropped, on the way here (L-BFGS).
    state : AdamState or LBFGSState
        With `x`, what a run can go on from here. Its arrays are the run's own: to be read only, and only until the
        callback returns.
    """

    evaluations: int
    iterations: int
    loss: float
    x: Any
    step: float
    gradient_norm: float | None = None
    search: Search | None = None
    dropped: bool = False
    state: Any = field(default=None, repr=False)


Callback = Callable[[State], object]


@dataclass(frozen=True)
class Minimum:
    """Where an optimizer ended.

    Attributes
    ----------
    x : array of the shape and dtype of x0
        The best iterate (L-BFGS), or the one evaluated last (Adam).
    loss : float
        f at `x`.
    evaluations : int
        How often f was called.
    iterations : int
        How often x was updated.
    status : str
        Why it ended, in one short sentence.
    converged : bool
        True if the gradient came below its tolerance; False if something else ended the run.
    gradient_norm : float or None
        Largest absolute element of the projected gradient at `x` (L-BFGS); None (Adam).
    state : LBFGSState or AdamState
        What the next run can go on from.
    """

    x: Any
    loss: float
    evaluations: int
    iterations: int
    status: str
    converged: bool
    gradient_norm: float | None = None
    state: Any = field(default=None, repr=False)
