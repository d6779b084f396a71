"""Checks that the operations share: one clear line instead of a broadcast that silently does something else."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError


def floating(name: str, a: np.ndarray) -> None:
    """Refuse anything but a real floating-point array: integer arithmetic would round the result away."""
    if not isinstance(a, np.ndarray) or not np.issubdtype(a.dtype, np.floating):
        got = a.dtype if isinstance(a, np.ndarray) else type(a).__name__
        raise ShapeError(f"{name}: expected a floating-point ndarray, got {got}; convert with .astype(numpy.float64)")


def rank(name: str, a: np.ndarray, layout: str) -> None:
    """Refuse an array whose number of axes is not that of `layout`, such as '(C, H, W)' or '(N,)'."""
    floating(name, a)
    if a.ndim != len([axis for axis in layout.strip("()").split(",") if axis]):
        raise ShapeError(f"{name}: expected {layout}, got shape {a.shape}")


def equal(name: str, a: np.ndarray, expected: tuple[int, ...], because: str) -> None:
    """Refuse an array whose shape is not `expected`; `because` names what that follows from."""
    floating(name, a)
    if a.shape != expected:
        raise ShapeError(f"{name}: expected {expected} for {because}, got {a.shape}")


def not_empty(name: str, a: np.ndarray) -> None:
    """Refuse features (C, H, W) without positions: there is nothing to average, or to copy."""
    if not min(a.shape[1:]):
        raise ShapeError(f"{name}: expected at least 1 row and 1 column, got shape {a.shape}")
