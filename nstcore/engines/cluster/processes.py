"""Workers of our own on this machine: a scheduler in this process, worker processes beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .address import NO_PAGE, hushed, library, our_way

_PACKAGE = Path(__file__).resolve().parents[3]
_REPLACED = 20  # workers that died, in all: what kills more of them will kill the next one, too


class Processes:
    """A scheduler on the loopback address, and worker processes.

    They run in sessions of their own: Ctrl-C is for the process that paints, which ends them when it has kept what
    there is to keep. When it dies, the scheduler dies with it, and so do they.

    Parameters
    ----------
    count : int
    device : str
    threads : int
        Of each worker.
    """

    def __init__(self, count: int, device: str, threads: int) -> None:
        self._command = ["--quiet", "--device", device, "--threads", str(threads)]
        self._left = _REPLACED
        self._said = tempfile.TemporaryFile("a+b")  # noqa: SIM115 (by all of them, until the end)
        self._running: list[subprocess.Popen[bytes]] = []
        self._scheduler = scheduler("127.0.0.1", 0)
        self.address: str = self._scheduler.scheduler_address
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        path = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH")]))
        self._running.append(
            subprocess.Popen(
                [sys.executable, "-m", "nstcore", "worker", self.address, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        )

    @property
    def count(self) -> int:
        """Workers that are running, or on their way."""
        return len(self._running)

    def ended(self) -> str | None:
        """What one of them has said last, where one has ended already."""
        if all(process.poll() is None for process in self._running):
            return None
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")

    def replace(self, tell: Callable[[str], object]) -> None:
        """A new worker for each that has died."""
        for process in [p for p in self._running if p.poll() is not None]:
            self._running.remove(process)
            if self._left:
                self._left -= 1
                self._start()
            else:
                tell(f"a worker has died (exit code {process.returncode}); too many have, there is no new one for it")

    def close(self) -> None:
        """End them all."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
        self._said.close()
        with suppress(Exception):  # of the library's own making, at its end
            self._scheduler.close(timeout=3)


def scheduler(host: str, port: int) -> Any:
    """A scheduler in this process, in a thread of its own, without a page in the browser; `scheduler_address`, `close`.

    Raises
    ------
    OSError
        If the port is taken, or is none of this machine.
    """
    distributed = library()
    with our_way():
        return hushed(
            distributed.LocalCluster(
                n_workers=0,
                processes=True,
                protocol="tcp://",
                host=host,
                scheduler_port=port,
                scheduler_kwargs=NO_PAGE,
                silence_logs=False,
            )
        )
