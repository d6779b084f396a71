"""Many pictures, one after the other or several at once: what is there is kept, what fails does not stop the rest."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import INTERRUPTED, NstcoreError, OptionError, PictureError
from .job import Job, reason
from .progress import tell
from .studio import Studio

if TYPE_CHECKING:
    from ..objective import Objective
    from ..transfer import Rung

Painter = Callable[[Job, Studio, str], tuple[str, str]]

MADE, KEPT, FAILED, STOPPED, LEFT = "made", "kept", "failed", "interrupted", "not begun"


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes
    ----------
    state : {"made", "kept", "failed", "interrupted", "not begun"}
    note : str
        Why, or what came of it.
    """

    job: Job
    state: str
    note: str = ""
    seconds: float = 0.0


def check_outputs(jobs: Sequence[Job]) -> None:
    """Refuse two jobs with one output, one snapshot, or one report."""
    first: dict[str, Job] = {}
    for job in jobs:
        for what, path in (("output", job.output), ("snapshot", job.snapshot), ("report", job.report)):
            if path is None:
                continue
            place = os.path.realpath(path)
            if place in first:
                way_out = "put {output} into its name" if what == "report" else "give one another name"
                raise OptionError(
                    f"{path}: expected one job for each {what}, got two, of {_inputs(first[place])} and of "
                    f"{_inputs(job)}; {way_out}"
                )
            first[place] = job


def paint_all(jobs: Sequence[Job], studio: Studio, painter: Painter | None = None, at_once: int = 1) -> list[Outcome]:
    """Make every picture that is not there yet, as a run does, or with `painter`, which tells state and note. Ctrl-C
    stops, with the picture at hand saved as far as it is. On a cluster, each of its workers makes one at a time; on a
    GPU, `at_once` of them are made at the same time."""
    from . import spread, together

    if painter is None and spread.cluster_of(jobs) is not None:
        return spread.paint_all(jobs, studio)
    if at_once > 1 and (made := together.paint_all(jobs, studio, at_once)) is not None:
        return made
    outcomes: list[Outcome] = []
    try:
        for number, job in enumerate(jobs, 1):
            outcomes.append(attempted(job, studio, f"{number}/{len(jobs)} {job.output.name}", painter or paint))
            if outcomes[-1].state == STOPPED or studio.ends.asked:
                break
    except KeyboardInterrupt:
        outcomes.append(Outcome(jobs[len(outcomes)], STOPPED, "before there was anything to keep"))
    rest = [Outcome(job, LEFT) for job in jobs[len(outcomes) :]]
    if rest or outcomes[-1].state == STOPPED:
        last = outcomes[-1]
        where = f"interrupted at {last.job.output}: {last.note}" if last.state == STOPPED else "interrupted"
        tell(f"nstcore: {where}; the same command goes on from here")
    return outcomes + rest


def attempted(job: Job, studio: Studio, name: str, painter: Painter) -> Outcome:
    """What becomes of a job; a failure is said, too."""
    begin = time.monotonic()
    try:
        state, note = painter(job, studio, name)
    except (NstcoreError, MemoryError) as error:
        state, note = FAILED, reason(error)
        tell(f"nstcore: {job.output}: {note}")
    return Outcome(job, state, note, time.monotonic() - begin)


def paint(job: Job, studio: Studio, name: str) -> tuple[str, str]:
    """State and note of a job that did not fail."""
    for path in (job.output, job.report):
        if path is not None:
            files.make_folder(path.parent)
    studio.check(job)
    before = differences(job.output, studio.request(job))
    if before == []:
        studio.say(f"{name}: kept, it is as asked")
        return KEPT, "as it was"
    go_on = job.snapshot is not None and os.path.exists(job.snapshot)
    again = f": made again, for it was made with {_listed(before)}" if before and not go_on else ""
    studio.say(f"{name}{again}")

    def announce(objective: Objective, _: list[Rung]) -> None:
        studio.say_once(f"weights: {objective.weights.describe()}")
        studio.say_once(f"engine: {objective.engine.describe()}")

    result = studio.paint(job, name, announce, resume=True)
    if result.interrupted:
        return STOPPED, "the best so far is saved"
    height, width = result.pixels.shape[1:]
    return MADE, f"{width}x{height}, loss {result.terms.total:.4g}"


def differences(output: Path, wanted: dict[str, Any]) -> list[str] | None:
    """In what an existing picture is not what is asked for; None if there is none."""
    from .. import images

    if not os.path.exists(output):
        return None
    try:
        found = images.read_metadata(output)
    except PictureError:
        return ["other means"]
    if not isinstance(found.get("request"), dict):
        return ["other means"]
    if not found.get("complete"):
        return ["an end before its time"]
    flat, asked = _flat(found["request"]), _flat(wanted)
    return [_difference(key, flat.get(key)) for key in sorted({**flat, **asked}) if flat.get(key) != asked.get(key)]


def _flat(request: dict[str, Any]) -> dict[str, Any]:
    settings = request.get("settings", {})
    return {key: value for key, value in request.items() if key != "settings"} | {
        f"--{name.replace('_', '-')}": value for name, value in settings.items()
    }


def _difference(key: str, value: Any) -> str:
    if not key.startswith("--"):
        return f"another {key}"
    return f"another {key}" if value is None or len(str(value)) > 40 else f"{key} {value}"


def _listed(words: list[str]) -> str:
    return ", ".join(words[:4]) + (f" and {len(words) - 4} other settings" if len(words) > 4 else "")


def _inputs(job: Job) -> str:
    return " and ".join(picture.name for picture in (job.content, *job.styles))


def print_summary(outcomes: Sequence[Outcome], studio: Studio) -> None:
    """A line a picture, and how many of each."""
    widths = [max(len(str(o.job.output)) for o in outcomes), max(len(o.state) for o in outcomes)]
    studio.say("")
    for o in outcomes:
        seconds = f"{o.seconds:8.1f} s" if o.state == MADE else " " * 10
        studio.say(f"{o.job.output!s:<{widths[0]}}  {o.state:<{widths[1]}}  {seconds}  {o.note}".rstrip())
    counts = Counter(o.state for o in outcomes)
    studio.say(", ".join(f"{counts[state]} {state}" for state in (MADE, KEPT, FAILED, STOPPED, LEFT) if counts[state]))


def exit_code(outcomes: Sequence[Outcome], studio: Studio) -> int:
    """0 if every picture is there, 1 if some failed; after a signal, the code that goes with it."""
    states = {o.state for o in outcomes}
    if states & {STOPPED, LEFT}:
        return studio.ends.code or INTERRUPTED
    return 1 if FAILED in states else 0
