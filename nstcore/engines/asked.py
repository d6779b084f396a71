"""What is asked of a network's features, and what the losses send back through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TapGradient:
    """Gradient that the losses send back from one tap, as its factors, so that an engine can fuse them.

        dF[:, m] = w[m] ((dG + dG^T) F[:, m] + ds + 2 scale (F[:, m] - P[:, m]))

    Attributes
    ----------
    dG : array of the engine (N, N), or None
        Gradient with respect to the tap's Gram matrix, sum_m w[m] F[:, m] F[:, m]^T.
    ds : ndarray (N,), float64, or as the engine's `moments_loss` gave it, or None
        Gradient with respect to the tap's sums, sum_m w[m] F[:, m].
    target : as `Network.keep` gave it, with the same guide, or None
        P.
    scale : float
    guide : as `Network.guide` gave it, or None
        w; 1 everywhere without it.
    """

    dG: Any = None
    ds: np.ndarray | None = None
    target: Any = None
    scale: float = 0.0
    guide: Any = None


@dataclass(frozen=True)
class Asked:
    """Something that will be asked of the features of a forward pass.

    Attributes
    ----------
    what : {"gram", "sums", "keep", "distance"}
        `Network.gram`, `.sums`, `.keep`, `.squared_distance`.
    tap : str
    guide : as `Network.guide` gave it, or None
    target : as `Network.keep` gave it
        Of a distance.
    """

    what: str
    tap: str
    guide: Any = None
    target: Any = None
