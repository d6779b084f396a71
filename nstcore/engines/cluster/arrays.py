"""Arrays of a picture's size on the workers, as the driver sees them.

A `ClusterArray` is a name for pieces: each lies with the owner of its tile, and a copy of it with the next worker
(here, where there is only one). The driver sends no pixels from step to step, and has none.

Pieces never change. What an operation writes gets a new number, and what it reads stays until all new pieces and their
copies are where they belong (`deferred`). So whatever dies on the way, the operation can be called again: pieces that
were lost come from their copies, their tiles go to other workers, and the numbers come out the same.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RunError
from ..tiled.windows import Window, cut, paste
from . import pieces
from .deferred import ClusterArray, Deferred, number_of, together
from .layout import Layout, extent
from .messages import Around, Call, Missing

if TYPE_CHECKING:
    from .connection import Cluster

ATTEMPTS = 100  # at one pass, before whatever stands in its way is taken to stay
AT_ONCE = 2  # pieces that are on their way to or from each worker: what the driver holds of them


class Lost(Exception):
    """Something that a worker had is gone; it is to be computed again."""


class Store:
    """All arrays of a driver on a cluster.

    Parameters
    ----------
    cluster : Cluster

    Attributes
    ----------
    sound : bool
        Whether every piece and its copy are where they belong, as far as is known.
    gone : set of int
        Numbers of arrays that a piece has gone of, with its copy.
    deferred : Deferred
        Operations that wait.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._arrays: weakref.WeakSet[ClusterArray] = weakref.WeakSet()
        self._layouts: weakref.WeakValueDictionary[tuple[int, int, int], Layout] = weakref.WeakValueDictionary()
        self._copies: dict[int, dict[int, np.ndarray]] = {}  # the only worker's, here
        self._newest = 0
        self._writing: tuple[int, ...] = ()
        self.gone: set[int] = set()
        self.deferred = Deferred(self)
        self._workers: list[str] = []
        self.sound = True

    def layout(self, height: int, width: int, side: int) -> Layout:
        key = height, width, side
        found = self._layouts.get(key)
        if found is None:
            found = self._layouts[key] = Layout(height, width, side)
            if self._workers:
                found.assign(self._workers)
        return found

    def new(self, layout: Layout, dtype: np.dtype) -> ClusterArray:
        """An array, its values unset."""
        array = ClusterArray(layout, dtype)
        self._arrays.add(array)
        return array

    def copy(self, x: ClusterArray, out: ClusterArray) -> None:
        """out = x: another name for the same pieces."""
        out.number = number_of(x)

    # -- passes -------------------------------------------------------------------------------------------------------

    def numbers(self, count: int) -> tuple[int, ...]:
        """Numbers for what the next pass makes."""
        self._writing = tuple(range(self._newest + 1, self._newest + count + 1))
        self._newest += count
        return self._writing

    def call(self) -> Call:
        """What goes with whatever is asked of pieces now."""
        alive = {array.number for array in self._arrays if array.number is not None}
        alive |= {*self._writing, *self.deferred.reads, *self.deferred.writes}
        for number in self._copies.keys() - alive:
            del self._copies[number]
        return Call(self.cluster.driver, frozenset(alive), self._newest)

    def second(self, worker: str) -> str | None:
        """Who has the copies of a worker's pieces; None: the driver."""
        if len(self._workers) < 2:
            return None
        return self._workers[(self._workers.index(worker) + 1) % len(self._workers)]

    def complete(
        self, passed: Callable[[], Coroutine[Any, Any, Any]], begin: Callable[[], list[str]], forget: Callable[[], None]
    ) -> Any:
        """What a pass comes to, however often workers are lost on the way.

        Parameters
        ----------
        passed : callable () -> coroutine
            The pass; it may be begun several times.
        begin : callable () -> list of str
            Tells the workers that can be used, once they are ready for it.
        forget : callable
            Called when a worker does not have what it was believed to have.
        """
        for attempt in itertools.count(1):
            try:
                self._settle(begin())
                return self.cluster.watched(passed(), self._workers)
            except Lost as lost:
                self.sound = False
                if attempt == ATTEMPTS:
                    raise RunError(f"cluster: {lost}; it did not help to begin again {ATTEMPTS} times") from None
                if attempt > 1:
                    time.sleep(min(1.0, 0.01 * 2**attempt))
            except Missing as missing:
                self.sound = False
                if attempt == ATTEMPTS:
                    raise RunError(f"cluster: a worker forgets what it was sent ({missing})") from None
                self.cluster.forget()
                forget()
        raise AssertionError("endless")

    async def each(
        self, owners: dict[int, str], numbers: Iterable[int], work: Callable[[int], Coroutine[Any, Any, Any]]
    ) -> None:
        """Of tiles, a few at a time for each owner; the first failure ends the others."""
        limits = {owner: asyncio.Semaphore(AT_ONCE) for owner in self._workers}

        async def limited(n: int) -> None:
            async with limits[owners[n]]:
                await work(n)

        await together(limited(n) for n in numbers)

    async def kept(self, call: Call, made: Any, worker: str) -> Any:
        """The answer of what a worker has made, once the copies of its pieces are where they belong."""
        second = self.second(worker)
        if second is not None:
            return await self.cluster.result(self.cluster.submit(pieces.keep, call, made, worker=second))
        answer, new = await self.cluster.result(made)
        for number, of_tiles in new.items():
            self._copies.setdefault(number, {}).update(of_tiles)
        return answer

    # -- windows ------------------------------------------------------------------------------------------------------

    def around(
        self, number: int, layout: Layout, window: Window, worker: str, wanted: dict[str, list[pieces.Region]]
    ) -> Around:
        """A window of an array, as a worker puts it together; what others must send it for that is added to
        `wanted`."""
        own, others = [], []
        for n, region, place in layout.parts(window):
            owner = layout.owners[n]
            if owner == worker:
                own.append((n, region, place))
            else:
                from_there = wanted.setdefault(owner, [])
                others.append((list(wanted).index(owner), len(from_there), place))
                from_there.append((number, n, region))
        return Around(number, extent(window), tuple(own), tuple(others))

    def taken(self, call: Call, wanted: dict[str, list[pieces.Region]]) -> list[Any]:
        """Futures of what others send."""
        return [self.cluster.submit(pieces.take, call, regions, worker=owner) for owner, regions in wanted.items()]

    # -- to and fro ---------------------------------------------------------------------------------------------------

    def send(self, values: np.ndarray, array: ClusterArray) -> None:
        """array = values"""
        self.deferred.flush()
        layout, (number,) = array.layout, self.numbers(1)
        call = self.call()

        async def of_tile(n: int) -> None:
            owner = layout.owners[n]
            piece = np.ascontiguousarray(cut(values, layout.window(n)), array.dtype)
            there = await self.cluster.scattered(piece, owner)
            await self._put(call, [(number, n)], [there], owner)

        async def passed() -> None:
            await self.each(layout.owners, layout.owners, of_tile)

        self.complete(passed, self.cluster.ready, lambda: None)
        array.number = number

    async def _put(self, call: Call, names: list[tuple[int, int]], values: list[Any], owner: str) -> None:
        """Futures of pieces, kept by their owner and by the one that has its copies."""
        second = self.second(owner)
        there = [self.cluster.submit(pieces.put, call, names, values, worker=w) for w in (owner, second) if w]
        await self.cluster.result(there)
        if second is None:
            await self._copy(names, values)

    async def _copy(self, names: list[tuple[int, int]], values: Any) -> None:
        """Keep pieces here: a future of them, or a list of futures."""
        for (number, n), value in zip(names, await self.cluster.result(values), strict=True):
            self._copies.setdefault(number, {})[n] = value

    def fetch(self, array: ClusterArray, out: np.ndarray) -> np.ndarray:
        """out = array"""
        if array.number in self.deferred.writes:
            self.deferred.flush()
        layout, number, call = array.layout, number_of(array), self.call()

        async def of_tile(n: int) -> None:
            number_of(array)  # it may have gone since
            taken = self.cluster.submit(pieces.take, call, [(number, n, None)], worker=layout.owners[n])
            (piece,) = await self.cluster.result(taken)
            paste(out, layout.window(n), piece)

        async def passed() -> None:
            await self.each(layout.owners, layout.owners, of_tile)

        if len(self._copies.get(number, {})) == len(layout.tiles):  # no worker is needed for it
            for n, piece in self._copies[number].items():
                paste(out, layout.window(n), piece)
        else:
            self.complete(passed, self.cluster.ready, lambda: None)
        return out

    # -- when workers come and go -------------------------------------------------------------------------------------

    def _settle(self, workers: list[str]) -> None:
        """Have every piece where it belongs."""
        if workers == self._workers and self.sound:
            return
        self.sound = False
        self._workers, moved = workers, Counter[str]()
        total = 0
        for layout in list(self._layouts.values()):
            total += len(layout.tiles)
            moved += layout.assign(workers)
        if moved:
            lost = ", ".join(f"{count} of {total} with {owner}" for owner, count in sorted(moved.items()))
            self.cluster.tell(f"cluster: tiles of workers that have gone ({lost}) move to others")
        if self._lasting():
            self.cluster.watched(self._mended(), workers)
        self.sound = True

    def _lasting(self) -> dict[int, Layout]:
        """By number: the layout of all that is there, and is not to be made yet."""
        found = {array.number: array.layout for array in self._arrays if array.number is not None}
        return {n: layout for n, layout in {**found, **self.deferred.reads}.items() if n not in self.deferred.writes}

    async def _mended(self) -> None:
        """Copy what is not where it belongs from where it is."""
        asked = {w: self.cluster.submit(pieces.held, self.cluster.driver, worker=w) for w in self._workers}
        held = {w: await self.cluster.result(future) for w, future in asked.items()}
        alone = len(self._workers) < 2
        moves: dict[tuple[str | None, str | None], list[tuple[int, int]]] = {}
        for number, layout in self._lasting().items():
            here = self._copies.get(number, {})
            for n, owner in layout.owners.items():
                having = [w for w in self._workers if n in held[w].get(number, ())]
                if not having and n not in here:
                    self._lose(number)
                    break
                for place in {owner, self.second(owner)} - {*having, None}:
                    source = having[0] if having else None
                    moves.setdefault((source, place), []).append((number, n))
                if alone and n not in here:
                    moves.setdefault((owner, None), []).append((number, n))
        call = self.call()
        await together(self._move(call, source, place, names) for (source, place), names in moves.items())
        if not alone:
            self._copies.clear()

    async def _move(self, call: Call, source: str | None, place: str | None, names: list[tuple[int, int]]) -> None:
        """Copy pieces from one worker to another, one of which may be the driver."""
        if source is None:
            assert place is not None
            values = await self.cluster.scattered([self._copies[number][n] for number, n in names], place)
        else:
            values = self.cluster.submit(pieces.take, call, [(*name, None) for name in names], worker=source)
        if place is None:
            await self._copy(names, values)
        else:
            await self.cluster.result(self.cluster.submit(pieces.put, call, names, values, worker=place))

    def _lose(self, number: int) -> None:
        """Of an array that a piece has gone of, with its copy: it is unset, which tells if anybody reads it."""
        self.gone.add(number)
        for array in self._arrays:
            if array.number == number:
                array.number = None
