"""`--report FILE.html` and `--live`: the page of a run, in a file and while it goes on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import OutputError
from . import kinds
from .job import STANDARD, Job
from .options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..objective import Objective
    from ..report import Live, Recorder
    from ..transfer import Result, Rung, Step

SUFFIXES = (".html", ".htm")


def check_report(path: Path) -> None:
    """Refuse, before any work, a place where no page can be written, or where another file is; nothing is touched.

    Raises
    ------
    OutputError
    """
    from ..report import HEAD, MOST_BYTES

    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path}: expected a name that ends in .html for --report, got another")
    files.check_writable(path)
    if os.path.exists(path):
        try:
            with path.open("rb") as file:
                head = file.read(len(HEAD))
        except OSError as error:
            raise OutputError(f"{path}: {files.reason(error)}; choose another file for --report") from None
        if head and head != HEAD:
            raise OutputError(f"{path}: expected a report of nstcore or a new name for --report, got another file")
    files.check_space(path, MOST_BYTES, "the report")


class Report:
    """The page of one run; nothing happens where neither a file nor a live page is asked for. A context manager: the
    page is written even where the run breaks off without a picture.

    Parameters
    ----------
    job : Job
    live : Live, optional
    """

    def __init__(self, job: Job, live: Live | None = None) -> None:
        self._job, self._live = job, live
        self._recorder: Recorder | None = None
        self._pictures: dict[str, Any] = {}
        self._begun = self._ended = False
        if live is not None:
            self._recorder = live.recorder
        elif job.report is not None:
            from ..report import Recorder

            self._recorder = Recorder()

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if self._begun and not self._ended and isinstance(error, Exception):
            self._end("failed", " ".join(str(error).split()) or error.__class__.__name__)

    def stop(self) -> bool:
        """Whether the live page has asked to stop."""
        return self._live is not None and self._live.stop_asked

    def look(self) -> None:
        """Take content and styles into the page, before there is anything large in memory, and before they may go."""
        if self._recorder is None or self._pictures:
            return
        from .. import images, report

        def small(path: Path, long_side: int, most: int) -> dict[str, Any]:
            name = "standard input" if path == STANDARD else path.name
            return {"name": name, **report.picture(images.as_pixels(str(path)), long_side, most)}

        side, most = report.STYLE
        styles = self._job.styles
        self._pictures = {
            "content": small(self._job.content, *report.LARGE),
            "styles": [small(style, side, most // len(styles)) for style in styles],
        }

    def start(self, objective: Objective, rungs: list[Rung], request: Mapping[str, Any], resumed: bool) -> None:
        """The run begins."""
        if self._recorder is None:
            return
        from ..report import read_page

        asked = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        earlier = read_page(self._job.report) if resumed and self._job.report is not None else None
        if earlier is not None and earlier.get("request") != asked:
            earlier = None
        facts = _facts(self._job, objective, rungs[-1]) | {"request": asked, "pictures": self._pictures}
        self._recorder.begin(facts, objective.network, rungs, resumed, earlier)
        self._begun = True
        if self._live is not None:
            self._live.start()

    def step(self, step: Step) -> None:
        """After every evaluation."""
        if self._recorder is not None:
            if self._live is not None:
                self._live.refresh()
            self._recorder.step(step)

    def event(self, text: str) -> None:
        """Something that happened."""
        if self._recorder is not None:
            self._recorder.event(text)

    def end(self, result: Result, complete: bool) -> str | None:
        """The run has come to a picture. What happened where the page could not be written, in one line."""
        self._ended = True
        state = "complete" if complete else "interrupted" if result.interrupted else "failed"
        return self._end(state, result.status, result)

    def _end(self, state: str, status: str, result: Result | None = None) -> str | None:
        if self._recorder is None:
            return None
        from ..report import page

        self._recorder.end(state, status, result)
        path = self._job.report
        if path is None:
            return None
        try:
            with files.replacing(path) as part:
                part.write_bytes(page(self._recorder.data()))
        except OutputError as error:
            return f"--report: {error}"
        return None


def command_line(job: Job, weights: str) -> str:
    """What makes the picture again, for a shell: every setting that decides it, recipes and settings files resolved.

    Parameters
    ----------
    job : Job
    weights : str
        The name of what was used.
    """
    from ..pretrained.places import DEFAULT_NETWORK

    words = ["python", "-m", "nstcore", "run", *(_word(path) for path in (job.content, *job.styles))]
    words += ["-o", _word(job.output)]
    for name, option in OPTIONS.items():
        value = job.settings[name]
        if name == "weights" and value == kinds.AUTO:
            value = weights if weights == "builtin" else DEFAULT_NETWORK
        if option.scope in ("safety", "recipe") or value == option.default:
            continue
        if isinstance(option.kind, kinds.Flag):
            words.append(option.flag if value else f"--no-{option.flag[2:]}")
            continue
        for one in [(region,) for region in value] if isinstance(option.kind, kinds.Regions) else [value]:
            text = kinds.show(one)
            words += [f"{option.flag}={text}"] if text.startswith("-") else [option.flag, text]
    return shlex.join(words)


def _word(path: Path) -> str:
    """A path that cannot be taken for an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") and path != STANDARD else text


def _facts(job: Job, objective: Objective, last: Rung) -> dict[str, Any]:
    """What is known when a run begins, as the page's script reads it."""
    from ..version import __version__

    weights, title = objective.weights, "standard output" if job.output == STANDARD else job.output.name
    return {
        "title": title,
        "version": __version__,
        "begun": datetime.now(UTC).strftime("%Y-%m-%d at %H:%M UTC"),
        "command": command_line(job, weights.name),
        "settings": _settings(job, objective.settings()),
        "factors": {
            "content": objective.content_weight,
            "style": objective.style_weight,
            "tv": objective.tv_weight,
        },
        "weights": [
            ["name", weights.name],
            ["network", f"{weights.architecture} to {weights.deepest}, {len(weights.filters)} convolutions"],
            ["SHA-256", weights.sha256],
            ["input", weights.preprocessing.describe()],
            ["padding, pooling", f"{weights.padding}, {weights.pooling}"],
            *([name.replace("sha256", "SHA-256").replace("_", " "), text] for name, text in weights.provenance.items()),
        ],
        "machine": _machine(objective),
        "memory": {"height": last.height, "width": last.width, "buffers": _buffers(objective, last)},
    }


def _settings(job: Job, used: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every option, in the words of the command line; `used` is what the objective made of those not given."""
    rows = []
    for name, option in OPTIONS.items():
        value = job.settings[name]
        default = option.default_text or kinds.show(option.default)
        if value is None or value == ():
            shown = kinds.show(used[name]) if used.get(name) else default
        else:
            shown = kinds.show(value)
        rows.append({"name": option.flag, "value": shown, "default": default, "differs": value != option.default})
    return rows


def _machine(objective: Objective) -> list[list[str]]:
    from ..transfer import made_with

    versions = made_with(objective.weights, objective.engine)["versions"]
    return [
        ["engine", objective.engine.describe()],
        ["processor", _processor()],
        ["cores", str(os.cpu_count() or "unknown")],
        ["system", platform.platform()],
        *([name, text] for name, text in versions.items()),
    ]


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _buffers(objective: Objective, last: Rung) -> dict[str, int]:
    """Bytes that the networks plan at the last size, by buffer; each level of the pyramid as one."""
    found = dict(objective.network.memory(*last.size))
    for k in last.blocks:
        level = objective.network.memory(-(-last.height // k), -(-last.width // k))
        found[f"level 1/{k}"] = sum(level.values()) - level["filters"]
    return found
