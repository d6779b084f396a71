"""What a page is made of, gathered while a run goes on."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ..engines import Network
from ..engines.memory import held_memory
from ..images.alpha import over_white
from ..objective import Terms
from ..transfer import Result, Rung, Step
from .layers import LayerTimes
from .losses import columns
from .pictures import FRAME, LARGE, kept_evaluations, picture

RUNNING, COMPLETE = "running", "complete"

_SHARE, _FREE = 0.05, 0.5  # of the time that may go into pictures; seconds that may in any case
_EVERY = 2.0  # seconds between two large pictures of a live page, at least


class Recorder:
    """Gathers a run's story. The run's thread calls `begin`, `step`, `event` and `end`; any thread may read.

    Attributes
    ----------
    watched : bool
        Whether somebody looks at the page now, who would like to see the picture larger than the frames are.
    """

    def __init__(self) -> None:
        self.watched = False
        self._lock = threading.Lock()
        self._facts: dict[str, Any] = {}
        self._state, self._status = RUNNING, ""
        self._losses: list[Terms] = []
        self._first = 1  # the evaluation that the first of the losses is of
        self._frames: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._reached: list[dict[str, int]] = []  # the sizes, with the evaluation that each begins with
        self._now: dict[str, Any] = {}
        self._result: dict[str, Any] | None = None
        self._results = 0  # how often there was a new one
        self._resumed = False
        self._spent, self._begun, self._shown = 0.0, time.perf_counter(), 0.0

    # -- the run's side -----------------------------------------------------------------------------------------------

    def begin(
        self,
        facts: Mapping[str, Any],
        network: Network,
        rungs: Sequence[Rung],
        resumed: bool = False,
        earlier: Mapping[str, Any] | None = None,
    ) -> None:
        """A run begins.

        Parameters
        ----------
        facts : mapping
            What is known of it already, as it is to stand in the page's data.
        network : Network
            Of its objectives.
        rungs : sequence of Rung
        resumed : bool
            Whether it goes on from a snapshot.
        earlier : mapping, optional
            The data of the page that was written when the run was interrupted: its frames and events are kept.
        """
        self._rungs, self._kept = list(rungs), kept_evaluations(rungs)
        self._times = LayerTimes(network, max(rungs[-1].size))
        self._begun = time.perf_counter()
        with self._lock:
            self._facts, self._resumed = dict(facts), resumed
            if resumed and earlier is not None:
                self._frames, self._events, self._reached = _carried(earlier)

    def step(self, step: Step) -> None:
        """After every evaluation."""
        self._times.step(step)
        rung = next(rung for rung in self._rungs if max(rung.size) == step.size)
        with self._lock:
            if not self._losses:
                self._first = step.evaluations
                self._frames = [f for f in self._frames if f["evaluation"] < step.evaluations]
                self._reached = [s for s in self._reached if s["evaluation"] < step.evaluations]
            self._losses.append(step.terms)
            new = not self._reached or self._reached[-1]["width"] != rung.width
            if new:
                self._reached.append({"evaluation": step.evaluations, "width": rung.width, "height": rung.height})
            self._now = {
                "iteration": step.iteration,
                "iterations": step.iterations,
                "share": step.share,
                "seconds": step.seconds,
            }
        if not math.isfinite(step.terms.total) or self._spent > max(_FREE, _SHARE * self._elapsed()):
            return
        frame = new or step.evaluations in self._kept
        if not frame and not self._shows_now():
            return
        begin = time.perf_counter()
        with suppress(MemoryError):  # a page is not worth a run
            pixels = step.pixels()
            if frame:
                self._keep(pixels, step.evaluations, step.iteration, step.terms)
            if self._shows_now():
                self._show(pixels)
        self._spent += time.perf_counter() - begin

    def event(self, text: str) -> None:
        """Something that happened beside the plan."""
        with self._lock:
            self._events.append({"evaluation": self._evaluations(), "text": text})

    def end(self, state: str, status: str, result: Result | None = None) -> None:
        """The run has ended: "complete", "interrupted" or "failed"; why; and what came of it."""
        self._times.end()
        if result is not None:
            self._show(result.pixels, result.alpha)
        with self._lock:
            self._state, self._status = state, status
            if result is None:
                return
            # Of a resumed run, the whole
            self._losses, self._first = list(result.losses), 1
            self._now |= {"seconds": result.seconds, "loss": result.terms.total}
            if state == COMPLETE:
                self._now["share"] = 1.0
        self._keep(result.pixels, self._evaluations(), self._now.get("iteration", 0), result.terms)

    def _keep(self, pixels: np.ndarray, evaluation: int, iteration: int, terms: Terms) -> None:
        frame = {"evaluation": evaluation, "iteration": iteration, "loss": terms.total, **picture(pixels, *FRAME)}
        with self._lock:
            if self._frames and self._frames[-1]["evaluation"] == evaluation:
                self._frames.pop()  # the result takes the place of the last one
            self._frames.append(frame)

    def _show(self, pixels: np.ndarray, alpha: np.ndarray | None = None) -> None:
        self._shown = time.perf_counter()
        if alpha is not None:
            pixels = over_white(pixels.transpose(1, 2, 0), alpha).transpose(2, 0, 1)
        result = picture(pixels, *LARGE)
        with self._lock:
            self._result, self._results = result, self._results + 1

    def _shows_now(self) -> bool:
        return self.watched and time.perf_counter() - self._shown >= _EVERY

    def _elapsed(self) -> float:
        return time.perf_counter() - self._begun

    def _evaluations(self) -> int:
        return self._first + len(self._losses) - 1

    # -- the page's side ----------------------------------------------------------------------------------------------

    def data(self) -> dict[str, Any]:
        """Everything, as the page's script reads it."""
        return self._gathered(0, 0, 0, 0) | self._facts

    def since(self, evaluations: int, frames: int, events: int, results: int) -> dict[str, Any]:
        """What has come since a page knew so many evaluations, frames, events, and large pictures."""
        return self._gathered(evaluations, frames, events, results)

    @property
    def ended(self) -> bool:
        return self._state != RUNNING

    def _gathered(self, evaluations: int, frames: int, events: int, results: int) -> dict[str, Any]:
        with self._lock:
            skip = max(0, evaluations - self._first + 1)
            losses, first = self._losses[skip:], self._first + skip
            found: dict[str, Any] = {
                "state": self._state,
                "status": self._status,
                "now": dict(self._now),
                "sizes": list(self._reached),
                "frames": self._frames[frames:],
                "events": self._events[events:],
                "resumed": self._resumed,
                "results": self._results,
            }
            if self._results > results:
                found["result"] = self._result
        keep = [size["evaluation"] for size in found["sizes"]]
        held = held_memory()
        found["losses"] = columns(losses, first, keep=keep)
        found["layers"] = self._times.rows() if self._facts else []
        found["peak"] = None if held is None else held[1]
        return found


def _jpeg(text: str) -> str:
    if not re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", text):
        raise ValueError("no picture of a report")
    return text


# What is taken over from an earlier page, and the form that it must have
_KEPT: dict[str, dict[str, Callable[[Any], Any]]] = {
    "frames": {"evaluation": int, "iteration": int, "loss": float, "src": _jpeg, "width": int, "height": int},
    "events": {"evaluation": int, "text": str},
    "sizes": {"evaluation": int, "width": int, "height": int},
}


def _carried(earlier: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Frames, events and sizes of an earlier page; nothing if somebody has changed it."""
    try:
        return [
            [{name: form(item[name]) for name, form in forms.items()} for item in earlier[key]]
            for key, forms in _KEPT.items()
        ]
    except (KeyError, TypeError, ValueError, OverflowError):
        return [[], [], []]
