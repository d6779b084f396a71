"""Statistics of features and their gradients in the NumPy form, on features (M, N): the papers' F, transposed.

Each is split over the team by positions, and goes over them in blocks. Beside each function stands the name of the one
in the book that it computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .layers import BLOCK
from .team import Team


@dataclass(frozen=True)
class Guide:
    """Weights w of the positions and their square roots, both (M, 1)."""

    w: np.ndarray
    root: np.ndarray


def rectangle_of(weights: np.ndarray) -> tuple[int, int, int, int] | None:
    """Top, left, height, width of the rectangle in which weights (H, W) are 1, if they are 0 everywhere else."""
    rows, columns = (np.flatnonzero(weights.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return 0, 0, 0, 0
    (top, bottom), (left, right) = ((int(each[0]), int(each[-1]) + 1) for each in (rows, columns))
    if not (weights[top:bottom, left:right] == 1).all():
        return None
    return top, left, bottom - top, right - left


def gram(F: np.ndarray, guide: Guide | None, parts: np.ndarray, work: np.ndarray, team: Team) -> np.ndarray:
    """G = F^T w F of F (M, N), channels last: `ops.gram_forward`, `ops.moments_forward`.

    parts: flat work space of threads * N * N; work: as large as F, for sqrt(w) F, of which it is then the Gram matrix.
    """
    M, N = F.shape
    if guide is not None:
        weighted, root = work[: F.size].reshape(M, N), guide.root
        whole = F

        def weigh(_: int, a: int, b: int) -> None:
            np.multiply(whole[a:b], root[a:b], out=weighted[a:b])

        team.split(weigh, M)
        F = weighted
    partial = parts[: team.threads * N * N].reshape(team.threads, N, N)
    partial[...] = 0

    def rows(worker: int, a: int, b: int) -> None:
        np.matmul(F[a:b].T, F[a:b], out=partial[worker])  # NumPy sees the symmetry and computes one half

    team.split(rows, F.shape[0])
    return partial.sum(axis=0)


def sums(F: np.ndarray, guide: Guide | None, work: np.ndarray, team: Team) -> np.ndarray:
    """s = sum over the rows of w F (M, N), in float64: `ops.moments_forward`. work: flat, threads * BLOCK at least."""
    N = F.shape[1]
    partial = np.zeros((team.threads, N))
    step = max(1, BLOCK // N)

    def rows(worker: int, a: int, b: int) -> None:
        mine = _share(work, worker, step, N)
        for i in range(a, b, step):
            j = min(i + step, b)
            values = F[i:j] if guide is None else np.multiply(F[i:j], guide.w[i:j], out=mine[: j - i])
            partial[worker] += values.sum(axis=0, dtype=np.float64)

    team.split(rows, F.shape[0])
    return partial.sum(axis=0)


def moments_backward(
    dG: np.ndarray | None,
    ds: np.ndarray | None,
    F: np.ndarray,
    guide: Guide | None,
    dF: np.ndarray,
    work: np.ndarray,
    team: Team,
) -> None:
    """dF += w (F (dG + dG^T) + ds), channels last: `ops.moments_backward`.

    F, dF (M, N); dG (N, N) and ds (N,) may be missing; work: flat, threads * BLOCK at least.
    """
    N = F.shape[1]
    S = None if dG is None else dG + dG.T
    bias = None if ds is None else ds.astype(F.dtype)
    step = max(1, BLOCK // N)

    def rows(worker: int, a: int, b: int) -> None:
        mine = _share(work, worker, step, N)
        for i in range(a, b, step):
            j = min(i + step, b)
            product = mine[: j - i]
            if S is None:
                product[...] = 0
            else:
                np.matmul(F[i:j], S, out=product)
            if bias is not None:
                np.add(product, bias, out=product)
            if guide is not None:
                np.multiply(product, guide.w[i:j], out=product)
            np.add(dF[i:j], product, out=dF[i:j])

    team.split(rows, F.shape[0])


def content_backward(
    F: np.ndarray, P: np.ndarray, scale: float, guide: Guide | None, dF: np.ndarray, work: np.ndarray, team: Team
) -> None:
    """dF += 2 scale w (F - P), all (M, N): `ops.content_backward`. work: flat, threads * BLOCK at least."""
    N = F.shape[1]
    step = max(1, BLOCK // N)

    def rows(worker: int, a: int, b: int) -> None:
        mine = _share(work, worker, step, N)
        for i in range(a, b, step):
            j = min(i + step, b)
            difference = np.subtract(F[i:j], P[i:j], out=mine[: j - i])
            np.multiply(difference, 2 * scale, out=difference)
            if guide is not None:
                np.multiply(difference, guide.w[i:j], out=difference)
            np.add(dF[i:j], difference, out=dF[i:j])

    team.split(rows, F.shape[0])


def squared_distance(F: np.ndarray, P: np.ndarray | None, guide: Guide | None, work: np.ndarray, team: Team) -> float:
    """sum w (F - P)^2, or sum w F^2 without P, all (M, N): `ops.content_forward`.

    Blocks in the float type, their sum in float64. work: flat, threads * BLOCK at least.
    """
    N = F.shape[1]
    step = max(1, BLOCK // N)
    partial = [0.0] * team.threads

    def rows(worker: int, a: int, b: int) -> None:
        mine = _share(work, worker, step, N)
        for i in range(a, b, step):
            j = min(i + step, b)
            difference = F[i:j]
            if P is not None:
                difference = np.subtract(difference, P[i:j], out=mine[: j - i])
            if guide is not None:
                difference = np.multiply(difference, guide.root[i:j], out=mine[: j - i])
            flat = difference.reshape(-1)
            partial[worker] += float(np.dot(flat, flat))

    team.split(rows, F.shape[0])
    return sum(partial)


def _share(work: np.ndarray, worker: int, rows: int, columns: int) -> np.ndarray:
    """A worker's own block of the work space."""
    return work[worker * BLOCK : worker * BLOCK + rows * columns].reshape(rows, columns)
