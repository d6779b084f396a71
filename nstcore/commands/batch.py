"""Many pictures, one after the other: what is there is kept, what fails does not stop the rest."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import INTERRUPTED, NstcoreError, OptionError, PictureError
from .studio import Job, Studio, reason

if TYPE_CHECKING:
    from ..objective import Objective
    from ..transfer import Rung

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
    """Refuse two jobs with one output."""
    first: dict[str, Job] = {}
    for job in jobs:
        place = str(job.output.resolve())
        if place in first:
            raise OptionError(
                f"{job.output}: expected one job for each output, got two, of {_inputs(first[place])} and of "
                f"{_inputs(job)}; give one another name"
            )
        first[place] = job


def paint_all(jobs: Sequence[Job], studio: Studio) -> list[Outcome]:
    """Make every picture that is not there yet. Ctrl-C stops, with the picture at hand saved as far as it is."""
    outcomes: list[Outcome] = []
    for number, job in enumerate(jobs, 1):
        begin = time.monotonic()
        try:
            state, note = _paint(job, studio, f"{number}/{len(jobs)} {job.output.name}")
        except (NstcoreError, MemoryError) as error:
            state, note = FAILED, reason(error)
            print(f"nstcore: {job.output}: {note}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            state, note = STOPPED, "before there was anything to keep"
        outcomes.append(Outcome(job, state, note, time.monotonic() - begin))
        if state == STOPPED:
            print(f"nstcore: interrupted at {job.output}: {note}; the same command goes on from here", file=sys.stderr)
            return outcomes + [Outcome(rest, LEFT) for rest in jobs[number:]]
    return outcomes


def _paint(job: Job, studio: Studio, name: str) -> tuple[str, str]:
    """State and note of a job that did not fail."""
    before = _differences(job, studio)
    if before == []:
        studio.say(f"{name}: kept, it is as asked")
        return KEPT, "as it was"
    studio.say(f"{name}{f': made again, for it was made with {_listed(before)}' if before else ''}")
    job.output.parent.mkdir(parents=True, exist_ok=True)

    def announce(objective: Objective, _: list[Rung]) -> None:
        studio.say_once(f"weights: {objective.weights.describe()}")
        studio.say_once(f"engine: {objective.engine.describe()}")

    result = studio.paint(job, name, announce)
    if result.interrupted:
        return STOPPED, "the best so far is saved"
    height, width = result.pixels.shape[1:]
    return MADE, f"{width}x{height}, loss {result.terms.total:.4g}"


def _differences(job: Job, studio: Studio) -> list[str] | None:
    """In what an existing picture is not what is asked for; None if there is none."""
    from .. import images

    if not job.output.exists():
        return None
    wanted = studio.request(job)
    try:
        found = images.read_metadata(job.output)
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


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 if every picture is there, 1 if some failed, 130 after Ctrl-C."""
    states = {o.state for o in outcomes}
    return INTERRUPTED if STOPPED in states else 1 if FAILED in states else 0
