"""How long each layer takes: one step of a run is watched, the second at the last size."""

from __future__ import annotations

from ..engines import Network
from ..transfer import Step


class LayerTimes:
    """The times of one step.

    The first step at a size makes buffers, so the second is taken, and no other: watching costs a GPU its speed. The
    pyramid's levels have networks of their own and are not in it. A run whose precision was raised has no times.

    Parameters
    ----------
    network : Network
        That all sizes share.
    long_side : int
        Of the last size, in pixels.
    """

    def __init__(self, network: Network, long_side: int) -> None:
        self._network, self._long_side = network, long_side
        self._steps = 0  # at the last size
        self._seconds: dict[str, dict[str, float]] = {}

    def step(self, step: Step) -> None:
        """After every step: watch the next one, or no longer."""
        if step.size == self._long_side and self._steps < 2:
            self._steps += 1
            self._network.watch(self._take if self._steps == 1 else None)

    def end(self) -> None:
        """Watch no longer."""
        self._network.watch(None)

    def rows(self) -> list[dict[str, object]]:
        """`layer`, `forward` and `backward` in seconds (0 where there is nothing to do), in the order of the data; none
        before the whole step was watched."""
        if self._steps < 2:
            return []
        found = [{"layer": layer, "forward": 0.0, "backward": 0.0} | times for layer, times in self._seconds.items()]
        return sorted(found, key=lambda row: self._place(str(row["layer"])))

    def _take(self, layer: str, direction: str, seconds: float) -> None:
        times = self._seconds.setdefault(layer, {})
        times[direction] = times.get(direction, 0.0) + seconds

    def _place(self, layer: str) -> int:
        """Of a layer in the network, -1 for the pre-processing."""
        return next((i for i, step in enumerate(self._network.steps) if step.name == layer), -1)
