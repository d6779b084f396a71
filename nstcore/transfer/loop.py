"""The sizes, one after the other, and the snapshots on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import images
from ..disk import release, strips
from ..engines import Engine, Network
from ..errors import OutputError, RunError, SnapshotError
from ..fast import FastNetwork
from ..objective import Objective, Terms
from ..optim import State
from ..pretrained import Weights
from .ladder import Rung
from .one_pass import one_pass
from .pictures import Pictures
from .progress import Progress
from .record import difference, request
from .result import FailedRun, Result
from .rung import Optimizer, Painting, carried
from .snapshot import Clock, open_snapshot, write_snapshot
from .start import FAST, start


class Loop:
    """What `stylize` does once everything has been checked.

    Parameters
    ----------
    pictures, weights, engine, options, optimizer, parts, seed
        As `stylize` understood them; `options` are those of `Objective`, `parts` the mixture to start from.
    progress : Progress
    metadata : dict
        What is known of the picture so far.
    snapshot : path, or None
    clock : Clock
    stop : callable () -> bool
    network : Network
        For the first objective.
    fast : FastNetwork, optional
        For a start that is painted in one pass.
    """

    def __init__(
        self,
        pictures: Pictures,
        weights: Weights,
        engine: Engine,
        options: dict[str, Any],
        optimizer: Optimizer,
        parts: dict[str, float],
        seed: int,
        progress: Progress,
        metadata: dict[str, Any],
        snapshot: str | Path | None,
        clock: Clock,
        stop: Callable[[], bool],
        network: Network,
        fast: FastNetwork | None = None,
    ) -> None:
        self.pictures, self.weights, self.engine, self.options = pictures, weights, engine, options
        self.optimizer, self.parts, self.seed = optimizer, parts, seed
        self.progress, self.metadata = progress, metadata
        self.snapshot, self.clock, self.stop, self.network = snapshot, clock, stop, network
        self.fast = fast
        self._painting: Painting | None = None  # the last one that has something to show
        self._safe: tuple[np.ndarray, Terms] | None = None  # of the last snapshot, where the picture lies elsewhere

    # -- the whole ----------------------------------------------------------------------------------------------------

    def run(self, on_start: Callable[[Objective, list[Rung]], object] | None, resume: bool) -> Result:
        """Paint; see `stylize`."""
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is dealt with
                status = self._resumed(on_start) if resume else self._painted(0, None, on_start)
            return self._result(status, self.progress.stopped)
        except KeyboardInterrupt:
            if self._painting is None:
                raise
            with suppress(KeyboardInterrupt):
                self._painting.settle()
            return self._result("interrupted", interrupted=True)
        except (RunError, MemoryError, OutputError) as error:
            if isinstance(error, OutputError) and self._painting is None:
                raise  # nothing is there that could be lost
            reason = "not enough memory; take a smaller size" if isinstance(error, MemoryError) else str(error)
            raise FailedRun(reason, self._rescued(reason)) from error
        finally:
            self._painting = None  # a painting knows its loop: memory would wait for the garbage collector

    def _painted(
        self,
        first: int,
        begun: Callable[[Painting], tuple[np.ndarray, Any]] | None,
        on_start: Callable[[Objective, list[Rung]], object] | None,
    ) -> str:
        """Every size from number `first` on; `begun` makes its painting as it was, and tells x and the state."""
        objective: Objective | None = None
        pixels: np.ndarray | None = None
        state: Any = None
        status = ""
        for number, rung in enumerate(self.progress.rungs[first:], first):
            if objective is not None:
                state = carried(state, self.optimizer.name, objective, rung.size)
            objective = self._objective(rung, self.network if objective is None else objective.network)
            painting = self._new_painting(objective, number)
            if number == first:
                self.metadata["settings"] |= objective.settings()
            if number == first and begun is not None:
                x, state = begun(painting)
            else:
                x = self._start(rung, objective) if pixels is None else self._enlarged(pixels, rung, objective)
            if number == first and on_start is not None:
                on_start(objective, self.progress.rungs)
            state, status = painting.paint(x, state, on_first=self._has_begun)
            painting.settle()
            if self.progress.stopped:
                return "interrupted"
            objective, pixels = painting.objective, painting.picture()
        return status

    def _new_painting(self, objective: Objective, number: int) -> Painting:
        rung = self.progress.rungs[number]

        def raised() -> Objective | None:
            higher = self.engine.raised()
            if higher is None:
                return None
            self.engine = higher
            return self._objective(rung, None)

        return Painting(objective, self.optimizer, self.progress, number, self.pictures.finished, self._between, raised)

    def _has_begun(self, painting: Painting) -> None:
        self._painting = painting

    def _objective(self, rung: Rung, network: Network | None) -> Objective:
        return Objective(
            self.weights,
            self.pictures.content(rung.size, self.engine.room((self.pictures.channels, *rung.size))),
            self.pictures.styles(max(rung.size)),
            engine=self.engine,
            network=network,
            pyramid=rung.blocks,
            **self.options,
        )

    def _start(self, rung: Rung, objective: Objective) -> np.ndarray:
        seen = self.pictures.styles(max(rung.size))
        styles = [style.transpose(2, 0, 1)[:3] for style in seen]
        blend = objective.style_blend
        painted = partial(self._in_one_pass, rung.size, blend)
        return start(self.parts, self._content(rung.size), styles, blend, self.seed, painted, self._room(rung))

    def _enlarged(self, pixels: np.ndarray, rung: Rung, objective: Objective) -> np.ndarray:
        """What a smaller size has made, at the next one. Where the start was the content, as it is or as it was painted
        in one pass, the detail of that is there again."""
        enlarged = images.resize_pixels(pixels, rung.size, self._room(rung))
        blend = objective.style_blend
        for name, at in (("content", self._content), (FAST, partial(self._in_one_pass, blend=blend))):
            if share := self.parts.get(name, 0.0):
                fine, coarse = at(rung.size), images.resize_pixels(at(pixels.shape[1:]), rung.size, self._room(rung))
                for rows in strips(enlarged):
                    enlarged[:, rows] += enlarged.dtype.type(share) * (fine[:, rows] - coarse[:, rows])
                    release(enlarged, fine, coarse)
        for rows in strips(enlarged):
            np.clip(enlarged[:, rows], 0, 1, out=enlarged[:, rows])
            release(enlarged)
        return enlarged

    def _room(self, rung: Rung) -> np.ndarray | None:
        return self.engine.room((3, *rung.size))

    def _content(self, size: tuple[int, int]) -> np.ndarray:
        """(3, H, W), transparent parts on what is behind them."""
        return self.pictures.pixels(size, self.engine.room((3, *size)))

    def _in_one_pass(self, size: tuple[int, int], blend: tuple[float, ...]) -> np.ndarray:
        assert self.fast is not None
        return one_pass(self.fast, self.pictures, size, blend)

    def _rescued(self, reason: str) -> Result | None:
        """The picture at hand after a failure: the average, or else the best one; where both have gone, too, that of
        the last snapshot."""
        if self._painting is None:
            return None
        for _ in range(2):
            try:
                return self._result(reason)
            except RunError:
                self._painting.drop_average()
        return None if self._safe is None else self._result(reason, shown=self._safe)

    def _shown(self) -> tuple[np.ndarray, Terms]:
        """The picture at hand, and its losses."""
        assert self._painting is not None
        assert self._painting.terms is not None
        return self._painting.pixels(), self._painting.terms

    def _result(self, status: str, interrupted: bool = False, shown: tuple[np.ndarray, Terms] | None = None) -> Result:
        pixels, terms = shown or self._shown()
        progress = self.progress
        metadata = self.metadata | {
            "losses": {"start": asdict(progress.losses[0]), "end": asdict(terms)},
            "evaluations": len(progress.losses),
            "status": status,
            "events": progress.events,
        }
        alpha = self.pictures.alpha((pixels.shape[1], pixels.shape[2]))
        return Result(pixels, alpha, terms, progress.losses, metadata, status, interrupted, progress.seconds)

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def _between(self, painting: Painting, state: State) -> bool:
        """Between two iterations: write a snapshot where one is due; whether the run is to end."""
        self.progress.stopped = self.stop()
        elsewhere = self.engine.elsewhere
        wanted = (self.snapshot is not None or elsewhere) and (self.clock.due or self.progress.stopped)
        if wanted and painting.terms is not None:
            begin = time.monotonic()
            if elsewhere:
                self._safe = self._shown()
            try:
                if self.snapshot is not None:
                    self._write(painting, state)
            except OutputError as error:
                self.progress.note(f"no snapshot this time: {error}")
            self.clock.wrote(time.monotonic() - begin)
        return self.progress.stopped

    def _write(self, painting: Painting, state: State) -> None:
        assert self.snapshot is not None
        record, arrays = painting.record(state)
        record |= {
            "rung": painting.number,
            "request": request(self.metadata),
            "engine": self.engine.describe(),
            "precision": self.engine.precision,
            "tile": self.metadata["settings"]["tile"],
            "losses": [asdict(terms) for terms in self.progress.losses],
            "events": self.progress.events,
            "seconds": self.progress.seconds,
            "resumed": self.metadata["resumed"],
        }
        write_snapshot(self.snapshot, record, arrays)

    def _resumed(self, on_start: Callable[[Objective, list[Rung]], object] | None) -> str:
        assert self.snapshot is not None
        with open_snapshot(self.snapshot) as (record, read):

            def begun(painting: Painting) -> tuple[np.ndarray, Any]:
                self._check(record)
                found = painting.restore(record, read)
                self._painting = painting
                return found

            then, now = record["engine"], self.engine.describe()
            self._raise_to(record["precision"])
            progress = self.progress
            progress.losses[:] = map(Terms.from_dict, record["losses"])
            progress.events[:] = record["events"]
            progress.before = record["seconds"]
            self.metadata["resumed"] = record["resumed"] + 1
            if then != self.engine.describe():
                progress.note(f"until now on {then}, from here on {now}: the picture will not be the same bit for bit")
            return self._painted(record["rung"], begun, on_start)

    def _check(self, record: dict[str, Any]) -> None:
        differs = difference(record["request"], request(self.metadata))
        if differs is not None:
            raise SnapshotError(
                f"{self.snapshot}: expected a snapshot of this very run, found one with {differs}; leave out --resume "
                "to begin anew"
            )

    def _raise_to(self, precision: str) -> None:
        """The precision that the run had come to when something did not fit the lower one."""
        higher: Engine | None = self.engine
        while higher is not None and higher.precision != precision:
            higher = higher.raised()
        self.engine = higher or self.engine
