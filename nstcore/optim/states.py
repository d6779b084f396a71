"""What one run of an optimizer leaves to the next, so that the next goes on and does not begin anew.

A run takes a state, goes on from it, and has it in `Minimum.state` at the end. Between two runs, `map` carries a state
to arrays of another shape, as when a picture grows from one size to the next.

Where f is a mean over the elements of x and there are now k times as many of them, each element of the gradient is
about 1/k of what it was: m and y are then to be divided by k, v by k^2, s by nothing. What that brings a style transfer
whose sides grow by a factor of 1.4 (three pairs of pictures, relative convention), in loss against a fresh start:

L-BFGS  After 10 evaluations at 91 -> 128 and 181 -> 256 px, 5 % lower on the average with the pairs as they are (from 2
        to 12 %), but 1 % higher with y divided by k. After 60, 0.8 and 0.2 % lower; after 150, at 128 -> 181 px, the
        same.
Adam    v remembers the steep gradients of the first steps, and with the weight of all its updates it may hold the next
        size back: from 14 % lower to 91 % higher after 60 evaluations. Brought down to t = 1, which takes
        m (1 - beta1) / (1 - beta1^t) and v (1 - beta2) / (1 - beta2^t), both divided as above, it is forgotten soon:
        from 4 % lower to 9 % higher at 91 -> 128 px.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import ShapeError
from .vectors import Vectors


@dataclass
class AdamState:
    """What Adam knows of the gradients so far.

    Attributes
    ----------
    m, v : arrays like x
        Running averages of the gradient and of its square, before their correction. A run overwrites them, and may put
        other arrays in their place.
    t : int
        Updates that they come from.
    """

    m: Any = field(repr=False)
    v: Any = field(repr=False)
    t: int

    @classmethod
    def zero(cls, like: Any, vectors: Any = None) -> AdamState:
        """The state before the first update, for x like `like`."""
        vectors = vectors or Vectors()
        m, v = vectors.empty_like(like), vectors.empty_like(like)
        vectors.fill(m, 0.0)
        vectors.fill(v, 0.0)
        return cls(m, v, 0)

    def map(self, first: Callable[[Any], Any], second: Callable[[Any], Any]) -> AdamState:
        """A new state with first(m) and second(v), which must leave no element of v below 0; t is kept.

        Both functions return arrays of their own, which the next run may overwrite.
        """
        return AdamState(first(self.m), second(self.v), self.t)


@dataclass
class LBFGSState:
    """What L-BFGS knows of the curvature.

    Attributes
    ----------
    pairs : list of (array, array)
        (s, y) of the steps remembered, oldest first; arrays like x. A run takes the arrays over, and the list is empty
        while it lasts; it is filled again when the run returns.
    first_norm : float or None
        Largest absolute element of the gradient where it all began; None: that of the next start.
    flat : int
        Iterations so far without any decrease of the loss.
    """

    pairs: list[tuple[Any, Any]] = field(default_factory=list, repr=False)
    first_norm: float | None = None
    flat: int = 0

    def map(self, first: Callable[[Any], Any], second: Callable[[Any], Any]) -> LBFGSState:
        """A new state with first(s) and second(y) of every pair, for another function: it begins there.

        Both functions return arrays of their own, which the next run may overwrite. Pairs that the functions have left
        without positive curvature, s'y > 0, are passed over by the next run.
        """
        return LBFGSState([(first(s), second(y)) for s, y in self.pairs])


def checked_state(name: str, array: Any, x: Any) -> Any:
    """An array of a state, if it fits x."""
    if tuple(array.shape) != tuple(x.shape):
        raise ShapeError(
            f"state: expected {name} with the shape of x, {tuple(x.shape)}, got {tuple(array.shape)}; "
            "carry it to that shape with the state's map()"
        )
    return array
