"""Adam, L-BFGS and its line search against the algorithms as the papers print them, written here a second time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ..optim import State, Vectors, minimize_adam, minimize_lbfgs
from ..optim.line_search import strong_wolfe
from ..optim.pairs import GAMMA_FACTOR, Pairs
from .check import Proof
from .gradcheck import TOLERANCE, relative_error

Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]
Phi = Callable[[float], tuple[float, float]]

# 60 steps of some 20 roundings by 1e-16, most of them of numbers smaller than x; a hundred times that
ADAM_BOUND = 1e-12
# H has been multiplied by some 20 matrices I - rho s y', each of a condition of about 50
BFGS_BOUND = 1e-10


# -- Adam -------------------------------------------------------------------------------------------------------------


def adam(seed: int) -> Iterator[Proof]:
    """Free and within bounds."""
    yield Proof("60 steps are the paper's", partial(_adam_error, seed, None), ADAM_BOUND)
    yield Proof("60 steps are the paper's, bounds", partial(_adam_error, seed, (-0.2, 0.3)), ADAM_BOUND)


def _adam_error(seed: int, bounds: tuple[float, float] | None) -> float:
    f, x0 = _bowl_with_waves(seed)
    seen: list[np.ndarray] = []
    alpha, beta1, beta2, epsilon = 0.03, 0.8, 0.95, 1e-8
    minimize_adam(
        f,
        x0,
        max_evaluations=61,
        learning_rate=alpha,
        betas=(beta1, beta2),
        epsilon=epsilon,
        bounds=bounds,
        callback=lambda state: seen.append(state.x.copy()),
    )
    lo, hi = bounds or (-math.inf, math.inf)
    # Algorithm 1 of Kingma & Ba, 2015
    theta, m, v = np.clip(x0, lo, hi), np.zeros_like(x0), np.zeros_like(x0)
    expected = [theta]
    for t in range(1, 61):
        g = f(theta)[1]
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        theta = np.clip(theta - alpha * m_hat / (np.sqrt(v_hat) + epsilon), lo, hi)
        expected.append(theta)
    return relative_error(np.stack(seen), np.stack(expected))


def _bowl_with_waves(seed: int) -> tuple[Loss, np.ndarray]:
    """A smooth function of 40 numbers, 1000 times as curved in one as in another, and where to begin."""
    rng = np.random.default_rng(seed)
    centre, scale = rng.uniform(-1, 1, 40), np.geomspace(0.03, 30, 40)

    def f(x: np.ndarray) -> tuple[float, np.ndarray]:
        e = x - centre
        return float(np.sum(scale * e**2 / 2 + np.sin(5 * x) / 5)), scale * e + np.cos(5 * x)

    return f, rng.uniform(-1, 1, 40)


# -- L-BFGS -----------------------------------------------------------------------------------------------------------


def lbfgs(seed: int) -> Iterator[Proof]:
    """With fewer pairs than places, and with more; with elements held on a bound; what defines the update."""
    for count in (1, 7, 23):
        yield Proof(f"two loops = dense BFGS, {count} pairs", partial(_two_loops, seed, count), BFGS_BOUND)
    yield Proof("the same where elements are held", partial(_two_loops, seed, 7, held=True), BFGS_BOUND)
    yield Proof("secant equation H y = s", partial(_secant, seed), BFGS_BOUND)


def _walk(seed: int, count: int, n: int = 30) -> tuple[Pairs, list[tuple[np.ndarray, np.ndarray]]]:
    """The pairs of random steps on a quadratic of condition 50, with room for 7; and the newest 7 themselves."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A = (Q * np.geomspace(1, 50, n)) @ Q.T
    pairs, kept = Pairs(Vectors(), np.empty(n), 7), []
    for _ in range(count):
        x, x_next = rng.standard_normal((2, n))
        pairs.add(x, A @ x, x_next, A @ x_next)
        kept.append((x_next - x, A @ x_next - A @ x))
    return pairs, kept[-7:]


def _two_loops(seed: int, count: int, held: bool = False) -> float:
    """H g by the two loops against H itself, built pair by pair: equation 6.17 of Nocedal & Wright."""
    pairs, kept = _walk(seed, count)
    g = np.random.default_rng(seed + 1).standard_normal(30)
    free = np.ones(30, bool)
    free[:2] = not held
    kept = [(s[free], y[free]) for s, y in kept if s[free] @ y[free] > 0]
    s, y = kept[-1]
    H = GAMMA_FACTOR * (s @ y) / (y @ y) * np.eye(free.sum())
    for s, y in kept:
        V = np.eye(free.sum()) - np.outer(y, s) / (y @ s)
        H = V.T @ H @ V + np.outer(s, s) / (y @ s)
    out = np.full(30, np.nan)
    pairs.multiply(1.0, g, free.astype(float) if held else None, out=out)
    return relative_error(out[free], H @ g[free])


def _secant(seed: int) -> float:
    """Of the newest pair."""
    pairs, kept = _walk(seed, 7)
    s, y = kept[-1]
    out = np.full(30, np.nan)
    pairs.multiply(1.0, y, out=out)
    return relative_error(out, s)


# -- line search ------------------------------------------------------------------------------------------------------

C1, C2 = 1e-4, 0.1  # of More & Thuente's harder runs; L-BFGS takes 0.9
STEP = 1e-5  # of differences along a direction
FIRST = (1e-3, 0.1, 1.0, 10.0, 1e3)  # steps to try first


def line_search(seed: int) -> Iterator[Proof]:
    """The strong Wolfe conditions, each as the share used of what it allows; and the slopes that they rest on."""
    yield Proof("decrease: c1 a |phi'(0)| / what fell", partial(_worst_search, _decrease), 1.0)
    yield Proof("curvature: |phi'| / (c2 |phi'(0)|)", partial(_worst_search, _curvature), 1.0)
    yield Proof("the slope that it reports is phi'(a)", partial(_worst_search, _report_error), 0.0)
    yield Proof("phi' in L-BFGS against differences", partial(_slopes_of_lbfgs, seed), TOLERANCE)


def _decrease(phi: Phi, step: float, dphi: float) -> float:
    phi0, dphi0 = phi(0.0)
    fall = phi0 - phi(step)[0]
    return C1 * step * -dphi0 / fall if fall > 0 else math.inf


def _curvature(phi: Phi, step: float, dphi: float) -> float:
    return abs(phi(step)[1]) / (C2 * abs(phi(0.0)[1]))


def _report_error(phi: Phi, step: float, dphi: float) -> float:
    """Relative to the slope at 0, as the one at the end is nearly 0."""
    return abs(dphi - phi(step)[1]) / abs(phi(0.0)[1])


def _worst_search(error: Callable[[Phi, float, float], float]) -> float:
    """The largest over all functions and first steps."""
    errors = []
    for phi in PHIS:
        phi0, dphi0 = phi(0.0)
        for first in FIRST:
            search = strong_wolfe(phi, phi0, dphi0, first, c1=C1, c2=C2)
            errors.append(error(phi, search.step, search.dphi))
    return float(np.max(errors))  # NaN stays NaN


def _slopes_of_lbfgs(seed: int) -> float:
    """phi'(0) and phi'(a) of every search of a run, against differences of f along its direction."""
    f, x0 = _bowl_with_waves(seed)
    seen: list[State] = []
    points: list[np.ndarray] = []

    def note(state: State) -> None:
        seen.append(state)
        points.append(state.x.copy())

    minimize_lbfgs(f, x0, max_evaluations=15, callback=note)  # not to the end, where slopes drown in rounding
    errors = [math.nan] if len(seen) < 2 else []  # no step was found
    for state, x, x_next in zip(seen[1:], points, points[1:], strict=False):
        assert state.search is not None
        d = (x_next - x) / state.search.step
        h = STEP / float(np.linalg.norm(d))
        for at, slope in ((x, state.search.dphi0), (x_next, state.search.dphi)):
            numeric = (f(at + h * d)[0] - f(at - h * d)[0]) / (2 * h)
            errors.append(abs(slope - numeric) / abs(state.search.dphi0))
    return float(np.max(errors))


def _rational(a: float) -> tuple[float, float]:
    """More & Thuente (1994), equation 5.1."""
    return -a / (a * a + 2), (a * a - 2) / (a * a + 2) ** 2


def _quintic(a: float) -> tuple[float, float]:
    """Equation 5.2."""
    t = a + 0.004
    return t**5 - 2 * t**4, 5 * t**4 - 8 * t**3


def _oscillating(a: float) -> tuple[float, float]:
    """Equation 5.3: |a - 1|, rounded off, with waves."""
    beta, w = 0.01, 39 * math.pi / 2
    left, right = a <= 1 - beta, a >= 1 + beta
    value = 1 - a if left else a - 1 if right else (a - 1) ** 2 / (2 * beta) + beta / 2
    slope = -1.0 if left else 1.0 if right else (a - 1) / beta
    return value + (1 - beta) / w * math.sin(w * a), slope + (1 - beta) * math.cos(w * a)


def _two_slopes(a: float, b1: float, b2: float) -> tuple[float, float]:
    """Equation 5.4: one slope to the left, another to the right."""
    left, right = math.hypot(1 - a, b2), math.hypot(a, b1)
    gamma1, gamma2 = (math.sqrt(1 + b * b) - b for b in (b1, b2))
    return gamma1 * left + gamma2 * right, -gamma1 * (1 - a) / left + gamma2 * a / right


PHIS: tuple[Phi, ...] = (
    _rational,
    _quintic,
    _oscillating,
    partial(_two_slopes, b1=0.001, b2=0.001),
    partial(_two_slopes, b1=0.01, b2=0.001),
    partial(_two_slopes, b1=0.001, b2=0.01),
)
