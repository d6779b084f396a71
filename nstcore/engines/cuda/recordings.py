"""Sequences of launches that come again and again: recorded when they come for the second time, then launched as one.

For evaluations that cannot be one graph as a whole, since the host must know a number on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from ..base import TapGradient
from .device import CannotCapture, Device, Graph

MOST = 32  # graphs that are kept
SEEN = 256  # sequences that are remembered


class Recordings:
    """Calls functions that launch kernels, in the fastest way that gives the same bits.

    A key stands for all that is passed to the kernels by value, and for where their arrays lie. The first call for a
    key launches one kernel after the other, which also compiles them and makes every buffer; the second records the
    launches; all others launch what was recorded.

    Parameters
    ----------
    device : Device
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._graphs: dict[Hashable, tuple[Graph, Any, Any]] = {}
        self._seen: dict[Hashable, bool] = {}  # whether it can be recorded

    def __call__(self, key: Hashable, run: Callable[[], Any], held: Any = None) -> Any:
        """run(), or what it returned when it was recorded: something that says where its results lie.

        Parameters
        ----------
        key : hashable
            None for what changes every time.
        run : callable
            Launches.
        held : object
            Keeps arrays alive, whose places the graph knows.
        """
        if key is None or self.device.capturing or not self._seen.get(key, True):
            return run()
        if key in self._graphs:
            found = self._graphs.pop(key)
            self._graphs[key] = found  # the last that was used is the last to go
            found[0].launch()
            return found[1]
        if key not in self._seen:
            if len(self._seen) == SEEN:
                del self._seen[next(iter(self._seen))]
            self._seen[key] = True
            return run()
        return self._record(key, run, held)

    def _record(self, key: Hashable, run: Callable[[], Any], held: Any) -> Any:
        try:
            with self.device.capture() as graph:
                value = run()
        except CannotCapture:
            self._seen[key] = False
            return run()
        if len(self._graphs) == MOST:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[key] = graph, value, held
        graph.launch()
        return value


def key_of(device: Device, gradients: Mapping[str, Sequence[TapGradient]]) -> Hashable:
    """What kernels are passed of the losses' gradients; None where sums are among them, whose gradient the host has."""

    def place(a: Any) -> int:
        return 0 if a is None else device.address(a)

    found: list[Hashable] = []
    for tap, terms in gradients.items():
        for term in terms:
            if term.ds is not None:
                return None
            guide = None if term.guide is None else (place(term.guide.w), term.guide.most)
            target = None if term.target is None else (place(term.target.P), term.scale)
            found.append((tap, place(term.dG), target, guide))
    return tuple(found)
