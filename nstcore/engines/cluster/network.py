"""A network whose tiles are computed by the workers of a cluster.

The network is not cut: every tile is one window with the whole halo of the gradient, so that its features can stay
where they are from the statistics to the gradient. A step is:

        halos of the windows               from owner to owner
        statistics                         from owner to owner, summed two by two in `tiled.work.Tree`'s order
        what follows for the features      from here to one owner, from there to the others
        gradients of the tiles' own pixels stay where they are, as pieces of an array (`arrays`); with that of the
        total variation, which sees no more than the window has

Which worker owns a tile decides nothing but who computes it: the numbers are those of one process, bit for bit, where
the workers' engines are of one kind. So when a worker dies, its tiles go to others, which compute what is missing.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import vgg
from ...errors import DeviceError, RunError
from ...pretrained.weights import Weights
from ..asked import Asked
from ..base import EVERYWHERE
from ..tiled.geometry import Tile
from ..tiled.network import Gradients, Guide, Measured, PartPlan, TiledNetwork
from ..tiled.tiling import Tiling
from ..tiled.windows import cut, paste
from ..tiled.work import Tree
from . import member
from .arrays import AT_ONCE
from .deferred import GONE, Backward, number_of
from .layout import Layout
from .messages import Ask, Call, Load, Order, Recipe, Send, Shares
from .pieces import Region

if TYPE_CHECKING:
    from . import ClusterEngine

COPIES = 2  # of every piece, each with a worker of its own


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
        self._layout: Layout | None = None
        self._at: dict[int, str] = {}  # by tile, where its last forward pass was
        self._known: dict[tuple[str, int], set[int]] = {}  # by owner and tile: numbers of arrays that it has

    # -- size ---------------------------------------------------------------------------------------------------------

    def _resize(self, height: int, width: int) -> None:
        if (height, width) == self.size:
            return
        self.shapes(height, width)
        self.plans, self.size = self._parts(height, width), (height, width)
        self._new_picture()
        self._layout = self.engine.layout(height, width)
        self._gradient = self.cluster.store.new(self._layout, self.engine.dtype)

    @property
    def _owners(self) -> dict[int, str]:
        """By tile: whose it is, as are the pieces of arrays there."""
        assert self._layout is not None
        return self._layout.owners

    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        """Bytes in this process: filters, and windows of targets on their way. The workers have the rest."""
        network, (tiling,) = self.networks[0], self.sides
        _, backward = self._tiles(network, height, width, tiling)
        window = 3 * backward[0].area * self.itemsize
        return {
            "filters": network.memory(*backward[0].shape, ())["filters"],
            "windows": window * min(len(backward), AT_ONCE * max(1, self.cluster.size)),
        }

    def on_disk(self, height: int, width: int) -> int:
        return 0

    def copied(self, pictures: int) -> int:
        """Bytes of the copies that are here, of arrays of so many with the workers: all, where there is one worker."""
        return pictures if self.cluster.size < COPIES else 0

    def fit(self, height: int, width: int, sides: Iterable[int], pictures: int = 0) -> None:
        """From now on tiles of that side with which a step of a picture of that size is soonest done.

        Parameters
        ----------
        height, width : int
        sides : iterable of int
            To choose from.
        pictures : int
            Bytes of the arrays of a picture's size that the workers have besides, each once.

        Raises
        ------
        DeviceError
            If the workers have not the memory for any of them.
        """
        network, best, least = self.networks[0], None, math.inf
        workers, memories = len(self.cluster.living()), self.cluster.memory()
        pieces = pictures * min(COPIES, workers) // workers
        for side in sides:
            _, backward = self._tiles(network, height, width, side)
            each = -(-len(backward) // workers)  # tiles of the busiest worker
            buffers = network.memory(*backward[0].shape, network.taps)
            filters, need = buffers.pop("filters"), sum(buffers.values())
            least = min(least, filters + need)
            if any(memory.refusal(filters + need, pieces) for memory in memories):
                continue
            kept = not any(memory.refusal(filters + (1 + each) * need, pieces) for memory in memories)
            cost = each * backward[0].area * (2 if kept else 3)  # forward, backward; and forward again
            if best is None or cost <= best[0]:
                best = cost, side
        if best is None:
            raise DeviceError(next(filter(None, (memory.refusal(int(least), pieces) for memory in memories))))
        self.engine.tiling = replace(self.tiling, side=best[1])
        self.retiled(self.engine.tiling)

    def work(self, height: int, width: int) -> float:
        """As long as the features of every tile stay with its owner: nothing is computed twice but halos."""
        _, backward = self._tiles(self.networks[0], height, width, self.sides[0])
        return sum(tile.area for tile in backward) / (height * width)

    def share(self, height: int, width: int) -> float:
        """See `Network.share`: of the worker that has most tiles."""
        count = len(self._tiles(self.networks[0], height, width, self.sides[0])[1])
        return -(-count // max(1, self.cluster.size)) / count

    # -- forward ------------------------------------------------------------------------------------------------------

    def forward(self, pixels: Any) -> None:
        self.cluster.store.deferred.flush()  # what waits may be of the picture as it was
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
        store = self.cluster.store
        store.deferred.flush()
        (plan,), pixels = self.plans, number_of(self._pixels)
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
        call = store.call()

        async def send(n: int) -> None:
            groups = [[ask for ask in asks[n] if ask.key in keys] for keys, _ in summed]
            kept = [ask for ask in asks[n] if ask.what == "keep"]
            owner, new = self._owners[n], self._new(n, arrays)
            load, taken = await self._loaded(call, n, pixels, new)
            order = self._order(call, n)
            future = self.cluster.submit(member.forward, order, load, [*groups, kept], *taken, worker=owner)
            if kept:
                answers = (await self.cluster.result(future))[-1]
                for ask in kept:
                    own = plan.forward[n].own_of_all(self._stride(plan, ask.tap))
                    paste(found.kept[ask.tap], own, answers[ask.key])
            futures[n], self._at[n] = (future, owner), owner
            self._known.setdefault((owner, n), set()).update(new)

        async def passed() -> list[dict[int, Any]]:
            # Answers that were with a worker that has gone, or were not there yet (they may wait for its part of a
            # window), are computed again
            self._known = {key: names for key, names in self._known.items() if self._owners.get(key[1]) == key[0]}
            for n, (future, owner) in list(futures.items()):
                if owner != self._owners[n] or future.status != "finished":
                    del futures[n]
            await store.each(self._owners, [n for n in range(len(asks)) if n not in futures], send)
            return await self._sums(summed, futures)

        totals = self._done(passed)
        for sums in totals:
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
        """See `Network.backward`. It waits until the gradient is wanted, or the total variation is added to it."""
        self._there()
        self._measured = None
        sends = tuple(
            Send(tap, g.dG, g.ds, self._name(g.target), g.scale, self._name(g.guide))
            for tap in self.taps
            for g in gradients.get(tap, ())
        )
        arrays = [(tap, a) for tap in self.taps for g in gradients.get(tap, ()) for a in (g.target, g.guide)]
        store = self.cluster.store
        (number,) = store.numbers(1)
        store.deferred.begin(
            Backward(partial(self._backward, sends, arrays), self._pixels.layout, number_of(self._pixels), number)
        )
        self._gradient.number = number
        return self._gradient

    def _backward(self, sends: tuple[Send, ...], arrays: Sequence[tuple[str, Any]], asked: Backward) -> None:
        (plan,) = self.plans
        done: dict[int, tuple[str, str | None]] = {}  # by tile: who has its piece, and who the copy
        store = self.cluster.store
        call = store.call()

        async def send(n: int, shares: Any) -> None:
            tile, owner, new = plan.backward[n], self._owners[n], self._new(n, arrays)
            load: Any = None
            taken: list[Any] = []
            if self._at.get(n) != owner or new:  # the tile has moved: it is to be sent again
                self._known.pop((owner, n), None)
                new = self._new(n, arrays)
                load, taken = await self._loaded(call, n, asked.pixels, new)
            order = self._order(call, n)
            made = self.cluster.submit(
                member.backward, order, shares, tile.own_at(1), asked.number, load, *taken, worker=owner
            )
            asked.answers[n] = await store.kept(call, made, owner)
            if load is not None:
                self._at[n] = owner
                self._known.setdefault((owner, n), set()).update(new)
            done[n] = owner, store.second(owner)

        async def passed() -> None:
            shares = await self.cluster.scattered(Shares(sends, asked.variation), self._owners[0])
            left = [n for n, owner in self._owners.items() if done.get(n) != (owner, store.second(owner))]
            await store.each(self._owners, left, lambda n: send(n, shares))

        self._done(passed)

    # -- who computes what ----------------------------------------------------------------------------------------

    def _done(self, passed: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What a pass comes to."""

        def forget() -> None:
            self._known, self._at = {}, {}

        return self.cluster.store.complete(passed, lambda: self.cluster.begin(self.number, self.recipe), forget)

    def _order(self, call: Call, n: int) -> Order:
        alive = frozenset((network.number, network.picture) for network in self.cluster.networks)
        neighbours = self.cluster.neighbours().get(self._owners[n], 1)
        return Order(call, self.number, self.picture, n, self._step, alive, neighbours)

    def _name(self, array: Any) -> int | None:
        """The number of a guide or a target."""
        if array is None:
            return None
        if array not in self._names:
            self._names[array] = self.cluster.number()
        return self._names[array]

    async def _loaded(self, call: Call, n: int, number: int, new: dict[int, np.ndarray]) -> tuple[Any, list[Any]]:
        """The load of a tile, or a future of it, and futures of what other owners send for its window of the pixels,
        which have that number."""
        if number in self.cluster.store.gone:
            raise RunError(GONE)
        owner = self._owners[n]
        wanted: dict[str, list[Region]] = {}
        window = self.plans[0].forward[n].window
        store = self.cluster.store
        load = Load(store.around(number, self._pixels.layout, window, owner, wanted), new)
        taken = store.taken(call, wanted)
        return (await self.cluster.scattered(load, owner) if new else load), taken

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
