"""What a network in tiles takes, before anything is computed: where its tiles lie, bytes, multiplications."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ... import vgg
from ...pretrained.weights import Weights
from ..base import Network
from ..gates import GATES
from .geometry import Tile, bands, tiles
from .parts import PartPlan
from .tiling import Tiling

if TYPE_CHECKING:
    from . import TiledEngine


class PlannedNetwork(Network):
    """The parts of a network, and the tiles of each.

    Parameters
    ----------
    engine : TiledEngine
    weights, taps, pooling
        See `Network`.
    tiling : Tiling
    """

    def __init__(
        self, engine: TiledEngine, weights: Weights, taps: Iterable[str], pooling: str, tiling: Tiling
    ) -> None:
        super().__init__(weights, taps, pooling)
        self.engine, self.tiling = engine, tiling
        self.networks = [
            engine.base.network(weights, [t for t in self.taps if self._within(part, t)], pooling, part)
            for part in tiling.parts(self.steps[-1].block)
        ]
        self.sides = tiling.sides(self.networks)  # of each part's tiles, in pixels
        self._filter_bytes = sum(network.memory(64, 64)["filters"] for network in self.networks)
        self.itemsize = engine.dtype.itemsize  # of what is stored
        self.apart = self.networks[0].apart
        self._plans: dict[tuple[int, int], list[PartPlan]] = {}  # to be counted, by size

    def _within(self, part: vgg.Part, tap: str) -> bool:
        block = vgg.find(self.weights.architecture, tap).block
        return part.first <= block <= (part.last or block)

    def retiled(self, tiling: Tiling) -> None:
        """From now on tiles of another size; the cuts stay."""
        if tiling.cuts != self.tiling.cuts:
            raise ValueError(f"cuts: expected {self.tiling.cuts}, got {tiling.cuts}")
        self.tiling, self.sides = tiling, tiling.sides(self.networks)
        self._plans = {}
        self._empty()

    def _tiles(self, network: Network, height: int, width: int, tile: int) -> tuple[list[Tile], list[Tile]]:
        """Of a part, for a picture of that size: those of the forward sweep, those of the backward sweep."""
        reach = self.tiling.reach(network)
        size = height // reach.stride, width // reach.stride
        side, grid = max(1, tile // reach.stride), max(reach.grid, self.tiling.grid // reach.stride)
        cover = tiles if network is self.networks[0] else bands
        forward = cover(*size, side, reach.gradient if self.tiling.keep else reach.features, grid)
        return forward, forward if len(forward) == 1 else cover(*size, side, reach.gradient, grid)

    def _parts(self, height: int, width: int) -> list[PartPlan]:
        """Every part for a picture of that size.

        The features of a part that is in one piece stay where the tiling says so, or where those of all parts take no
        more together than the windows that take turns otherwise.
        """
        found = [
            PartPlan(network, *self._tiles(network, height, width, tile))
            for network, tile in zip(self.networks, self.sides, strict=True)
        ]
        small = all(plan.single for plan in found) and sum(self._buffers(plan) for plan in found) <= self.tiling.most(
            self.networks[0]
        )
        for plan in found if small else found[len(found) - self.tiling.in_one_piece(len(found)) :]:
            plan.resident = plan.single
        for plan in found:
            plan.gated = None if plan.resident else self.tiling.gated(plan.network)
        return found

    def _counted(self, height: int, width: int) -> list[PartPlan]:
        """The same, made once: of a plan sizes are asked many times."""
        if (height, width) not in self._plans:
            self._plans[height, width] = self._parts(height, width)
        return self._plans[height, width]

    def _buffers(self, plan: PartPlan, guided: Iterable[str] = ()) -> int:
        """Bytes of a part's windows. A tile's own part is counted with a guide."""
        network = plan.network
        inner = tuple(guided) if plan.single or network.crops else network.taps
        of_part = network.memory(*plan.backward[0].shape, [t for t in network.taps if t in inner])
        return sum(of_part.values()) - of_part["filters"]

    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        """Bytes of the largest windows, which take turns; of parts that stay; of what is stored between the parts."""
        found, guided = {"filters": self._filter_bytes}, tuple(guided)
        for plan in self._counted(height, width):
            part, buffers = plan.network.part, self._buffers(plan, guided)
            if plan.resident:
                found[f"blocks {part.first} to {part.last or self.steps[-1].block}"] = buffers
            else:
                found["windows"] = max(found.get("windows", 0), buffers)
        return {**found, **self._stored(height, width)}

    def _stored(self, height: int, width: int) -> dict[str, int]:
        """Bytes of memory of what lies between the parts, and of the gradient."""
        sizes, in_memory = self._arrays(height, width), self.engine.in_memory
        return {name: sum(map(in_memory, counts)) for name, counts in sizes.items()}

    def on_disk(self, height: int, width: int) -> int:
        """Bytes on disk of the same."""
        every = sum(map(sum, self._arrays(height, width).values()))
        return every - sum(self._stored(height, width).values())

    def _arrays(self, height: int, width: int) -> dict[str, list[int]]:
        """Bytes of each of them."""
        shapes = {n.part.last: self._output_shape(n, height, width) for n in self.networks if n.part.last is not None}
        found = {f"after block {b}": [math.prod(s) * self.itemsize] * 2 for b, s in shapes.items()}
        for plan in self._counted(height, width):
            for name, shape in plan.gate_shapes(height, width).items():
                found[f"gates of {name}"] = [math.prod(shape) * GATES.itemsize]
        return {**found, "gradient": [3 * height * width * self.itemsize]}

    def copies(self, height: int, width: int, kept: Iterable[str] = ()) -> int:
        """Bytes of the windows of what is stored that are in memory beside the buffers of a part, at most.

        `kept` are the taps that are compared with a target, whose windows are copied twice: into `Room`, and into the
        layout of the engine.
        """
        most = 0.0
        for plan in self._counted(height, width):
            steps, tile = plan.network.steps, plan.backward[0]
            own = tile.own_at(1)
            share = (own[0].stop - own[0].start) * (own[1].stop - own[1].start) / tile.area
            found = {"input": float(steps[0].in_channels * tile.area)}
            passing = found["input"] * share
            if plan.network.part.last is not None:
                found["gradient"] = steps[-1].out_channels * tile.area / plan.ending_stride**2
                passing = max(passing, found["gradient"] * share)
            for i, (channels, rows, columns) in enumerate(plan.gate_shapes(height, width).values()):
                whole = height * width / plan.stride**2
                found[f"gates {i}"] = channels * tile.area * (rows * columns / whole) * GATES.itemsize / self.itemsize
            for tap in set(kept) & set(plan.network.taps):
                channels = vgg.find(self.weights.architecture, tap).out_channels
                found[tap] = channels * tile.area / self._stride(plan, tap) ** 2
                passing += found[tap]
            most = max(most, passing + sum(found.values()))
        return int(most) * self.itemsize

    def bytes_of_twin(self, height: int, width: int, guided: Iterable[str] = ()) -> int:
        return sum(self._stored(height, width).values())

    def work(self, height: int, width: int) -> float:
        """Multiplications of all convolutions: those of all windows, against those of the picture, twice."""
        whole = done = 0.0
        for plan in self._counted(height, width):
            network, stride = plan.network, plan.stride
            forward, backward = (
                found[0].area * len(found) / (height // stride) / (width // stride)
                for found in (plan.forward, plan.backward)
            )
            convolutions = [step for step in network.steps if step.kind == "conv"]
            every = {step.name: step.in_channels * step.out_channels / step.stride**2 for step in convolutions}
            kept = every if plan.resident else plan.gate_shapes(height, width)
            again = sum(products for name, products in every.items() if name not in kept)
            products = sum(every.values())
            whole += 2 * products
            done += products * forward + (products + again) * backward
        return done / whole

    def _output_shape(self, network: Network, height: int, width: int) -> tuple[int, int, int]:
        last = network.steps[-1]
        return last.out_channels, height // last.stride, width // last.stride

    def _stride(self, plan: PartPlan, tap: str) -> int:
        """Of a tap, in positions of the part's input."""
        return vgg.find(self.weights.architecture, tap).stride // plan.stride
