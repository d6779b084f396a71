"""What a tiled network holds of each part, and of a picture."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..base import Network
from ..gates import GatedNetwork, shape_of
from .geometry import Tile
from .work import Ending, Tree


@dataclass(frozen=True, eq=False)
class Guide:
    """Weights w (H, W) of a tap's positions."""

    w: np.ndarray


@dataclass(frozen=True, eq=False)
class Kept:
    """A content target: P (N, H, W), and the guide that its distances take."""

    tap: str
    P: np.ndarray
    guide: Guide | None


@dataclass
class PartPlan:
    """One part of the network at one size of picture.

    Attributes
    ----------
    network : Network
        Of the engine underneath.
    forward, backward : list of Tile
        The same tiles, with the windows that each sweep takes.
    output : ndarray (C, H, W), or None
        What the next part begins with.
    gradient : ndarray, or None
        With respect to that.
    resident : bool
        Whether the features of the forward sweep stay for the backward sweep.
    gated : GatedNetwork, or None
        The network, where its gates stay in their place.
    gates : dict
        These, of the whole picture: uint16 (C/16, H, W), by step.
    """

    network: Network
    forward: list[Tile]
    backward: list[Tile]
    output: np.ndarray | None = None
    gradient: np.ndarray | None = None
    resident: bool = False
    gated: GatedNetwork | None = None
    gates: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def single(self) -> bool:
        """Whether one tile is all."""
        return len(self.forward) == 1

    @property
    def stride(self) -> int:
        return self.network.part.stride

    @property
    def ending_stride(self) -> int:
        """Of its last layer, in positions of its input."""
        return self.network.steps[-1].stride // self.stride

    def gate_shapes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """Of what stays in the place of features, for a picture of that size."""
        steps = () if self.gated is None else self.gated.gated
        return {s.name: shape_of(s.out_channels, height // s.stride, width // s.stride) for s in steps}

    def ending(self, tile: Tile) -> Ending | None:
        """What the next part wants of a tile."""
        if self.output is None:
            return None
        return Ending(self.network.steps[-1].output, tile.own_at(self.ending_stride))


@dataclass
class Measured:
    """What the forward sweep found, each sum in float64."""

    sums: dict[tuple[str, str, int], Tree] = field(default_factory=dict)  # by what, tap, guide or target
    kept: dict[str, np.ndarray] = field(default_factory=dict)
