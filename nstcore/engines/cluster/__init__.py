"""Tiles on many machines: an engine whose networks are computed by the workers of a cluster (Dask's `distributed`).

        with Cluster("local:3") as cluster:                     or tcp://HOST:PORT, tls://, or a file
            nstcore.stylize(content, style, engine=ClusterEngine(cluster))

The workers own tiles: their pixels, their gradient, what the optimizer knows of them; each computes with an engine of
its own. The process that paints, the driver, says what is to be done, and sees no more than statistics, unless somebody
wants to see the picture. See `network` for what goes to and fro, `arrays` for what becomes of a worker that dies.

Whoever can reach a scheduler can run what they like on it and on its workers: that is what it is for. So everything
listens on the loopback address, unless another one is given. Other machines do not reach that one, but every user of
this machine does. A scheduler that others can reach belongs into a network that is trusted, or behind certificates:
then it is Dask's own (`dask scheduler`, tls://HOST:PORT), and Dask's configuration says which certificates they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ... import vgg
from ...pretrained.weights import Weights
from .. import create
from ..base import Engine, Network
from ..tiled import TiledEngine, Tiling
from ..tiled.geometry import blocks, within
from ..tiled.tiling import GRID
from ..tiled.windows import Window
from .connection import Cluster
from .deferred import Changed, ClusterArray, Out, Seen
from .layout import Layout, extent
from .messages import Each
from .network import ClusterNetwork
from .vectors import ClusterVectors

__all__ = ["Cluster", "ClusterEngine", "ClusterNetwork", "host_engine"]

NARROW = ("float16", "bfloat16")  # precisions that may not hold every number


def host_engine(device: str, dtype: str | None, threads: int | None) -> Engine:
    """What the driver computes with: never a GPU, which is the workers'."""
    if device == "auto":
        device = "reference" if dtype == "float64" else "cpu"
    wide = "float64" if dtype == "float64" else "float32"
    return create(device if device in ("cpu", "reference") else "cpu", wide, threads)


class ClusterEngine(TiledEngine):
    """An engine whose networks compute in tiles, on the workers of a cluster.

    Parameters
    ----------
    cluster : Cluster
    base : Engine, optional
        What the driver computes with; by default as `host_engine` chooses.
    side : int
        Of the tiles, in pixels. `stylize` chooses it, unless it is told one.
    precision : str, optional
        Of the workers, where not the cluster's.
    """

    elsewhere = True

    def __init__(
        self, cluster: Cluster, base: Engine | None = None, side: int = 512, precision: str | None = None
    ) -> None:
        # Not cut, so that the features can stay with the workers
        tiling = Tiling(side, cuts=(), keep=True, grid=GRID)
        super().__init__(base or host_engine("auto", cluster.precision, None), tiling)
        self.cluster = cluster
        self.asked = precision or cluster.precision
        self.precision = self.asked or self.base.precision
        self.vectors = ClusterVectors(cluster.store, self.asked, self.host.vectors)

    def describe(self) -> str:
        return f"workers with {self.cluster.describe() or self.base.describe()}, tiles of {self.tiling.side} pixels"

    def network(self, weights: Weights, taps: Iterable[str], pooling: str, part: vgg.Part = vgg.WHOLE) -> Network:
        if part != vgg.WHOLE:
            return super().network(weights, taps, pooling, part)
        return ClusterNetwork(self, weights, taps, pooling, self.tiling)

    def raised(self) -> Engine | None:
        if self.precision not in NARROW:
            return None
        return ClusterEngine(self.cluster, self.base, self.tiling.side, "float32")

    # -- arrays -------------------------------------------------------------------------------------------------------

    def layout(self, height: int, width: int) -> Layout:
        return self.cluster.store.layout(height, width, self.tiling.side)

    def array(self, a: np.ndarray) -> Any:
        """A picture, (3, H, W), goes to the workers; any other array stays here."""
        if a.ndim != 3:
            return super().array(a)
        out = self.cluster.store.new(self.layout(*a.shape[1:]), self.dtype)
        self.cluster.store.send(a, out)
        return out

    def asarray(self, a: Any) -> Any:
        return a if isinstance(a, ClusterArray) else super().asarray(a)

    def numpy(self, a: Any) -> np.ndarray:
        if isinstance(a, ClusterArray):
            return self.cluster.store.fetch(a, self.new(a.shape))
        return super().numpy(a)

    # -- the objective's ----------------------------------------------------------------------------------------------

    def total_variation(self, pixels: Any, scale: float, gradient: Any, diagonal: float = 0.0) -> float:
        """See `Engine.total_variation`; of the pixels of the last forward pass, before anything is done with the
        gradient of its backward pass, which the workers compute together with this."""
        found = self.cluster.store.deferred.before
        if found is None or (found.number, found.pixels) != (gradient.number, pixels.number):
            raise RuntimeError("total variation: expected a gradient that nothing was done with, got another one")
        found.variation = scale, diagonal
        self.cluster.store.deferred.flush()
        return sum(found.answers[n] for n in range(len(gradient.layout.tiles)))

    def block_mean(self, pixels: Any, k: int) -> Any:
        _, height, width = pixels.shape
        layout = self.layout(-(-height // k), -(-width // k))
        out = self.cluster.store.new(layout, self.dtype)
        seen = [blocks(window, k, (height, width)) for window in _of(out)[0]]
        self._applied(layout, "block_mean", Seen(pixels, seen), k, Out(out))
        return out

    def add_block_mean_gradient(self, dy: Any, k: int, gradient: Any) -> None:
        layout, windows, size = gradient.layout, *_of(gradient)
        small = [(slice(r.start // k, -(-r.stop // k)), slice(c.start // k, -(-c.stop // k))) for r, c in windows]
        whole = [blocks(window, k, size) for window in small]
        own = {n: within(window, whole[n]) for n, window in enumerate(windows)}
        shapes = {n: extent(window) for n, window in enumerate(whole)}
        self._applied(layout, "add_block_mean_gradient", Seen(dy, small), k, Each(own), Each(shapes), Changed(gradient))

    def _applied(self, layout: Layout, name: str, *arguments: Any) -> list[Any]:
        self.cluster.store.deferred.add(layout, self.asked, name, *arguments)
        return self.cluster.store.deferred.flush()


def _of(array: ClusterArray) -> tuple[list[Window], tuple[int, int]]:
    """Windows of an array's pieces, and its size."""
    layout = array.layout
    return [layout.window(n) for n in range(len(layout.tiles))], (layout.height, layout.width)
