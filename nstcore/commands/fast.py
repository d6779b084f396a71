"""`fast`: paint a picture, or a folder of them, in one pass of a network that was trained for any style."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import OutputError, PictureError
from .batch import check_outputs, exit_code, paint_all, print_summary
from .job import STANDARD, Job, new_name, pictures
from .normalize import SUFFIXES
from .one_pass import MODELS, OnePass, read_strength, summary_of_pass
from .options import add_options
from .progress import add_volume
from .settings import DEEP, LOSSY, Settings, Source
from .sources import from_arguments
from .studio import EXAMPLES, Studio

MACHINE = ("offline", "device", "precision", "threads")
OPTIONS = ("size", "colors", "style_blend", "style_size", *MACHINE, "bits", "quality")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `fast`."""
    parser = subparsers.add_parser(
        "fast",
        help="paint in one pass, in any style, with a network that was trained for it",
        description="Paint CONTENT, a picture or a folder of pictures, in the manner of STYLE, in one pass of a "
        "published network: Magenta's (Ghiasi et al. 2017) or AdaIN (Huang and Belongie 2017). Without pictures: the "
        "example pair.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("content", nargs="?", metavar="CONTENT", help="what is painted; a picture, a folder, or - for standard input")
    add("style", nargs="*", metavar="STYLE", help="how it is painted; several styles are blended")
    add(
        "-o",
        "--output",
        metavar="FILE|DIR",
        help="PNG, JPEG, WebP or TIFF; - is standard output, as PNG; of a folder, a folder (default: "
        "CONTENT-STYLE-fast.png, or CONTENT-fast for a folder, a new name)",
    )
    add("--model", choices=MODELS, help="which network (default: that of --weights, else magenta)")
    add(
        "--weights",
        metavar="NAME|FILE|DIR",
        help="magenta, adain or another of `weights list`, a converted file, a published file, or a folder of these "
        "(default: the model's, from the cache, else downloaded)",
    )
    add(
        "--strength",
        metavar="F",
        help="from 0 (the content's own look) to 1 (the style's) (default: 1)",
    )
    add_volume(parser)
    add_options(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Paint, save, and say what was done; returns the exit code."""
    given = from_arguments(args)
    settings = _settings(given)
    strength = 1.0 if args.strength is None else read_strength(args.strength, "--strength")
    named = pictures(settings, "fast")
    content, styles = named or (EXAMPLES / "content.jpg", (EXAMPLES / "style.jpg",))
    output = settings.picture("output")
    to_standard = output == STANDARD
    with Studio(args.quiet, args.verbose, "error" if to_standard else "output") as studio:
        if named is None:
            studio.say(f"The example pair: {content}, {styles[0]}")
        one_pass = OnePass(studio, args.model, args.weights, strength, args.quiet)
        if content != STANDARD and not os.path.exists(content):
            raise PictureError(f"{content}: no such file or folder; expected a picture, or a folder of pictures")
        if content != STANDARD and os.path.isdir(content):
            return _folder(content, styles, output, given, studio, one_pass)
        job = Job(content, styles, output or _default_output(content, styles[0]), settings)
        result = one_pass.paint(job, announce=True)
        studio.say(summary_of_pass(job, result))
    return 0


def _settings(given: Source, strict: bool = True) -> Settings:
    # There is no state to keep between the beginning of a pass and its end
    source = Source(given.name, {**given.values, "snapshot_every": 0.0}, strict, given.pictures)
    return Settings([source])


def _default_output(content: Path, style: Path) -> Path:
    content, style = (Path("input") if path == STANDARD else path for path in (content, style))
    return new_name(Path(), f"{content.stem}-{style.stem}-fast")


def _folder(
    folder: Path, styles: tuple[Path, ...], output: Path | None, given: Source, studio: Studio, one_pass: OnePass
) -> int:
    """Every picture of a folder into another."""
    target = output or new_name(Path(), f"{folder.resolve().name}-fast", "")
    if target == STANDARD or (os.path.exists(target) and not os.path.isdir(target)):
        shown = "standard output" if target == STANDARD else f"the file {target}"
        raise OutputError(f"--output: expected a folder for the pictures of {folder}, got {shown}")
    if os.path.isdir(target) and target.samefile(folder):
        raise OutputError(f"{target}: expected another folder than that of the contents, got the same")
    jobs = _jobs(_found(folder), styles, target, given)
    studio.open(styles, jobs[0].settings, {"weights"})
    one_pass.network(jobs[0].settings)
    outcomes = paint_all(jobs, studio, one_pass.outcome)
    print_summary(outcomes, studio)
    return exit_code(outcomes, studio)


def _jobs(contents: Sequence[Path], styles: tuple[Path, ...], target: Path, given: Source) -> list[Job]:
    """A job for each, in its own format where that can be written, else as PNG."""
    jobs = []
    for content in contents:
        settings = _settings(given, strict=False)
        kinds = DEEP if settings["bits"] != 8 else (*DEEP, *LOSSY)
        suffix = content.suffix if content.suffix.lower() in kinds else ".png"
        jobs.append(Job(content, styles, target / f"{content.stem}{suffix}", settings))
    check_outputs(jobs)
    return jobs


def _found(folder: Path) -> list[Path]:
    """The pictures in a folder, by name."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise PictureError(f"{folder}: the folder cannot be read: {(error.strerror or str(error)).lower()}") from None
    found = [folder / name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not found:
        raise PictureError(f"{folder}: expected a folder with pictures ({', '.join(SUFFIXES)}), found none")
    return found
