"""One picture after another: weights and engines are loaded once, and what the styles are like is computed once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NstcoreError, OptionError, OutputError, PictureError, RunError
from .progress import Progress, show_step
from .settings import Settings
from .sources import PICTURES

if TYPE_CHECKING:
    from ..engines import Engine
    from ..objective import Objective
    from ..pretrained import Weights
    from ..transfer import Result, Rung, Step

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@dataclass(frozen=True)
class Job:
    """One picture to be made: from what, where to, how.

    Raises
    ------
    OptionError, OutputError
        If the settings do not fit the pictures, or the output is one of them.
    """

    content: Path
    styles: tuple[Path, ...]
    output: Path
    settings: Settings

    def __post_init__(self) -> None:
        self.settings.settle(len(self.styles), self.output)
        for picture in (self.content, *self.styles):
            if self.output.exists() and picture.exists() and os.path.samefile(self.output, picture):
                raise OutputError(f"{self.output}: the output is {picture} itself; give another name")


class Studio:
    """Where pictures are made.

    Parameters
    ----------
    quiet : bool
        Say nothing, show no progress.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._weights: dict[tuple[str, bool], Weights] = {}
        self._engines: dict[tuple[str, str | None, int | None], Engine] = {}
        self._statistics: dict[Any, Any] = {}
        self._digests: dict[str, str] = {}
        self._said: set[str] = set()

    def say(self, line: str) -> None:
        """Print a line, unless everything is to be quiet."""
        if not self._quiet:
            print(line, flush=True)

    def say_once(self, line: str) -> None:
        """The same, for what holds for many pictures."""
        if line not in self._said:
            self._said.add(line)
            self.say(line)

    def weights(self, name: str, offline: bool) -> Weights:
        """A network by its name, or from a file."""
        if (name, offline) not in self._weights:
            self._weights[name, offline] = self._load(name, offline)
        return self._weights[name, offline]

    def _load(self, name: str, offline: bool) -> Weights:
        from ..pretrained import builtin_notice, load_weights

        failures: list[str] = []
        with Progress("B", "vgg19" if name == "auto" else name, self._quiet) as progress:
            weights = load_weights(
                name,
                download=not offline,
                progress=progress,
                on_failure=lambda error: failures.append(str(error)),
            )
        if name == "auto" and weights.name == "builtin":
            self.say(builtin_notice(*failures))
        return weights

    def engine(self, settings: Settings) -> Engine:
        """The machine that the settings name."""
        from .. import engines

        key = settings["device"], settings["precision"], settings["threads"]
        if key not in self._engines:
            self._engines[key] = engines.create(*key)
        return self._engines[key]

    def request(self, job: Job) -> dict[str, Any]:
        """What a job asks for, apart from file names: equal requests make equal pictures on one machine."""
        return {
            "content": self._digest(str(job.content)),
            "style": [self._digest(str(style)) for style in job.styles],
            "weights": self.weights(job.settings["weights"], job.settings["offline"]).sha256,
            "settings": job.settings.record(self._digest),
        }

    def _digest(self, path: str) -> str:
        """SHA-256 of a file, read once."""
        if path not in self._digests:
            self._digests[path] = digest(Path(path))
        return self._digests[path]

    def paint(
        self,
        job: Job,
        name: str = "",
        on_start: Callable[[Objective, list[Rung]], object] | None = None,
    ) -> Result:
        """Make a picture and save it.

        Parameters
        ----------
        job : Job
        name : str
            What it is called beside the progress.
        on_start : callable, optional
            Called with the objective and all sizes before the first evaluation.

        Returns
        -------
        Result
            Saved, too, if it was interrupted.

        Raises
        ------
        UsageError
            If nothing could be computed.
        RunError
            If the run broke off; its message says where the best picture before is.
        """
        from .. import images, transfer

        settings = job.settings
        images.check_output(job.output)
        engine, weights = self.engine(settings), self.weights(settings["weights"], settings["offline"])
        every = settings["save_every"]
        with Progress("it", name, self._quiet) as progress:

            def start(objective: Objective, rungs: list[Rung]) -> None:
                if on_start is not None:
                    on_start(objective, rungs)
                if notice := objective.engine.notice:
                    self._note(progress, notice)

            def step(now: Step) -> None:
                show_step(progress, now)
                if every and 0 < now.iteration < now.iterations and now.iteration % every == 0:
                    images.write_picture(_numbered(job.output, now), now.pixels())

            try:
                result = transfer.stylize(
                    str(job.content),
                    [str(style) for style in job.styles],
                    weights=weights,
                    engine=engine,
                    statistics=self._statistics,
                    on_start=start,
                    on_step=step,
                    **settings.keywords(),
                )
            except transfer.FailedRun as error:
                if error.result is None:
                    raise
                self._save(job, error.result, complete=False)
                raise RunError(f"{error}; the best picture before is in {job.output}") from error
            self._save(job, result, complete=not result.interrupted)
            if result.alpha is not None and job.output.suffix.lower() in (".jpg", ".jpeg"):
                note = "JPEG has no transparency: clear parts are white; .png, .webp and .tif keep them"
                self._note(progress, note)
        return result

    def _note(self, progress: Progress, line: str) -> None:
        """Say something that holds for all pictures, once."""
        if line not in self._said:
            self._said.add(line)
            progress.say(f"nstcore: {line}")

    def _save(self, job: Job, result: Result, complete: bool) -> None:
        """With what was asked for, and whether this is it."""
        weights = result.metadata["weights"] | {"given": job.settings["weights"]}
        result.metadata.update(request=self.request(job), complete=complete, weights=weights)
        result.save(job.output, bits=job.settings["bits"], quality=job.settings["quality"])


def pictures(settings: Settings, command: str) -> tuple[Path, tuple[Path, ...]] | None:
    """The content and the styles that the settings name; None if they name neither."""
    content, styles = (settings.picture(name) for name in PICTURES[:2])
    if content is None and not styles:
        return None
    if content is None or not styles:
        only = "only CONTENT" if styles is None else "only STYLE"
        raise OptionError(
            f"{command}: expected CONTENT and at least one STYLE, got {only}; or none for the example pair"
        )
    return content, tuple(styles)


def new_name(folder: Path, stem: str, suffix: str = ".png") -> Path:
    """A name that no file has: an earlier picture is never overwritten unasked."""
    names = (folder / f"{stem}{suffix}", *(folder / f"{stem}-{i}{suffix}" for i in range(2, 10_000)))
    return next(name for name in names if not name.exists())


def digest(path: Path) -> str:
    """SHA-256 of a file that should be a picture."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise PictureError(f"{path}: no such file; expected a picture") from None
    except OSError as error:
        raise PictureError(f"{path}: expected a picture: {(error.strerror or str(error)).lower()}") from None


def summary(job: Job, result: Result) -> str:
    """A line about a picture that was made."""
    height, width = result.pixels.shape[1:]
    iterations = len(result.losses) - len(result.metadata["sizes"])  # the start of each size is none
    return f"{job.output}: {width}x{height}, {iterations} iterations in {result.seconds:.1f} s, {result.status}"


def reason(error: NstcoreError | MemoryError) -> str:
    """Why a picture was not made, in one line."""
    if isinstance(error, MemoryError):
        return "not enough memory; take a smaller --size, or --fit"
    return " ".join(str(error).split())


def _numbered(output: Path, step: Step) -> Path:
    return output.with_name(f"{output.stem}_{step.iteration:0{len(str(step.iterations))}}{output.suffix}")
