"""What the driver (the process that paints) and its workers say to one another, beside arrays.

        driver                                           worker (`member`: the network; `pieces`: the picture)
        begin     network number, weights             -> keeps the network; Facts
        take      Call, regions of its pieces         -> these, which go straight to the worker that asked for a window
        forward   Order, Load: window, what is new    -> keeps the window and what is new; answers to Questions
        plus      two workers' answers                -> their sum, on the way up the tree
        backward  Order, Shares                       -> keeps the gradient of the tile's own pixels; total variation
        apply     Call, Operations                    -> keeps the pieces that they make; the last one's answer
        keep      what apply or backward made         -> keeps copies of them, as the next worker

An array of a picture's size lies with the workers in pieces, each with the owner of its tile, and a copy with the next
worker. Pieces never change: what is computed gets a number of its own, so that whatever was lost can be computed again
from what was there before.

What does not change from step to step, content targets and guides, goes to a tile's owner once, under a number by which
it is named from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...files import shown_bytes
from ...pretrained.weights import Weights
from ..tiled.work import Window

Driver = str  # a process that paints, as no other is called


class Missing(Exception):
    """A worker does not have what an order takes for granted; it is to be sent again."""


@dataclass(frozen=True)
class Recipe:
    """A network, as `Engine.network` makes it, and the precision of its engine; None: the worker's own."""

    weights: Weights
    taps: tuple[str, ...]
    pooling: str
    precision: str | None


@dataclass(frozen=True)
class Memory:
    """Bytes that a worker may take; None where nobody knows.

    Attributes
    ----------
    engine, host : int or None
        Where its engine's arrays lie, among them the buffers for tiles; and where pieces lie.
    apart : bool
        Whether these are two memories, as a GPU has its own. Said with a network alone.
    """

    engine: int | None
    host: int | None
    apart: bool = False

    def part(self, share: float) -> Memory:
        """A share of both."""
        engine, host = (None if n is None else int(n * share) for n in (self.engine, self.host))
        return Memory(engine, host, self.apart)

    def refusal(self, buffers: int, pieces: int) -> str | None:
        """Why so many bytes are too many, and the way out, in one line; None where they are not."""
        way_out = "take a smaller --tile, or more machines"
        wanted = [(buffers + pieces, self.engine, "memory for a tile", way_out)]
        if self.apart:
            wanted = [
                (buffers, self.engine, "their engine's memory for a tile", way_out),
                (pieces, self.host, "the host's memory for their part of the picture", "take more machines"),
            ]
        for need, free, what, way_out in wanted:
            if free is not None and need > free:
                found = shown_bytes(free)
                return f"cluster: expected workers with {shown_bytes(need)} of {what}, found {found}; {way_out}"
        return None


@dataclass(frozen=True)
class Facts:
    """What a worker says of itself.

    Attributes
    ----------
    version : str
        Of nstcore.
    engine : str
        What it computes with, in words.
    memory : Memory
    """

    version: str
    engine: str
    memory: Memory


@dataclass(frozen=True)
class Call:
    """Whose pieces, and which of them there still are.

    Attributes
    ----------
    driver : str
    alive : frozenset of int
        Numbers of the arrays that the driver works with.
    newest : int
        Up to which all others may be dropped.
    """

    driver: Driver
    alive: frozenset[int]
    newest: int


@dataclass(frozen=True)
class Around:
    """A window (C, rows, columns) of an array, to be put together.

    Attributes
    ----------
    number : int
        Of the array.
    shape : (rows, columns)
    own : tuple of (tile, region, place)
        From pieces that lie here: where in the piece, where in the window.
    others : tuple of (i, j, place)
        From what others have sent: the j-th region of the i-th of them.
    """

    number: int
    shape: tuple[int, int]
    own: tuple[tuple[int, Window, Window], ...]
    others: tuple[tuple[int, int, Window], ...]


@dataclass(frozen=True)
class Read:
    """In the place of an argument: the piece of an array."""

    number: int


@dataclass(frozen=True)
class Write:
    """In the place of an argument that is written to: a new piece, a copy of that of `before` where there is one."""

    number: int
    before: int | None = None


@dataclass(frozen=True)
class Each:
    """In the place of an argument: one of its own for every tile."""

    of: dict[int, Any]


@dataclass(frozen=True)
class Operation:
    """A method of `Vectors`, or a function of `pieces`, to be called for each of a worker's tiles.

    Attributes
    ----------
    name : str
    arguments : tuple
        Read, Write, Each, Around within Each, or what they are.
    options : dict
    shapes : dict of int to (rows, columns)
        Of the tiles.
    """

    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    shapes: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class Order:
    """Which tile of which picture.

    Attributes
    ----------
    call : Call
    network : int
        Of the driver, as it was begun.
    picture : int
        Of the driver: one for each size of each of its networks.
    tile : int
        Row by row.
    step : int
        Counts the forward passes of the picture.
    alive : frozenset of (network, picture)
        All that the driver still works with; the rest may be dropped.
    neighbours : int
        Workers on the same machine, which share its memory.
    """

    call: Call
    network: int
    picture: int
    tile: int
    step: int
    alive: frozenset[tuple[int, int]]
    neighbours: int

    @property
    def driver(self) -> Driver:
        return self.call.driver


@dataclass(frozen=True)
class Load:
    """What a tile's owner is to compute with: its window of the picture, and targets and guides in the window that it
    has not got yet, by their numbers."""

    window: Around
    new: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """`tiled.work.Question` with numbers in the place of arrays.

    Attributes
    ----------
    key : int
        Under which the answer is given.
    what, tap, own
        As there.
    masked : bool
        Whether the window holds more than the tile, which must not be counted.
    guide, target : int or None
    """

    key: int
    what: str
    tap: str
    own: Window
    masked: bool
    guide: int | None = None
    target: int | None = None


@dataclass(frozen=True)
class Send:
    """`tiled.work.Share` with numbers in the place of arrays that the worker has; dG and ds are those of all tiles."""

    tap: str
    dG: np.ndarray | None
    ds: np.ndarray | None
    target: int | None
    scale: float
    guide: int | None


@dataclass(frozen=True)
class Shares:
    """What the losses send back to every tile, and scale and diagonal of the total variation, if that is a loss."""

    all: tuple[Send, ...]
    variation: tuple[float, float] | None = None


Made = tuple[Any, dict[int, dict[int, np.ndarray]]]  # an answer, and new pieces by number and tile
Answers = list[dict[int, Any]]  # by group of questions, which are summed over the same tiles; then by key
