"""Many pictures on a cluster, one for each worker at a time.

A worker paints a picture as one process does, with an engine of its own, and reads and writes files under the names
that they have here: all machines need the same folders. A picture whose worker dies is painted by another one, which
goes on from the snapshot, as the same command would.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from ..version import __version__
from .batch import FAILED, LEFT, STOPPED, Outcome, attempted, paint
from .ends import Ends
from .job import Job
from .progress import tell
from .settings import Settings
from .studio import Studio

if TYPE_CHECKING:
    from ..engines import Engine

_OUTPUT, _ERROR = "1", "2"  # before each line, the stream that it is for


def cluster_of(jobs: Sequence[Job]) -> str | None:
    """The cluster over which pictures are spread: one that all of several name."""
    found = {job.settings["cluster"] for job in jobs}
    return found.pop() if len(found) == 1 and len(jobs) > 1 else None


def paint_all(jobs: Sequence[Job], studio: Studio) -> list[Outcome]:
    """What `batch.paint_all` does, by all the workers of the jobs' cluster."""
    cluster = studio.machines.cluster(jobs[0].settings)
    count, folder = len(jobs), os.getcwd()
    cluster.living()
    sharers = min(count, max(cluster.neighbours().values(), default=1))  # pictures at once in one machine's memory
    given = folder, cluster.driver, studio.quiet, sharers, __version__
    tasks = [(job, f"{i}/{count} {job.output.name}", *given) for i, job in enumerate(jobs, 1)]
    found: dict[int, Outcome] = {}

    def hear(line: str) -> None:
        (tell if line.startswith(_ERROR) else studio.say_once)(line[1:])  # all workers say what they compute with

    studio.ends.keeping = True  # the workers have something to keep: the first signal only asks them to stop
    for i, result in cluster.spread(_paint, tasks, hear, studio.ends.stop):
        if isinstance(result, BaseException):
            note = " ".join(str(result).split()) or type(result).__name__
            tell(f"nstcore: {jobs[i].output}: {note}")
            result = FAILED, note, 0.0
        found[i] = Outcome(jobs[i], *result)
    return [found[i] for i in range(count)]


# -- on a worker --------------------------------------------------------------------------------------------------


class _Asked(Ends):
    """A worker is asked to stop by its driver, not by signals."""

    def __init__(self, driver: str) -> None:
        super().__init__()
        self._driver = driver

    @property
    def asked(self) -> bool:
        from ..engines.cluster import member

        return member.stopping(self._driver)

    @property
    def code(self) -> int:
        return 128 + signal.SIGINT if self.asked else 0


class _Studio(Studio):
    """A worker's: its engine is the worker's own."""

    def __init__(self, driver: str, quiet: bool) -> None:
        super().__init__(quiet)
        self.ends = _Asked(driver)

    def engine(self, settings: Settings) -> Engine:
        """See `Studio.engine`."""
        from ..engines.cluster import pieces

        return pieces.OWN.engine(settings["precision"])


class _Stream:
    """What is printed goes to the driver, line by line."""

    encoding = "utf-8"

    def __init__(self, driver: str, kind: str) -> None:
        self._driver, self._kind, self._line = driver, kind, ""

    def write(self, text: str) -> int:
        """As of a text file."""
        from ..engines.cluster import member

        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            member.say(self._driver, self._kind + line)
        return len(text)

    def flush(self) -> None:
        """Nothing: a line goes when it is whole."""

    def isatty(self) -> bool:
        """No bars: there may be many at once."""
        return False


_ONE = threading.Lock()  # picture at a time, also at a worker that was started with several threads
_studios: dict[str, _Studio] = {}  # of the last driver: what one picture loads, the next one need not


def _paint(
    job: Job, name: str, folder: str, driver: str, quiet: bool, sharers: int, version: str
) -> tuple[str, str, float]:
    """State, note and seconds of one picture."""
    from ..engines import memory

    if version != __version__:
        return FAILED, f"the worker has nstcore {__version__}, this is {version}", 0.0
    with _ONE:
        if driver not in _studios:
            _studios.clear()
            _studios[driver] = _Studio(driver, quiet)
        studio = _studios[driver]
        if studio.ends.asked:
            return LEFT, "", 0.0
        try:
            os.chdir(folder)
        except OSError:
            return FAILED, f"{folder}: this folder is not on the worker; all machines need the same ones", 0.0
        out: Any = _Stream(driver, _OUTPUT)
        err: Any = _Stream(driver, _ERROR)
        memory.sharers = sharers
        with redirect_stdout(out), redirect_stderr(err):
            try:
                outcome = attempted(job, studio, name, paint)
            except KeyboardInterrupt:
                return STOPPED, "before there was anything to keep", 0.0
            finally:
                memory.sharers = 1
        return outcome.state, outcome.note, outcome.seconds
