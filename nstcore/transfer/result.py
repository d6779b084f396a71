"""What a caller sees of a transfer: while it runs, at its end, and when it breaks off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import images
from ..errors import RunError
from ..objective import Terms


@dataclass(frozen=True)
class Step:
    """One evaluation of loss and gradient.

    Attributes
    ----------
    iteration : int
        Evaluations before it, at all sizes, those of the pictures that a size starts with (the first is 0) not counted.
    iterations : int
        How many there will be at most.
    evaluations : int
        Of loss and gradient so far, this one and those before a resumption too.
    size : int
        Long side of the picture now, in pixels.
    share : float
        Of all the work, from 0 to 1: one evaluation costs as much as it has pixels.
    terms : Terms
        The loss at this evaluation.
    step_length : float
        Of the last iteration before it: what L-BFGS's direction was multiplied by, or Adam's learning rate.
    seconds : float
        In the loop, before a resumption too.
    note : str or None
        What has happened beside the plan since the last step: a precision raised, pairs dropped.
    pixels : callable () -> ndarray (3, H, W)
        The best picture so far; made only when asked for.
    """

    iteration: int
    iterations: int
    evaluations: int
    size: int
    share: float
    terms: Terms
    step_length: float
    seconds: float
    note: str | None
    pixels: Callable[[], np.ndarray]


class Painted:
    """A picture that was made, of whichever kind: what can be done with it."""

    pixels: np.ndarray
    alpha: np.ndarray | None
    metadata: dict[str, Any]

    @property
    def image(self) -> np.ndarray:
        """The picture as (H, W, 3) uint8, or (H, W, 4) if it has alpha."""
        image = images.to_uint8(self.pixels)
        if self.alpha is None:
            return image
        return np.dstack([image, images.to_uint8(self.alpha[None])])

    def save(self, path: str | Path, bits: int = 8, quality: int | None = None) -> None:
        """Write it, atomically; the format follows the name's ending. See `nstcore.images.write_picture`."""
        images.write_picture(path, self.pixels, self.metadata, alpha=self.alpha, bits=bits, quality=quality)


@dataclass(frozen=True)
class Result(Painted):
    """What came of a run.

    Attributes
    ----------
    pixels : ndarray of shape (3, H, W)
        RGB in [0, 1]. Of Adam the average of the iterates, or the best one if its loss is lower; of L-BFGS the best.
    alpha : ndarray of shape (H, W), or None
        The content's.
    terms : Terms
        Its loss.
    losses : list of Terms
        One per evaluation of the optimizer, the starting picture's first; sizes one after the other.
    metadata : dict
        How the picture was made: everything that is needed to make it again.
    status : str
        Why the loop ended.
    interrupted : bool
        Whether Ctrl-C ended it. The picture then has the size that was being worked on.
    seconds : float
        Time in the loop.
    """

    pixels: np.ndarray = field(repr=False)
    alpha: np.ndarray | None = field(repr=False)
    terms: Terms
    losses: list[Terms] = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)
    status: str
    interrupted: bool
    seconds: float


class FailedRun(RunError):
    """The loop broke off; `result` is the best picture before, or None if there was none."""

    def __init__(self, message: str, result: Result | None) -> None:
        super().__init__(message)
        self.result = result
