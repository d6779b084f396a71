"""Tiles on many machines: an engine whose networks are computed by the workers of a cluster (Dask's `distributed`).

        with Cluster("local:3") as cluster:                     or tcp://HOST:PORT, tls://, or a file
            nstcore.stylize(content, style, engine=ClusterEngine(cluster))

The process that paints, the driver, holds the picture and the optimizer; the workers compute tiles, each with an engine
of its own. See `network` for what goes to and fro.

Whoever can reach a scheduler can run what they like on it and on its workers: that is what it is for. So everything
listens on the loopback address, unless another one is given. Other machines do not reach that one, but every user of
this machine does. A scheduler that others can reach belongs into a network that is trusted, or behind certificates:
then it is Dask's own (`dask scheduler`, tls://HOST:PORT), and Dask's configuration says which certificates they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from ... import vgg
from ...pretrained.weights import Weights
from .. import create
from ..base import Engine, Network
from ..tiled import TiledEngine, Tiling
from .connection import Cluster
from .network import ClusterNetwork

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

    def __init__(
        self, cluster: Cluster, base: Engine | None = None, side: int = 512, precision: str | None = None
    ) -> None:
        # Not cut, so that the features can stay with the workers
        tiling = Tiling(side, cuts=(), keep=True)
        super().__init__(base or host_engine("auto", cluster.precision, None), tiling)
        self.cluster = cluster
        self.asked = precision or cluster.precision
        self.precision = self.asked or self.base.precision

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
