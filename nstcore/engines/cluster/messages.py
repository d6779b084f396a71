"""What the driver (the process that paints) and its workers say to one another, beside arrays.

        driver                                           worker (`member`)
        begin     network number, weights             -> keeps the network; Facts
        forward   Order, Load: window, what is new    -> keeps the window and what is new; answers to Questions
        plus      two workers' answers                -> their sum, on the way up the tree
        backward  Order, Shares                       -> gradient of the tile's own pixels

What does not change from step to step, content targets and guides, goes to a tile's owner once, under a number by which
it is named from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
class Facts:
    """What a worker says of itself.

    Attributes
    ----------
    version : str
        Of nstcore.
    engine : str
        What it computes with, in words.
    memory : int or None
        Bytes free for its arrays.
    """

    version: str
    engine: str
    memory: int | None


@dataclass(frozen=True)
class Order:
    """Which tile of which picture.

    Attributes
    ----------
    driver : str
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

    driver: Driver
    network: int
    picture: int
    tile: int
    step: int
    alive: frozenset[tuple[int, int]]
    neighbours: int


@dataclass(frozen=True)
class Load:
    """What goes to a tile's owner: the window (C, H, W), and targets and guides in the window, by their numbers."""

    window: np.ndarray
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
    """What the losses send back to every tile."""

    all: tuple[Send, ...]


Answers = list[dict[int, Any]]  # by group of questions, which are summed over the same tiles; then by key
