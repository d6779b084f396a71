"""Every option of a transfer, once: command lines, settings files, jobs, sweeps and recipes all follow from this table.

The defaults are those of `nstcore.stylize` and the words those of the engines and the objective; written out because
--help must not wait for numpy and h5py, and compared with them by a test.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..conventions import CONVENTIONS
from .kinds import (
    AUTO,
    INITS,
    Among,
    Choice,
    File,
    Flag,
    Init,
    Integer,
    Kind,
    Layers,
    Number,
    OrWord,
    PerStyle,
    Place,
    Regions,
    Size,
    Text,
    show,
)


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes
    ----------
    name : str
        In settings files, with underscores or dashes; on the command line "--" and the name with dashes.
    kind : Kind
        What its value may be.
    default : any
        In the form of the Python API; None where something else decides, which `default_text` then names.
    metavar, help, unit : str
        For --help.
    scope : {"picture", "machine", "file", "safety", "recipe"}
        What it decides: the picture; where it is computed; how it is written; what else is kept; or other options.
    keyword : str
        Its name in the Python API, if that is another.
    """

    name: str
    kind: Kind
    default: Any
    metavar: str
    help: str
    unit: str = ""
    scope: str = "picture"
    default_text: str = ""
    keyword: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def api_name(self) -> str:
        return self.keyword or self.name

    def describe(self) -> str:
        """Help with the unit and the default."""
        default = self.default_text or show(self.default)
        return f"{self.help}{f', in {self.unit}' if self.unit else ''} (default: {default})".replace("%", "%%")


_CONVENTIONS = tuple(CONVENTIONS)
_SCALES = "one number above 0 for all styles, or one for each, as 1,0.5"
_SIDES = "one number of pixels for all styles, or one (or auto) for each, as 700,auto"

GROUPS: dict[str, tuple[Option, ...]] = {
    "picture": (
        Option(
            "size",
            Size(),
            512,
            "PIXELS",
            "long side of the result; or content (the content's own size), short=PIXELS (its short side), "
            "area=MEGAPIXELS",
            "pixels",
        ),
        Option("fit", Flag(), False, "", "reduce the size to what the memory at hand holds"),
        Option(
            "init",
            Init(),
            "content",
            "WHAT",
            f"the starting picture: {', '.join(INITS)} (statistics: noise with the style's mean and covariance; fast: "
            "as the command `fast` paints it), a picture file, or a blend such as content=0.8,noise=0.2",
        ),
        Option("seed", Integer(0), 0, "N", "of the noise"),
        Option(
            "colors",
            Choice(("style", "luminance", "cholesky", "symmetric", "histogram")),
            "style",
            "HOW",
            "style (the style's colours), or keep the content's: luminance (only brightness is painted), or the "
            "style's colours matched beforehand by cholesky, symmetric (linear maps) or histogram",
        ),
    ),
    "styles": (
        Option(
            "style_blend",
            PerStyle(Number(), "one weight of 0 or more for each style, as 2,1", single=False),
            None,
            "W,...",
            "how much each style counts",
            default_text="equal",
        ),
        Option(
            "style_scale",
            PerStyle(Number(positive=True), _SCALES),
            1.0,
            "F,...",
            "long side of the styles, as a multiple of the result's; one number, or one for each style",
        ),
        Option(
            "style_size",
            PerStyle(OrWord(Integer(1), (AUTO,), _SIDES), _SIDES),
            None,
            "PIXELS,...",
            "long side of the styles, whatever the result's; one number, or one (or auto) for each style",
            "pixels",
            default_text="as --style-scale says",
        ),
    ),
    "masks": (
        Option(
            "region",
            Regions(),
            (),
            "MASK[,STYLEMASK...]",
            "where MASK is white, paint with what the style masks show (a picture, all or none for each style; of as "
            "many regions as styles, without any, each with its own style); give it once for each region",
            default_text="none",
            keyword="regions",
        ),
        Option("protect", File(), None, "MASK", "where MASK is white, leave the content as it is", default_text="none"),
        Option(
            "guide_edges",
            Choice(("simple", "inside", "all")),
            "simple",
            "HOW",
            "how a mask comes down to a layer: simple (mean), inside (positions that see only the region), all "
            "(positions that see any of it)",
        ),
    ),
    "loss": (
        Option(
            "convention", Choice(_CONVENTIONS), "relative", "NAME", f"how weights are read: {', '.join(CONVENTIONS)}"
        ),
        Option(
            "content_weight",
            Number(),
            None,
            "W",
            "of the content term; 0 leaves it out",
            default_text="the convention's; relative: 1",
        ),
        Option(
            "style_weight",
            Number(),
            None,
            "W",
            "of the style term; 0 leaves it out",
            default_text="the convention's; relative: 10",
        ),
        Option("tv_weight", Number(), None, "W", "of total variation", default_text="the convention's; relative: 0.5"),
        Option(
            "content_layers",
            Layers(),
            None,
            "LAYERS",
            "such as relu4_2, or relu3_1=0.5,relu4_2=1 with weights",
            default_text="relu4_2",
        ),
        Option(
            "style_layers",
            Layers(),
            None,
            "LAYERS",
            "likewise",
            default_text="relu1_1,relu2_1,relu3_1,relu4_1,relu5_1",
        ),
        Option(
            "style_falloff",
            Number(positive=True),
            None,
            "F",
            "each deeper style layer weighs 1/F of the one before; their sum is kept",
            default_text="the convention's; relative: 1",
        ),
        Option(
            "style_loss",
            Choice(("gram", "centred", "mean-std", "w2")),
            None,
            "NAME",
            "what of the features is compared: gram (Gram matrices), centred (covariances), mean-std (means and "
            "standard deviations), w2 (Wasserstein distance of Gaussians)",
            default_text="the convention's; relative: gram",
        ),
        Option(
            "pooling",
            Choice(("max", "average", "l2")),
            None,
            "KIND",
            "max, average or l2",
            default_text="the weights' own",
        ),
    ),
    "optimizer": (
        Option("optimizer", Choice(("adam", "lbfgs")), "adam", "NAME", "adam or lbfgs"),
        Option(
            "iterations",
            Integer(1),
            300,
            "N",
            "work, as evaluations of loss and gradient at the full size; the ladder spends as much over its sizes",
        ),
        Option(
            "learning_rate",
            Number(positive=True),
            0.02,
            "STEP",
            "of adam: how far a pixel in [0, 1] moves at once, about",
        ),
        Option("average", Number(below=1), 0.9, "DECAY", "of adam's average over the iterates; 0: no average"),
        Option("history", Integer(1), 20, "N", "of lbfgs: pairs that it remembers, each the memory of two pictures"),
        Option(
            "ladder",
            OrWord(Integer(1), (AUTO, "off"), "auto, off, or the long side in pixels of the first size"),
            AUTO,
            "PIXELS",
            "from coarse to fine in steps of sqrt 2: auto (from 512 pixels on, starting at 128), off, or the long side "
            "of the first size",
            "pixels",
        ),
        Option(
            "pyramid",
            Choice((AUTO, "off")),
            AUTO,
            "HOW",
            "paint under the losses of smaller sizes, too, so that large pictures look as small ones do: auto ("
            "above 640 pixels, in the convention relative) or off",
        ),
    ),
    "machine": (
        Option(
            "weights",
            Text("auto, builtin, a name of `weights list`, or a converted file"),
            AUTO,
            "NAME|FILE",
            "auto (VGG19 from the cache, else downloaded, else builtin), builtin, a name of `weights list`, or a "
            "converted file",
            scope="machine",
        ),
        Option(
            "offline",
            Flag(),
            False,
            "",
            "never download weights, as NSTCORE_OFFLINE=1",
            scope="machine",
        ),
        Option(
            "device",
            Choice(("auto", "cpu", "cuda", "cuda-on-cpu", "reference")),
            AUTO,
            "NAME",
            "auto (a GPU, else the CPU), cpu, cuda, reference (the book), or cuda-on-cpu (the GPU's kernels on the "
            "CPU: slow, for study and tests)",
            scope="machine",
        ),
        Option(
            "precision",
            Choice(("float32", "float64", "tf32", "float16", "bfloat16")),
            None,
            "TYPE",
            "float32; float64 on the CPU; tf32, float16 or bfloat16 on a GPU",
            scope="machine",
            default_text="tf32 on a GPU that has it, else float32",
            keyword="dtype",
        ),
        Option(
            "threads",
            Integer(1),
            None,
            "N",
            "of the CPU",
            scope="machine",
            default_text="all cores",
        ),
    ),
    "file": (
        Option(
            "bits",
            Among((8, 16)),
            8,
            "8|16",
            "of each channel; 16 for PNG and TIFF",
            scope="file",
        ),
        Option(
            "quality",
            Integer(1, 100),
            None,
            "1..100",
            "of JPEG and WebP; 100 makes WebP lossless",
            scope="file",
            default_text="95",
        ),
    ),
    "safety": (
        Option("resume", Flag(), False, "", "go on from the snapshot, if there is one", scope="safety"),
        Option(
            "snapshot",
            Place(),
            None,
            "FILE",
            "where the state of the run is kept until the picture is saved",
            scope="safety",
            default_text="OUTPUT.snapshot.h5",
        ),
        Option(
            "snapshot_every",
            Number(),
            60.0,
            "S",
            "time between two snapshots; 0: none but after Ctrl-C",
            "seconds",
            scope="safety",
        ),
        Option(
            "save_every",
            Integer(1),
            None,
            "N",
            "also save the picture every N iterations, numbered",
            scope="safety",
            default_text="never",
        ),
        Option(
            "log",
            Place(),
            None,
            "FILE.jsonl",
            "add a line of JSON for every step",
            scope="safety",
            default_text="none",
        ),
        Option(
            "report",
            Place(),
            None,
            "FILE.html",
            "a page about the run: pictures, curves, settings, times; {output} stands for the output's name",
            scope="safety",
            default_text="none",
        ),
    ),
    "settings": (
        Option(
            "recipe",
            Text("the name of a recipe"),
            None,
            "NAME",
            "start from named settings; `run --list-recipes` shows them; options and settings files come before it",
            scope="recipe",
            default_text="none",
        ),
    ),
}

OPTIONS: dict[str, Option] = {option.name: option for group in GROUPS.values() for option in group}


def add_options(
    parser: argparse.ArgumentParser,
    names: tuple[str, ...] = tuple(OPTIONS),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Put options into a parser, grouped. Their texts are read later (see `settings.from_arguments`); what was not
    given is None there. `defaults` are those that a command has instead of the table's, for --help."""
    own = {name: replace(OPTIONS[name], default=value, default_text="") for name, value in (defaults or {}).items()}
    for title, options in GROUPS.items():
        chosen = [own.get(option.name, option) for option in options if option.name in names]
        group = parser.add_argument_group(title) if chosen else None
        for option in chosen:
            assert group is not None
            if isinstance(option.kind, Flag):
                group.add_argument(option.flag, action=argparse.BooleanOptionalAction, help=option.describe())
            else:
                action = "append" if isinstance(option.kind, Regions) else "store"
                group.add_argument(option.flag, action=action, metavar=option.metavar, help=option.describe())
