"""One picture after another: weights and engines are loaded once, and what the styles are like is computed once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import OutputError, RunError, SnapshotError
from . import kinds
from .ends import Ends, save_elsewhere
from .job import STANDARD, Job, digest, kept, new_name, reason
from .kinds import Init
from .log import Log, check_log
from .machines import Machines
from .networks import Networks
from .options import OPTIONS
from .progress import Progress, show_step, tell
from .reports import Report, check_report
from .settings import Settings

if TYPE_CHECKING:
    from ..engines import Engine
    from ..objective import Objective
    from ..pretrained import Weights
    from ..report import Live
    from ..transfer import Result, Rung, Step

FAST_WEIGHTS = "magenta"  # nstcore.transfer's, for a start in one pass; --help must not wait for numpy
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


class Studio:
    """Where pictures are made. A context manager: as long as it lasts, signals are taken as `Ends` says.

    Parameters
    ----------
    quiet : bool
        Say nothing, show no progress.
    verbose : bool
        A line for every evaluation.
    to : {"output", "error"}
        The stream that is spoken to: standard error where the picture goes to standard output.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False, to: str = "output") -> None:
        self.quiet, self._verbose, self._to = quiet, verbose, to
        self.ends = Ends(quiet)
        self.networks = Networks(self.say, quiet)
        self.machines = Machines(self.note)
        self._statistics: dict[Any, Any] = {}
        self._digests: dict[str, str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._said: set[str] = set()

    def __enter__(self) -> Studio:
        self.ends.__enter__()
        return self

    def __exit__(self, *end: Any) -> None:
        self.machines.close()
        self.ends.__exit__(*end)

    def say(self, line: str) -> None:
        """Print a line, unless everything is to be quiet."""
        if not self.quiet:
            tell(line, sys.stdout if self._to == "output" else sys.stderr)

    def say_once(self, line: str) -> None:
        """The same, for what holds for many pictures."""
        if line not in self._said:
            self._said.add(line)
            self.say(line)

    def note(self, line: str) -> None:
        """Say something beside the work, once."""
        if line not in self._said and not self.quiet:
            self._said.add(line)
            tell(f"nstcore: {line}")

    def weights(self, name: str, offline: bool) -> Weights:
        """A network by its name, or from a file."""
        return self.networks.vgg(name, offline)

    def engine(self, settings: Settings) -> Engine:
        """The machine that the settings name."""
        return self.machines.engine(settings)

    def request(self, job: Job) -> dict[str, Any]:
        """What a job asks for, apart from file names: equal requests make equal pictures on one machine."""
        weights = self.weights(job.settings["weights"], job.settings["offline"])
        asked = self.request_of_pictures(job) | {"weights": weights.sha256}
        if Init.has(job.settings["init"], "fast"):
            asked["start"] = self.networks.fast(FAST_WEIGHTS, job.settings["offline"]).sha256
        return asked

    def request_of_pictures(self, job: Job) -> dict[str, Any]:
        """The same without the network."""
        return {
            "content": self._digest(str(job.content)),
            "style": [self._digest(str(style)) for style in job.styles],
            "settings": job.settings.record(self._digest),
        }

    def _digest(self, path: str) -> str:
        """SHA-256 of a file, read once."""
        if path not in self._digests:
            self._digests[path] = digest(Path(path))
        return self._digests[path]

    def check(self, job: Job) -> None:
        """Refuse, before anything is loaded or computed, what cannot end well: pictures that are none, places where
        nothing can be written, a disk without room for the picture; nothing is touched.

        Raises
        ------
        UsageError
        """
        from .. import images

        settings = job.settings
        written = {"bits": settings["bits"], "quality": settings["quality"]}
        images.check_output(job.output, **written)
        if job.snapshot is not None:
            files.check_writable(job.snapshot)
            if settings["snapshot"] is not None:
                files.check_kind(job.snapshot, files.SNAPSHOT, "a snapshot of nstcore for --snapshot")
        if job.log is not None:
            check_log(job.log)
        if job.report is not None:
            check_report(job.report)
        for path in job.inputs:
            self._open(path)
        _check_layers(settings)
        height, width = images.target_size(self._sizes[str(job.content)], settings["size"])
        if not settings["fit"]:
            images.check_output(job.output, **written, shape=(height, width))
        if job.output != STANDARD:
            # Of 8 or 16 bits, hardly compressed; others than PNG and TIFF take a fifth of it or so
            share = 1.0 if job.output.suffix.lower() in (".png", ".tif", ".tiff") else 0.2
            need = int(height * width * 3 * settings["bits"] / 8 * share)
            files.check_space(job.output, need, f"the picture of {width}x{height}")
        if job.snapshot is not None and settings["snapshot_every"]:
            free, need = files.free_space(job.snapshot), 2 * _state_bytes(settings, height * width)
            if free is not None and free < need:
                have = f"{files.shown_bytes(need)}, and {files.shown_bytes(free)} are left"
                self.note(f"{job.snapshot}: snapshots, the old and the new one, take some {have}: they may fail")

    def open(self, pictures: Iterable[Path], settings: Settings, varying: Set[str]) -> None:
        """Refuse at once what no picture of many could be made with: pictures that are none, weights or a machine that
        there is not; what of the settings varies is left to each.

        Raises
        ------
        UsageError
        """
        for path in pictures:
            self._open(str(path))
        if not {"device", "precision", "threads"} & varying:
            self.engine(settings)
        if "weights" not in varying:
            self.weights(settings["weights"], settings["offline"])

    def _open(self, path: str) -> None:
        """Read a picture, once for many jobs, to see that it is one."""
        from .. import images

        if path not in self._sizes:
            loaded = images.load(path, images.LARGE)
            if loaded.note is not None:
                self.note(loaded.note)
            self._sizes[path] = loaded.pixels.shape[1], loaded.pixels.shape[2]

    def paint(
        self,
        job: Job,
        name: str = "",
        on_start: Callable[[Objective, list[Rung]], object] | None = None,
        resume: bool = False,
        live: Live | None = None,
    ) -> Result:
        """Make a picture and save it.

        Parameters
        ----------
        job : Job
        name : str
            What it is called beside the progress.
        on_start : callable, optional
            Called with the objective and all sizes before the first evaluation.
        resume : bool
            Go on from a snapshot that there is, if it fits; without this, the settings say whether to, and one that
            does not fit is an error.
        live : Live, optional
            A page that shows the run while it goes on, and may stop it as Ctrl-C does.

        Returns
        -------
        Result
            Saved, too, if it was interrupted.

        Raises
        ------
        UsageError
            If nothing could be computed.
        RunError
            If the run broke off, or its picture could be saved in another place only; the message says where.
        """
        self.ends.keeping = False
        self.check(job)
        with job.held() as beat, Log(job.log) as log, Report(job, live) as report:
            for path in (job.output, job.snapshot, job.report):
                if path is not None and path != STANDARD:
                    files.discard_parts(path)
            there = job.snapshot is not None and os.path.exists(job.snapshot)
            wanted = job.settings["resume"] or (resume and not job.settings.given("resume"))
            if wanted and not there and not resume:
                self.note(f"{job.snapshot or job.output}: no snapshot to go on from: this begins at the start")
            try:
                return self._paint(job, name, on_start, beat, log, report, wanted and there)
            except SnapshotError as error:
                if job.settings["resume"] or not resume:
                    raise
                self.note(f"{reason(error).split(';')[0]}: this begins at the start")
            return self._paint(job, name, on_start, beat, log, report, False)

    def _paint(
        self,
        job: Job,
        name: str,
        on_start: Callable[[Objective, list[Rung]], object] | None,
        beat: Callable[[], None],
        log: Log,
        report: Report,
        resume: bool,
    ) -> Result:
        from .. import images, transfer

        settings = job.settings
        engine, weights = self.engine(settings), self.weights(settings["weights"], settings["offline"])
        request = self.request(job)  # now: at the end, an input may have gone
        report.look()
        every = settings["save_every"]
        with Progress("it", name, self.quiet, self._verbose) as progress:

            def event(text: str) -> None:
                progress.say(f"nstcore: {text}")
                log.event(text)
                report.event(text)

            self.machines.tell = event

            def start(objective: Objective, rungs: list[Rung]) -> None:
                if not resume:
                    self._set_aside(job)
                if on_start is not None:
                    on_start(objective, rungs)
                if notice := objective.engine.notice:
                    self._note(progress, notice)
                log.start(**self._facts(job, objective, rungs), resumed=resume)
                report.start(objective, rungs, request, resume)

            def step(now: Step) -> None:
                if resume and not self.ends.keeping:
                    progress.before = now.share
                self.ends.keeping = True
                beat()
                show_step(progress, now)
                log.step(now)
                report.step(now)
                if now.note is not None:
                    event(now.note)
                if every and 0 < now.iteration < now.iterations and now.iteration % every == 0:
                    try:
                        images.write_picture(_numbered(job.output, now), now.pixels())
                    except OutputError as error:
                        event(f"--save-every: {reason(error).split(';')[0]}; the run goes on")
                if log.problem is not None:
                    self._note(progress, log.problem)

            try:
                result = transfer.stylize(
                    str(job.content),
                    [str(style) for style in job.styles],
                    weights=weights,
                    engine=engine,
                    tile=settings["tile"],
                    memory=settings["memory"],
                    statistics=self._statistics,
                    on_start=start,
                    on_step=step,
                    snapshot=job.snapshot,
                    snapshot_every=settings["snapshot_every"],
                    resume=resume,
                    stop=lambda: self.ends.stop() or report.stop(),
                    **settings.keywords(),
                )
            except transfer.FailedRun as error:
                if error.result is None:
                    raise
                progress.writing(job.shown_output, *error.result.pixels.shape[1:])
                where = self._save(job, error.result, request, log, report, complete=False)
                where = where or f"the best picture before is in {job.shown_output}{kept(job)}"
                raise RunError(f"{error}; {where}") from error
            progress.writing(job.shown_output, *result.pixels.shape[1:])
            problem = self._save(job, result, request, log, report, complete=not result.interrupted)
            if problem is not None:
                raise RunError(problem)
            if result.alpha is not None and job.output.suffix.lower() in (".jpg", ".jpeg"):
                note = "JPEG has no transparency: clear parts are white; .png, .webp and .tif keep them"
                self._note(progress, note)
        return result

    def _set_aside(self, job: Job) -> None:
        """A snapshot that is not gone on from keeps its content under another name."""
        if job.snapshot is None or not os.path.exists(job.snapshot):
            return
        name = new_name(job.snapshot.parent, f"{job.snapshot.stem}.previous", job.snapshot.suffix)
        try:
            os.rename(job.snapshot, name)
        except OSError as error:
            raise OutputError(f"{job.snapshot}: cannot be set aside: {files.reason(error)}; remove it first") from None
        self.note(f"an earlier run's snapshot is now {name}: --resume --snapshot {name} goes on from it")

    def _note(self, progress: Progress, line: str) -> None:
        """Say something that holds for all pictures, once."""
        if line not in self._said:
            self._said.add(line)
            progress.say(f"nstcore: {line}")

    def _facts(self, job: Job, objective: Objective, rungs: list[Rung]) -> dict[str, Any]:
        """What a log begins with."""
        from ..transfer import made_with

        return {
            "output": job.output,
            "content": job.content,
            "style": job.styles,
            "settings": {name: kinds.show(job.settings[name]) for name in OPTIONS},
            "objective": objective.settings(),
            "sizes": [{"height": rung.height, "width": rung.width, "iterations": rung.iterations} for rung in rungs],
            **made_with(objective.weights, objective.engine),
        }

    def _save(
        self, job: Job, result: Result, request: dict[str, Any], log: Log, report: Report, complete: bool
    ) -> str | None:
        """With what was asked for, and whether this is it. What happened where it had to be saved in another place."""
        weights = result.metadata["weights"] | {"given": job.settings["weights"]}
        result.metadata.update(request=request, complete=complete, weights=weights)
        problem = None
        try:
            result.save(job.output, bits=job.settings["bits"], quality=job.settings["quality"])
        except OutputError as error:
            stem = job.content.stem if job.output == STANDARD else job.output.stem
            problem = save_elsewhere(error, result, f"nstcore-{stem}", job.settings["bits"]) + kept(job)
        if complete and problem is None and job.snapshot is not None:
            with suppress(OSError):
                job.snapshot.unlink(missing_ok=True)
        log.end(result, complete=complete, output=job.output, problem=problem)
        unreported = report.end(result, complete)
        if unreported is not None and problem is None:
            problem = f"{unreported}; the picture is in {job.shown_output}"
        return problem


def _check_layers(settings: Settings) -> None:
    """Refuse layers that the network does not have, before it is downloaded; a file's is known once it is read."""
    from .. import vgg
    from ..pretrained.places import AUTO, DEFAULT_NETWORK, is_published
    from ..pretrained.registry import default_registry

    name = DEFAULT_NETWORK if settings["weights"] == AUTO else settings["weights"]
    if is_published(name):
        known = default_registry().entries
        architecture = known[name].architecture if name in known else name
        for layer in (*(settings["content_layers"] or ()), *(settings["style_layers"] or ())):
            vgg.find(architecture, layer)


def _state_bytes(settings: Settings, positions: int) -> int:
    """About what a snapshot takes: the pictures that the optimizer holds, in single precision."""
    pictures = 5 if settings["optimizer"] == "adam" else 2 * settings["history"] + 4
    return pictures * positions * 3 * 4


def _numbered(output: Path, step: Step) -> Path:
    return output.with_name(f"{output.stem}_{step.iteration:0{len(str(step.iterations))}}{output.suffix}")
