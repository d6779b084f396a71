"""Features in blocks of 16 channels, (C/16, H, W, 16), and what the native network holds beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .arena import Arena
from .library import Window

CB = 16  # channels of a block


@dataclass(frozen=True)
class Guide:
    """Weights w of the positions and their square roots, both (M,), or of a rectangle that alone counts, and fully."""

    w: np.ndarray
    root: np.ndarray
    window: Window | None


@dataclass(frozen=True)
class Kept:
    """A content target: P as features, and the guide that its distances take."""

    P: np.ndarray
    guide: Guide | None


def extent(F: np.ndarray) -> tuple[int, int]:
    """C channels, M positions of features (C/16, H, W, 16)."""
    blocks, height, width, _ = F.shape
    return blocks * CB, height * width


def counted(guide: Guide | None) -> tuple[np.ndarray | None, Window | None]:
    """Of the positions that count in a statistic, the weights and the rectangle: one of the two at most."""
    if guide is None:
        return None, None
    return (guide.w, None) if guide.window is None else (None, guide.window)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """A buffer of its own, as the kernels want it."""
    arena = Arena()
    arena.add("one", shape, np.float32)
    return arena.allocate()["one"]


def fitting(P: np.ndarray, F: np.ndarray) -> np.ndarray:
    """P, if it has the shape of the features that it is compared with: the kernels do not look."""
    if P.shape != F.shape:
        raise ValueError(f"target: expected features (C/16, H, W, 16) of shape {F.shape}, got {P.shape}")
    return P


def address(a: np.ndarray | None) -> int | None:
    """For the kernels; None is their NULL."""
    return None if a is None else a.ctypes.data


def added(arrays: Iterable[np.ndarray | None]) -> np.ndarray | None:
    """Of those that are there; None where there is none."""
    there = [a for a in arrays if a is not None]
    return sum(there[1:], there[0]) if there else None
