"""What a worker has of the arrays of a picture's size, and computes with them.

Pieces (C, rows, columns) are NumPy arrays in the host's memory, whatever the engine. They never change once they are
here, so that a call may be made again; the driver says with every call which arrays there still are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .. import create
from ..base import Engine
from ..cpu import CpuEngine
from ..tiled.windows import ALL, Window
from .messages import Around, Call, Driver, Each, Made, Missing, Operation, Read, Write

Arrays = dict[int, dict[int, np.ndarray]]  # by number, then by tile
Region = tuple[int, int, Window | None]  # of a piece: number, tile, rows and columns; None: all

LOCK = threading.RLock()  # a worker that was started with several threads computes one thing at a time all the same


@dataclass
class Own:
    """What this worker computes with, where the driver leaves it the choice."""

    device: str = "auto"
    threads: int | None = None
    engines: dict[str | None, Engine] = field(default_factory=dict)  # by precision
    hosts: dict[str | None, Engine] = field(default_factory=dict)

    def engine(self, precision: str | None) -> Engine:
        if precision not in self.engines:
            self.engines[precision] = create(self.device, precision, self.threads)
        return self.engines[precision]

    def host(self, precision: str | None) -> Engine:
        """What computes with pieces: the engine, unless its arrays are not NumPy's."""
        if precision not in self.hosts:
            engine = self.engine(precision)
            self.hosts[precision] = engine if engine.on_host else CpuEngine("float32", self.threads)
        return self.hosts[precision]


OWN = Own()


@dataclass
class Held:
    """What is here of a driver's arrays."""

    called: float
    arrays: Arrays = field(default_factory=dict)


_HELD: dict[Driver, Held] = {}


def arrays_of(call: Call) -> Arrays:
    """A driver's arrays, once those that there are no more have been dropped."""
    held = _HELD.setdefault(call.driver, Held(0.0))
    held.called = time.monotonic()
    for number in [n for n in held.arrays if n <= call.newest and n not in call.alive]:
        del held.arrays[number]
    return held.arrays


def end(driver: Driver) -> None:
    """Drop all that belongs to a driver."""
    with LOCK:
        _HELD.pop(driver, None)


def drop_idle(driver: Driver, longest: float) -> None:
    """The same with drivers other than this one that have not called for so many seconds."""
    now = time.monotonic()
    for name in [name for name, held in _HELD.items() if name != driver and now - held.called > longest]:
        del _HELD[name]


# -- to and fro ---------------------------------------------------------------------------------------------------


def put(call: Call, names: Sequence[tuple[int, int]], values: Sequence[np.ndarray]) -> None:
    """Keep pieces, each under a number and a tile."""
    with LOCK:
        arrays = arrays_of(call)
        for (number, tile), value in zip(names, values, strict=True):
            arrays.setdefault(number, {})[tile] = value


def take(call: Call, regions: Sequence[Region]) -> list[np.ndarray]:
    """Regions of pieces."""
    with LOCK:
        arrays = arrays_of(call)
        found = [(_piece(arrays, number, tile), window) for number, tile, window in regions]
        return [piece if window is None else np.ascontiguousarray(piece[ALL + window]) for piece, window in found]


def keep(call: Call, made: Made) -> Any:
    """Keep copies of another worker's new pieces, and pass the answer on."""
    with LOCK:
        answer, pieces = made
        arrays = arrays_of(call)
        for number, of_tiles in pieces.items():
            arrays.setdefault(number, {}).update(of_tiles)
        return answer


def held(driver: Driver) -> dict[int, set[int]]:
    """By number: the tiles whose pieces are here."""
    with LOCK:
        mine = _HELD.get(driver)
        return {} if mine is None else {number: set(of_tiles) for number, of_tiles in mine.arrays.items()}


def assembled(call: Call, around: Around, taken: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """A window, put together."""
    arrays = arrays_of(call)
    parts = [(place, _piece(arrays, around.number, tile)[ALL + region]) for tile, region, place in around.own]
    parts += [(place, taken[i][j]) for i, j, place in around.others]
    out = np.empty((len(parts[0][1]), *around.shape), parts[0][1].dtype)
    for place, values in parts:
        out[ALL + place] = values
    return out


def _piece(arrays: Arrays, number: int, tile: int) -> np.ndarray:
    if tile not in arrays.get(number, {}):
        raise Missing(f"piece {tile} of array {number}")
    return arrays[number][tile]


# -- what is computed with them -----------------------------------------------------------------------------------


def apply(call: Call, precision: str | None, operations: Sequence[Operation], *taken: Sequence[np.ndarray]) -> Made:
    """One operation after the other: what the last one answers for each tile, and the pieces that are made."""
    with LOCK:
        arrays, host, made = arrays_of(call), OWN.host(precision), Arrays()
        answers: dict[int, Any] = {}
        for operation in operations:
            method = OURS.get(operation.name)
            called = getattr(host.vectors, operation.name) if method is None else partial(method, host)
            for tile, shape in operation.shapes.items():

                def given(a: Any, tile: int = tile, shape: tuple[int, int] = shape) -> Any:
                    match a:
                        case Each():
                            return given(a.of[tile])
                        case Around():
                            return assembled(call, a, taken)
                        case Read():
                            return _piece(arrays, a.number, tile)
                        case Write():
                            before = None if a.before is None else _piece(arrays, a.before, tile).copy()
                            new = np.empty((3, *shape), host.dtype) if before is None else before
                            return made.setdefault(a.number, {}).setdefault(tile, new)
                    return a

                arguments = [given(a) for a in operation.arguments]
                answers[tile] = called(*arguments, **{name: given(a) for name, a in operation.options.items()})
            for number, of_tiles in made.items():
                arrays.setdefault(number, {}).update(of_tiles)
        return answers, {number: of_tiles for number, of_tiles in made.items() if number in call.alive}


def block_mean(host: Engine, x: np.ndarray, k: int, out: np.ndarray) -> None:
    """`Engine.block_mean` of the blocks that a tile of the smaller picture holds."""
    out[...] = host.block_mean(x, k)


def add_block_mean_gradient(
    host: Engine, dy: np.ndarray, k: int, own: Window, shape: Any, gradient: np.ndarray
) -> None:
    """`Engine.add_block_mean_gradient` in whole blocks, (C, *shape), that the tile lies in, at `own`."""
    whole = np.zeros((len(gradient), *shape), gradient.dtype)
    whole[ALL + own] = gradient
    host.add_block_mean_gradient(dy, k, whole)
    gradient[...] = whole[ALL + own]


OURS: dict[str, Callable[..., Any]] = {
    "block_mean": block_mean,
    "add_block_mean_gradient": add_block_mean_gradient,
}
