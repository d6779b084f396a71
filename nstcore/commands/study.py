"""What the commands of the studies share: what is asked for, the progress, the sheet."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import INTERRUPTED, OptionError, OutputError, RunError
from .ends import save_elsewhere
from .job import STANDARD, Job, new_name
from .options import OPTIONS, add_options
from .progress import Progress, add_volume, tell
from .settings import Settings, Source
from .sources import from_arguments, read, resolve
from .studio import EXAMPLES, Studio

if TYPE_CHECKING:
    import numpy as np

    from ..engines import Engine
    from ..pretrained import Weights
    from ..studies import Moment, Panel, Study

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")  # of the papers' figures
MACHINE = ("weights", "offline", "device", "precision", "threads")
OPTIMIZER = ("iterations", "optimizer", "learning_rate", "average", "history", "init", "seed")
_TENTHS = 0.1  # a part below gets a digit more
_TOLD = 8  # panels, whose numbers are printed as well


@dataclass(frozen=True)
class Layout:
    """How a study becomes a sheet.

    Attributes
    ----------
    words : callable (Panel) -> str
        The numbers of a panel.
    title, foot : str
    columns : int
        Cells in a row.
    least : int
        Long side in pixels that small panels are brought to at least, each pixel as a square.
    original : bool
        Whether the picture that was studied comes first.
    """

    words: Callable[[Panel], str]
    title: str
    foot: str
    columns: int = 3
    least: int = 0
    original: bool = True


@dataclass(frozen=True)
class Asked:
    """What a command line asks for.

    Attributes
    ----------
    picture : Path
    example : bool
        Whether it is the package's own, because none was named.
    layers : tuple of str
    settings : Settings
    job : Job
        The sheet, for what is checked of every output before any work, and for its lock.
    """

    picture: Path
    example: bool
    layers: tuple[str, ...]
    settings: Settings
    job: Job


def add_arguments(
    parser: argparse.ArgumentParser,
    metavar: str,
    what: str,
    options: tuple[str, ...],
    defaults: Mapping[str, Any],
) -> None:
    """The picture, the sheet, and the options that a study takes with its own defaults."""
    parser.set_defaults(style=None)
    add = parser.add_argument
    add("content", nargs="?", metavar=metavar, help=f"{what} (default: the example's)")
    add(
        "-o",
        "--output",
        metavar="SHEET",
        help="PNG, JPEG, WebP or TIFF; - is standard output, as PNG (default: a new name after the picture)",
    )
    add_volume(parser)
    add_options(parser, (*options, *MACHINE), defaults)


def asked(
    args: argparse.Namespace, name: str, example: str, defaults: Mapping[str, Any], layers: tuple[str, ...]
) -> Asked:
    """What the arguments of command `name` ask for, with a picture of the package's own in place of none; nothing is
    touched."""
    given = from_arguments(args)
    sources = [Source(name, defaults, strict=False), given]
    picture = given.pictures.get("content", EXAMPLES / example)
    output = given.pictures.get("output") or new_name(
        Path(), f"{'input' if picture == STANDARD else picture.stem}-{name}"
    )
    # The layers as an option of a run, so that they are checked as such
    checked = resolve([*sources, Source("", {"content_layers": layers, "snapshot_every": 0.0})])
    job = Job(picture, (picture,), output, checked)
    return Asked(picture, args.content is None, layers, resolve(sources), job)


def read_layers(text: str | None, flag: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Names of layers, without weights."""
    if text is None:
        return default
    names = read(OPTIONS["content_layers"], text, flag)
    if isinstance(names, dict):
        raise OptionError(f"{flag}: expected names alone, as relu1_1,relu2_1, got weights in {text!r}")
    return tuple(names)


@contextmanager
def at_work(args: argparse.Namespace, wanted: Asked) -> Iterator[tuple[Studio, Callable[[], None]]]:
    """Everything checked, and the sheet ours as long as this lasts; yields a studio, and what says that we live."""
    job = wanted.job
    with Studio(args.quiet, args.verbose, "error" if job.output == STANDARD else "output") as studio:
        if wanted.example:
            studio.say(f"The example picture: {wanted.picture}")
        studio.check(job)
        with job.held() as beat:
            if job.output != STANDARD:
                files.discard_parts(job.output)
            yield studio, beat


def paint(args: argparse.Namespace, wanted: Asked, make: Callable[..., Study], layout: Layout) -> int:
    """Paint, write the sheet (and, with --separate, every picture), say the numbers; returns the exit code.

    Parameters
    ----------
    args : Namespace
    wanted : Asked
    make : callable (picture, layers, **options) -> Study
    layout : Layout
    """
    with at_work(args, wanted) as (studio, beat):
        folder = None if args.separate is None else _folder(args.separate)
        weights, engine = machine(studio, wanted)
        with Progress("it", "", args.quiet, args.verbose) as progress:

            def told(now: Moment) -> None:
                studio.ends.keeping = True
                beat()
                step = now.step
                done, total = now.part * step.iterations + step.iteration, now.parts * step.iterations
                progress(done, total, f"{now.label}, loss {step.terms.total:.4g}", now.share)
                if args.verbose and step.note is not None:
                    progress.say(f"nstcore: {now.label}: {step.note}")

            study = make(
                str(wanted.picture),
                wanted.layers,
                weights=weights,
                engine=engine,
                stop=studio.ends.stop,
                on_step=told,
                **wanted.settings.keywords(),
            )
        return finish(studio, wanted, study, layout, folder)


def machine(studio: Studio, wanted: Asked) -> tuple[Weights, Engine]:
    """Weights and engine that the options name, told."""
    weights = studio.weights(wanted.settings["weights"], wanted.settings["offline"])
    engine = studio.engine(wanted.settings)
    studio.say(f"weights: {weights.describe()}")
    studio.say(f"engine: {engine.describe()}")
    return weights, engine


def finish(studio: Studio, wanted: Asked, study: Study, layout: Layout, folder: Path | None = None) -> int:
    """Write what there is, and say what it is; returns the exit code."""
    job = wanted.job
    for problem in study.problems:
        tell(f"nstcore: {problem}")
    if not study.panels:
        raise RunError(f"{study.name}: no picture could be made, so there is no sheet")
    if folder is not None:
        for panel in study.panels:
            place = new_name(folder, panel.label.replace(" to ", "-"))
            _save(_separate(panel, wanted.settings["weights"]), place)
    _save(_Sheet(_laid_out(study, layout), study.metadata), job.output)
    if len(study.panels) <= _TOLD:
        for panel in study.panels:
            studio.say(_label(panel, layout))
    beside = "" if folder is None else f"; the pictures are in {folder}"
    if study.interrupted:
        tell(f"nstcore: interrupted; what was done is in {job.shown_output}{beside}")
        return studio.ends.code or INTERRUPTED
    studio.say(f"the sheet: {job.shown_output}{beside}")
    return 1 if study.problems else 0


def _laid_out(study: Study, layout: Layout) -> np.ndarray:
    """The sheet of a study, (H, W, 3) uint8."""
    from .. import images

    labels = [_label(panel, layout) for panel in study.panels]
    tiles = [_magnified(panel.pixels, layout.least) for panel in study.panels]
    if study.original is not None and layout.original:
        size = images.fit(study.original.shape[1:], max(tiles[0].shape[1:]))
        tiles.insert(0, images.resize_pixels(study.original, size))
        labels.insert(0, "the picture")
    shown = [images.to_uint8(tile) for tile in tiles]
    return images.contact_sheet(shown, labels, layout.columns, layout.title, foot=layout.foot)


def _label(panel: Panel, layout: Layout) -> str:
    return f"{panel.label}: {layout.words(panel)}{panel.note and '; ' + panel.note}"


def percent(part: float) -> str:
    """0.034 as "3.4 %"."""
    return f"{100 * part:.{0 if part >= _TENTHS else 1}f} %"


def short(number: float) -> str:
    """Three digits, and no exponent below a million: 0.0123, 695, 23100, 1.1e7."""
    if abs(number) < 1e3:
        return f"{number:.3g}"
    if abs(number) < 1e6:
        return f"{float(f'{number:.3g}'):.0f}"
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


@dataclass(frozen=True)
class _Sheet:
    image: np.ndarray  # (H, W, 3) uint8
    metadata: Mapping[str, Any]

    def save(self, path: Path, bits: int = 8) -> None:
        from .. import images

        images.write_picture(path, images.as_pixels(self.image), self.metadata, bits=bits)


def _separate(panel: Panel, given: str) -> _Sheet:
    """A panel by itself, with all that `rerun` needs."""
    from .. import images

    metadata = panel.metadata | {"complete": not panel.note}
    if "weights" in metadata:
        metadata["weights"] = metadata["weights"] | {"given": given}
    return _Sheet(images.to_uint8(panel.pixels), metadata)


def _save(sheet: _Sheet, place: Path) -> None:
    try:
        sheet.save(place)
    except OutputError as error:
        raise RunError(save_elsewhere(error, sheet, f"nstcore-{place.stem}", 8)) from error


def _folder(name: str) -> Path:
    """A folder that pictures can be written to."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--separate {name}: expected a folder: {files.reason(error)}; give another name") from None
    files.check_writable(folder / "picture.png")
    return folder


def _magnified(pixels: np.ndarray, least: int) -> np.ndarray:
    """Pixels as squares, until the long side has at least so many; for features and filters, which must not be
    smoothed."""
    k = -(-least // max(pixels.shape[1:]))
    return pixels.repeat(k, axis=1).repeat(k, axis=2) if k > 1 else pixels
