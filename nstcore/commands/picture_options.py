"""The options that decide which picture comes out."""

from __future__ import annotations

from ..conventions import CONVENTIONS
from .kinds import AUTO, INITS, Choice, File, Flag, Init, Integer, Layers, Number, OrWord, PerStyle, Regions, Size
from .option import Option

_CONVENTIONS = tuple(CONVENTIONS)
_SCALES = "one number above 0 for all styles, or one for each, as 1,0.5"
_SIDES = "one number of pixels for all styles, or one (or auto) for each, as 700,auto"

PICTURE: dict[str, tuple[Option, ...]] = {
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
}
