"""What a worker of a cluster does: plain functions that the driver calls there, and what is kept between the calls.

See `pieces` for the picture itself. A worker keeps, for every network that was begun, its filters, and for every tile
that it owns the window, the content targets and the guides. Where its memory allows, a tile has buffers of its own,
too, in which the features stay from the statistics to the gradient; else the tiles take turns in one set of buffers,
and the features are computed again: the same numbers, later.

What a driver does not count among the living is dropped when it next calls; what belongs to a driver that has not
called for a while, when another one begins.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...version import __version__
from ..base import Engine, Network
from ..memory import free_memory
from ..tiled import work
from ..tiled.geometry import framed, within
from ..tiled.windows import ALL
from ..tiled.work import Question, Share, Window
from . import pieces
from .messages import Answers, Ask, Driver, Facts, Load, Made, Memory, Missing, Order, Recipe, Send, Shares
from .pieces import LOCK

IDLE = 600.0  # seconds after which a driver that has not called is taken for gone
USABLE = 0.8  # of the free memory, for pieces and for the buffers of tiles


@dataclass
class Bench:
    """A set of buffers, and the tile and step whose features are in them."""

    network: Network
    of: tuple[int, int, int] | None = None  # picture, tile, step


@dataclass
class Tile:
    """What is kept of a tile."""

    bench: Bench
    window: np.ndarray
    step: int
    known: dict[int, np.ndarray] = field(default_factory=dict)
    masks: dict[tuple[str, int | None], np.ndarray] = field(default_factory=dict)


@dataclass
class Kept:
    """What is kept of a network: its filters, with buffers for tiles that have none of their own; and the tiles."""

    engine: Engine
    host: Engine  # for NumPy arrays
    bench: Bench
    called: float
    tiles: dict[tuple[int, int], Tile] = field(default_factory=dict)  # by picture, tile


_STOPPING: set[Driver] = set()
_KEPT: dict[tuple[Driver, int], Kept] = {}


def hello(driver: Driver, precision: str | None) -> Facts:
    """What computes here, once what others have left is dropped."""
    with LOCK:
        now = time.monotonic()
        pieces.drop_idle(driver, IDLE)
        for key in [k for k, kept in _KEPT.items() if k[0] != driver and now - kept.called > IDLE]:
            del _KEPT[key]
        engine = pieces.OWN.engine(precision)
        return Facts(__version__, engine.describe(), Memory(engine.memory(), free_memory()))


def begin(driver: Driver, number: int, recipe: Recipe) -> Facts:
    """Prepare a network, and say the same."""
    with LOCK:
        found, engine = hello(driver, recipe.precision), pieces.OWN.engine(recipe.precision)
        if (driver, number) not in _KEPT:
            network = engine.network(recipe.weights, recipe.taps, recipe.pooling)
            _KEPT[driver, number] = Kept(engine, pieces.OWN.host(recipe.precision), Bench(network), time.monotonic())
        apart = _KEPT[driver, number].bench.network.apart
        return replace(found, memory=replace(found.memory, apart=apart))


def end(driver: Driver) -> None:
    """Drop all that belongs to a driver."""
    with LOCK:
        pieces.end(driver)
        for key in [k for k in _KEPT if k[0] == driver]:
            del _KEPT[key]


def forward(order: Order, load: Load, asks: Sequence[Sequence[Ask]], *taken: Sequence[np.ndarray]) -> Answers:
    """The answers to groups of questions about a tile's features."""
    with LOCK:
        kept, tile = _loaded(order, load, taken)
        questions = [_question(tile, ask) for group in asks for ask in group]
        answers = iter(work.forward(tile.bench.network, kept.engine, tile.window, questions, None)[0])
        tile.bench.of = _name(order)
        return [{ask.key: next(answers) for ask in group} for group in asks]


def plus(a: Answers | dict[int, Any], b: Answers | dict[int, Any], group: int) -> dict[int, Any]:
    """The sum of two answers to a group of questions, or of sums of them."""
    one, other = of_group(a, group), of_group(b, group)
    return {key: np.add(one[key], other[key]) for key in one}


def of_group(answers: Answers | dict[int, Any], group: int) -> dict[int, Any]:
    """A tile's answers to one group of questions; what is summed already is of one group alone."""
    return answers[group] if isinstance(answers, list) else answers


def stop(driver: Driver) -> None:
    """A driver wants no more pictures to be begun, and those at hand to be ended and kept."""
    _STOPPING.add(driver)


def stopping(driver: Driver) -> bool:
    """Whether it has said so."""
    return driver in _STOPPING


def say(driver: Driver, line: str) -> None:
    """Pass a line on to a driver."""
    from distributed import get_worker

    get_worker().log_event(driver, line)


def done(answers: Answers) -> None:
    """Nothing: it comes when a tile is computed."""


def backward(
    order: Order, shares: Shares, own: Window, number: int, load: Load | None, *taken: Sequence[np.ndarray]
) -> Made:
    """Gradient (C, H, W) with respect to a tile's own pixels: a piece of an array of that number; the answer is the
    tile's share of the total variation. With a `load` where the tile is new here."""
    with LOCK:
        if load is None:
            kept, tile = _called(order), _tile(order)
        else:
            kept, tile = _loaded(order, load, taken)
        there = tile.bench.of == _name(order)
        mine = [_share(tile, send) for send in shares.all]
        tile.bench.of = None  # a backward pass may use up the features
        window = None if there else tile.window
        gradient = np.array(work.backward(tile.bench.network, kept.engine, window, mine, None, own), order="C")
        found = 0.0 if shares.variation is None else _varied(kept.host, tile.window, own, gradient, *shares.variation)
        pieces.put(order.call, [(number, order.tile)], [gradient])
        return found, {number: {order.tile: gradient}}


def _varied(
    host: Engine, window: np.ndarray, own: Window, gradient: np.ndarray, scale: float, diagonal: float
) -> float:
    """`work.total_variation` of a tile: it sees one pixel around it, which its window has."""
    seen = framed(own, window.shape[1:])
    x = np.ascontiguousarray(window[ALL + seen])
    return work.total_variation(host, x, within(own, seen), gradient, scale, diagonal)


# -- what is kept -------------------------------------------------------------------------------------------------


def _name(order: Order) -> tuple[int, int, int]:
    return order.picture, order.tile, order.step


def _called(order: Order) -> Kept:
    """The network, once what its driver has done with is dropped."""
    for key in [k for k in _KEPT if k[0] == order.driver]:
        kept = _KEPT[key]
        pictures = {picture for network, picture in order.alive if network == key[1]}
        if not pictures:
            del _KEPT[key]
            continue
        for name in [n for n in kept.tiles if n[0] not in pictures]:
            del kept.tiles[name]
    found = _KEPT.get((order.driver, order.network))
    if found is None:
        raise Missing(f"network {order.network}")
    found.called = time.monotonic()
    return found


def _tile(order: Order) -> Tile:
    """A tile whose forward pass was here."""
    tile = _KEPT[order.driver, order.network].tiles.get((order.picture, order.tile))
    if tile is None or tile.step != order.step:
        raise Missing(f"tile {order.tile}")
    return tile


def _loaded(order: Order, load: Load, taken: Sequence[Sequence[np.ndarray]]) -> tuple[Kept, Tile]:
    """The tile, with what has come for it."""
    kept, name = _called(order), (order.picture, order.tile)
    window = pieces.assembled(order.call, load.window, taken)
    tile = kept.tiles.get(name)
    if tile is None:
        tile = kept.tiles[name] = Tile(_bench(kept, order, window.shape), window, order.step)
    tile.window, tile.step = window, order.step
    tile.known.update(load.new)
    return kept, tile


def _bench(kept: Kept, order: Order, shape: tuple[int, ...]) -> Bench:
    """Buffers of its own for a tile, where there is room for them."""
    network, free = kept.bench.network, kept.engine.memory()
    need = network.bytes_of_twin(shape[1], shape[2], network.taps)
    if free is not None and need > USABLE * free / order.neighbours:
        return kept.bench
    return Bench(network.twin())


# -- numbers to arrays --------------------------------------------------------------------------------------------


def _known(tile: Tile, number: int | None) -> np.ndarray | None:
    if number is None:
        return None
    if number not in tile.known:
        raise Missing(f"array {number}")
    return tile.known[number]


def _question(tile: Tile, ask: Ask) -> Question:
    if ask.what == "keep":
        return Question(ask.what, ask.tap, ask.own)
    w = _masked(tile, ask) if ask.masked else _known(tile, ask.guide)
    return Question(ask.what, ask.tap, ask.own, w, _known(tile, ask.target))


def _masked(tile: Tile, ask: Ask) -> np.ndarray:
    """A guide that is 0 outside the tile's own part."""
    name = ask.tap, ask.guide
    if name not in tile.masks:
        guide = _known(tile, ask.guide)
        size = tile.bench.network.shapes(*tile.window.shape[1:])[_output(tile.bench.network, ask.tap)][1:]
        w = np.zeros(size, tile.window.dtype)
        w[ask.own] = 1 if guide is None else guide[ask.own]
        tile.masks[name] = w
    return tile.masks[name]


def _output(network: Network, tap: str) -> str:
    """The layer that the tap's step ends in, which has the tap's size."""
    return next(step.output for step in network.steps if tap in step.layers)


def _share(tile: Tile, send: Send) -> Share:
    return Share(send.tap, send.dG, send.ds, _known(tile, send.target), send.scale, _known(tile, send.guide))
