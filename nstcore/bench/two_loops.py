"""The two loops of L-BFGS as they stand, vector by vector: what `nstcore.optim.pairs` computes in two passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..optim.pairs import GAMMA_FACTOR


def two_loops(vectors: Any, q: Any, s: Sequence[Any], y: Sequence[Any], out: Any) -> None:
    """out = H q by the two-loop recursion, each inner product and each sum a pass over the memory.

    Nocedal & Wright, "Numerical Optimization", 2nd edition, algorithm 7.4; gamma as `nstcore.optim` has it.
    """
    vectors.copy(q, out=out)
    rho = [1 / vectors.dot(a, b) for a, b in zip(s, y, strict=True)]
    alpha = [0.0] * len(s)
    for i in reversed(range(len(s))):
        alpha[i] = rho[i] * vectors.dot(s[i], out)
        vectors.combine(1.0, out, None, [-alpha[i]], y[i], out=out)
    gamma = GAMMA_FACTOR / (rho[-1] * vectors.dot(y[-1], y[-1]))
    vectors.combine(gamma, out, None, [], out=out)
    for i in range(len(s)):
        beta = rho[i] * vectors.dot(y[i], out)
        vectors.combine(1.0, out, None, [alpha[i] - beta], s[i], out=out)
