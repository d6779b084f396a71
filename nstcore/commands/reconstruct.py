"""`reconstruct`: a picture from the content features of one layer alone, for each of several layers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .study import LAYERS, OPTIMIZER, Layout, add_arguments, asked, paint, percent, read_layers

if TYPE_CHECKING:
    from ..studies import Panel

# nstcore.studies.reconstruct's, compared by a test; --help must not wait for numpy
DEFAULTS = {"size": 192, "iterations": 300, "optimizer": "lbfgs", "tv_weight": 0.1, "init": "noise"}
_FOOT = (
    "Each picture was found from noise by its features at one layer alone. Features: how far they are from the "
    "picture's, relative to these. Pixels: root mean square distance from the picture, relative to that of a plain "
    "surface in its mean colour."
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `reconstruct`."""
    parser = subparsers.add_parser(
        "reconstruct",
        help="what each layer still knows of a picture: the picture from its features alone",
        description="Paint PICTURE anew, from noise, from its content features at one layer alone, for each layer: a "
        "labelled sheet, as in figure 1 of Gatys, Ecker and Bethge.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--layers", metavar="LAYERS", help=f"one sheet for all of them (default: {','.join(LAYERS)})")
    add("--separate", metavar="DIR", help="also write each picture to a file of its own in this folder (default: none)")
    add_arguments(
        parser,
        "PICTURE",
        "what is taken apart; - is standard input",
        ("size", "tv_weight", "pooling", *OPTIMIZER),
        DEFAULTS,
    )


def run(args: argparse.Namespace) -> int:
    """Paint the reconstructions and their sheet; returns the exit code."""
    from .. import studies

    wanted = asked(args, "reconstruct", "content.jpg", DEFAULTS, read_layers(args.layers, "--layers", LAYERS))
    title = f"{wanted.picture.name}: what each layer still knows of it"
    return paint(args, wanted, studies.reconstruct, Layout(_words, title, _FOOT))


def _words(panel: Panel) -> str:
    return f"features {percent(panel.numbers['feature error'])}, pixels {percent(panel.numbers['pixel error'])}"
