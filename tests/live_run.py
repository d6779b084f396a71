"""A run with `--live` in a thread, which goes on step by step as a test allows."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest
from command_desk import run

import nstcore
from nstcore.report import Live


class LiveRun:
    """Attributes: `live`, once the page is there; `code`, once the run has ended."""

    def __init__(self, arguments: tuple[object, ...], steps: threading.Semaphore, begun: queue.Queue[Live]) -> None:
        self.steps, self.code = steps, None
        self.thread = threading.Thread(target=self._run, args=arguments, daemon=True)
        self.thread.start()
        self.live = begun.get(timeout=20)

    def _run(self, *arguments: object) -> None:
        self.code = run(*arguments)

    def allow(self, steps: int) -> None:
        """So many evaluations more."""
        self.steps.release(steps)

    def reached(self, evaluations: int) -> None:
        """Wait until the run has told so many."""
        for _ in range(1000):
            if (self.live.recorder.data()["losses"]["at"] or [0])[-1] >= evaluations:
                return
            threading.Event().wait(0.01)
        raise AssertionError(f"evaluation {evaluations} was not reached")

    def end(self) -> int | None:
        """The exit code."""
        self.allow(1000)
        self.thread.join(20)
        return self.code


@pytest.fixture(name="live_run")
def live_run_fixture(monkeypatch) -> Iterator[Callable[..., LiveRun]]:
    """Starts `run` with these arguments and `--live`, as soon as the first evaluation is allowed."""
    steps, begun, runs = threading.Semaphore(0), queue.Queue(), []
    evaluate, start = nstcore.Objective.__call__, Live.start

    def waiting(self, pixels):
        assert steps.acquire(timeout=30)
        return evaluate(self, pixels)

    def started(self):
        start(self)
        begun.put(self)

    monkeypatch.setattr(nstcore.Objective, "__call__", waiting)
    monkeypatch.setattr(Live, "start", started)

    def begin(*arguments: object) -> LiveRun:
        runs.append(LiveRun((*arguments, "--live"), steps, begun))
        return runs[-1]

    yield begin
    for one in runs:
        one.end()
