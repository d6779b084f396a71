"""What every reader hands over, whatever the container."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..weights import Padding, Pooling, Preprocessing


@dataclass(frozen=True, eq=False)
class Source:
    """A published checkpoint as read: the filters in our layout and the conventions that its container implies.

    Parameters
    ----------
    container : str
        Its name for a person.
    architecture, filters, padding, pooling
        As in `nstcore.pretrained.weights.Weights`.
    preprocessing : Preprocessing or None
        Likewise; None where the content cannot tell it. It is never guessed from names or values.
    licence : str
        What is known of it.
    files : tuple of Path
        Every file that was read, in the order in which their bytes are hashed.
    """

    container: str
    architecture: str
    filters: dict[str, tuple[np.ndarray, np.ndarray]]
    preprocessing: Preprocessing | None
    padding: Padding
    pooling: Pooling
    licence: str
    files: tuple[Path, ...]
