"""L-BFGS with a strong Wolfe line search, for functions with or without bounds lo <= x <= hi.

One iteration, at x with gradient g:

    1. Elements that lie on a bound and whose gradient points outwards are held; the others are free.
    2. d = -H g on the free elements, by the two-loop recursion (pairs.py). Without pairs, d = -t g.
    3. The target P(x + d) is the projection of x + d onto the box, and d becomes target - x.
    4. The line search (line_search.py) runs along x + alpha d.
    5. The step leaves a pair s, y, kept if s'y > 0.

Why this way. Inside the box, phi(alpha) = f(x + alpha d) is as smooth as f, and the Wolfe conditions are the classical
ones; along the bent path P(x + alpha d), phi has a kink wherever an element meets its bound, and a cubic through two of
its points means nothing. Where projection shortened d, the segment ends at the target (alpha = 1); if f still falls
there, the search accepts the target ("segment end") and the next iteration goes on with the elements that have arrived
held. A longer step along the bent path would cost an evaluation to learn what the next direction learns anyway.

Held elements are taken out of the pairs as well: the step on the free ones uses the inverse of *their* part of the
Hessian. Setting elements of H g to 0 is simpler, but needs twice the evaluations on bounded quadratics.

The first step, without pairs, has t = 0.01 max|x| / max|g|: nothing moves by more than 1 % of the largest element
(Hager & Zhang). The search lengthens it where the slope says so.

References
----------
.. [1] Nocedal, Wright, "Numerical Optimization", 2nd edition, 2006, chapters 3 and 7.
.. [2] Bertsekas, "Projected Newton Methods for Optimization Problems with Simple Constraints", SIAM J. Control Optim.
   20(2), 1982 (held elements).
.. [3] Hager, Zhang, "A New Conjugate Gradient Method with Guaranteed Descent and an Efficient Line Search", SIAM J.
   Optim. 16(1), 2005 (first step, rounding).
"""

from __future__ import annotations

import math
from typing import Any

from ..errors import NotFinite, OptionError
from .line_search import FAILED, Search, strong_wolfe
from .pairs import Pairs
from .problem import Function, checked_bounds, checked_count, checked_gradient, checked_start
from .result import Callback, Minimum, State
from .states import LBFGSState
from .vectors import Vectors

_FIRST_STEP = 0.01  # of max|x|
_SEARCH_BUDGET = 20  # evaluations of one line search
_NOISE = 10  # rounding units of the loss that count as rounding
_FLAT = 5  # iterations without any decrease after which nothing more is expected


def minimize_lbfgs(
    f: Function,
    x0: Any,
    *,
    max_evaluations: int,
    history: int = 20,
    bounds: tuple[float, float] | None = None,
    c1: float = 1e-4,
    c2: float = 0.9,
    tolerance_gradient: float = 1e-7,
    state: LBFGSState | None = None,
    callback: Callback | None = None,
    vectors: Any = None,
) -> Minimum:
    """Minimize f by L-BFGS.

    The loss never rises from one iterate to the next, so the last iterate is the best one.

    A run may be cut in two: `minimize_lbfgs(f, end.x, state=end.state, ...)` goes on from where `end` came from. The
    cut costs one evaluation, as that of the last x is made again at the start of the second run; otherwise the iterates
    are those of one run, bit for bit, if the first one ended between two steps (by the callback). Where the evaluation
    limit ended it, its last line search may have been cut short.

    Buffers: 2 * `history` + 6 arrays like `x0`, less those that the state brings, and one more with bounds, allocated
    before the first evaluation.

    Parameters
    ----------
    f : callable
        f(x) -> (loss, gradient). It must not change x, nor keep it. It may return the same gradient array every time.
    x0 : array of any shape and float dtype
        Where to start; projected onto the bounds. It is not changed.
    max_evaluations : int
        f is called at most so often; at least once.
    history : int
        How many pairs (s, y) are remembered. In a style transfer 20 end about 1 % lower than 10; more gain little.
    bounds : (float, float), optional
        lo <= x <= hi for every element; -inf and inf are allowed.
    c1, c2 : float
        Of the Wolfe conditions, 0 < c1 < c2 < 1: sufficient decrease, and how much of the slope may be left.
    tolerance_gradient : float
        Converged when the largest absolute element of the gradient (without the held elements) is at most this part of
        what it was at x0, or where the state's first run began.
    state : LBFGSState, optional
        Go on with the pairs of an earlier run, the newest `history` of them. It is updated in place; its arrays are the
        run's own from then on.
    callback : callable, optional
        callback(State) at the starting point and after every iteration. If it returns True, the run ends there.
    vectors : optional
        The vector operations for arrays other than NumPy's: an object with the methods of `Vectors`.

    Returns
    -------
    Minimum
        x is the best point, state an `LBFGSState`: the one that was given, if one was.

    Raises
    ------
    OptionError
        If an option is out of its range.
    ShapeError
        If `x0` is not of floating point, or the gradient or the state does not have its shape.
    NotFinite
        If the loss or the gradient is not finite at `x0`. Elsewhere the line search steps back from such points.
    """
    checked_count("max_evaluations", max_evaluations)
    checked_count("history", history)
    lo, hi = checked_bounds(bounds)
    if not 0 < c1 < c2 < 1:
        raise OptionError(f"c1, c2: expected 0 < c1 < c2 < 1, got {c1} and {c2}; the usual ones are 1e-4 and 0.9")
    if not tolerance_gradient >= 0:
        raise OptionError(f"tolerance_gradient: expected 0 or more, got {tolerance_gradient}; the usual one is 1e-7")

    if vectors is None:
        checked_start(x0)
        vectors = Vectors()
    run = _Run(f, x0, lo, hi, vectors)
    memory = LBFGSState() if state is None else state
    pairs = Pairs(vectors, x0, history, memory)
    run.start()
    norm = run.gradient_norm()
    if memory.first_norm is None:
        memory.first_norm = norm
    iterations = 0
    step, search = 0.0, None
    while True:
        now = LBFGSState(pairs.arrays(), memory.first_norm, memory.flat)
        seen = State(run.evaluations, iterations, run.loss, run.x, step, norm, search, run.dropped, now)
        converged = norm <= tolerance_gradient * memory.first_norm
        if callback is not None and callback(seen) is True:
            status = "stopped by the callback"
        elif converged:
            status = "converged: the gradient is below its tolerance"
        elif run.evaluations >= max_evaluations:
            status = "the evaluation limit was reached"
        elif memory.flat == _FLAT:
            status = f"the loss has not fallen for {_FLAT} iterations"
        else:
            search = _iterate(run, pairs, max_evaluations, c1, c2)
            if search is not None:
                iterations, step = iterations + 1, search.step
                memory.flat = memory.flat + 1 if search.phi == search.phi0 else 0
                norm = run.gradient_norm()
                continue
            if run.evaluations >= max_evaluations:
                status = "the evaluation limit was reached"
            else:
                status = "no step along the gradient lowers the loss any more"
        pairs.give_back(memory)
        return Minimum(run.x, run.loss, run.evaluations, iterations, status, converged, norm, memory)


def _iterate(run: _Run, pairs: Pairs, max_evaluations: int, c1: float, c2: float) -> Search | None:
    """One accepted step; None if there is none, even along the steepest descent."""
    run.dropped = False
    while True:
        remembered = len(pairs) > 0
        dphi0, alpha_max = run.aim(pairs)
        if dphi0 < 0:
            search = strong_wolfe(
                run.phi,
                run.loss,
                dphi0,
                c1=c1,
                c2=c2,
                alpha_max=alpha_max,
                budget=min(_SEARCH_BUDGET, max_evaluations - run.evaluations),
                noise=_NOISE * run.rounding * abs(run.loss),
            )
            if search.end != FAILED:
                run.accept(search, pairs)
                return search
        if not remembered or run.evaluations >= max_evaluations:
            return None
        pairs.clear()  # the pairs mislead; the steepest descent does not need them
        run.dropped = True


class _Run:
    """The current iterate, the search direction, and the points that a line search tries."""

    def __init__(self, f: Function, x0: Any, lo: float, hi: float, vectors: Any) -> None:
        self.f, self.lo, self.hi, self.vectors = f, lo, hi, vectors
        self.bounded = math.isfinite(lo) or math.isfinite(hi)
        self.rounding = vectors.epsilon(x0)
        # x + (hi - x) rounds to within this of hi: an element so close to its bound is on it
        self._slack = 2 * self.rounding * max(abs(b) if math.isfinite(b) else 0.0 for b in (lo, hi))
        self.x, self.g, self.d = (vectors.empty_like(x0) for _ in range(3))
        self._x_trial, self._g_trial, self._g_lowest = (vectors.empty_like(x0) for _ in range(3))
        self._free = vectors.empty_like(x0) if self.bounded else None
        self._held = 0
        self._norm = math.nan  # max|g| over the free elements
        self._placed = math.nan  # the alpha that _x_trial belongs to
        self.evaluations = 0
        self.dropped = False  # the pairs, in the last iteration
        self.loss = math.inf
        self._lowest = math.nan  # the alpha that _g_lowest belongs to
        self._phi_lowest = math.inf
        vectors.copy(x0, out=self.x)
        if self.bounded:
            vectors.clip(self.x, lo, hi)

    def start(self) -> None:
        """Evaluate the starting point."""
        self.loss = self._evaluate(self.x, self.g)
        if not (math.isfinite(self.loss) and math.isfinite(self.vectors.max_abs(self.g))):
            raise NotFinite(
                f"the starting point: expected a finite loss and gradient, got the loss {self.loss}; "
                "start from another point or lower the weights of the losses"
            )

    def gradient_norm(self) -> float:
        """max|g| over the elements that are not held; finds out which are held."""
        if self.bounded:
            self._held, self._norm = self.vectors.free_elements(
                self.x, self.g, self.lo + self._slack, self.hi - self._slack, out=self._free
            )
        else:
            self._norm = self.vectors.max_abs(self.g)
        return self._norm

    def aim(self, pairs: Pairs) -> tuple[float, float]:
        """Set d; returns the slope of f along it, and how far one can go."""
        v = self.vectors
        free = self._free if self._held else None
        if not pairs.multiply(-1.0, self.g, free, out=self.d):
            v.combine(-self._first_step(), self.g, free, (), out=self.d)
        if self.bounded:
            longest, slope = v.shorten(self.d, self.x, self.g, self.lo, self.hi)
            alpha_max = longest if longest > 1.1 else 1.0  # a little further is not worth an evaluation
        else:
            alpha_max, slope = math.inf, v.dot(self.g, self.d)
        self._lowest = self._placed = math.nan
        self._phi_lowest = self.loss
        return slope, alpha_max

    def _first_step(self) -> float:
        """t of the steepest descent -t g on the free elements."""
        if self._norm == 0:
            return 1.0
        size = self.vectors.max_abs(self.x)
        return _FIRST_STEP * (size if size > 0 else 1.0) / self._norm

    def phi(self, alpha: float) -> tuple[float, float]:
        """f and its slope along d, at x + alpha d."""
        self._place(alpha)
        value = self._evaluate(self._x_trial, self._g_trial)
        slope = self.vectors.dot(self._g_trial, self.d)
        if value < self._phi_lowest and math.isfinite(value) and math.isfinite(slope):
            self._phi_lowest, self._lowest = value, alpha
            self._g_trial, self._g_lowest = self._g_lowest, self._g_trial
        return value, slope

    def accept(self, search: Search, pairs: Pairs) -> None:
        """Move to the step that the search chose: the one tried last, or the lowest one."""
        self._place(search.step)
        if search.step == self._lowest:
            self._g_trial, self._g_lowest = self._g_lowest, self._g_trial
        pairs.add(self.x, self.g, self._x_trial, self._g_trial)
        self.x, self._x_trial = self._x_trial, self.x
        self.g, self._g_trial = self._g_trial, self.g
        self.loss = search.phi

    def _place(self, alpha: float) -> None:
        if alpha != self._placed:
            self.vectors.step(self.x, alpha, self.d, self.lo, self.hi, out=self._x_trial)  # clips rounding alone
            self._placed = alpha

    def _evaluate(self, x: Any, out: Any) -> float:
        loss, gradient = self.f(x)
        self.evaluations += 1
        self.vectors.copy(checked_gradient(gradient, x), out=out)
        return float(loss)
