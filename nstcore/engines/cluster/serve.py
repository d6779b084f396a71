"""The processes of a cluster: a worker, and a scheduler."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from ...errors import DeviceError, RunError
from . import pieces
from .address import NO_PAGE, library, our_way, read_address
from .processes import scheduler

_FOUND = 30.0  # seconds in which a worker looks for its scheduler


def work(where: str, device: str, threads: int | None, say: Callable[[str], object]) -> None:
    """Be a worker of the scheduler at an address, or in a scheduler file, until that goes.

    Parameters
    ----------
    where : str
    device : str
    threads : int, optional
        Of the engine; all cores, if not given.
    say : callable (line)
        Told what computes here, once it may be called.

    Raises
    ------
    OptionError, DeviceError
        If there is no such address, nobody answers there, or the device is not there.
    RunError
        When the scheduler has gone.
    """
    address = read_address(where, "worker")
    library()
    pieces.OWN = pieces.Own(device, threads)
    engine = pieces.OWN.engine(None).describe()
    server = _Served(address)
    try:
        server.begin()
        say(f"a worker of {address}, {engine}")
        server.wait()
    finally:
        server.close()
    raise RunError(f"worker: the scheduler {address} has gone; start it, then this worker again")


class _Served:
    """A worker's event loop, in a thread of its own: the main thread is for signals."""

    def __init__(self, address: str) -> None:
        self._address, self._host = address, _own_address(address)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._worker: Any = None

    def begin(self) -> None:
        """Join the scheduler."""
        self._thread.start()
        try:
            self._run(self._joined()).result(_FOUND + 10)
        except (OSError, RuntimeError, ValueError):
            raise DeviceError(
                f"worker: expected a scheduler at {self._address}, got no answer in {_FOUND:g} seconds; start one with "
                "python -m nstcore worker --scheduler HOST:PORT"
            ) from None

    async def _joined(self) -> None:
        with our_way():
            self._worker = await library().Worker(
                self._address, nthreads=1, host=self._host, memory_limit=0, death_timeout=_FOUND, **NO_PAGE
            )

    def wait(self) -> None:
        """Until the scheduler has gone."""
        ended = self._run(self._worker.finished())
        while not ended.done():
            time.sleep(0.1)

    def close(self) -> None:
        """Leave."""
        if self._worker is not None:
            with suppress(Exception):
                self._run(self._worker.close(timeout=3, executor_wait=False)).result(5)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _own_address(scheduler: str) -> str:
    """The address of this machine from which packets go to a scheduler: a worker listens there, and nowhere else.

    Raises
    ------
    DeviceError
        If no way leads there.
    """
    place, why = urlsplit(scheduler), "it has no address"
    try:
        found = socket.getaddrinfo(place.hostname, place.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        found, why = [], str(error)
    for family, kind, protocol, _, address in sorted(found, key=lambda way: way[0] != socket.AF_INET):
        try:
            with socket.socket(family, kind, protocol) as s:
                s.connect(address)  # sends nothing
                own = str(s.getsockname()[0])
                return f"[{own}]" if family == socket.AF_INET6 else own
        except OSError as error:
            why = str(error)
    raise DeviceError(f"worker: expected a scheduler at {scheduler}, which this machine cannot reach: {why}")


def schedule(host: str, port: int, say: Callable[[str], object]) -> None:
    """Be a scheduler until interrupted.

    Raises
    ------
    DeviceError
        If the address is not this machine's, or is taken.
    """
    try:
        with socket.create_server((host.strip("[]"), port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass  # it is free
        served = scheduler(host, port)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise DeviceError(
            f"worker: expected an address of this machine that is free, got {host}:{port}: {reason}"
        ) from None
    try:
        say(f"a scheduler at {served.scheduler_address}")
        while True:
            time.sleep(0.1)
    finally:
        with suppress(Exception):
            served.close(timeout=3)
