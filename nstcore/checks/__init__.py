"""The gradient proof: that the book is right, and that every engine computes what the book says.

check.py          one proof and its outcome
gradcheck.py      gradients against central differences
operations.py     every operation of the book: losses and their gradients
layers.py         those of them that are layers of networks
cases.py          what these are made of
book.py           the proofs of these
objective.py      the whole objective
optimizers.py     Adam, L-BFGS, line search
winograd.py       F(4x4, 3x3)
engines.py        every engine against the book in float64
engine_layers.py  the same of single layers
flips.py          a sign that is wrong on purpose
samples.py        random filters and pictures

What is proved here is the code as it is installed; `python -m nstcore check` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ..errors import OptionError
from . import book, engines, objective, optimizers, winograd
from .check import Check, Proof, prove
from .flips import broken
from .layers import FEED_FORWARD
from .operations import OPERATIONS

__all__ = ["CHECKS", "Check", "broken", "run", "run_engines"]

# By topic, in the order of the data: what proves it, drawn with a seed
CHECKS: dict[str, Callable[[int], Iterator[Proof]]] = {
    **{topic: partial(book.proofs, topic) for topic in OPERATIONS if topic not in FEED_FORWARD},
    "objective": objective.proofs,
    "adam": optimizers.adam,
    "lbfgs": optimizers.lbfgs,
    "line-search": optimizers.line_search,
    "winograd": winograd.proofs,
    **{topic: partial(book.proofs, topic) for topic in FEED_FORWARD},
}


def run(topic: str, seed: int = 0) -> Iterator[Check]:
    """The proofs of one topic, in float64, each as it is done.

    Parameters
    ----------
    topic : str
        A key of `CHECKS`.
    seed : int
        Of the numbers that are drawn.

    Raises
    ------
    OptionError
        For any other topic.
    """
    if topic not in CHECKS:
        raise OptionError(f"topic: expected one of {', '.join(CHECKS)}, got {topic!r}")
    return (prove(topic, proof) for proof in CHECKS[topic](seed))


def run_engines(devices: Sequence[str] | None = None, seed: int = 0) -> Iterator[Check]:
    """Every engine that is here, in each of its precisions, against the book in float64.

    Parameters
    ----------
    devices : sequence of str, optional
        "reference", "cpu", "cuda", "cuda-on-cpu"; all that are here but the last, which compiles first, if not given.
    seed : int
        Of the network and the pictures.

    Raises
    ------
    DeviceError
        For a device that is not here; before anything is computed.
    """
    return engines.checks(devices, seed)
