"""`sweep`: every combination of some options' values, and a contact sheet of what comes of them."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import OptionError
from .batch import KEPT, MADE, Outcome, check_outputs, exit_code, paint_all, print_summary
from .job import Job, held, pictures
from .kinds import show
from .options import Option, add_options
from .progress import add_volume
from .settings import Source
from .sources import from_arguments, option_named, read, resolve, settings_file
from .studio import EXAMPLES, Studio
from .together import add_at_once, at_once_of

if TYPE_CHECKING:
    import numpy as np

# A sheet is a first look at many pictures: small ones, soon.
DEFAULTS = Source("sweep", {"size": 256, "iterations": 100}, strict=False)
SHEET = "sheet.png"
_LONGEST = 40  # characters of a value in a file name
_ROW = 6  # pictures in a row, if only one option varies

Axis = tuple[Option, list[Any]]
Words = Callable[[dict[str, Any]], str]  # the values of a cell, in words


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `sweep`."""
    parser = subparsers.add_parser(
        "sweep",
        help="paint with every combination of some options' values, and lay the pictures out on one sheet",
        description="Paint CONTENT in the manner of STYLE once for every combination of values. Without pictures: the "
        "example pair. Smaller and shorter than `run`, if not told otherwise: --size 256 --iterations 100.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("content", nargs="?", metavar="CONTENT", help="what is painted")
    add("style", nargs="*", metavar="STYLE", help="how it is painted; several styles are blended")
    add(
        "--over",
        action="append",
        required=True,
        metavar="OPTION=V1,V2,...",
        help="an option and its values, with semicolons between them if they contain commas; once for each option, the "
        "last of which runs along the columns of the sheet (required)",
    )
    add("-o", "--output", metavar="DIR", required=True, help=f"folder of the pictures and of {SHEET} (required)")
    add("--settings", metavar="FILE.toml", help="options by name, and content and style (default: none)")
    add_at_once(parser)
    add_volume(parser)
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Paint what is not there yet, write the sheet; returns the exit code."""
    given = from_arguments(args)
    sources = [DEFAULTS, *settings_file(args.settings), given]
    named = pictures(resolve(sources), "sweep")
    content, styles = named or (EXAMPLES / "content.jpg", (EXAMPLES / "style.jpg",))
    title = f"{content.stem} - {', '.join(style.stem for style in styles)}"
    return paint_grid(args, content, styles, sources, read_axes(args.over, given), _label, _stem, title)


def paint_grid(
    args: argparse.Namespace,
    content: Path,
    styles: tuple[Path, ...],
    sources: Sequence[Source],
    axes: Sequence[Axis],
    label: Words,
    stem: Words,
    title: str,
    foot: str | None = None,
) -> int:
    """Paint every cell that is not there yet into the folder `args.output`, write the sheet; returns the exit code.

    Parameters
    ----------
    args : Namespace
        With `output`, `at_once`, `quiet` and `verbose`.
    content, styles, sources
        What is common to all cells; `sources` are settings, the lowest first.
    axes : sequence of (Option, values)
        The last of them runs along the columns.
    label, stem : callable (values of a cell by option name) -> str
        What stands below its picture, and the picture's name.
    title, foot : str
        Of the sheet.
    """
    folder = Path(args.output)
    jobs: list[Job] = []
    labels = []
    for cell in itertools.product(*(values for _, values in axes)):
        values = {option.name: value for (option, _), value in zip(axes, cell, strict=True)}
        labels.append(label(values))
        output = folder / f"{_new_stem(stem(values), {job.output.stem for job in jobs})}.png"
        jobs.append(Job(content, styles, output, resolve([*sources, Source("", values)])))
    check_outputs(jobs)
    at_once = at_once_of(args, jobs)
    with ExitStack() as stack:
        studio = stack.enter_context(Studio(args.quiet, args.verbose))
        studio.open((content, *styles), resolve(sources), {option.name for option, _ in axes})
        files.make_folder(folder)
        files.check_writable(folder / SHEET)
        stack.enter_context(held(folder / SHEET))
        outcomes = paint_all(jobs, studio, at_once=at_once)
        print_summary(outcomes, studio)
        if any(outcome.state in (MADE, KEPT) for outcome in outcomes):
            _write_sheet(folder / SHEET, outcomes, labels, axes, title, foot)
            studio.say(f"the sheet: {folder / SHEET}")
        return exit_code(outcomes, studio)


def read_axes(texts: Sequence[str], given: Source) -> list[Axis]:
    """The options that vary, with their values; `OptionError` for what is none, or is given otherwise too."""
    axes: list[Axis] = []
    for text in texts:
        name, equals, rest = text.partition("=")
        option = option_named(name, "--over")
        parts = rest.split(";" if ";" in rest else ",") if equals else []
        values = [read(option, part.strip(), f"--over {name}") for part in parts]
        if not values or len({show(value) for value in values}) < len(values):
            raise OptionError(f"--over: expected OPTION=V1,V2,... with each value once, got {text!r}")
        if option.name in given.values:
            raise OptionError(f"--over {name}: expected an option that is not given otherwise, got {option.flag} too")
        if option in [other for other, _ in axes]:
            raise OptionError(f"--over {name}: expected each option once, got it twice; put all its values into one")
        axes.append((option, values))
    return axes


def _label(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', '-')} {show(value)}" for name, value in values.items())


def _stem(values: dict[str, Any]) -> str:
    return "_".join(f"{name.replace('_', '-')}={_plain(show(value))}" for name, value in values.items())


def _new_stem(stem: str, taken: set[str]) -> str:
    """A name for a picture that no other has."""
    numbered = (stem, *(f"{stem}-{i}" for i in range(2, len(taken) + 3)))
    return next(name for name in numbered if name not in taken)


def _plain(text: str) -> str:
    """Letters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "-", text)[:_LONGEST]


def _write_sheet(
    path: Path, outcomes: list[Outcome], labels: list[str], axes: Sequence[Axis], title: str, foot: str | None
) -> None:
    from .. import images

    tiles = [_tile(outcome) for outcome in outcomes]
    blank = next(tile for tile in tiles if tile is not None)
    words = [
        label if outcome.state in (MADE, KEPT) else f"{label}: {outcome.state}"
        for label, outcome in zip(labels, outcomes, strict=True)
    ]
    along = len(axes[-1][1])
    sheet = images.contact_sheet(
        [_empty(blank) if tile is None else tile for tile in tiles],
        words,
        along if len(axes) > 1 else min(along, _ROW),
        title,
        foot=foot,
    )
    images.write_picture(path, images.as_pixels(sheet))


def _tile(outcome: Outcome) -> np.ndarray | None:
    """The picture (H, W, 3) uint8 of a job, if it is there."""
    from .. import images

    if outcome.state not in (MADE, KEPT):
        return None
    return images.to_uint8(images.as_pixels(outcome.job.output))


def _empty(like: np.ndarray) -> np.ndarray:
    """Grey, in place of a picture that there is none of."""
    import numpy as np

    return np.full_like(like, 200)
