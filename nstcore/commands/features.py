"""`features`: feature maps, Gram matrices, filters, and the patches that drive a channel, as labelled sheets."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .job import new_name
from .kinds import Choice, Integer, Kind, Unfit
from .study import LAYERS, Layout, add_arguments, asked, at_work, finish, machine, read_layers, short

if TYPE_CHECKING:
    from ..studies import Panel, Study

DEFAULTS = {"size": 256}
# nstcore.studies', compared by a test; --help must not wait for numpy
CHANNELS, SCALES = 24, ("own", "common")
FIRST = "conv1_1"
_LAYERS = {"features": ("relu3_1",), "grams": LAYERS, "filters": (FIRST,), "patches": ("relu3_1",)}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `features`."""
    parser = subparsers.add_parser(
        "features",
        help="what a network sees in a picture: feature maps, Gram matrices, filters",
        description="The feature maps of a layer's strongest channels as a labelled sheet; or, with --gram, --filters "
        "or --patches, something else of it. A channel is as strong as its root mean square over the positions, the "
        "root of its entry on the diagonal of the Gram matrix.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "--layer",
        metavar="LAYER",
        help="which layer, as relu3_1; with --gram also several, as relu1_1,relu2_1 (default: relu3_1; with --gram "
        f"{','.join(LAYERS)}; with --filters {FIRST})",
    )
    add("--channels", metavar="N", help=f"how many, the strongest first (default: {CHANNELS})")
    add(
        "--scale",
        metavar="|".join(SCALES),
        help="whether each map has a white of its own, or all have one (default: own)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--gram", action="store_true", help="Gram matrices in place of maps")
    instead.add_argument("--filters", action="store_true", help=f"the filters of {FIRST}, which read colours")
    instead.add_argument(
        "--patches", action="store_true", help="what of the picture drives each channel most: its receptive field there"
    )
    add_arguments(parser, "PICTURE", "what is looked at; - is standard input", ("size", "pooling"), DEFAULTS)


def run(args: argparse.Namespace) -> int:
    """Look, and write the sheet; returns the exit code."""
    from .. import studies

    kind = "grams" if args.gram else "filters" if args.filters else "patches" if args.patches else "features"
    _refuse_meaningless(args, kind)
    layers = read_layers(args.layer, "--layer", _LAYERS[kind])
    if len(layers) > 1 and kind != "grams":
        raise OptionError(f"--layer: expected one layer, got {len(layers)}; several are for --gram")
    channels = _read(Integer(1), args.channels, "--channels", CHANNELS)
    scale = _read(Choice(SCALES), args.scale, "--scale", SCALES[0])
    wanted = asked(args, kind, "content.jpg", DEFAULTS, layers)
    if kind == "filters":  # no picture has a part in them
        output = wanted.job.output if args.output else new_name(wanted.job.output.parent, kind)
        wanted = replace(wanted, example=False, job=replace(wanted.job, output=output))
    with at_work(args, wanted) as (studio, _):
        weights, engine = machine(studio, wanted)
        if kind == "filters":
            study = studies.filters(weights, *layers)
        else:
            common: dict[str, Any] = {"weights": weights, "engine": engine, **wanted.settings.keywords()}
            picture = str(wanted.picture)
            if kind == "grams":
                study = studies.grams(picture, layers, **common)
            elif kind == "patches":
                study = studies.patches(picture, layers[0], channels, **common)
            else:
                study = studies.features(picture, layers[0], channels, scale=scale, **common)
        return finish(studio, wanted, study, _layout(study, layers[0], scale, wanted.picture.name))


def _refuse_meaningless(args: argparse.Namespace, kind: str) -> None:
    """Options that have no say in what is asked for."""
    of = {"features": "maps", "grams": "--gram", "filters": "--filters", "patches": "--patches"}[kind]
    given = {"--channels": args.channels, "--scale": args.scale, "PICTURE": args.content, "--size": args.size}
    used = {
        "features": ("--channels", "--scale", "PICTURE", "--size"),
        "grams": ("PICTURE", "--size"),
        "filters": (),
        "patches": ("--channels", "PICTURE", "--size"),
    }
    for name, value in given.items():
        if value is not None and name not in used[kind]:
            raise OptionError(f"{name}: has no say in {of}; leave it out")


def _read(kind: Kind, text: str | None, flag: str, default: Any) -> Any:
    try:
        return default if text is None else kind.read(text)
    except Unfit as error:
        raise OptionError(f"{flag}: expected {error}, got {text!r}") from None


def _layout(study: Study, layer: str, scale: str, name: str) -> Layout:
    """Of each kind of sheet."""

    def strength(panel: Panel) -> str:
        return short(panel.numbers["strength"])

    def largest(panel: Panel) -> str:
        return short(panel.numbers["largest"])

    def gram(panel: Panel) -> str:
        return f"{panel.numbers['channels']:.0f} channels, largest {largest(panel)}"

    count = len(study.panels)
    zero = "Black is 0" if layer.startswith("relu") else "Black is 0 (grey, where some are negative)"
    if study.name == "features":
        white = "of each map" if scale == "own" else "of all maps together"
        foot = f"Number: root mean square over the positions. {zero}, white the largest hundredth {white}."
        return Layout(strength, f"{name}: the {count} strongest channels of {layer}", foot, 5, 128)
    if study.name == "patches":
        foot = "Each channel's receptive field where it is largest, and its value there. White: beyond the border."
        return Layout(largest, f"{name}: what drives the {count} strongest channels of {layer}", foot, 5, 96)
    if study.name == "grams":
        foot = (
            "Square roots of G/M, channels in the network's order; the number is the largest entry itself. Black is 0, "
            "white the largest hundredth; where some entries are negative, 0 is grey."
        )
        return Layout(gram, f"{name}: Gram matrices", foot, 3, 512, original=False)
    foot = (
        "The 3x3 weights as colours around grey, each filter on a scale of its own; the number is its largest weight "
        "on RGB in [0, 1]. Light against dark: an edge. All of one colour: that colour."
    )
    return Layout(largest, f"The {count} filters of {FIRST}", foot, 8, 72)
