"""`--at-once N`: several pictures on one GPU at the same time, step by step together.

Each is painted as it would be alone, to the same bits, with an engine of its own on the one device; what they launch is
joined (`nstcore.engines.cuda.rounds`). As soon as one is done, the next begins in its place.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import OptionError, TooLarge
from .batch import LEFT, STOPPED, Outcome, attempted, paint
from .ends import Ends
from .job import Job
from .kinds import AUTO, Integer, Unfit
from .machines import Machines
from .progress import tell
from .settings import Settings, Source
from .studio import Studio

if TYPE_CHECKING:
    from ..engines import Engine
    from ..engines.cuda import CudaEngine

_NO_TILES = Source("--at-once", {"tile": "off"}, strict=False)


def add_at_once(parser: argparse.ArgumentParser) -> None:
    """--at-once, of commands that paint many pictures."""
    parser.add_argument(
        "--at-once",
        default="1",
        metavar="N",
        help="paint so many pictures at the same time on one GPU, each with the bits that it has alone: small ones do "
        "not fill it (default: 1)",
    )


def at_once_of(args: argparse.Namespace, jobs: Sequence[Job]) -> int:
    """How many pictures are to be painted at once; refuses what cannot be.

    Raises
    ------
    OptionError
    """
    try:
        count = Integer(1).read(args.at_once)
    except Unfit as error:
        raise OptionError(f"--at-once: expected {error}, got {args.at_once!r}") from None
    if count == 1:
        return count
    for name, why in (("cluster", "its workers paint one picture each"), ("fit", "what fits depends on the others")):
        if any(job.settings[name] for job in jobs):
            raise OptionError(f"--at-once: expected no --{name} beside it, as {why}; leave one of them out")
    if len({(job.settings["device"], job.settings["threads"]) for job in jobs}) > 1:
        raise OptionError("--at-once: expected one --device and --threads for all pictures, got several; leave it out")
    return count


def paint_all(jobs: Sequence[Job], studio: Studio, count: int) -> list[Outcome] | None:
    """What `batch.paint_all` does, `count` pictures at the same time; None where the engine takes one at a time."""
    from ..engines import memory
    from ..engines.cuda import CudaEngine
    from ..engines.cuda.rounds import Rounds

    engine = studio.engine(jobs[0].settings)
    count = min(count, len(jobs))
    if not isinstance(engine, CudaEngine):
        studio.note(f"--at-once is for a GPU: on {engine.describe()} one picture is painted after the other")
        return None
    free = engine.memory()
    share = None if free is None else free // count
    found: dict[int, Outcome] = {}
    ahead = list(enumerate(jobs))[::-1]

    def place() -> None:
        """One of the places: a picture, and the next."""
        own = _place_in(studio, engine, share)
        while ahead and not studio.ends.asked:
            i, job = ahead.pop()
            found[i] = replace(attempted(_whole(job), own, f"{i + 1}/{len(jobs)} {job.output.name}", _painted), job=job)

    studio.ends.keeping = True  # there is always something to keep: the first signal only asks to stop
    memory.sharers = count
    try:
        Rounds(engine.device).run([place] * count)
    finally:
        memory.sharers = 1
    outcomes = [found.get(i, Outcome(job, LEFT)) for i, job in enumerate(jobs)]
    if any(outcome.state in (STOPPED, LEFT) for outcome in outcomes):
        tell("nstcore: interrupted; the same command goes on from here")
    return outcomes


def _whole(job: Job) -> Job:
    """The same in one piece: tiles because of what is painted beside it would be other bits."""
    return replace(job, settings=job.settings.below(_NO_TILES)) if job.settings["tile"] == AUTO else job


def _painted(job: Job, studio: Studio, name: str) -> tuple[str, str]:
    try:
        return paint(job, studio, name)
    except TooLarge as error:
        raise TooLarge(f"{error}; or fewer pictures than --at-once says, which share the memory evenly") from None


class _Asked(Ends):
    """Signals are the whole command's."""

    def __init__(self, whole: Ends) -> None:
        super().__init__()
        self._whole = whole

    @property
    def asked(self) -> bool:
        return self._whole.asked

    @property
    def code(self) -> int:
        return self._whole.code


class _Machines(Machines):
    """One device, and an engine of one's own on it in every precision: none shares its work space with another."""

    def __init__(self, shared: CudaEngine, share: int | None) -> None:
        super().__init__(lambda line: None)
        self._device, self._share = shared.device, share
        self._own: dict[str | None, CudaEngine] = {}

    def engine(self, settings: Settings) -> Engine:
        """See `Machines.engine`."""
        from ..engines.cuda import CudaEngine

        precision = settings["precision"]
        if precision not in self._own:
            self._own[precision] = CudaEngine(self._device, precision, most=self._share)
        return self._own[precision]


def _place_in(whole: Studio, engine: CudaEngine, share: int | None) -> Studio:
    """One place in the studio: networks, and what is known of pictures and styles, are common."""
    own = copy.copy(whole)
    own.ends, own.machines = _Asked(whole.ends), _Machines(engine, share)
    return own
