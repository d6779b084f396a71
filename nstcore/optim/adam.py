"""Adam: steps scaled by running averages of the gradient and of its square.

Algorithm 1 of Kingma & Ba, for t = 1, 2, ...:

    g_t     = gradient of f at x_{t-1}
    m_t     = beta1 m_{t-1} + (1 - beta1) g_t
    v_t     = beta2 v_{t-1} + (1 - beta2) g_t^2
    m_hat_t = m_t / (1 - beta1^t)                        averages that start at 0 are too small at first;
    v_hat_t = v_t / (1 - beta2^t)                        this corrects them
    x_t     = x_{t-1} - learning_rate m_hat_t / (sqrt(v_hat_t) + epsilon)

and, with bounds, x_t is projected onto the box: x_t = min(max(x_t, lo), hi).

References
----------
.. [1] Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import NotFinite, OptionError
from .problem import Function, checked_bounds, checked_count, checked_gradient, checked_start
from .result import Callback, Minimum, State
from .states import AdamState, checked_state
from .vectors import Vectors


@dataclass(frozen=True)
class Rule:
    """How Adam moves x: the options of `minimize_adam`, and lo <= x <= hi."""

    learning_rate: float
    betas: tuple[float, float]
    epsilon: float
    lo: float
    hi: float

    def corrections(self, t: int) -> tuple[float, float]:
        """1 - beta1^t and 1 - beta2^t, which m_t and v_t are divided by."""
        beta1, beta2 = self.betas
        return 1 - beta1**t, 1 - beta2**t


@dataclass(frozen=True)
class Halves:
    """A function f(x) -> (loss, gradient) in two halves, for arrays of a device that computes while the host goes on.

    Parameters
    ----------
    begin : callable (x) -> (found, gradient)
        Has them computed. It may be called once and what it launched be repeated: it does nothing on the host.
    end : callable (x, found) -> loss
        What there is to do on the host once the numbers in `found` are known.
    """

    begin: Callable[[Any], tuple[Any, Any]]
    end: Callable[[Any, Any], float]

    def __call__(self, x: Any) -> tuple[float, Any]:
        found, gradient = self.begin(x)
        return self.end(x, found), gradient


class Steps:
    """Evaluations and updates in turn, as the algorithm has them.

    Attributes
    ----------
    x : array
        Where f was evaluated last; overwritten.
    state : AdamState
        m, v and t of the updates that led there.
    """

    def __init__(self, f: Function, x: Any, state: AdamState, rule: Rule, vectors: Any) -> None:
        self.f, self.x, self.state, self.rule, self.vectors = f, x, state, rule, vectors
        self._g: Any = None

    def evaluate(self) -> float:
        """The loss at x."""
        loss, gradient = self.f(self.x)
        self._g = checked_gradient(gradient, self.x)
        return float(loss)

    def update(self) -> None:
        """One update of m, v and x."""
        rule, state = self.rule, self.state
        state.t += 1
        self.vectors.adam(
            self.x,
            self._g,
            state.m,
            state.v,
            betas=rule.betas,
            corrections=rule.corrections(state.t),
            learning_rate=rule.learning_rate,
            epsilon=rule.epsilon,
            lo=rule.lo,
            hi=rule.hi,
        )

    def close(self) -> None:
        """There will be no more."""


def minimize_adam(
    f: Function,
    x0: Any,
    *,
    max_evaluations: int,
    bounds: tuple[float, float] | None = None,
    learning_rate: float = 0.02,
    betas: tuple[float, float] = (0.9, 0.99),
    epsilon: float = 1e-8,
    state: AdamState | None = None,
    callback: Callback | None = None,
    vectors: Any = None,
) -> Minimum:
    """Minimize f by Adam, with projection onto bounds.

    n evaluations make n - 1 updates: the last x is evaluated and not moved any more, so that the loss that is returned
    belongs to the x that is returned. Adam does not descend at every step; the last x need not be the best one.

    A run may be cut in two: `minimize_adam(f, end.x, state=end.state, ...)` goes on from where `end` came from. The cut
    loses no update. It costs one evaluation, as that of the last x, whose gradient nothing keeps, is made again at the
    start of the second run: n evaluations and then k are together, bit for bit, the run of n + k - 1.

    Buffers: 3 arrays like `x0`, or 1 with a `state`, allocated before the first evaluation; 3 more on a GPU that goes a
    step ahead of the host.

    Parameters
    ----------
    f : callable
        f(x) -> (loss, gradient). It must not change x, nor keep it. It may return the same gradient array every time.
        Given as `Halves`, a GPU may compute the next one while the host deals with the last.
    x0 : array of any shape and float dtype
        Where to start; projected onto the bounds. It is not changed.
    max_evaluations : int
        How often f is called, at least once.
    bounds : (float, float), optional
        lo <= x <= hi for every element; -inf and inf are allowed.
    learning_rate : float
        The step, in units of x: an element moves at most about so far at once. 0.02 suits pixels in [0, 1].
    betas : (float, float)
        Decay of the averages of the gradient and of its square, each in [0, 1). The paper has 0.999 for the second;
        0.99 forgets the steep first steps of a style transfer sooner.
    epsilon : float
        Keeps the quotient finite where the gradient has always been 0.
    state : AdamState, optional
        Go on from the averages of an earlier run, with the same betas. It is updated in place; its arrays are written
        to, and others may take their place. Without it, Adam begins with `AdamState.zero`.
    callback : callable, optional
        callback(State) after every evaluation, before x moves on. If it returns True, the run ends there.
    vectors : optional
        The vector operations for arrays other than NumPy's: an object with the methods of `Vectors`.

    Returns
    -------
    Minimum
        x is the point evaluated last, state an `AdamState`: the one that was given, if one was.

    Raises
    ------
    OptionError
        If an option is out of its range.
    ShapeError
        If `x0` is not of floating point, or the gradient or the state does not have its shape.
    NotFinite
        If f returns a loss that is not finite. A gradient that is not shows in the next loss.

    References
    ----------
    .. [1] Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    """
    checked_count("max_evaluations", max_evaluations)
    lo, hi = checked_bounds(bounds)
    beta1, beta2 = betas
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise OptionError(f"betas: expected two numbers in [0, 1), got {betas}; the usual ones are (0.9, 0.99)")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise OptionError(f"learning_rate: expected a number above 0, got {learning_rate}; 0.02 suits pixels in [0, 1]")
    if not epsilon > 0:
        raise OptionError(f"epsilon: expected a number above 0, got {epsilon}; the usual one is 1e-8")

    if vectors is None:
        checked_start(x0)
        vectors = Vectors()
    x = vectors.empty_like(x0)
    vectors.copy(x0, out=x)
    vectors.clip(x, lo, hi)
    if state is None:
        state = AdamState.zero(x0, vectors)
    checked_state("m", state.m, x)
    checked_state("v", state.v, x)

    rule = Rule(learning_rate, (beta1, beta2), epsilon, lo, hi)
    ahead = getattr(vectors, "adam_ahead", None) if isinstance(f, Halves) else None
    steps = Steps(f, x, state, rule, vectors) if ahead is None else ahead(f, x, state, rule, max_evaluations)
    evaluations = updates = 0
    try:
        while True:
            loss = steps.evaluate()
            evaluations += 1
            if not math.isfinite(loss):
                raise NotFinite(
                    f"the loss became {loss} at evaluation {evaluations}: expected a finite number; lower the learning "
                    f"rate ({learning_rate}) or the weights of the losses"
                )
            step = learning_rate if updates else 0.0
            seen = State(evaluations, updates, loss, steps.x, step, state=state)
            stop = callback is not None and callback(seen) is True
            if stop or evaluations == max_evaluations:
                status = "stopped by the callback" if stop else "the evaluation limit was reached"
                return Minimum(steps.x, loss, evaluations, updates, status, converged=False, state=state)
            steps.update()
            updates += 1
    finally:
        steps.close()
