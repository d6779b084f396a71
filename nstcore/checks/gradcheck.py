"""Gradient checks against central differences, in float64.

        df/dx_i = (f(x + h e_i) - f(x - h e_i)) / 2h,     off by  h^2/6 f'''  and by  u |f| / h  of rounding, u = 1e-16

With h = 1e-6 both are some 1e-10 for functions of the size of 1, and a bound of 1e-6 leaves room for larger ones. A
wrong sign or factor makes an error of the size of 1. The derivative must exist: x keeps away from kinks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EPS = 1e-6
TOLERANCE = 1e-6

Function = Callable[[np.ndarray], float]


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| / ||b||; infinite for NaN, so that it never passes."""
    error = float(np.linalg.norm(np.ravel(a) - np.ravel(b)) / np.linalg.norm(np.ravel(b)))
    return error if np.isfinite(error) else np.inf


def numeric_gradient(f: Function, x: np.ndarray, step: float = EPS) -> np.ndarray:
    """Every element, one by one."""
    gradient = np.empty_like(x)
    flat, out = x.reshape(-1), gradient.reshape(-1)
    for i, value in enumerate(flat.copy()):
        flat[i] = value + step
        above = f(x)
        flat[i] = value - step
        out[i] = (above - f(x)) / (2 * step)
        flat[i] = value
    return gradient


def element_error(f: Function, gradient: np.ndarray, x: np.ndarray, step: float = EPS) -> float:
    """How far `gradient` is from that of f at x, found element by element."""
    return relative_error(gradient, numeric_gradient(f, x.copy(), step))


def direction_error(
    f: Function, gradient: np.ndarray, x: np.ndarray, directions: int = 3, seed: int = 0, step: float = EPS
) -> float:
    """The same along random directions of unit length, the largest of them: for functions of many numbers."""
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(directions):
        d = rng.standard_normal(x.shape)
        # Half of it along the gradient: a purely random direction is nearly orthogonal to it and drowns in rounding
        d = d / np.linalg.norm(d) + gradient / np.linalg.norm(gradient)
        d /= np.linalg.norm(d)
        numeric = (f(x + step * d) - f(x - step * d)) / (2 * step)
        errors.append(relative_error(np.vdot(gradient, d), np.array(numeric)))
    return max(errors)


def check_every_element(f: Function, gradient: np.ndarray, x: np.ndarray) -> None:
    """Raise AssertionError if `gradient` is not that of f at x."""
    _same_shape(gradient, x)
    _within(element_error(f, gradient, x))


def check_directions(
    f: Function, gradient: np.ndarray, x: np.ndarray, directions: int = 3, seed: int = 0, step: float = EPS
) -> None:
    """The same along random directions."""
    _same_shape(gradient, x)
    _within(direction_error(f, gradient, x, directions, seed, step))


def _same_shape(gradient: np.ndarray, x: np.ndarray) -> None:
    if gradient.shape != x.shape:
        raise AssertionError(f"gradient: expected the shape {x.shape} of x, got {gradient.shape}")


def _within(error: float) -> None:
    if not error <= TOLERANCE:
        raise AssertionError(f"relative error: expected at most {TOLERANCE:.0e}, got {error:.2e}")
