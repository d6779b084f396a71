"""`texture`: textures from the style statistics of the first layer, the first two, and so on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .study import LAYERS, OPTIMIZER, Layout, add_arguments, asked, paint, percent, read_layers

if TYPE_CHECKING:
    from ..studies import Panel

# nstcore.studies.texture's, compared by a test; --help must not wait for numpy
DEFAULTS = {
    "size": 192,
    "iterations": 300,
    "optimizer": "lbfgs",
    "style_loss": "gram",
    "tv_weight": 0.05,
    "init": "noise",
}
_OPTIONS = ("size", "style_loss", "tv_weight", "pooling", *OPTIMIZER)
_STATISTICS = {
    "gram": "Gram matrices",
    "centred": "covariances",
    "mean-std": "means and standard deviations",
    "w2": "means and covariances",
}
_FOOT = (
    "Each picture was found from noise by style statistics alone, of the first layer, the first two, and so on. "
    "Distance: how far the statistics are from the picture's, relative to these, as root mean square over the layers."
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `texture`."""
    parser = subparsers.add_parser(
        "texture",
        help="what a style's statistics hold: textures from them alone",
        description="Paint textures, from noise, that have the style statistics of STYLE at the first layer, the first "
        "two, and so on: a labelled sheet, as in figure 2 of Gatys, Ecker and Bethge, Texture Synthesis.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--layers", metavar="LAYERS", help=f"from the shallowest to the deepest (default: {','.join(LAYERS)})")
    add("--separate", metavar="DIR", help="also write each picture to a file of its own in this folder (default: none)")
    add_arguments(parser, "STYLE", "whose statistics are taken; - is standard input", _OPTIONS, DEFAULTS)


def run(args: argparse.Namespace) -> int:
    """Paint the textures and their sheet; returns the exit code."""
    from .. import studies

    wanted = asked(args, "texture", "style.jpg", DEFAULTS, read_layers(args.layers, "--layers", LAYERS))
    title = f"{wanted.picture.name}: textures from its {_STATISTICS[wanted.settings['style_loss']]} alone"
    return paint(args, wanted, studies.texture, Layout(_words, title, _FOOT))


def _words(panel: Panel) -> str:
    return f"distance {percent(panel.numbers['style distance'])}"
