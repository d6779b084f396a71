"""`ablate`: one pair with every set of style layers and several ratios of content to style, on one sheet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..conventions import CONVENTIONS
from ..errors import OptionError
from .job import new_name, pictures
from .kinds import Number, Unfit, show
from .options import OPTIONS, add_options
from .progress import add_volume, tell
from .settings import Source
from .sources import from_arguments, resolve
from .studio import EXAMPLES
from .study import LAYERS, read_layers
from .sweep import paint_grid
from .together import add_at_once

# Twenty pictures in about a minute, all of them from noise: the content must come from its term alone. Noise of half
# the size has no chequerboards of single pixels, which the network would leave where they are.
DEFAULTS = {"size": 128, "iterations": 60, "optimizer": "lbfgs", "init": "noise", "ladder": 64}
RATIOS = "0.01,0.1,1,10"
_NOT_TAKEN = ("style_layers", "style_weight", "snapshot", "log", "report")  # the cells', or one picture's
_FOOT = (
    "Down: the style layers, first one alone, then all from it to the one named. Across: the ratio of content weight "
    "to style weight. All from the same noise."
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `ablate`."""
    parser = subparsers.add_parser(
        "ablate",
        help="one pair with each set of style layers and several content/style ratios, on one sheet",
        description="Paint CONTENT in the manner of STYLE with the first style layer, the first two, and so on, at "
        "several ratios of content weight to style weight: a labelled sheet, as in figure 3 of Gatys, Ecker and "
        "Bethge, 2015. Pictures that are there already are kept. Without pictures: the example pair.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("content", nargs="?", metavar="CONTENT", help="what is painted")
    add("style", nargs="*", metavar="STYLE", help="how it is painted; several styles are blended")
    add("--layers", metavar="LAYERS", help=f"style layers, the shallowest first (default: {','.join(LAYERS)})")
    add("--ratios", metavar="R,...", help=f"content weight over style weight (default: {RATIOS})")
    add(
        "-o",
        "--output",
        metavar="DIR",
        help="folder of the pictures and of sheet.png; one that is there is gone on with (default: a new one)",
    )
    add_at_once(parser)
    add_volume(parser)
    add_options(parser, tuple(name for name in OPTIONS if name not in _NOT_TAKEN), DEFAULTS)


def run(args: argparse.Namespace) -> int:
    """Paint what is not there yet, write the sheet; returns the exit code."""
    from ..studies import prefixes, span

    given = from_arguments(args)
    sources = [Source("ablate", DEFAULTS, strict=False), given]
    settings = resolve(sources)
    sets = prefixes(read_layers(args.layers, "--layers", LAYERS))
    ratios = _ratios(RATIOS if args.ratios is None else args.ratios)
    named = pictures(settings, "ablate")
    content, styles = named or (EXAMPLES / "content.jpg", (EXAMPLES / "style.jpg",))
    if named is None and not args.quiet:
        tell(f"The example pair: {content}, {styles[0]}")
    content_weight = settings["content_weight"]
    if content_weight is None:
        content_weight = CONVENTIONS[settings["convention"]].content_weight
    if not content_weight:
        raise OptionError("--content-weight: expected a number above 0, for a ratio to style, got 0")
    ratio_of = {content_weight / ratio: ratio for ratio in ratios}  # by style weight

    def label(values: dict[str, Any]) -> str:
        layers = values["style_layers"]
        return f"{'to ' if len(layers) > 1 else ''}{layers[-1]}, ratio {show(ratio_of[values['style_weight']])}"

    def stem(values: dict[str, Any]) -> str:
        layers = span(values["style_layers"]).replace(" to ", "-")
        return f"{layers}_ratio={show(ratio_of[values['style_weight']])}"

    if args.output is None:
        args.output = new_name(Path(), f"{content.stem}-{styles[0].stem}-ablate", "")
    title = f"{content.stem} - {', '.join(style.stem for style in styles)}: style layers and ratio of content to style"
    axes = [(OPTIONS["style_layers"], sets), (OPTIONS["style_weight"], list(ratio_of))]
    code = paint_grid(args, content, styles, sources, axes, label, stem, title, _FOOT)
    if code:
        tell(f"nstcore: what there is is in {args.output}; the same command with -o {args.output} goes on with it")
    return code


def _ratios(text: str) -> list[float]:
    """Different numbers above 0."""
    try:
        ratios = [Number(positive=True).read(part.strip()) for part in text.split(",")]
    except Unfit as error:
        raise OptionError(f"--ratios: expected {error} for each, as {RATIOS}, got {text!r}") from None
    if len(set(ratios)) < len(ratios):
        raise OptionError(f"--ratios: expected each once, got {text!r}")
    return ratios
