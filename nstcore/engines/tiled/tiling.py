"""How a network is cut, and how large its tiles are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ...vgg import Part
from ..base import Network
from ..gates import GatedNetwork
from .geometry import ENDLESS, Reach

CUTS = (2, 3, 4)  # blocks whose poolings end a part; not 1: its 64 bytes a pixel would cost more than they save
GRID = 16  # pixels: where the deepest layer's positions begin
FARTHEST = 8  # times as large as the first part's tiles others may be


@dataclass(frozen=True)
class Tiling:
    """Tiles of `side` pixels where the network takes most memory; of deeper parts as large ones as fit the same memory.

    Attributes
    ----------
    side : int
        Pixels.
    cuts : tuple of int
        Blocks whose poolings end a part.
    whole : int
        So many of the deepest parts are in one piece, whatever that takes: their features stay from the forward sweep
        to the backward sweep, and are not computed twice.
    keep : bool
        The forward sweep takes the windows of the backward sweep, so that whoever has the memory may keep their
        features in between, as the workers of a cluster do.
    grid : int
        Tiles begin at multiples of so many pixels, where the network does not ask for more.
    """

    side: int
    cuts: tuple[int, ...] = CUTS
    whole: int = 0
    keep: bool = False
    grid: int = 1

    def parts(self, deepest: int) -> list[Part]:
        """Of a network whose deepest tap is in that block."""
        cuts = [c for c in self.cuts if c < deepest]
        return [Part(first + 1, last) for first, last in zip([0, *cuts], [*cuts, None], strict=True)]

    def gated(self, network: Network) -> GatedNetwork | None:
        """A part that goes back from its gates where its features do not stay; None for one that computes them all
        again."""
        return network if isinstance(network, GatedNetwork) and network.gated and not self.keep else None

    def reach(self, network: Network) -> Reach:
        gated = self.gated(network)
        return Reach.of(network.part, network.steps, None if gated is None else gated.again)

    def most(self, first: Network) -> int:
        """Bytes of the first part's windows, and so of any part's."""
        return self._bytes(first, self.side)

    def sides(self, networks: Sequence[Network]) -> list[int]:
        """Pixels of a tile's side, for each part."""
        whole = self.in_one_piece(len(networks))
        most, tiled = self.most(networks[0]), len(networks) - whole
        found = [self.side] + [self._largest(network, most, self.side) for network in networks[1:tiled]]
        return found + [ENDLESS] * whole

    def in_one_piece(self, parts: int) -> int:
        """How many of so many parts are; the first one always comes in tiles."""
        return min(self.whole, parts - 1)

    def _bytes(self, network: Network, side: int) -> int:
        """Of a part's buffers for the window of a tile of that many pixels a side, and of the windows that are cut for
        them."""
        reach = self.reach(network)
        positions = -(-side // (reach.stride * reach.grid)) * reach.grid + 2 * (reach.gradient + reach.grid)
        found = network.memory(positions, positions, () if network.crops else network.taps)
        first, last = network.steps[0], network.steps[-1]
        numbers = first.in_channels + (0 if network.part.last is None else last.out_channels / reach.grid**2)
        return sum(found.values()) - found["filters"] + int(numbers * positions**2) * network.itemsize

    def _largest(self, network: Network, most: int, least: int) -> int:
        """The largest side, in steps of a sixteenth, whose buffers take no more than `most`; at least `least`."""
        step = max(1, least // 16)
        more = bisect_right(range(1, 16 * FARTHEST), most, key=lambda n: self._bytes(network, least + n * step))
        return least + more * step
