"""Operations on arrays that lie with the workers: collected until an answer is wanted, and then sent together.

Most operations have no answer, as a step of Adam has none. They wait for the next one that has, or for the next pass
of a network, so that a worker gets one task for all of them. What they write has its number at once; the pieces of that
number are made when the task is done. What they read stays until then.

A backward pass waits, too, so that the total variation can be added to the gradient where it is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RunError
from ..tiled.windows import Window
from . import pieces
from .layout import Layout
from .messages import Each, Operation, Read, Write

if TYPE_CHECKING:
    from .arrays import Store

GONE = "cluster: a part of the picture has gone with the workers that had it, two at the same time; go on with --resume"


class ClusterArray:
    """An array (3, H, W) whose values lie with the workers.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    layout : Layout
        Of its pieces.
    number : int or None
        Of the pieces; None as long as the values are unset.
    """

    def __init__(self, layout: Layout, dtype: np.dtype) -> None:
        self.shape = 3, layout.height, layout.width
        self.layout, self.dtype = layout, dtype
        self.number: int | None = None


@dataclass(frozen=True)
class Out:
    """An argument that is written to, whatever it was before."""

    array: ClusterArray


@dataclass(frozen=True)
class Changed:
    """An argument that is read and written."""

    array: ClusterArray


@dataclass(frozen=True)
class Seen:
    """An argument: a window of an array for each tile. An operation that has one is not to wait."""

    array: ClusterArray
    windows: Sequence[Window]


@dataclass(frozen=True)
class _Seen:
    """The same, the array as it is now."""

    number: int
    layout: Layout
    windows: Sequence[Window]


@dataclass
class Backward:
    """A backward pass that waits.

    Attributes
    ----------
    run : callable (Backward)
    layout : Layout
    pixels, number : int
        Of the picture, and of the gradient that it makes.
    variation : (scale, diagonal), or None
        Of the total variation, if that is to be added.
    answers : dict of int to float
        By tile: the total variation.
    """

    run: Callable[[Backward], None]
    layout: Layout
    pixels: int
    number: int
    variation: tuple[float, float] | None = None
    answers: dict[int, float] = field(default_factory=dict)


class Deferred:
    """What is to be done with the arrays of a store.

    Parameters
    ----------
    store : Store

    Attributes
    ----------
    before : Backward or None
        What comes before the operations.
    reads : dict of int to Layout
        By number: arrays that are there, and are needed for it.
    writes : set of int
        Numbers of the arrays that it makes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clear()

    def _clear(self) -> None:
        self.before: Backward | None = None
        self._of: tuple[Layout, str | None] | None = None
        self._operations: list[tuple[str, list[Any], dict[str, Any]]] = []
        self.reads: dict[int, Layout] = {}
        self.writes: set[int] = set()

    def begin(self, backward: Backward) -> None:
        """Have a backward pass done, soon; once what waits already is."""
        self.flush()
        self.before = backward
        self.reads[backward.pixels] = backward.layout
        self.writes.add(backward.number)

    def add(self, layout: Layout, precision: str | None, name: str, *arguments: Any, **options: Any) -> None:
        """Have the workers call a method of `Vectors`, or a function of `pieces`, for each tile of a layout, soon.

        Arguments are arrays with that layout, Out, Changed, Seen, Each, or what they are.
        """
        given = [*arguments, *options.values()]
        if self._of not in (None, (layout, precision)) or any(
            isinstance(a, Seen) and a.array.number in self.writes for a in given
        ):
            self.flush()
        # Everything is read as it is before anything is written
        before = [self._read(a) for a in given]
        outs = [a.array for a in given if isinstance(a, Out | Changed)]
        numbers = dict(zip(outs, self._store.numbers(len(outs)), strict=True))
        sent = [self._written(a, read, numbers) for a, read in zip(given, before, strict=True)]
        for array, number in numbers.items():
            array.number = number
        self.writes.update(numbers.values())
        self._of = layout, precision
        self._operations.append((name, sent[: len(arguments)], dict(zip(options, sent[len(arguments) :], strict=True))))

    def _read(self, a: Any) -> Any:
        """An argument, as it is before the operation."""
        array = a if isinstance(a, ClusterArray) else a.array if isinstance(a, Changed | Seen) else None
        if array is None:
            return a
        number = number_of(array)
        if number not in self.writes:
            self.reads[number] = array.layout
        return _Seen(number, array.layout, a.windows) if isinstance(a, Seen) else Read(number)

    @staticmethod
    def _written(a: Any, read: Any, numbers: dict[ClusterArray, int]) -> Any:
        if isinstance(a, Out):
            return Write(numbers[a.array])
        return Write(numbers[a.array], read.number) if isinstance(a, Changed) else read

    def flush(self) -> list[Any]:
        """Have it done; returns what the last operation answers, tile by tile."""
        if (done := self.before) is not None:
            done.run(done)
            self.before = None
            self.writes.remove(done.number)
            self.reads[done.number] = done.layout
        if self._of is None:
            self._clear()
            return []
        (layout, precision), store = self._of, self._store
        call, around = store.call(), store.around
        answers: dict[int, Any] = {}

        async def of_worker(worker: str, tiles: list[int]) -> None:
            wanted: dict[str, list[pieces.Region]] = {}

            def sent(a: Any) -> Any:
                match a:
                    case _Seen():
                        return Each({n: around(a.number, a.layout, a.windows[n], worker, wanted) for n in tiles})
                    case Each():
                        return Each({n: a.of[n] for n in tiles})
                return a

            shapes = {n: layout.shape(n) for n in tiles}
            operations = [
                Operation(name, tuple(map(sent, given)), {key: sent(a) for key, a in options.items()}, shapes)
                for name, given, options in self._operations
            ]
            taken = store.taken(call, wanted)
            made = store.cluster.submit(pieces.apply, call, precision, operations, *taken, worker=worker)
            answers.update(await store.kept(call, made, worker))

        async def passed() -> None:
            if store.gone & self.reads.keys():
                raise RunError(GONE)
            await together(of_worker(worker, tiles) for worker, tiles in layout.by_owner().items())

        store.complete(passed, store.cluster.ready, lambda: None)
        self._clear()  # and not before: what was interrupted is done again
        return [answers[n] for n in range(len(layout.tiles))]


def number_of(array: ClusterArray) -> int:
    """Of the pieces of an array that is read.

    Raises
    ------
    RunError
        If they have gone.
    """
    if array.number is None:
        raise RunError(GONE)
    return array.number


async def together(tasks: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """All of them at once; the first failure ends the others."""
    running = [asyncio.ensure_future(task) for task in tasks]
    try:
        await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
