"""What is computed of one tile: plain functions of arrays, wherever they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..asked import TapGradient
from ..base import Engine, Network
from ..gates import GatedNetwork
from .windows import ALL, Window


@dataclass(frozen=True)
class Question:
    """A statistic of a tile's own part of the features at a tap; see `nstcore.engines.Asked`.

    Attributes
    ----------
    what : {"gram", "sums", "keep", "distance"}
    tap : str
    own : (rows, columns)
        Of the tile, in the window's features.
    w : ndarray (H, W), or None
        Weights of the window's positions, 0 outside the tile; None: 1 everywhere.
    P : ndarray (N, H, W), or None
        In the window, for a distance.
    """

    what: str
    tap: str
    own: Window
    w: np.ndarray | None = None
    P: np.ndarray | None = None


@dataclass(frozen=True)
class Share:
    """What a loss sends back from a tap, in a window: `TapGradient` in plain arrays."""

    tap: str
    dG: np.ndarray | None
    ds: np.ndarray | None
    P: np.ndarray | None
    scale: float
    w: np.ndarray | None


@dataclass(frozen=True)
class Ending:
    """What is wanted of a part's last layer: the tile's own positions in the window's features."""

    layer: str
    own: Window


def forward(
    network: Network, engine: Engine, window: np.ndarray, questions: Sequence[Question], ending: Ending | None
) -> tuple[list[Any], np.ndarray | None]:
    """The answers, in their order, each an array or a number; and what the next part begins with."""
    network.forward(engine.asarray(window))
    answers = [_answer(network, engine, question) for question in questions]
    return answers, None if ending is None else network.features(ending.layer, ending.own)


def _answer(network: Network, engine: Engine, question: Question) -> Any:
    tap, w = question.tap, question.w
    if question.what == "keep":
        return network.features(tap, question.own)
    guide = None if w is None else network.guide(tap, w)
    if question.what == "gram":
        return engine.numpy(network.gram(tap, guide)).astype(np.float64)
    if question.what == "sums":
        return network.sums(tap, guide)
    assert question.P is not None
    return network.squared_distance(tap, network.hold(tap, question.P, guide))


def backward(
    network: Network,
    engine: Engine,
    window: np.ndarray | None,
    shares: Sequence[Share],
    above: np.ndarray | None,
    own: Window,
    gates: dict[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Gradient with respect to the tile's own part of the input, (C, H, W): a view of a buffer that the network's next
    pass reuses.

    Parameters
    ----------
    window : ndarray (C, H, W), or None
        The input; None where the features are still those of it.
    shares : sequence of Share
    above : ndarray, or None
        What comes back to the last layer from the next part.
    own : (rows, columns)
        Of the tile, in the window.
    gates : dict, optional
        Of a `GatedNetwork`, in the window: in the place of the features that nobody asks for.
    """
    if gates:
        assert isinstance(network, GatedNetwork)
        network.reopen(engine.asarray(window), gates)
    elif window is not None:
        network.forward(engine.asarray(window))
    gradients: dict[str, list[TapGradient]] = {}
    for share in shares:
        guide = None if share.w is None else network.guide(share.tap, share.w)
        target = None if share.P is None else network.hold(share.tap, share.P, guide)
        dG = None if share.dG is None else engine.asarray(share.dG)
        gradients.setdefault(share.tap, []).append(TapGradient(dG, share.ds, target, share.scale, guide))
    gradient = network.backward(gradients, None if above is None else engine.asarray(above))
    return (gradient if isinstance(gradient, np.ndarray) else engine.numpy(gradient))[ALL + own]


def total_variation(
    host: Engine, x: np.ndarray, own: Window, gradient: np.ndarray, scale: float, diagonal: float
) -> float:
    """A tile's share of `Engine.total_variation`, and its gradient.

    Parameters
    ----------
    host : Engine
        Whose arrays are NumPy's.
    x : ndarray (C, rows, columns)
        The tile with one pixel around it, where there is one.
    own : (rows, columns)
        The tile in that.
    gradient : ndarray
        Of the tile; added to.
    """
    if x.shape == gradient.shape:
        return host.total_variation(x, scale, gradient, diagonal)
    with_frame = np.zeros_like(x)
    with_frame[ALL + own] = gradient
    host.total_variation(x, scale, with_frame, diagonal)
    gradient[...] = with_frame[ALL + own]
    # A difference counts with its upper left pixel: those within the row below and the column to the right with others
    rows, columns = (slice(s.start, min(s.stop + 1, n)) for s, n in zip(own, x.shape[1:], strict=True))
    total = _variation(host, x[:, rows, columns], scale, diagonal)
    if rows.stop > own[0].stop:
        total -= _variation(host, x[:, own[0].stop : rows.stop, columns], scale, diagonal)
    if columns.stop > own[1].stop:
        total -= _variation(host, x[:, rows, own[1].stop : columns.stop], scale, diagonal)
    return total


def _variation(host: Engine, x: np.ndarray, scale: float, diagonal: float) -> float:
    x = np.ascontiguousarray(x)
    return host.total_variation(x, scale, np.zeros_like(x), diagonal)


class Tree:
    """A sum in an order that only the number of its terms decides: of two, of two of these, and so on.

    Terms come one by one; sums of 1, 2, 4, ... of them wait for their like, as the digits of a binary number do.

    Parameters
    ----------
    plus : callable (a, b) -> a + b
    """

    def __init__(self, plus: Callable[[Any, Any], Any]) -> None:
        self._plus = plus
        self._waiting: list[tuple[int, Any]] = []  # (height, sum), the highest first

    def add(self, term: Any) -> None:
        height = 0
        while self._waiting and self._waiting[-1][0] == height:
            term = self._plus(self._waiting.pop()[1], term)
            height += 1
        self._waiting.append((height, term))

    def total(self) -> Any:
        """Of all terms, at least one."""
        _, total = self._waiting[-1]
        for _, sum_before in reversed(self._waiting[:-1]):
            total = self._plus(sum_before, total)
        return total
