"""`run --jobs FILE.toml`: a folder of jobs.

    [defaults]                            any setting, for all that follow
    size = 512

    [[job]]                               one picture: content, style (one or several), output, any setting
    content = "photo.jpg"
    style = ["painting.jpg", "etching.jpg"]
    output = "out/photo.png"

    [[grid]]                              every content with every style
    contents = "photos/*.jpg"
    styles = ["painting.jpg", "etching.jpg"]
    output = "out/{content}-{style}.png"

File names are relative to the file. It is checked as a whole before the first picture is begun.
"""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import OptionError, PictureError
from .batch import check_outputs, exit_code, paint_all, print_summary
from .job import Job
from .normalize import SUFFIXES
from .settings import Source
from .sources import from_arguments, from_table, read_toml, resolve, settings_file
from .studio import Studio
from .together import at_once_of

_GRID = ("contents", "styles", "output")
_OUTPUT = "{content}-{style}.png"


def run(args: argparse.Namespace) -> int:
    """Check the file, make its pictures, and say what became of them; returns the exit code."""
    jobs = read_jobs(Path(args.jobs), settings_file(args.settings), from_arguments(args))
    at_once = at_once_of(args, jobs)
    with Studio(args.quiet, args.verbose) as studio:
        outcomes = paint_all(jobs, studio, at_once=at_once)
        print_summary(outcomes, studio)
        return exit_code(outcomes, studio)


def read_jobs(path: Path, below: list[Source], above: Source) -> list[Job]:
    """The jobs of a file, over the settings `below` it and under those `above` it.

    Raises
    ------
    OptionError, PictureError, OutputError
        For anything in the file that cannot be done; nothing was computed.
    """
    table = read_toml(path, "a file of jobs")
    unknown = table.keys() - {"defaults", "job", "grid"}
    if unknown:
        raise OptionError(f"{path.name}: expected [defaults], [[job]] and [[grid]], got {min(unknown)!r}")
    defaults = table.get("defaults", {})
    if not isinstance(defaults, dict):
        raise OptionError(f"{path.name}: expected [defaults], one table, got {defaults!r}")
    sources = [*below, from_table(defaults, f"{path.name} [defaults]", path.parent, strict=False, pictures=())]
    placed = []
    for place, entry in _entries(table, "job", path):
        placed.append((place, _one(place, [*sources, from_table(entry, place, path.parent), above], path.parent)))
    for place, entry in _entries(table, "grid", path):
        source = from_table(entry, place, path.parent, pictures=_GRID)
        placed += [(place, job) for job in _grid(place, [*sources, source, above], source.pictures, path.parent)]
    if not placed:
        raise OptionError(f"{path.name}: expected at least one [[job]] or [[grid]], got none")
    _check(placed)
    jobs = [job for _, job in placed]
    check_outputs(jobs)
    return jobs


def _entries(table: dict[str, Any], key: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each entry is called in messages, and its table."""
    entries = table.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise OptionError(f"{path.name}: expected [[{key}]], a list of tables, got {key} = {entries!r}")
    for number, entry in enumerate(entries, 1):
        yield f"{path.name} [[{key}]] {number}", entry


def _one(place: str, sources: list[Source], folder: Path) -> Job:
    settings = resolve(sources)
    content, styles = settings.picture("content"), settings.picture("style")
    for name, given in (("content", content), ("style", styles)):
        if given is None:
            raise OptionError(f"{place}: expected content and style, got no {name}")
    output = settings.picture("output") or folder / f"{content.stem}-{styles[0].stem}.png"
    return Job(content, tuple(styles), output, settings)


def _grid(place: str, sources: list[Source], pictures: Any, folder: Path) -> list[Job]:
    for name in ("contents", "styles"):
        if name not in pictures:
            raise OptionError(f"{place}: expected contents and styles, got no {name}")
    template = str(pictures.get("output", folder / _OUTPUT))
    jobs = []
    for content in _found(f"{place}: contents", pictures["contents"], folder):
        for style in _found(f"{place}: styles", pictures["styles"], folder):
            try:
                output = Path(template.format(content=content.stem, style=style.stem))
            except (KeyError, IndexError, ValueError):
                raise OptionError(
                    f"{place}: output: expected a name with {{content}} and {{style}} in it, got {template!r}"
                ) from None
            jobs.append(Job(content, (style,), output, resolve(sources)))
    return jobs


def _check(placed: Sequence[tuple[str, Job]]) -> None:
    """Refuse pictures that are not there, and places where nothing can be written."""
    made = {os.path.realpath(job.output): place for place, job in placed}
    for place, job in placed:
        for picture in (job.content, *job.styles):
            if not os.path.isfile(picture):
                maker = made.get(os.path.realpath(picture))
                what = f" yet, it is the output of {maker}" if maker else ""
                way = "put this job into a file of its own, for afterwards" if maker else "expected a picture"
                raise PictureError(f"{place}: {picture}: no such file{what}; {way}")
        _check_output(job.output)


def _check_output(output: Path) -> None:
    """As `run` does, or in the nearest folder that there is; the others are made when the picture is."""
    from .. import images

    folder = next(parent for parent in (output.parent, *output.parent.parents) if os.path.exists(parent))
    images.check_output(output if folder == output.parent else folder / f".{output.name}")


def _found(label: str, patterns: list[str], folder: Path) -> list[Path]:
    """Pictures by name or by pattern, each once; of what a pattern finds, files that are no pictures do not count."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        if not glob.has_magic(pattern):
            found[folder / pattern] = None
            continue
        matches = sorted(glob.glob(pattern, root_dir=folder, recursive=True))
        paths = [folder / match for match in matches if match.lower().endswith(SUFFIXES)]
        if not paths:
            raise PictureError(f"{label}: expected pictures, found none for {pattern!r} in {folder}")
        found.update(dict.fromkeys(paths))
    return list(found)
