"""`run`: paint a content picture in the manner of a style picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import INTERRUPTED, OptionError
from . import jobs
from .batch import differences
from .job import STANDARD, Job, ended_early, names, new_name, pictures, snapshot_of, summary
from .options import add_options
from .plan import print_plan
from .progress import add_volume, tell
from .settings import Source
from .sources import describe_recipe, from_arguments, recipe_names, resolve, settings_file
from .studio import EXAMPLES, Studio
from .together import add_at_once

if TYPE_CHECKING:
    from ..objective import Objective
    from ..report import Live
    from ..transfer import Rung

# The example pair is a first look: it should be there within two minutes on a small laptop.
EXAMPLE = Source("the example pair", {"size": 384, "iterations": 150})


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `run`."""
    parser = subparsers.add_parser(
        "run",
        help="paint a content picture in the manner of a style picture",
        description="Paint CONTENT in the manner of STYLE. Without pictures: the example pair.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("content", nargs="?", metavar="CONTENT", help="what is painted; - is standard input")
    add("style", nargs="*", metavar="STYLE", help="how it is painted; several styles are blended")
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="PNG, JPEG, WebP or TIFF; - is standard output, as PNG (default: CONTENT-STYLE.png, a new name)",
    )
    add("--settings", metavar="FILE.toml", help="options by name, and content, style, output (default: none)")
    add("--jobs", metavar="FILE.toml", help="many pictures: [defaults], [[job]], [[grid]] (default: one picture)")
    add_at_once(parser)
    add("--list-recipes", action="store_true", help="print the recipes and their settings")
    add("--equivalents", action="store_true", help="also print the weights that mean the same in other conventions")
    add(
        "--live",
        nargs="?",
        const="0",
        metavar="PORT",
        help="serve a page about the run on this machine (127.0.0.1) while it goes on, with a button that stops and "
        "keeps; as the last option, or --live=PORT (default: none; without PORT a free one)",
    )
    add("--plan", action="store_true", help="print what it would take, in memory and time, and paint nothing")
    add_volume(parser)
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Paint, save, and say what was done; returns the exit code."""
    if args.list_recipes:
        print("\n\n".join(map(describe_recipe, recipe_names())))
        return 0
    if args.jobs is not None:
        for given, what in (
            (args.content, "CONTENT"),
            (args.output, "--output"),
            (args.equivalents, "--equivalents"),
            (args.plan, "--plan"),
            (args.live is not None, "--live"),
        ):
            if given:
                raise OptionError(
                    f"--jobs: expected no {what} beside it, got one; pictures and outputs are in its file"
                )
        return jobs.run(args)
    if args.at_once != "1":
        raise OptionError("--at-once: expected --jobs beside it, got one picture; leave it out")
    return _run_one(args)


def _run_one(args: argparse.Namespace) -> int:
    port = _live_port(args.live)  # first: it may have taken a picture's name
    sources = [*settings_file(args.settings), from_arguments(args)]
    settings = resolve(sources)
    named = pictures(settings, "run")
    if named is None:
        settings = resolve(sources, EXAMPLE)
    content, styles = named or (EXAMPLES / "content.jpg", (EXAMPLES / "style.jpg",))
    output = settings.picture("output") or _default_output(content, styles[0], settings["resume"])
    job = Job(content, styles, output, settings)
    with (
        Studio(args.quiet, args.verbose, "error" if output == STANDARD else "output") as studio,
        _live_page(port) as live,
    ):
        if named is None:
            studio.say(f"The example pair: {content}, {styles[0]}")
        if args.plan:
            return print_plan(job, studio)
        if settings["resume"] and output != STANDARD and output.exists():
            studio.check(job)
            if differences(output, studio.request(job)) == []:
                studio.say(f"{output}: kept, it is as asked")
                return 0

        def announce(objective: Objective, rungs: list[Rung]) -> None:
            _announce(objective, rungs, args.equivalents, studio.say)
            if live is not None:
                studio.say(f"live: {live.address}")

        result = studio.paint(job, on_start=announce, live=live)
        if result.interrupted:
            tell(ended_early(job))
            return studio.ends.code or INTERRUPTED
        studio.say(summary(job, result))
    return 0


def _live_port(given: str | None) -> int | None:
    """What `--live` names."""
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 6 and int(given) < 1 << 16):
        raise OptionError(
            f"--live: expected a port, 0 to 65535, got {given!r}; put --live behind the pictures, or write --live=PORT"
        )
    return int(given)


def _live_page(port: int | None) -> AbstractContextManager[Live | None]:
    """What `--live` asks for, on a port that is ours from now on."""
    if port is None:
        return nullcontext()
    from ..report import Live, Recorder

    return Live(Recorder(), port)


def _default_output(content: Path, style: Path, resume: bool) -> Path:
    """A new name after the pictures; to go on, the one of the last run that has left a snapshot."""
    content, style = (Path("input") if path == STANDARD else path for path in (content, style))
    stem = f"{content.stem}-{style.stem}"
    if resume:
        left = [name for name in names(Path(), stem) if snapshot_of(name).exists()]
        if left:
            return left[-1]
    return new_name(Path(), stem)


def _announce(objective: Objective, rungs: list[Rung], equivalents: bool, say: Callable[[str], None]) -> None:
    """What is about to be computed, with what."""
    from ..conventions import CONVENTIONS

    settings = objective.settings()
    say(f"weights: {objective.weights.describe()}")
    say(f"engine: {objective.engine.describe()}")
    say(f"convention {objective.convention.name}: {objective.convention.formula()}")
    for kind in ("content", "style"):
        layers = ", ".join(f"{layer}={w:g}" for layer, w in settings[f"{kind}_layers"].items()) or "none"
        say(f"{kind} weight {settings[f'{kind}_weight']:g} on {layers}")
    if len(rungs) > 1:
        sizes = ", ".join(f"{max(rung.size)} ({rung.iterations})" for rung in rungs)
        say(f"long sides in pixels (iterations): {sizes}")
    if equivalents:
        for name in CONVENTIONS:
            same = objective.equivalent(name)
            say(f"the same as --convention {name} {_as_options(same)}" if same else f"nothing is the same as {name}")


def _as_options(same: dict[str, Any]) -> str:
    """What `Objective.equivalent` found, as options of this command; a term of weight 0 needs no layers."""
    words = []
    for kind in ("content", "style"):
        words.append(f"--{kind}-weight {same[f'{kind}_weight']:.6g}")
        if layers := ",".join(f"{layer}={w:.6g}" for layer, w in same[f"{kind}_layers"].items()):
            words.append(f"--{kind}-layers {layers}")
    return " ".join([*words, f"--tv-weight {same['tv_weight']:.6g}"])
