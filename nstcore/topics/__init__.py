"""What there is to understand, by name: where the book, the engines, the kernels and the tests have it.

`explain` prints it, the map (nstcore/README.md) links to it, `check` proves it; a test holds that everything named here
exists. Only names stand here: nothing of what they name is imported.
"""

from __future__ import annotations

import difflib

from ..errors import OptionError
from .layers import LAYERS
from .losses import LOSSES
from .network import NETWORK
from .optimizers import OPTIMIZERS
from .places import Place, where
from .statistics import STATISTICS
from .topic import Topic

__all__ = ["TOPICS", "Place", "Topic", "find", "where"]

# In the order of the map: that of the data
TOPICS: dict[str, Topic] = {**NETWORK, **STATISTICS, **LOSSES, **OPTIMIZERS, **LAYERS}


def find(name: str) -> str:
    """The key of TOPICS that a person means by `name`: any case, underscores for dashes.

    Raises
    ------
    OptionError
        For any other word; it names the nearest topic, and lists them all.
    """
    key = name.strip().lower().replace("_", "-")
    if key in TOPICS:
        return key
    near = difflib.get_close_matches(key, TOPICS, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise OptionError(f"topic: there is none called {name!r}; {hint}expected one of {', '.join(TOPICS)}")
