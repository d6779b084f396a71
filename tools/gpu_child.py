"""Work that may hang or bring its process down, in a process of its own: what is not at fault goes on in the next one.

`results` starts a child, which calls a function with the jobs that are left and hands on what it yields, one line of
JSON for each job. A child that dies, or from which nothing is heard, costs the job that it was at.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Work = Callable[[list[Job]], Iterable[Any]]
REAP = 30  # seconds for a killed process to be gone; one that the GPU's driver still holds is left behind


class ChildFailed(Exception):
    """A child that did not come to an end, or ended too early; says why."""


def results(
    work: Work,
    jobs: Sequence[Job],
    silent: float,
    until: float = math.inf,
    spoils: Callable[[Job, Job], bool] = lambda failed, job: False,
) -> Iterator[tuple[Job, Any, str | None]]:
    """(job, what `work` made of it, None), or (job, None, why it failed), in order; what there is no time for is not.

    Parameters
    ----------
    work : function of a list of jobs
        Of a module, by its name there; yields something that JSON knows for each job, in order.
    jobs : sequence of dict
        What JSON knows.
    silent : float
        Seconds after which a child of which nothing was heard is killed.
    until : float
        When to stop, by time.monotonic.
    spoils : function (failed job, another job)
        Whether the other one is not to be tried any more either.
    """
    waiting = list(jobs)
    while waiting and time.monotonic() < until:
        try:
            for found in _child(work, waiting, silent, until):
                yield waiting.pop(0), found, None
            return
        except ChildFailed as error:
            failed = waiting.pop(0)
            yield failed, None, str(error)
            waiting = [job for job in waiting if not spoils(failed, job)]


def _child(work: Work, jobs: list[Job], silent: float, until: float) -> Iterator[Any]:
    """What one child makes of the jobs, as it comes; fewer, when the time is over."""
    expected = len(jobs)
    command = [sys.executable, __file__, inspect.getfile(work), work.__name__]
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said:
        asked.write(json.dumps(jobs).encode())
        asked.seek(0)
        process = subprocess.Popen(command, stdin=asked, stdout=subprocess.PIPE, stderr=said)
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        listener = threading.Thread(target=_listen, args=(process, lines), daemon=True)
        listener.start()
        try:
            for _ in range(expected):
                try:
                    line = lines.get(timeout=max(0.0, min(silent, until - time.monotonic())))
                except queue.Empty:
                    if time.monotonic() >= until:
                        return
                    raise ChildFailed(f"nothing was heard of it for {silent:.0f} s") from None
                if not line:
                    raise ChildFailed(_why(process.wait(), said))
                yield json.loads(line)
        finally:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(REAP)
                listener.join()


def _listen(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)
    lines.put(b"")


def _why(code: int, said: Any) -> str:
    """Of a child that ended too early: the last line that it wrote, or how it ended."""
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    if code == 0:
        return "it ended before it was done"
    said.seek(0)
    text = said.read().decode(errors="replace").strip().splitlines()
    return f"it failed: {text[-1]}" if text else f"it ended with exit code {code}"


def main(file: str, name: str) -> None:
    """The child: jobs from standard input; results to standard output, what the work prints to standard error."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        path = Path(file)
        sys.path.insert(0, str(path.parent))
        work: Work = getattr(importlib.import_module(path.stem), name)
        for found in work(json.load(sys.stdin)):
            print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="the module that the work is in")
    parser.add_argument("name", help="of the function; jobs come from standard input, as JSON")
    main(**vars(parser.parse_args()))
