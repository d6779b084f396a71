"""One picture that is to be made, and the files that belong to it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import files
from ..errors import NstcoreError, Occupied, OptionError, OutputError, PictureError
from ..lock import locked
from . import kinds
from .options import OPTIONS
from .settings import Settings
from .sources import PICTURES

if TYPE_CHECKING:
    from ..transfer import Result

STANDARD = Path("-")  # input or output


@dataclass(frozen=True)
class Job:
    """One picture to be made: from what, where to, how.

    Raises
    ------
    OptionError, OutputError
        If the settings do not fit the pictures, or a file would be written over one that is read.
    """

    content: Path
    styles: tuple[Path, ...]
    output: Path
    settings: Settings

    def __post_init__(self) -> None:
        for name in (self.output, self.settings["snapshot"], self.settings["log"], self.settings["report"]):
            if name is not None:
                files.check_name(name)
        self.settings.settle(len(self.styles), Path("-.png") if self.output == STANDARD else self.output)
        if self.output == STANDARD and self.settings["save_every"] is not None:
            raise OptionError(
                "--save-every: expected a file with -o, after which pictures are named, got standard output"
            )
        written = {"the output": self.output, "the snapshot": self.snapshot, "the log": self.log}
        written["the report"] = self.report
        seen: dict[str, str] = {}
        for what, path in written.items():
            if path is None or path == STANDARD:
                continue
            for picture in map(Path, self.inputs):
                if picture != STANDARD and _same_file(path, picture):
                    raise OutputError(f"{path}: {what} is {picture} itself; give another name")
            other = seen.setdefault(os.path.realpath(path), what)
            if other != what:
                raise OutputError(
                    f"{path}: expected a file for each, got one for {other} and {what}; give another name"
                )

    @property
    def inputs(self) -> list[str]:
        """Every picture that is read: content, styles, masks, starts."""
        found = [str(path) for path in (self.content, *self.styles)]
        for name, option in OPTIONS.items():
            if option.scope == "picture" and self.settings[name] is not None:
                found += kinds.files(option.kind, self.settings[name])
        return found

    @property
    def shown_output(self) -> str:
        """The output, in words."""
        return "standard output" if self.output == STANDARD else str(self.output)

    @property
    def snapshot(self) -> Path | None:
        """Where the state is kept; None for a picture that goes to standard output, if no file is named."""
        if self.settings["snapshot"] is not None:
            return Path(self.settings["snapshot"])
        return None if self.output == STANDARD else snapshot_of(self.output)

    @property
    def log(self) -> Path | None:
        return None if self.settings["log"] is None else Path(self.settings["log"])

    @property
    def report(self) -> Path | None:
        """The page about it; "{output}" in its name stands for the output's name without its ending."""
        if self.settings["report"] is None:
            return None
        return Path(self.settings["report"].replace("{output}", self.output.stem))

    @contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """Nobody else writes the picture, the snapshot or the report as long as this lasts; yields a function that says
        so."""
        with ExitStack() as stack:
            beats = [stack.enter_context(held(path)) for path in dict.fromkeys(self._places())]

            def beat() -> None:
                for each in beats:
                    each()

            yield beat

    def _places(self) -> list[Path]:
        """What only one run may write at a time; what is beside the output goes with it."""
        own = None if self.settings["snapshot"] is None else self.snapshot
        return [path for path in (self.output, own, self.report) if path is not None and path != STANDARD]


def held(path: Path) -> AbstractContextManager[Callable[[], None]]:
    """The lock of a file that is written, beside what its name stands for; killed runs' leavings are taken away."""

    def busy(holder: str) -> Occupied:
        return Occupied(f"{path}: {holder} is writing it; wait for that to end, or give another name")

    return locked(files.beside(Path(os.path.realpath(path)), ".lock", "."), busy)


def _same_file(a: Path, b: Path) -> bool:
    with suppress(OSError, ValueError):
        return os.path.samefile(a, b)
    return False


def kept(job: Job) -> str:
    """What to say of the snapshot, if there is one."""
    return (
        f"; --resume goes on from {job.snapshot}" if job.snapshot is not None and os.path.exists(job.snapshot) else ""
    )


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
    return next(name for name in names(folder, stem, suffix) if not os.path.lexists(name))


def names(folder: Path, stem: str, suffix: str = ".png") -> Iterator[Path]:
    """One name after another: a.png, a-2.png, a-3.png."""
    yield folder / f"{stem}{suffix}"
    yield from (folder / f"{stem}-{i}{suffix}" for i in range(2, 10_000))


def snapshot_of(output: Path) -> Path:
    """Where the state of a run is kept until its picture is saved."""
    return files.beside(output, ".snapshot.h5")


def digest(path: Path) -> str:
    """SHA-256 of a file that should be a picture, or of what came through standard input."""
    if path == STANDARD:
        from .. import images

        return hashlib.sha256(images.standard_input()).hexdigest()
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
    plural = "s" if iterations != 1 else ""
    made = f"{width}x{height}, {iterations} iteration{plural} in {result.seconds:.1f} s, {result.status}"
    return f"{job.shown_output}: {made}{_reported(job)}"


def _reported(job: Job) -> str:
    return "" if job.report is None else f"; the report is {job.report}"


def reason(error: NstcoreError | MemoryError) -> str:
    """Why a picture was not made, in one line."""
    if isinstance(error, MemoryError):
        return "not enough memory; take a smaller --size, or --fit"
    return " ".join(str(error).split())


def ended_early(job: Job) -> str:
    """A line about a picture that was interrupted."""
    return f"nstcore: interrupted; the best picture so far is in {job.shown_output}{kept(job)}{_reported(job)}"
