"""Streams, events and graphs; the work that waits in one queue for all; and the end of a program that breaks a rule."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2  # cudaStreamCaptureMode
NON_BLOCKING, DISABLE_TIMING = 1, 2  # flags of streams and events
Work = Callable[[], object]

_errors = os.dup(2)  # pytest takes the other one away
played: dict[str, Callable[..., Any]] = {}  # what is exchanged, by CuPy's names


def violation(what: str) -> NoReturn:
    os.write(_errors, f"{''.join(traceback.format_stack()[:-1])}VIOLATION: {what}\n".encode())
    os._exit(3)


def play(function: Callable[..., Any]) -> Callable[..., Any]:
    played[function.__name__] = function
    return function


class Capture:
    def __init__(self, origin: Stream, mode: int) -> None:
        self.origin, self.mode, self.thread = origin, mode, threading.get_ident()
        self.work: list[Work] = []
        self.streams = {origin}


class Stream:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.enter(None)

    def enter(self, capture: Capture | None) -> None:
        self.capture = capture
        self.recorded = 0  # works so far
        self.seen: dict[Stream, int] = {}  # how many of other streams come before what is next


class Event:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.mark: Work | None = None  # in the queue, where it was recorded
        self.capture: Capture | None = None
        self.sees: dict[Stream, int] = {}  # of a capture: how many works of each stream come before it


streams: dict[int, Stream] = {}
events: dict[int, Event] = {}
graphs: dict[int, list[Work]] = {}
queue: list[Work] = []
_running = False
_last = 0x1000


def new(kind: dict[int, Any], value: Any) -> int:
    global _last
    _last += 16
    kind[_last] = value
    return _last


def captures() -> set[Capture]:
    return {s.capture for s in streams.values() if s.capture}


def stream_of(handle: int, what: str) -> Stream:
    if handle not in (0, 1):
        return streams[handle]
    if any(s.capture and not s.flags & NON_BLOCKING for s in streams.values()):
        violation(f"{what}: the legacy stream, while a blocking stream is captured")
    return streams.setdefault(0, Stream(0))


def unsafe(what: str) -> None:
    for capture in captures():
        if capture.mode == GLOBAL or (capture.mode == THREAD_LOCAL and capture.thread == threading.get_ident()):
            violation(f"{what}: while a stream is captured in the mode {('global', 'thread-local')[capture.mode]}")


def do(handle: int, work: Work, what: str) -> None:
    """Later: when somebody waits, or when the graph that is recorded is launched."""
    stream = stream_of(handle, what)
    if stream.capture:
        stream.capture.work.append(work)
        stream.recorded += 1
    else:
        queue.append(work)


def run(until: Work | None = None) -> None:
    """All that waits, or as far as an event; finalizers may come here again from within."""
    global _running
    if _running or (until is not None and until not in queue):
        return
    _running = True
    while queue:
        work = queue.pop(0)
        work()
        if work is until:
            break
    _running = False


@play
def streamCreate() -> int:
    return new(streams, Stream(0))


@play
def streamCreateWithFlags(flags: int) -> int:
    return new(streams, Stream(flags))


@play
def streamCreateWithPriority(flags: int, priority: int) -> int:
    return new(streams, Stream(flags))


@play
def streamDestroy(handle: int) -> None:
    if streams[handle].capture:
        violation("streamDestroy: a stream that is captured")
    run()
    del streams[handle]


@play
def streamSynchronize(handle: int) -> None:
    if stream_of(handle, "streamSynchronize").capture:
        violation("streamSynchronize: a wait for a stream that is captured")
    unsafe("streamSynchronize")
    run()


@play
def deviceSynchronize() -> None:
    if captures():
        violation("deviceSynchronize: a wait for the device while a stream is captured")
    run()


@play
def streamQuery(handle: int) -> None:
    streamSynchronize(handle)


@play
def streamIsCapturing(handle: int) -> int:
    return int(stream_of(handle, "streamIsCapturing").capture is not None)


@play
def streamBeginCapture(handle: int, mode: int = RELAXED) -> None:
    stream = stream_of(handle, "streamBeginCapture")
    if handle in (0, 1):
        violation("streamBeginCapture: the legacy stream cannot be captured")
    if stream.capture:
        violation("streamBeginCapture: a stream that is captured already")
    stream.enter(Capture(stream, mode))


@play
def streamEndCapture(handle: int) -> int:
    capture = streams[handle].capture
    if capture is None or capture.origin is not streams[handle]:
        violation("streamEndCapture: not the stream that began a capture")
    if capture.mode != RELAXED and capture.thread != threading.get_ident():
        violation("streamEndCapture: another thread than the one that began")
    seen = capture.origin.seen
    if unjoined := sum(seen.get(s, -1) < s.recorded for s in capture.streams - {capture.origin}):
        violation(f"streamEndCapture: {unjoined} streams joined the capture and did not come back")
    for stream in capture.streams:
        stream.enter(None)
    return new(graphs, capture.work)


@play
def graphInstantiate(handle: int) -> int:
    return new(graphs, list(graphs[handle]))


@play
def graphDestroy(handle: int) -> None:
    del graphs[handle]


@play
def graphExecDestroy(handle: int) -> None:
    del graphs[handle]


@play
def graphLaunch(handle: int, stream: int) -> None:
    if stream_of(stream, "graphLaunch").capture:
        violation("graphLaunch: into a stream that is captured, not played here")
    queue.extend(graphs[handle])


@play
def eventCreate() -> int:
    return new(events, Event(0))


@play
def eventCreateWithFlags(flags: int) -> int:
    return new(events, Event(flags))


@play
def eventDestroy(handle: int) -> None:
    del events[handle]


@play
def eventRecord(handle: int, to: int) -> None:
    stream, event = stream_of(to, "eventRecord"), events[handle]
    event.capture, event.mark = stream.capture, None
    if stream.capture:
        event.sees = {**stream.seen, stream: stream.recorded}
    else:
        event.mark = lambda: None
        queue.append(event.mark)


@play
def eventSynchronize(handle: int) -> None:
    if events[handle].capture:
        violation("eventSynchronize: a wait for an event that was captured")
    unsafe("eventSynchronize")
    run(events[handle].mark or (lambda: None))


@play
def eventQuery(handle: int) -> None:
    eventSynchronize(handle)


@play
def eventElapsedTime(first: int, last: int) -> float:
    for event in (events[first], events[last]):
        if event.flags & DISABLE_TIMING or event.capture or event.mark is None:
            violation("eventElapsedTime: an event without timing, never recorded, or captured")
        if event.mark in queue:
            violation("eventElapsedTime: an event that is not over")
    return 1.0


@play
def streamWaitEvent(handle: int, on: int, flags: int = 0) -> None:
    stream, event = stream_of(handle, "streamWaitEvent"), events[on]
    if stream.capture is None and event.capture is None:
        return  # one queue for all
    if event.capture is None:
        violation("streamWaitEvent: a captured stream waits for an event outside of its capture")
    if event.capture not in captures() or stream.capture not in (None, event.capture):
        violation("streamWaitEvent: an event of another capture")
    if stream.capture is None:
        if handle in (0, 1):
            violation("streamWaitEvent: the legacy stream cannot join a capture")
        stream.enter(event.capture)
        event.capture.streams.add(stream)
    for other, count in event.sees.items():
        stream.seen[other] = max(count, stream.seen.get(other, -1))
