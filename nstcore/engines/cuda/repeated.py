"""An evaluation that is the same launches every time: recorded once as a graph, then launched as a whole.

A step is some sixty launches, each of which takes time of the host, and every loss that is read back waits for the GPU,
which then idles until the next launch. A graph is one launch, and its losses are read together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .device import Array, CannotCapture, Device, Graph
from .later import known
from .losses import Losses
from .network import CudaNetwork

Evaluate = Callable[[Array], tuple[Any, Array]]


class Repeated:
    """Calls a function of a picture, in the fastest way that gives the same bits.

    The first call launches one kernel after the other, which also compiles them and makes every buffer; the second
    records the launches; all others launch what was recorded. Where an evaluation needs a number on its way (float16
    looks for overflows, a Wasserstein distance is computed on the host), or a step is being timed, every call is as the
    first. When the network has got other buffers, it begins anew.

    Parameters
    ----------
    device : Device
    losses : Losses
    network : CudaNetwork
        The one that the function evaluates.
    """

    def __init__(self, device: Device, losses: Losses, network: CudaNetwork) -> None:
        self.device, self.losses, self.network = device, losses, network
        self._generation = 0
        self._begin()

    def _begin(self) -> None:
        self._called, self._can = False, True
        self._graph: Graph | None = None
        self._result: tuple[Any, Array] | None = None

    def __call__(self, evaluate: Evaluate, x: Array) -> tuple[Any, Array]:
        """evaluate(x): what it tells of losses, read; and its array.

        Parameters
        ----------
        evaluate : callable (x) -> (numbers, array)
            The same every time, but for x.
        x : float32 array of the device, of one shape
        """
        if self.network.generation != self._generation:
            self._begin()
        if self.network.watched or not self._can or not self._called:
            found = self._read(self._launched(evaluate, x))
            self._called, self._generation = True, self.network.generation
            return found
        if self._graph is None:
            self._record(evaluate)
        return self._again(x) if self._can else self._read(self._launched(evaluate, x))

    def _launched(self, evaluate: Evaluate, x: Array) -> tuple[Any, Array]:
        with self.losses.later():
            return evaluate(x)

    def _record(self, evaluate: Evaluate) -> None:
        try:
            with self.device.capture() as graph:
                self._result = self._launched(evaluate, self.network.buffers["input"])
        except CannotCapture:
            self._begin()
            self._called, self._can = True, False
        else:
            self._graph = graph

    def _again(self, x: Array) -> tuple[Any, Array]:
        assert self._graph is not None
        assert self._result is not None
        self.device.copy(x, self.network.buffers["input"])
        self._graph.launch()
        return self._read(self._result)

    def _read(self, found: tuple[Any, Array]) -> tuple[Any, Array]:
        numbers, array = found
        return known(numbers, self.losses.results()), array
