"""What computes: engines on this machine, and the workers of clusters, each made or joined once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .settings import Settings

if TYPE_CHECKING:
    from ..engines import Engine
    from ..engines.cluster import Cluster


class Machines:
    """What has been made so far.

    Parameters
    ----------
    tell : callable (line)
        Told what happens to a cluster beside the work. It may be changed: to the events of the picture at hand.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self.tell = tell
        self._engines: dict[tuple[str, str | None, int | None, str | None], Engine] = {}
        self._joined = ExitStack()

    def engine(self, settings: Settings) -> Engine:
        """The engine that the settings name."""
        from .. import engines

        machine = settings["device"], settings["precision"], settings["threads"]
        key = *machine, settings["cluster"]
        if key not in self._engines:
            there = settings["cluster"] is not None
            self._engines[key] = self._join(settings["cluster"], *machine) if there else engines.create(*machine)
        return self._engines[key]

    def _join(self, where: str, device: str, precision: str | None, threads: int | None) -> Engine:
        from ..engines.cluster import Cluster, ClusterEngine, host_engine

        base = host_engine(device, precision, threads)
        cluster = Cluster(where, device, precision, threads, lambda line: self.tell(line))
        return ClusterEngine(self._joined.enter_context(cluster), base)

    def cluster(self, settings: Settings) -> Cluster:
        """The cluster that the settings name."""
        from ..engines.cluster import ClusterEngine

        engine = self.engine(settings)
        assert isinstance(engine, ClusterEngine)
        return engine.cluster

    def close(self) -> None:
        """Leave the clusters."""
        self._joined.close()
