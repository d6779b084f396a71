"""What a rung is when it is ready to go: a `Run` for each pass of its operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..engines.cuda.device import Device


@dataclass(frozen=True)
class Machine:
    """What a rung runs on: threads of the CPU; a GPU or its stand-in, for those that need one."""

    threads: int
    device: Device | None = None


@dataclass
class Run:
    """One pass of one rung, ready to go.

    Attributes
    ----------
    go : function
        Computes it once; arrays are at their place, memory is there.
    result : function
        What `go` has left, by the names of `Pass.expected`, channels first.
    begin : function
        Puts back what `go` changes: called before the run whose result counts.
    """

    go: Callable[[], Any]
    result: Callable[[], dict[str, Any]]
    begin: Callable[[], None] = lambda: None


Runs = dict[str, Run]


def computed(name: str, compute: Callable[[], Any]) -> Run:
    """A run of a function that returns a new array each time."""
    kept: list[Any] = [None]

    def go() -> None:
        kept[0] = compute()

    return Run(go, lambda: {name: kept[0]})


def restoring(*pairs: tuple[np.ndarray, np.ndarray]) -> Callable[[], None]:
    """A `begin` that copies the second array of each pair into the first."""

    def begin() -> None:
        for array, original in pairs:
            np.copyto(array, original)

    return begin
