"""Any style in one pass: published networks that were trained for it, on the layers of any engine.

network.py   what they share: a look is taken from a style, looks blend, a picture is painted in one
magenta.py   Ghiasi et al. 2017: 100 numbers that scale and shift every normalisation
adain.py     Huang, Belongie 2017: the moments of relu4_1
counting.py  what a pass takes, by the same code with shapes alone
"""

from __future__ import annotations

from ..engines import Engine
from ..pretrained import FastWeights
from .adain import AdainNetwork
from .counting import Usage
from .magenta import MagentaNetwork
from .network import FastNetwork, blended

__all__ = ["MODELS", "FastNetwork", "Usage", "blended", "network"]

MODELS: dict[str, type[FastNetwork]] = {"magenta": MagentaNetwork, "adain": AdainNetwork}


def network(weights: FastWeights, engine: Engine) -> FastNetwork:
    """The network that these weights are for, on that engine."""
    return MODELS[weights.model](weights, engine.operations())
