"""One proof, and what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..engines.cpu.team import Team
from ..errors import NotFinite


@dataclass(frozen=True)
class Check:
    """A proof that was carried out.

    Attributes
    ----------
    topic : str
        What it is about, a key of `nstcore.topics.TOPICS`.
    what : str
        What was compared, in a few words.
    error : float
        Relative; inf where something was not finite.
    bound : float
        The largest error that is explained by rounding, or by the differences themselves.
    seconds : float
    """

    topic: str
    what: str
    error: float
    bound: float
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the error is within its bound; never where it is not a number."""
        return self.error <= self.bound


class Proof(NamedTuple):
    """A proof still to be carried out: `error()` computes, and compares with the truth."""

    what: str
    error: Callable[[], float]
    bound: float


def prove(topic: str, proof: Proof) -> Check:
    """Carry out a proof. What cannot be computed to the end, because numbers are not finite, has an infinite error."""
    begin = time.perf_counter()
    try:
        # NaN and infinity show in the error. Products are small: threads of BLAS would cost more than they bring
        with np.errstate(all="ignore"), Team(2).at_work():
            error = float(proof.error())
    except (ArithmeticError, np.linalg.LinAlgError, NotFinite):
        error = math.inf
    seconds = time.perf_counter() - begin
    return Check(topic, proof.what, error if math.isfinite(error) else math.inf, proof.bound, seconds)
