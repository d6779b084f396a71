"""Strong Wolfe line search along one direction.

Given phi(alpha) = f(x + alpha d) with phi'(0) < 0, find a step alpha > 0 with

    phi(alpha)    <= phi(0) + c1 alpha phi'(0)      sufficient decrease (Armijo)
    |phi'(alpha)| <= c2 |phi'(0)|                   curvature

The two together make s'y > 0, which L-BFGS needs. Algorithm 3.5 of Nocedal & Wright walks to the right until two steps
bracket such a point; algorithm 3.6 (zoom) closes the bracket around it.

What is added to the book's algorithms, and why:

- alpha_max: where the direction leaves the feasible set. If even there phi satisfies Armijo and still falls, the search
  ends there: the longest step is the best one ("segment end").
- A value that is not finite counts as infinitely high, so the bracket closes away from it.
- Rounding. Close to a minimum phi(alpha) - phi(0) drowns in the rounding of phi, and the Armijo test becomes the toss
  of a coin, while the slope is still good. Hager & Zhang's approximate Wolfe conditions test Armijo by slopes only (for
  a quadratic phi it is the same test):

      (2 c1 - 1) phi'(0) >= phi'(alpha) >= c2 phi'(0)   and   phi(0) - noise <= phi(alpha) <= phi(0)

  (Hager & Zhang allow phi(0) + noise; without it no accepted step ever raises phi.)
- A budget: the search never evaluates more than it may. Spent, it gives the lowest value that it has seen.

References
----------
.. [1] Nocedal, Wright, "Numerical Optimization", 2nd edition, 2006, section 3.5, algorithms 3.5 and 3.6, equation 3.59.
.. [2] Hager, Zhang, "A New Conjugate Gradient Method with Guaranteed Descent and an Efficient Line Search", SIAM J.
   Optim. 16(1), 2005, equation 4.1 (approximate Wolfe conditions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

WOLFE = "wolfe"
APPROXIMATE = "approximate wolfe"
SEGMENT_END = "segment end"
DECREASE = "decrease"
FAILED = "failed"

# While bracketing, the interpolation may choose the next point within these multiples of the distance covered last.
_LEAST_GROWTH, _MOST_GROWTH = 0.5, 9.0
# While zooming, a new point keeps this part of the bracket's width away from both ends, so the bracket must close.
# (Bisection after slow steps, as often added, never saved an evaluation here, and sometimes doubled them.)
_MARGIN = 0.1


@dataclass(frozen=True)
class Search:
    """How one line search ended.

    Attributes
    ----------
    step : float
        The accepted alpha; 0 if the search failed.
    phi0, dphi0 : float
        Value and slope at 0.
    phi, dphi : float
        Value and slope at the accepted step.
    end : str
        "wolfe": the strong Wolfe conditions hold. "approximate wolfe": they hold within rounding (see above).
        "segment end": the step is alpha_max, Armijo holds, and phi still falls there more steeply than the curvature
        condition allows. "decrease": the budget or the bracket was exhausted; phi < phi0 is all that holds. "failed":
        nothing lower than phi0 was found.
    evaluations : int
        Calls of phi.
    """

    step: float
    phi0: float
    dphi0: float
    phi: float
    dphi: float
    end: str
    evaluations: int


@dataclass(frozen=True)
class _Point:
    alpha: float
    phi: float
    dphi: float


def strong_wolfe(
    phi: Callable[[float], tuple[float, float]],
    phi0: float,
    dphi0: float,
    first: float = 1.0,
    *,
    c1: float = 1e-4,
    c2: float = 0.9,
    alpha_max: float = math.inf,
    budget: int = 20,
    noise: float = 0.0,
) -> Search:
    """Search along a direction of descent for a step that satisfies the strong Wolfe conditions.

    Parameters
    ----------
    phi : callable
        phi(alpha) -> (value, slope); either may be inf or NaN.
    phi0, dphi0 : float
        Value and slope at 0, both finite, the slope negative.
    first : float
        The first step to try; at most `alpha_max` is tried.
    c1, c2 : float
        0 < c1 < c2 < 1; c1 < 1/2 lets a quadratic's minimizer be accepted.
    alpha_max : float
        Never step further than this.
    budget : int
        Call `phi` at most so often, at least once.
    noise : float
        Differences of phi up to this are taken for rounding.

    Returns
    -------
    Search
    """
    points: list[_Point] = []
    origin = _Point(0.0, phi0, dphi0)

    def evaluate(alpha: float) -> _Point:
        value, slope = phi(alpha)
        finite = math.isfinite(value) and math.isfinite(slope)
        points.append(_Point(alpha, value if finite else math.inf, slope if finite else math.nan))
        return points[-1]

    def armijo(p: _Point) -> bool:
        return p.phi <= phi0 + c1 * p.alpha * dphi0

    def accepted(p: _Point) -> str | None:
        """The conditions that the point satisfies, if it does."""
        if armijo(p) and abs(p.dphi) <= -c2 * dphi0:
            return WOLFE
        if noise > 0 and phi0 - noise <= p.phi <= phi0 and (2 * c1 - 1) * dphi0 >= p.dphi >= c2 * dphi0:
            return APPROXIMATE
        return None

    def result(p: _Point, end: str) -> Search:
        return Search(p.alpha, phi0, dphi0, p.phi, p.dphi, end, len(points))

    def lowest() -> Search:
        best = min([origin, *points], key=lambda p: p.phi)  # the origin, listed first, wins a tie
        return result(best, DECREASE if best is not origin else FAILED)

    # Algorithm 3.5: to the right, until [previous, p] or [p, previous] is a bracket.
    previous, alpha = origin, min(first, alpha_max)
    while True:
        p = evaluate(alpha)
        if end := accepted(p):
            return result(p, end)
        if p.phi > phi0 + c1 * p.alpha * dphi0 + noise or (previous is not origin and p.phi >= previous.phi + noise):
            low, high = previous, p
            break
        if p.dphi >= 0:
            low, high = p, previous
            break
        if p.alpha == alpha_max:
            return result(p, SEGMENT_END) if armijo(p) else lowest()
        if len(points) == budget:
            return lowest()
        width = p.alpha - previous.alpha
        farthest = p.alpha + _MOST_GROWTH * width
        guess = _interpolate(previous, p, noise)
        if guess <= p.alpha:  # the model has no minimum to the right: phi falls ever more steeply
            guess = farthest
        guess = min(max(guess, p.alpha + _LEAST_GROWTH * width), farthest)
        previous, alpha = p, min(guess, alpha_max)

    # Algorithm 3.6: `low` has the lowest phi of the points that satisfy Armijo, and its slope points towards `high`.
    while len(points) < budget:
        width = high.alpha - low.alpha  # negative where `high` is on the left
        if abs(width) <= 1e-10 * max(abs(high.alpha), abs(low.alpha)):
            break
        nearest, farthest = sorted((low.alpha + _MARGIN * width, high.alpha - _MARGIN * width))
        p = evaluate(min(max(_interpolate(low, high, noise), nearest), farthest))
        if end := accepted(p):
            return result(p, end)
        if p.phi > phi0 + c1 * p.alpha * dphi0 + noise or p.phi >= low.phi + noise:
            high = p
        else:
            if p.dphi * width >= 0:
                high = low
            low = p
    return lowest()


def _interpolate(a: _Point, b: _Point, noise: float) -> float:
    """The minimizer of the polynomial through both points; `b` may be infinitely high.

    The cubic through both values and slopes (equation 3.59); where it has no minimizer, or where rounding is all there
    is between the values, the minimizer of the quadratic through both slopes; failing that, the middle.
    """
    width = b.alpha - a.alpha
    guess = math.nan
    if math.isfinite(b.phi):
        if abs(b.phi - a.phi) > noise:
            d1 = a.dphi + b.dphi - 3 * (b.phi - a.phi) / width
            square = d1 * d1 - a.dphi * b.dphi
            if square >= 0:
                d2 = math.copysign(math.sqrt(square), width)
                if (denominator := b.dphi - a.dphi + 2 * d2) != 0:
                    guess = b.alpha - width * (b.dphi + d2 - d1) / denominator
        if math.isnan(guess) and b.dphi != a.dphi:
            guess = a.alpha - a.dphi * width / (b.dphi - a.dphi)
    return a.alpha + 0.5 * width if math.isnan(guess) else guess
