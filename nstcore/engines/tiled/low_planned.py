"""What a network whose first block comes in bands takes, before anything is computed: bands, bytes, multiplications."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from ... import vgg
from ...pretrained.weights import Weights
from ..base import Engine, Network
from ..gates import GATES, GatedNetwork, shape_of
from .geometry import Reach, Stretch, Tile, stretches

SHARE = 16  # of what the other blocks take, a band takes at most one such share,
LEAST = 32  # but has so many rows at least, or halos would cost too much


class PlannedInBands(Network):
    """The two parts of a network, and the bands of the first.

    Parameters
    ----------
    base : Engine
    weights, taps, pooling
        See `Network`.
    """

    def __init__(self, base: Engine, weights: Weights, taps: Iterable[str], pooling: str) -> None:
        super().__init__(weights, taps, pooling)
        self.base = base
        deep = self.steps[-1].block > 1
        of_first = [tap for tap in self.taps if self._is_first(tap)]
        self.first = base.network(weights, of_first, pooling, vgg.Part(1, 1 if deep else None))
        rest = [tap for tap in self.taps if tap not in of_first]
        self.rest = base.network(weights, rest, pooling, vgg.Part(2)) if deep else None
        # Gates lie on the host: over a GPU's link they would take longer than computing the band again
        self._gated = self.first if base.on_host and isinstance(self.first, GatedNetwork) and self.first.gated else None
        self._lends = isinstance(self.rest, GatedNetwork) and self.rest.lends
        self.itemsize, self.apart = self.first.itemsize, self.first.apart
        self._filters = sum(network.memory(64, 64)["filters"] for network in self._networks)
        self._rows_of: dict[tuple[int, int], int] = {}

    @property
    def _networks(self) -> Sequence[Network]:
        return [self.first] if self.rest is None else [self.first, self.rest]

    def _is_first(self, tap: str) -> bool:
        return vgg.find(self.weights.architecture, tap).block == 1

    def _stride(self, tap: str) -> int:
        return vgg.find(self.weights.architecture, tap).stride

    @property
    def _reach(self) -> Reach:
        return Reach.of(self.first.part, self.first.steps, None if self._gated is None else self._gated.again)

    @property
    def _halo(self) -> int:
        """Rows that a band's window has beyond it.

        What comes back to a band's own rows begins `reach` rows beyond them, up to the grid of the pooling, which bands
        keep to; the features of a layer that is computed again see as many rows more as it reaches.
        """
        reach, grid, again = self._reach.reach, self._reach.grid, self._reach.again
        beyond = -(-reach // grid) * grid
        return max(beyond, again + (beyond if again == reach else again))

    def _bands(self, height: int, width: int) -> list[Tile]:
        """Bands of a picture of that size. Forward and backward take the same windows."""
        rows = stretches(height, self._rows(height, width), self._halo, self._reach.grid)
        return [Tile(stretch, Stretch(0, width, 0, width)) for stretch in rows]

    def _rows(self, height: int, width: int) -> int:
        """Rows of a band, by `SHARE` and `LEAST`."""
        if (height, width) not in self._rows_of:
            most = 0 if self.rest is None else self._buffers(self.rest, height // 2, width // 2) // SHARE
            halo = 2 * self._halo + self._reach.grid
            counts = range(LEAST, max(LEAST, height) + 1, self._reach.grid)
            more = bisect_right(counts, most, key=lambda n: self._buffers(self.first, min(n + halo, height), width))
            self._rows_of[height, width] = counts[max(0, more - 1)]
        return self._rows_of[height, width]

    def _buffers(self, network: Network, height: int, width: int, guided: Iterable[str] = ()) -> int:
        """Bytes of a part's buffers."""
        found = network.memory(height, width, [tap for tap in network.taps if tap in guided])
        return sum(found.values()) - found["filters"]

    def _arrays(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """Shapes of what lies between the parts, and of the gradient."""
        length = self._bands(height, width)[0].rows.length
        found = {"gradient": (3, height, width), "window": (3, length, width)}
        if self.rest is not None:
            channels = self.first.steps[-1].out_channels
            found["window of pool1"] = channels, length // 2, width // 2
            if type(self.first).ending is Network.ending:  # a new array every time
                found["copy of such a window"] = found["window of pool1"]
            if not self._lends:
                found["pool1"] = channels, height // 2, width // 2
        return found

    def _gate_shapes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """Of what stays in the place of features; a picture in one band keeps these."""
        if self._gated is None or len(self._bands(height, width)) == 1:
            return {}
        return {s.name: shape_of(s.out_channels, height, width) for s in self._gated.gated}

    def size_of(self, tap: str, height: int, width: int) -> int:
        """Numbers of a tap's features; of the first block's in the windows of all bands."""
        found = super().size_of(tap, height, width)
        bands = self._bands(height, width) if self._is_first(tap) else []
        return math.ceil(found * sum(band.rows.length for band in bands) / height) if bands else found

    # -- memory and work ------------------------------------------------------------------------------------------

    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        guided, bands = tuple(guided), self._bands(height, width)
        own = guided if len(bands) == 1 or self.first.crops else self.first.taps  # what is counted under a guide
        found = {"filters": self._filters, "a band of block 1": self._buffers(self.first, *bands[0].shape, own)}
        if self.rest is not None:
            found[f"blocks 2 to {self.steps[-1].block}"] = self._buffers(self.rest, height // 2, width // 2, guided)
        return {**found, **self._own(height, width, guided)}

    def _own(self, height: int, width: int, guided: Iterable[str]) -> dict[str, int]:
        """Bytes of what no twin shares."""
        item = self.base.dtype.itemsize
        found = {name: math.prod(shape) * item for name, shape in self._arrays(height, width).items()}
        for name, (words, rows, columns) in self._gate_shapes(height, width).items():
            found[f"gates of {name}"] = words * rows * columns * GATES.itemsize
        bands = self._bands(height, width)
        if len(bands) > 1 and self.first.taps:
            found["guides of bands"] = sum(self._guide_bytes(tap, bands, tap in guided) for tap in self.first.taps)
        return found

    def _guide_bytes(self, tap: str, bands: Sequence[Tile], guided: bool) -> int:
        """Of a tap's guides: weights and, where they are not 0 and 1, their roots; results."""
        stride, item = self._stride(tap), self.base.dtype.itemsize
        N, area = vgg.find(self.weights.architecture, tap).out_channels, bands[0].area // stride**2
        kinds = {(own.start, own.stop) for own in (band.rows.own_at(stride) for band in bands)}
        results = item * N * N + 8 * N
        found = len(kinds) * (item * area + results)
        if guided:  # of own rows and of whole windows, beside the two numbers of a position that any guide takes
            found += 2 * len(bands) * (2 * item * area + results)
        return found

    def bytes_of_twin(self, height: int, width: int, guided: Iterable[str] = ()) -> int:
        return sum(self._own(height, width, tuple(guided)).values())

    def work(self, height: int, width: int) -> float:
        """Multiplications of all convolutions: those of all windows, against those of the picture, twice."""
        bands = self._bands(height, width)
        windows = len(bands) * bands[0].rows.length / height
        first, rest = (
            sum(s.in_channels * s.out_channels / s.stride**2 for s in steps if s.kind == "conv")
            for steps in (self.first.steps, () if self.rest is None else self.rest.steps)
        )
        kept = {s.name for s in self.first.steps} if len(bands) == 1 else self._gate_shapes(height, width).keys()
        convolutions = [s for s in self.first.steps if s.kind == "conv" and s.name not in kept]
        again = sum(s.in_channels * s.out_channels for s in convolutions)
        return (windows * (2 * first + again) + 2 * rest) / (2 * (first + rest))
