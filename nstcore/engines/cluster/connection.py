"""A connection to a cluster: who its workers are, and waiting for them without ever waiting for the dead."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import queue
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self
from urllib.parse import urlsplit

from ...errors import DeviceError, RunError
from ...version import __version__
from ..cpu.team import available_cores
from . import member
from .address import hushed, library, read_place
from .arrays import Lost, Store
from .messages import Facts, Memory, Recipe
from .processes import Processes

POLL = 0.2  # seconds between two looks at whether those that are waited for still live
ANSWER = 10.0  # seconds in which a scheduler must answer at first
SILENT = 30.0  # seconds after which a scheduler that does not answer is taken for dead
PATIENCE = 60.0  # seconds that are waited for a worker where there is none


class Cluster:
    """Workers that a scheduler knows. A context manager.

    Parameters
    ----------
    where : str
        "local:N", "tcp://HOST:PORT" or "tls://HOST:PORT", or a scheduler file.
    device : str
        Of workers of our own; others have theirs.
    precision : str, optional
        Of all; without it, each device's usual one.
    threads : int, optional
        Of workers of our own; without it, they share the cores.
    tell : callable (line), optional
        Told what happens beside the work.

    Attributes
    ----------
    patience : float
        Seconds that are waited for a worker where there is none.

    Raises
    ------
    OptionError
        If `where` is nothing that there is.
    DeviceError
        If the library is missing, or nobody answers.
    """

    def __init__(
        self,
        where: str,
        device: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        tell: Callable[[str], object] = lambda line: None,
    ) -> None:
        place = read_place(where)
        self._distributed = library()
        self.where, self.precision, self.patience = where, precision, PATIENCE
        self.tell = tell
        self.driver = uuid.uuid4().hex
        self.store = Store(self)
        self.networks: weakref.WeakSet[Any] = weakref.WeakSet()  # of this driver: what workers may not drop
        self._numbers = itertools.count(1)
        self._begun: dict[int, set[str]] = {}  # by network
        self._facts: dict[str, Facts] = {}
        self._unfit: dict[str, str] = {}
        self._present: set[str] = set()
        self._processes: Processes | None = None
        if place.workers:
            each = threads or max(1, available_cores() // place.workers)
            self._processes = Processes(place.workers, device, each)
        try:
            self.client = self._client(place.address if self._processes is None else self._processes.address)
            self._all_there()
        except BaseException:
            self.close()
            raise

    def _client(self, address: str) -> Any:
        try:
            client = self._distributed.Client(address, timeout=ANSWER, set_as_default=False, direct_to_workers=True)
            return hushed(client)
        except (OSError, ValueError, TypeError):
            raise DeviceError(
                f"cluster: expected a scheduler at {address}, got no answer; start one with "
                "python -m nstcore worker --scheduler HOST:PORT, and workers for it"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the workers; those of our own end."""
        client = getattr(self, "client", None)
        if client is not None:
            if self._processes is None and client.status == "running":
                with suppress(Exception):  # courtesy: workers drop what is idle, too
                    ends = [self.submit(member.end, self.driver, worker=a) for a in self._members()]
                    asyncio.run_coroutine_threadsafe(self.result(ends), self._loop).result(2)
            with suppress(Exception):
                client.close(timeout=2)
        if self._processes is not None:
            self._processes.close()

    # -- who is there -------------------------------------------------------------------------------------------------

    @property
    def _loop(self) -> Any:
        return self.client.loop.asyncio_loop

    def number(self) -> int:
        """A number that this driver has not given yet."""
        return next(self._numbers)

    def _members(self) -> set[str]:
        """Addresses of all workers that the scheduler knows.

        Raises
        ------
        RunError
            If it has gone.
        """
        try:
            if self.client.status != "running":
                raise OSError
            asked = asyncio.run_coroutine_threadsafe(self.client.scheduler.ncores(), self._loop)
            return set(asked.result(SILENT))
        except (OSError, AttributeError, concurrent.futures.CancelledError):
            address = self.where if self._processes is None else "of this process"
            raise RunError(
                f"cluster: the scheduler {address} has gone; start it again, then go on with --resume"
            ) from None

    def _all_there(self) -> None:
        """Wait for the first workers: for all of our own."""
        wanted = 1 if self._processes is None else self._processes.count
        until, told = time.monotonic() + self.patience, self._processes is not None
        while len(self._members()) < wanted:
            if self._processes is not None and (said := self._processes.ended()) is not None:
                raise DeviceError(f"cluster: a worker of {self.where} has ended before there was work; it said: {said}")
            if not told:
                self.tell(f"cluster: no worker yet at {self.where}; waiting {self.patience:g} seconds for one")
                told = True
            if time.monotonic() > until:
                raise DeviceError(
                    f"cluster: expected workers at {self.where}, found none in {self.patience:g} seconds; start some "
                    "with python -m nstcore worker ADDRESS"
                )
            time.sleep(POLL / 4)

    def living(self) -> list[str]:
        """Addresses of the workers that may be used; waits where there are none.

        Raises
        ------
        RunError
            If none comes, or the scheduler has gone.
        """
        until, told = time.monotonic() + self.patience, False
        while True:
            if self._processes is not None:
                self._processes.replace(self.tell)
            members = self._members()
            for begun in self._begun.values():
                begun &= members
            found = sorted(members - self._unfit.keys())
            self._present = set(found)
            if found:
                return found
            if time.monotonic() > until:
                why = next(iter(self._unfit.values()), f"none came in {self.patience:g} seconds")
                raise RunError(
                    f"cluster: no worker is left at {self.where}: {why}; start some, then go on with --resume"
                )
            if not told:
                self.tell(f"cluster: no worker is left; waiting {self.patience:g} seconds for new ones")
                told = True
            time.sleep(POLL)

    def neighbours(self) -> dict[str, int]:
        """By address: how many workers share a machine's memory."""
        machines = {address: urlsplit(address).hostname for address in self._present}
        counts = Counter(machines.values())
        return {address: counts[machine] for address, machine in machines.items()}

    @property
    def size(self) -> int:
        """Workers that were there when they were last looked for."""
        return len(self._present)

    def describe(self) -> str:
        """What the workers compute with; empty as long as nobody has said."""
        return " and ".join(sorted({facts.engine for facts in self._facts.values()}))

    def memory(self) -> set[Memory]:
        """What may be planned for on each of the workers, as it was when it began. Those of one machine share what it
        has, and windows, targets and masks of their tiles need some, too."""
        counts = self.neighbours()
        return {facts.memory.part(member.USABLE / counts[a]) for a, facts in self._facts.items() if a in counts}

    # -- networks -----------------------------------------------------------------------------------------------------

    def ready(self) -> list[str]:
        """Workers that can be used, each once it has said what it is."""
        return self.begin(0, None)

    def begin(self, number: int, recipe: Recipe | None) -> list[str]:
        """Workers that have a network: all that can be used, each once it has been sent there."""
        begun = self._begun.setdefault(number, set())
        while True:
            living = self.living()
            new = [address for address in living if address not in begun]
            if not new:
                return living
            with suppress(Lost):
                self.watched(self._begin(number, recipe, new), new)

    async def _begin(self, number: int, recipe: Recipe | None, new: list[str]) -> None:
        if recipe is None:
            asked = {a: self.submit(member.hello, self.driver, self.precision, worker=a) for a in new}
        else:
            sent = await self.scattered(recipe, new[0])  # the others get it from there, and from one another
            asked = {a: self.submit(member.begin, self.driver, number, sent, worker=a) for a in new}
        for address, future in asked.items():
            try:
                facts = await self.result(future)
            except (OSError, MemoryError, asyncio.CancelledError, self._distributed.KilledWorker):
                raise
            except Exception as error:  # whatever an installation that is not ours raises
                self._reject(address, f"{type(error).__name__}: {error}")
                continue
            if facts.version != __version__:
                self._reject(address, f"it has nstcore {facts.version}, this is {__version__}")
                continue
            self._facts[address] = facts
            self._begun[number].add(address)

    def _reject(self, address: str, why: str) -> None:
        self._unfit[address] = f"{address} cannot be used: {' '.join(why.split())}"
        self.tell(f"cluster: {self._unfit[address]}")

    def forget(self) -> None:
        """What was believed of the workers' copies of networks; they are asked, and sent them again."""
        self._begun.clear()

    # -- work ---------------------------------------------------------------------------------------------------------

    def submit(self, function: Callable[..., Any], *arguments: Any, worker: str) -> Any:
        """A future of what a function of `member` gives there."""
        return self.client.submit(function, *arguments, workers=[worker], allow_other_workers=False, pure=False)

    async def scattered(self, data: Any, worker: str) -> Any:
        """A future of data that lie there."""
        return await self.client.scatter(data, workers=[worker], direct=True, hash=False, asynchronous=True)

    async def result(self, futures: Any) -> Any:
        """What a future, or several in a list, stand for, here."""
        return await self.client.gather(futures, direct=True, asynchronous=True)

    def spread(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        hear: Callable[[str], object],
        stop: Callable[[], bool],
    ) -> Iterator[tuple[int, Any]]:
        """Call a function once for each tuple of arguments, each worker one at a time; again where a worker dies of it.

        Parameters
        ----------
        function : callable
            Of this package. What it tells `member.say` goes to `hear`.
        arguments : sequence of tuple
        hear : callable (line)
        stop : callable () -> bool
            As soon as it says True, `member.stopping` does so at the workers; also when this ends before its time, as
            with an error.

        Yields
        ------
        number, result
            As they come; the exception where there is no result.
        """
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.client.subscribe_topic(self.driver, lambda event: lines.put(event[1]))
        tasks = {i: self.client.submit(function, *a, pure=False) for i, a in enumerate(arguments)}
        told = False

        def heard() -> None:
            while not lines.empty():
                hear(lines.get())

        try:
            while tasks:
                self.living()
                heard()
                if stop() and not told:
                    told = True
                    with suppress(Lost):
                        self.watched(self._stop(), ())
                for i, task in list(tasks.items()):
                    if task.status in ("lost", "cancelled"):
                        tasks[i] = self.client.submit(function, *arguments[i], pure=False)
                    elif task.status in ("finished", "error"):
                        with suppress(Lost):
                            outcome = self.watched(self._outcome(task), ())
                            del tasks[i]
                            heard()  # what it said comes before what it came to
                            yield i, outcome
                time.sleep(POLL)
        finally:
            # An error, or an end at once: workers that are not ours go on painting unless they are told
            if tasks and self.client.status == "running":
                with suppress(Exception):
                    asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(2)

    async def _stop(self) -> None:
        """Tell all workers to stop, now: not as a task, which would wait for its turn."""
        await self.client.run(member.stop, self.driver, on_error="ignore")

    async def _outcome(self, task: Any) -> Any:
        """Its result, or the exception that it ended with."""
        return await (task.exception() if task.status == "error" else self.result(task))

    def watched(self, work: Coroutine[Any, Any, Any], needs: Iterable[str]) -> Any:
        """What a coroutine returns, as long as all the workers that it needs live.

        Raises
        ------
        Lost
            If one does not, or what it had is gone.
        Missing
            If one does not have what was taken for granted.
        RunError
            If the scheduler has gone.
        """
        needed = set(needs)
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while True:
                try:
                    return running.result(POLL)
                except TimeoutError:
                    if running.done():
                        raise Lost("a time-out") from None
                gone = needed - self._members()
                if gone:
                    raise Lost(f"the worker {min(gone)} has gone")
        except (OSError, concurrent.futures.CancelledError, asyncio.CancelledError) as error:
            raise Lost(str(error)) from None
        except self._distributed.KilledWorker as error:
            raise Lost(str(error)) from None
        finally:
            running.cancel()
