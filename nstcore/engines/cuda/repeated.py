"""An evaluation that is the same launches every time: recorded once as a graph, then launched as a whole.

A step is some fifty launches, each of which takes time of the host, and every loss that is read back waits for the GPU,
which then idles until the next launch. A graph is one launch, and its losses are read together. With Adam's update in
the graph, too, the next one can be launched before that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...optim import AdamState
from ...optim.adam import Halves, Rule, Steps
from ...optim.problem import checked_gradient
from .device import Array, CannotCapture, Device, Graph, Reading
from .later import Check, Unread, known, overflowed

if TYPE_CHECKING:
    from .losses import Losses
    from .network import CudaNetwork
    from .vectors import CudaVectors

Evaluate = Callable[[Array], tuple[Any, Array]]


class NotNow(CannotCapture):
    """A step that is being timed is launched kernel by kernel."""


class Repeated:
    """Calls a function of a picture, in the fastest way that gives the same bits.

    The first call launches one kernel after the other, which also compiles them and makes every buffer; the second
    records the launches; all others launch what was recorded, again with smaller loss scales where a gradient was
    beyond float16. Where an evaluation needs a number on its way, or a step is being timed, every call is as the first:
    the style loss `w2` is computed on the host, for which `nstcore.objective.statistics` gives the reasons.
    When the network has got other buffers, it begins anew. While something larger is recorded, it is a part of that,
    and tells what is `Unread`.

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
        self._checks: list[Check] = []

    def __call__(self, evaluate: Evaluate, x: Array) -> tuple[Any, Array]:
        """evaluate(x): what it tells of losses, read; and its array. While launches are recorded: `Unread`.

        Parameters
        ----------
        evaluate : callable (x) -> (numbers, array)
            The same every time, but for x.
        x : float32 array of the device, of one shape
        """
        if self.device.capturing:
            return self._part(evaluate, x)
        if self.network.generation != self._generation:
            self._begin()
        if self.network.watched or not self._can or not self._called:
            found = self._read(self._launched(evaluate, x))
            self._called, self._generation = True, self.network.generation
            return found
        if self._graph is None:
            self._record(evaluate)
        return self._again(x) if self._can else self._read(self._launched(evaluate, x))

    def _part(self, evaluate: Evaluate, x: Array) -> tuple[Unread, Array]:
        if self.network.watched:
            raise NotNow("a step that is timed: not while launches are recorded")
        numbers, array = self._launched(evaluate, x)
        valid = partial(self._still, self.network.generation)
        return Unread(numbers, self.losses.unread, valid, self.losses.checks), array

    def _still(self, generation: int) -> bool:
        return generation == self.network.generation and not self.network.watched

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
            self._graph, self._checks = graph, self.losses.checks

    def _again(self, x: Array) -> tuple[Any, Array]:
        assert self._graph is not None
        assert self._result is not None
        self.device.copy(x, self.network.buffers["input"])
        while True:
            self.device.launch(self._graph)
            results = self.losses.results()
            lowered = [check.scale.lower() for check in overflowed(self._checks, results)]
            if not any(lowered):
                break
        for check in self._checks:
            check.scale.restore()
        numbers, array = self._result
        return known(numbers, results), array

    def _read(self, found: tuple[Any, Array]) -> tuple[Any, Array]:
        numbers, array = found
        return known(numbers, self.losses.results()), array


@dataclass(frozen=True)
class Recorded:
    """An update of Adam and the evaluation after it.

    Attributes
    ----------
    graph : Graph
    writes : tuple of arrays
        x, m and v after the update, and how many there were.
    unread : Unread
    gradient : array
    reading : Reading
        Of the losses.
    """

    graph: Graph
    writes: tuple[Array, Array, Array, Array]
    unread: Unread
    gradient: Array
    reading: Reading

    def launch(self) -> None:
        self.reading.device.launch(self.graph)
        self.reading.begin()

    def read(self) -> tuple[bool, Any]:
        """Whether the last launch has a gradient, and what it tells of losses; waits for that launch alone."""
        results = self.reading.end()
        return not overflowed(self.unread.checks, results), known(self.unread.numbers, results)


class Ahead(Steps):
    """Adam's steps on a GPU that is one ahead of the host.

    An update and the evaluation after it are one graph, which is launched before the loss that came before it is read.
    So the GPU computes the next step while the host deals with this one: looks at the loss, keeps the best picture,
    adds to the average, tells. x, m and v are there twice, and a graph reads one set and writes the other: what belongs
    to the loss that is being dealt with is as it was, for a snapshot, or for a run that ends there. The step that was
    begun after it is then forgotten, as it is where the gradient that it began with turns out to be beyond float16.

    The first evaluation, and whatever cannot be recorded, go as `Steps` has them, launch by launch: the same bits.

    Parameters
    ----------
    f : Halves
        Of which `begin` is recorded.
    x, state, rule
        As `Steps` has them.
    vectors : CudaVectors
    evaluations : int
        How many there will be, at most.
    """

    f: Halves
    vectors: CudaVectors

    def __init__(
        self, f: Halves, x: Array, state: AdamState, rule: Rule, vectors: CudaVectors, evaluations: int
    ) -> None:
        super().__init__(f, x, state, rule, vectors)
        self._left = evaluations
        self._can = True
        self._graphs: list[Recorded] = []  # by the set that is written
        self._step: Any = None  # what they update with: it holds a table that they know by its address alone
        self._at = 0  # the set of x
        self._done = [0, 0]  # updates since the graphs were recorded, as the device has counted them, by set
        self._from = 0  # and those before
        self._there = self._ahead = False  # whether the graphs that evaluate x, and the x after it, are launched

    def evaluate(self) -> float:
        there, self._left = self._there, self._left - 1
        if there:
            graph = self._graphs[self._at]
            self._g = graph.gradient
            self._ahead = self._left > 0 and self._launched()
            there, found = graph.read()
        if not there:
            found, gradient = self.f.begin(self.x)
            self._g = checked_gradient(gradient, self.x)
            self._ahead = self._left > 0 and self._launched()
        return float(self.f.end(self.x, found))

    def update(self) -> None:
        self._there = self._ahead or self._recorded()
        self._ahead = False
        if self._there:
            self._at = 1 - self._at
            self.x, self.state.m, self.state.v, _ = self._graphs[self._at].writes
            self.state.t += 1
        else:
            super().update()

    def close(self) -> None:
        """Nothing is copied to the host any more that nobody waits for."""
        if self._graphs:
            self.vectors.device.synchronize()

    # -- graphs ---------------------------------------------------------------------------------------------------

    def _launched(self) -> bool:
        """Update x and evaluate it there, if that is recorded and may still be launched."""
        if not self._graphs:
            return False
        device, now, then = self.vectors.device, self._at, 1 - self._at
        graph = self._graphs[then]
        if not graph.unread.valid() or device.address(self._g) != device.address(graph.gradient):
            return False
        done = self.state.t - self._from
        if self._done[now] != done:  # there were updates launch by launch
            device.copy(device.to_device(np.array([done], np.int32)), self._graphs[now].writes[3])
        graph.launch()
        self._done[now], self._done[then] = done, done + 1
        return True

    def _recorded(self) -> bool:
        """The same, recorded first if it is not yet and can be."""
        if self._can and not self._graphs:
            try:
                self._graphs = self._record()
            except NotNow:
                return False
            except (CannotCapture, MemoryError):
                self._can = False
        return self._launched()

    def _record(self) -> list[Recorded]:
        vectors, state = self.vectors, self.state
        device = vectors.device
        self._step = step = vectors.adam_step(self.rule, state.t, self._left)
        mine = self.x, state.m, state.v
        done = [device.to_device(np.zeros(1, np.int32)) for _ in range(2)]
        sets = [(*mine, done[0]), (*map(vectors.empty_like, mine), done[1])]
        step(sets[0], self._g, sets[1])  # once at its place: what is loaded at a first launch must not be in a graph
        found = []
        for reads, writes in (sets[::-1], sets):
            with device.capture() as graph:
                step(reads, self._g, writes)
                unread, gradient = self.f.begin(writes[0])
            if not isinstance(unread, Unread):
                raise CannotCapture("an evaluation that does not say where its numbers will be")
            found.append(Recorded(graph, writes, unread, gradient, device.reading(unread.results)))
        self._from, self._done = state.t, [0, 0]
        return found
