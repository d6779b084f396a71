"""Studies: pictures that show what a layer knows, what a style's statistics hold, and what a network sees.

reconstruct.py  a picture from the content features of one layer alone
texture.py      a texture from the style statistics of some layers alone
features.py     feature maps, Gram matrices, filters, and the patches that drive a channel
paint.py        what the first two share: one optimisation after the other, from noise
study.py        what comes of a study: pictures with their numbers
"""

from .features import CHANNELS, features, filters, grams, patches
from .paint import Moment
from .reconstruct import reconstruct
from .study import Panel, Study
from .texture import prefixes, span, texture

__all__ = [
    "CHANNELS",
    "Moment",
    "Panel",
    "Study",
    "features",
    "filters",
    "grams",
    "patches",
    "prefixes",
    "reconstruct",
    "span",
    "texture",
]
