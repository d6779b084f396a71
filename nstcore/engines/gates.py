"""Going back without features: one bit of each is enough where nobody compares them with anything.

The gradient with respect to a convolution's input is made of the gradient with respect to its output and of its
filters; of the features in between it asks one thing, whether the ReLU let them through:

        dx = conv^T(dy),    then 0 where F <= 0

and a max pooling sends the gradient to the value that won. Both together are one bit of each feature, its *gate*: 1
where F > 0 and, below a max pooling, F is the first of the largest of its window. So whoever cannot keep the features
from the forward pass to the backward pass keeps the gates, 1/32 of them, and computes again only the features that the
losses ask for: those up to the deepest tap. Cut at pool2, pool3 and pool4, VGG19 with the style layers and the content
layer of the paper computes 39 % of its forward multiplications again.

L2 pooling divides by what it computed, so below it gates are not enough.

References
----------
.. [1] Jain et al., "Gist: Efficient Data Encoding for Deep Neural Network Training", ISCA 2018: a bit in place of a
   ReLU's output, and which value won in place of a pooling's input and output.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np

from ..vgg import Step, find
from .base import EVERYWHERE, Network

GATES = np.dtype(np.uint16)
WORD = 16  # gates that one number holds: of channels 16 b to 16 b + 15, the first the lowest bit
_SHIFTS = np.arange(WORD, dtype=np.uint16)[:, None, None]


class GatedNetwork(Network):
    """A network that can go back from its gates.

    Attributes
    ----------
    lends : bool
        Whether it has an `entrance`.
    """

    lends: bool = False

    def entrance(self, height: int, width: int) -> np.ndarray:
        """Where the input of a part, of that size, may be made before `forward` takes it: one of the buffers, that of
        the gradient with respect to it."""
        raise NotImplementedError(f"part {self.part}: it lends no buffer")

    @cached_property
    def again(self) -> int:
        """How many of its steps `reopen` computes: up to the deepest tap and a pooling right behind it, or all."""
        if self.pooling == "l2":
            return len(self.steps)
        names = [find(self.weights.architecture, tap).name for tap in self.taps]
        count = max((i + 1 for i, step in enumerate(self.steps) if step.name in names), default=0)
        return count + any(step.kind == "pool" for step in self.steps[count : count + 1] if count)

    @cached_property
    def gated(self) -> tuple[Step, ...]:
        """The convolutions behind these: of them there are gates."""
        return tuple(step for step in self.steps[self.again :] if step.kind == "conv")

    def pooled(self, step: Step) -> bool:
        """Whether the features of a step go through a max pooling next."""
        following = self.steps[self.steps.index(step) + 1 :]
        return self.pooling == "max" and bool(following) and following[0].kind == "pool"

    @abstractmethod
    def gates(self, step: Step, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        """Gates of a convolution in the last forward, in a window of its features: uint16 (ceil(C/16), rows, columns).

        The window begins where a pooling's does.
        """

    @abstractmethod
    def reopen(self, pixels: Any, gates: dict[str, np.ndarray]) -> None:
        """As `forward` of the same pixels (or input of a part), for a backward pass alone.

        Parameters
        ----------
        pixels
            See `forward`. They are read as far as something is computed again.
        gates : dict
            Of every step of `gated`, by its name.
        """


def shape_of(channels: int, height: int, width: int) -> tuple[int, int, int]:
    """Of the gates of so many channels, rows and columns of features."""
    return -(-channels // WORD), height, width


def words(gates: np.ndarray) -> np.ndarray:
    """bool (C, H, W) as uint16 (ceil(C/16), H, W)."""
    C, H, W = gates.shape
    every = np.zeros((-(-C // WORD), WORD, H, W), np.uint16)
    every.reshape(len(every) * WORD, H, W)[:C] = gates  # of a view; H or W may be 0
    return np.bitwise_or.reduce(every << _SHIFTS, axis=1)


def bits(gates: np.ndarray, channels: int) -> np.ndarray:
    """And back."""
    count, H, W = gates.shape
    every = gates[:, None] >> _SHIFTS & 1
    return every.reshape(count * WORD, H, W)[:channels].astype(bool)


def winners(choice: np.ndarray, H: int, W: int) -> np.ndarray:
    """Where the value that each 2x2 window chose lies: bool (C, H, W) of choices (C, H//2, W//2)."""
    found = np.zeros((len(choice), H, W), bool)
    for i, (r, s) in enumerate(np.ndindex(2, 2)):
        found[:, r : H // 2 * 2 : 2, s : W // 2 * 2 : 2] = choice == i
    return found


def choice_of(gates: np.ndarray) -> np.ndarray:
    """A choice (C, H//2, W//2), uint8, for each window of gates (C, H, W): the open one, or the first where none is."""
    _, H, W = gates.shape
    windows = np.stack([gates[:, r : H // 2 * 2 : 2, s : W // 2 * 2 : 2] for r in (0, 1) for s in (0, 1)])
    return windows.argmax(axis=0).astype(np.uint8)
