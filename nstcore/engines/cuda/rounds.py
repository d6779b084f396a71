"""Several pictures on one GPU at once: each round is one launch, a graph with a branch for every picture.

A small picture's kernels have fewer blocks than a large GPU has multiprocessors, so most of it idles. Nothing of one
picture depends on another: side by side, the blocks of one fill what the others leave, and the launches of all wait for
the host once. What is computed is the same, launch by launch, so a picture has the bits that it has alone.

The loop of a picture is written for one picture. Here each runs in a thread of its own, but only one of them at a time:
until it launches a graph, where it waits for its next turn. Once all wait, their graphs go to the GPU as one. The rest
(pictures are read, targets made, files written) happens in turns, while the others wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .device import Device, Graph

KEPT = 4  # joined graphs: two in turn where Adam's steps go ahead, and those of a time of change
LEAVING = 5.0  # seconds that a task is waited for whose work is to end now


class _Task:
    """One of them: what it does goes on in its turns."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._mine, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._leaving = False
        self.graph: Graph | None = None  # that it waits with
        self.refused: Exception | None = None  # why that could not be launched
        self.error: BaseException | None = None  # that its work has ended with

    def turn(self) -> None:
        """Its next turn; returns when that is over."""
        self.graph = None
        if self.thread.ident is None:
            self.thread.start()
        self._mine.release()
        self._back.acquire()
        if self.error is not None:
            raise self.error

    def wait(self, graph: Graph) -> None:
        """For the next turn, before which the graph is launched; within the task's own thread."""
        self.graph = graph
        self._back.release()
        self._mine.acquire()
        if self._leaving:
            raise SystemExit
        if self.refused is not None:
            error, self.refused = self.refused, None
            raise error

    def leave(self) -> None:
        """End it where it is, without another launch."""
        self._leaving = True
        self._mine.release()
        if self.thread.ident is not None:
            self.thread.join(LEAVING)

    def _run(self) -> None:
        self._mine.acquire()
        try:
            if not self._leaving:
                self._work()
        except SystemExit as error:
            self.error = None if self._leaving else error
        except BaseException as error:
            self.error = error
        finally:
            self.graph = None
            self._back.release()


class Rounds:
    """Runs several pieces of work that launch graphs of one device, and launches these together.

    Parameters
    ----------
    device : Device
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._tasks: dict[threading.Thread, _Task] = {}
        self._joined: dict[tuple[Graph, ...], Graph] = {}

    def run(self, works: Sequence[Callable[[], object]]) -> None:
        """Do all of them, in rounds.

        An exception of one ends all, at their next launch, and comes out here; so does what a signal raises meanwhile.
        Errors that are one picture's alone are for its work to catch.
        """
        waiting = tasks = [_Task(work) for work in works]
        self._tasks = {task.thread: task for task in tasks}
        self.device.rounds = self
        try:
            while waiting:
                for task in waiting:
                    task.turn()
                waiting = [task for task in waiting if task.graph is not None]
                try:
                    self._launch([task.graph for task in waiting if task.graph is not None])
                except Exception as error:  # each deals with it as with a launch of its own
                    for task in waiting:
                        task.refused = error
        finally:
            for task in tasks:
                task.leave()
            self.device.rounds = None
            self._joined.clear()

    def launch(self, graph: Graph) -> None:
        """For the work whose turn it is: launch its graph with those of the others. Returns, or raises what went wrong,
        at its next turn."""
        self._tasks[threading.current_thread()].wait(graph)

    def _launch(self, graphs: Sequence[Graph]) -> None:
        if len(graphs) < 2:
            self._joined.clear()
            for graph in graphs:
                graph.launch()
            return
        key = tuple(graphs)
        found = self._joined.pop(key, None) or self.device.joined(graphs)
        self._joined[key] = found  # the latest used is the last
        if len(self._joined) > KEPT:
            del self._joined[next(iter(self._joined))]
        found.launch()
