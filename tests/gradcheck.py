"""Gradient checks against central differences, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EPS = 1e-6
TOLERANCE = 1e-6


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| / ||b||; infinite for NaN, so that it never passes."""
    error = float(np.linalg.norm(np.ravel(a) - np.ravel(b)) / np.linalg.norm(np.ravel(b)))
    return error if np.isfinite(error) else np.inf


def numeric_gradient(f: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
    """Every element, one by one."""
    gradient = np.empty_like(x)
    flat, out = x.reshape(-1), gradient.reshape(-1)
    for i, value in enumerate(flat.copy()):
        flat[i] = value + EPS
        above = f(x)
        flat[i] = value - EPS
        out[i] = (above - f(x)) / (2 * EPS)
        flat[i] = value
    return gradient


def check_every_element(f: Callable[[np.ndarray], float], gradient: np.ndarray, x: np.ndarray) -> None:
    """Assert that `gradient` is that of f at x."""
    assert gradient.shape == x.shape
    error = relative_error(gradient, numeric_gradient(f, x.copy()))
    assert error <= TOLERANCE, f"relative error {error:.2e}"


def check_directions(
    f: Callable[[np.ndarray], float],
    gradient: np.ndarray,
    x: np.ndarray,
    directions: int = 3,
    seed: int = 0,
    step: float = EPS,
) -> None:
    """Assert it along random directions of unit length: for functions of many numbers."""
    assert gradient.shape == x.shape
    rng = np.random.default_rng(seed)
    for _ in range(directions):
        d = rng.standard_normal(x.shape)
        # Half of it along the gradient: a purely random direction is nearly orthogonal to it and drowns in rounding
        d = d / np.linalg.norm(d) + gradient / np.linalg.norm(gradient)
        d /= np.linalg.norm(d)
        numeric = (f(x + step * d) - f(x - step * d)) / (2 * step)
        analytic = float(np.vdot(gradient, d))
        error = abs(analytic - numeric) / abs(numeric)
        assert error <= TOLERANCE, f"along a direction: {analytic} against {numeric}, relative error {error:.2e}"
