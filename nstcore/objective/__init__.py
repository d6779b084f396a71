"""The objective of style transfer: pixels -> loss and gradient, written once for every engine.

objective.py    the sum of its terms, and their gradient
statistics.py   what a style is: moments of its features, blended over styles, and the losses on them
guides.py       where: masks, brought from the picture down to each layer
layers.py       weights of layers and of styles
terms.py        the loss, term by term
"""

from .guides import EDGES, EVERYWHERE, NOWHERE
from .layers import CONTENT_LAYERS, STYLE_LAYERS
from .objective import Objective
from .terms import Terms

__all__ = ["CONTENT_LAYERS", "EDGES", "EVERYWHERE", "NOWHERE", "STYLE_LAYERS", "Objective", "Terms"]
