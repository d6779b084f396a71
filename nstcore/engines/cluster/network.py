"""A network whose tiles are computed by the workers of a cluster.

The network is not cut: every tile is one window with the whole halo of the gradient, so that its features can stay
where they are from the statistics to the gradient. A step is:

        windows of the picture             to the tiles' owners
        statistics                         from owner to owner, summed two by two in `tiled.work.Tree`'s order
        what follows for the features      from here to one owner, from there to the others
        gradients of the tiles' own pixels back

Which worker owns a tile decides nothing but who computes it: the numbers are those of one process, bit for bit, where
the workers' engines are of one kind. So when a worker dies, its tiles go to others, which compute what is missing.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import vgg
from ...errors import DeviceError, RunError
from ...files import shown_bytes
from ...pretrained.weights import Weights
from ..base import EVERYWHERE, Asked
from ..tiled.geometry import Tile
from ..tiled.network import Gradients, Guide, Measured, PartPlan, TiledNetwork
from ..tiled.tiling import Tiling
from ..tiled.windows import cut, paste
from ..tiled.work import Tree
from . import member
from .connection import ATTEMPTS, Lost
from .messages import Ask, Load, Missing, Order, Recipe, Send, Shares

if TYPE_CHECKING:
    from . import ClusterEngine

FAILED = ("error", "lost", "cancelled")  # of a future
AT_ONCE = 2  # windows that are on their way to each worker: what the driver holds of them


class ClusterNetwork(TiledNetwork):
    """VGG over the workers of a cluster. What a worker computes is not timed: a watcher is told nothing.

    Parameters
    ----------
    engine : ClusterEngine
    weights, taps, pooling
        See `Network`.
    tiling : Tiling
    """

    engine: ClusterEngine

    def __init__(
        self, engine: ClusterEngine, weights: Weights, taps: Iterable[str], pooling: str, tiling: Tiling
    ) -> None:
        self.cluster = engine.cluster
        self.number = self.cluster.number()
        super().__init__(engine, weights, taps, pooling, tiling)
        self.recipe = Recipe(weights, self.taps, pooling, engine.asked)

    def _empty(self) -> None:
        super()._empty()
        self._new_picture()
        self._names: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.cluster.networks.add(self)

    def _new_picture(self) -> None:
        """Workers have nothing of it yet."""
        self.picture = self.cluster.number()
        self._step = 0
        self._workers: list[str] = []
        self._owners: dict[int, str] = {}  # by tile
        self._at: dict[int, str] = {}  # by tile, where its last forward pass was
        self._known: dict[tuple[str, int], set[int]] = {}  # by owner and tile: numbers of arrays that it has

    # -- size ---------------------------------------------------------------------------------------------------------

    def _resize(self, height: int, width: int) -> None:
        if (height, width) != self.size:
            super()._resize(height, width)
            self._new_picture()

    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        """Bytes in this process: filters, windows on their way, and the gradient. The workers have the rest."""
        network, (tiling,) = self.networks[0], self.sides
        _, backward = self._tiles(network, height, width, tiling)
        window = 3 * backward[0].area * self.itemsize
        return {
            "filters": network.memory(*backward[0].shape, ())["filters"],
            "windows": window * min(len(backward), AT_ONCE * max(1, self.cluster.size)),
            **self._stored(height, width),
        }

    def fit(self, height: int, width: int, sides: Iterable[int]) -> None:
        """From now on tiles of that side with which a step of a picture of that size is soonest done.

        Parameters
        ----------
        height, width : int
        sides : iterable of int
            To choose from.

        Raises
        ------
        DeviceError
            If the workers have not the memory for any of them.
        """
        network, best, least = self.networks[0], None, math.inf
        workers, memory = len(self.cluster.living()), self.cluster.memory()
        for side in sides:
            _, backward = self._tiles(network, height, width, side)
            each = -(-len(backward) // workers)  # tiles of the busiest worker
            buffers = network.memory(*backward[0].shape, network.taps)
            filters = buffers.pop("filters")
            need = sum(buffers.values())
            least = min(least, filters + need)
            if memory is not None and filters + need > memory:
                continue
            kept = memory is None or filters + (1 + each) * need <= memory
            cost = each * backward[0].area * (2 if kept else 3)  # forward, backward; and forward again
            if best is None or cost <= best[0]:
                best = cost, side
        if best is None:
            raise DeviceError(
                f"cluster: expected workers with {shown_bytes(int(least))} of memory for a tile, found "
                f"{shown_bytes(memory or 0)}; take a smaller --tile, or fewer workers a machine"
            )
        self.engine.tiling = replace(self.tiling, side=best[1])
        self.retiled(self.engine.tiling)

    def work(self, height: int, width: int) -> float:
        """As long as the features of every tile stay with its owner: nothing is computed twice but halos."""
        _, backward = self._tiles(self.networks[0], height, width, self.sides[0])
        return sum(tile.area for tile in backward) / (height * width)

    # -- forward ------------------------------------------------------------------------------------------------------

    def forward(self, pixels: Any) -> None:
        self._resize(*pixels.shape[1:])
        self._pixels = pixels
        self._measured = self._passed(self._asked)

    def features(self, tap: str, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        """See `Network.features`; they are computed again, all of them."""
        self._there()
        found = self._passed([Asked("keep", tap)]).kept[tap]
        return np.ascontiguousarray(cut(found, window))

    def _passed(self, asked: Sequence[Asked]) -> Measured:
        """One forward pass of every tile, and what it found."""
        (plan,) = self.plans
        found = Measured()
        for a in asked:
            if a.what == "keep" and a.tap not in found.kept:
                found.kept[a.tap] = self.engine.new(self._shape(vgg.find(self.weights.architecture, a.tap), *self.size))
        asks = [self._asks(plan, tile, asked) for tile in plan.forward]
        arrays = [(a.tap, array) for a in asked for array in (a.target, a.guide, a.target and a.target.guide)]
        summed = _grouped(asks)
        self._step += 1
        self._at = {}
        futures: dict[int, tuple[Any, str]] = {}  # by tile: its answers, and where they are

        async def send(n: int) -> None:
            groups = [[ask for ask in asks[n] if ask.key in keys] for keys, _ in summed]
            kept = [ask for ask in asks[n] if ask.what == "keep"]
            owner, load = self._owners[n], self._load(n, arrays)
            sent = await self.cluster.scattered(load, owner)
            future = self.cluster.submit(member.forward, self._order(n), sent, [*groups, kept], worker=owner)
            if kept:
                answers = (await self.cluster.result(future))[-1]
                for ask in kept:
                    own = plan.forward[n].own_of_all(self._stride(plan, ask.tap))
                    paste(found.kept[ask.tap], own, answers[ask.key])
            futures[n], self._at[n] = (future, owner), owner
            self._known.setdefault((owner, n), set()).update(load.new)

        async def passed() -> list[dict[int, Any]]:
            # What was with a worker that has gone, and what came to nothing, is computed again
            for n, (future, owner) in list(futures.items()):
                if owner != self._owners[n] or future.status in FAILED:
                    del futures[n]
            await self._each([n for n in range(len(asks)) if n not in futures], send)
            return await self._sums(summed, futures)

        for sums in self._done(passed):
            for key, value in sums.items():
                a = asked[key]
                tree = found.sums[a.what, a.tap, id(a.target if a.what == "distance" else a.guide)] = Tree(np.add)
                tree.add(value)
        return found

    async def _sums(
        self, summed: Sequence[tuple[set[int], list[int]]], futures: dict[int, tuple[Any, str]]
    ) -> list[Any]:
        """Of each group of answers, over its tiles, in the tree's order; each sum where its first term is."""
        totals = []
        for group, (_, numbers) in enumerate(summed):

            def plus(a: tuple[Any, str], b: tuple[Any, str], group: int = group) -> tuple[Any, str]:
                return self.cluster.submit(member.plus, a[0], b[0], group, worker=a[1]), a[1]

            tree = Tree(plus)
            for n in numbers:
                tree.add(futures[n])
            totals.append(tree.total()[0])
        # Of a tile that has no say in any sum, it is to be known that it is computed
        alone = futures.keys() - {n for _, numbers in summed for n in numbers}
        ends = [self.cluster.submit(member.done, future, worker=at) for future, at in (futures[n] for n in alone)]
        found = await self.cluster.result(totals + ends)
        return [member.of_group(answers, group) for group, answers in enumerate(found[: len(totals)])]

    def _asks(self, plan: PartPlan, tile: Tile, asked: Sequence[Asked]) -> list[Ask]:
        """What is asked of a tile, as far as a position of the tap is left of it."""
        found = []
        for key, a in enumerate(asked):
            own = tile.own_at(self._stride(plan, a.tap))
            if all(side.start < side.stop for side in own):
                guide = a.target.guide if a.target is not None else a.guide
                found.append(Ask(key, a.what, a.tap, own, not plan.resident, self._name(guide), self._name(a.target)))
        return found

    # -- backward -----------------------------------------------------------------------------------------------------

    def backward(self, gradients: Gradients, above: Any = None) -> Any:
        self._there()
        self._measured = None
        (plan,) = self.plans
        sends = tuple(
            Send(tap, g.dG, g.ds, self._name(g.target), g.scale, self._name(g.guide))
            for tap in self.taps
            for g in gradients.get(tap, ())
        )
        arrays = [(tap, a) for tap in self.taps for g in gradients.get(tap, ()) for a in (g.target, g.guide)]
        done: set[int] = set()

        async def send(n: int, shares: Any) -> None:
            tile, owner, sent = plan.backward[n], self._owners[n], None
            if self._at.get(n) != owner or self._new(n, arrays):  # the tile has moved: it is to be sent again
                self._known.pop((owner, n), None)
                load = self._load(n, arrays)
                sent = await self.cluster.scattered(load, owner)
            future = self.cluster.submit(member.backward, self._order(n), shares, tile.own_at(1), sent, worker=owner)
            paste(self._gradient, tile.own_of_all(1), await self.cluster.result(future))
            if sent is not None:
                self._at[n] = owner
                self._known.setdefault((owner, n), set()).update(load.new)
            done.add(n)

        async def passed() -> None:
            shares = await self.cluster.scattered(Shares(sends), self._owners[0])
            await self._each([n for n in self._owners if n not in done], lambda n: send(n, shares))

        self._done(passed)
        return self._gradient

    # -- who computes what ----------------------------------------------------------------------------------------

    def _done(self, passed: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What a pass comes to, however often workers are lost on the way."""
        for attempt in itertools.count(1):
            self._assign(self.cluster.begin(self.number, self.recipe))
            try:
                return self.cluster.watched(passed(), self._owners.values())
            except Lost as lost:
                if attempt == ATTEMPTS:
                    raise RunError(f"cluster: {lost}; it did not help to begin again {ATTEMPTS} times") from None
                if attempt > 1:
                    time.sleep(min(1.0, 0.01 * 2**attempt))
            except Missing as missing:
                if attempt == ATTEMPTS:
                    raise RunError(f"cluster: a worker forgets what it was sent ({missing})") from None
                self.cluster.forget(self.number)
                self._known, self._at = {}, {}
        raise AssertionError("endless")

    def _assign(self, workers: list[str]) -> None:
        """An owner for every tile: neighbours in the tree together at first; then no more than must be moves."""
        if workers == self._workers:
            return
        self._workers, count = workers, len(self.plans[0].backward)
        if not self._owners:
            self._owners = {n: workers[n * min(len(workers), count) // count] for n in range(count)}
        load = Counter(dict.fromkeys(workers, 0))
        load.update(owner for owner in self._owners.values() if owner in load)
        if gone := Counter(owner for owner in self._owners.values() if owner not in load):
            lost = ", ".join(f"{count_of} of {count} with {owner}" for owner, count_of in sorted(gone.items()))
            self.cluster.tell(f"cluster: tiles of workers that have gone ({lost}) move to others")
        for n, owner in self._owners.items():
            least = min(load, key=lambda a: (load[a], a))
            if owner in load:
                if load[owner] < load[least] + 2:
                    continue
                load[owner] -= 1
            self._owners[n] = least
            load[least] += 1
        self._known = {key: names for key, names in self._known.items() if self._owners.get(key[1]) == key[0]}

    def _order(self, n: int) -> Order:
        alive = frozenset((network.number, network.picture) for network in self.cluster.networks)
        neighbours = self.cluster.neighbours().get(self._owners[n], 1)
        return Order(self.cluster.driver, self.number, self.picture, n, self._step, alive, neighbours)

    def _name(self, array: Any) -> int | None:
        """The number of a guide or a target."""
        if array is None:
            return None
        if array not in self._names:
            self._names[array] = self.cluster.number()
        return self._names[array]

    def _load(self, n: int, arrays: Iterable[tuple[str, Any]]) -> Load:
        """The window of a tile, and what its owner has not got yet."""
        window = self.plans[0].forward[n].window
        return Load(np.ascontiguousarray(cut(self._pixels, window)), self._new(n, arrays))

    def _new(self, n: int, arrays: Iterable[tuple[str, Any]]) -> dict[int, np.ndarray]:
        """What the owner of a tile has not got yet of targets and guides, each of a tap: in the tile's window."""
        (plan,) = self.plans
        tile, new = plan.forward[n], {}
        known = self._known.get((self._owners[n], n), set())
        for tap, array in arrays:
            number = self._name(array)
            if number is not None and number not in known:
                window = tile.window_at(self._stride(plan, tap))
                values = array.w[window] if isinstance(array, Guide) else cut(array.P, window)
                new[number] = np.ascontiguousarray(values)
        return new

    async def _each(self, numbers: Iterable[int], send: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
        """Of tiles, a few at a time for each worker; the first failure ends the others."""
        limits = {owner: asyncio.Semaphore(AT_ONCE) for owner in set(self._owners.values())}

        async def limited(n: int) -> None:
            async with limits[self._owners[n]]:
                await send(n)

        tasks = [asyncio.ensure_future(limited(n)) for n in numbers]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


def _grouped(asks: Sequence[Sequence[Ask]]) -> list[tuple[set[int], list[int]]]:
    """Keys that are answered by the same tiles, and these tiles: their sums are one tree."""
    tiles: dict[int, list[int]] = {}
    for n, of_tile in enumerate(asks):
        for ask in of_tile:
            if ask.what != "keep":
                tiles.setdefault(ask.key, []).append(n)
    groups: dict[tuple[int, ...], set[int]] = {}
    for key, numbers in tiles.items():
        groups.setdefault(tuple(numbers), set()).add(key)
    return [(keys, list(numbers)) for numbers, keys in groups.items()]
