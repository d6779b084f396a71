"""What the one-pass networks share: looks, which blend, and pictures painted in one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engines.operations import Operations
from ..errors import OptionError, ShapeError
from ..pretrained import FastWeights
from .counting import Counting, Usage

Share = Callable[[float], object]  # told how much of the work is done, from 0 to 1


class FastNetwork(ABC):
    """A trained network that paints any picture in any look, forward only.

    A look is what it takes from a style: a vector in which means are meaningful, so styles blend, and a picture's own
    look leaves it (nearly) as it is.

    Parameters
    ----------
    weights : FastWeights
        Of this model.
    layers : Operations
        Of the engine that computes.

    Attributes
    ----------
    grid : int
        Pixels that one position of the coarsest maps stands for. A picture to be painted whose sides are no multiples
        of it is continued by reflection, and cut off again afterwards.
    style_side : int
        Short side, in pixels, that the network was trained to see styles at.
    look_length : int
        L, of every look.
    """

    grid: int
    style_side: int
    look_length: int

    def __init__(self, weights: FastWeights, layers: Operations) -> None:
        self.weights, self.layers = weights, layers
        self._counted: Callable[[], object] = lambda: None
        self.filters = {name: self._prepared(name) for name in _layers_of(weights)}

    def _prepared(self, name: str) -> Any:
        w, b = self.weights.tensors[f"{name}/weight"], self.weights.tensors[f"{name}/bias"]
        return self.layers.depthwise_filters(w, b) if w.ndim == 3 else self.layers.filters(w, b)

    # -- what each is ---------------------------------------------------------------------------------------------

    @abstractmethod
    def _look(self, x: Any) -> np.ndarray:
        """The look (L,) of a picture, maps of 3 channels."""

    @abstractmethod
    def _paint(self, x: Any, look: np.ndarray) -> Any:
        """The picture, maps of 3 channels, sides multiples of `grid`, in a look (L,)."""

    def _vector(self, x: Any) -> np.ndarray:
        """Maps (L, 1, 1) as (L,)."""
        return self.layers.numpy(x).reshape(-1).astype(np.float64)

    def _maps(self, vector: np.ndarray) -> Any:
        """(L,) as maps (L, 1, 1)."""
        return self.layers.maps(vector.reshape(-1, 1, 1))

    def _conv(self, x: Any, name: str, **how: Any) -> Any:
        """One convolution by the name of its filters."""
        y = self.layers.conv(x, self.filters[name], **how)
        self._counted()
        return y

    def _linear(self, x: Any, name: str) -> Any:
        """One fully connected layer, of a vector."""
        y = self.layers.linear(x, self.filters[name])
        self._counted()
        return y

    # -- what is asked of all --------------------------------------------------------------------------------------

    def look(self, pixels: np.ndarray) -> np.ndarray:
        """The look of a picture.

        Parameters
        ----------
        pixels : ndarray of shape (3, H, W)
            RGB in [0, 1].

        Returns
        -------
        look : ndarray of shape (L,), float64
        """
        _checked(pixels)
        return self._look(self.layers.maps(pixels))

    def paint(self, pixels: np.ndarray, look: np.ndarray, on_share: Share | None = None) -> np.ndarray:
        """A picture in a look.

        Parameters
        ----------
        pixels : ndarray of shape (3, H, W)
            RGB in [0, 1].
        look : ndarray of shape (L,)
            As `look` found it, or a mean of such.
        on_share : callable, optional
            Called after every layer with the share of the work that is done, from 0 to 1.

        Returns
        -------
        painted : ndarray of shape (3, H, W), float32 or as precise as the engine
            RGB in [0, 1].
        """
        _, H, W = _checked(pixels)
        x = self._on_grid(pixels)
        if on_share is not None:
            self._counted = _counter(self.usage(H, W).multiplications, on_share)
        try:
            y = self._paint(self.layers.maps(x), look)
        finally:
            self._counted = lambda: None
        return np.clip(self.layers.numpy(y)[:, :H, :W], 0, 1)

    def usage(self, height: int, width: int) -> Usage:
        """What painting a picture of that size takes, found by going through the network with shapes alone."""
        counting = Counting()
        twin = type(self)(self.weights, counting)
        size = (-(-n // self.grid) * self.grid for n in (height, width))
        twin._paint(counting.picture(*size), np.zeros(self.look_length))
        return counting.usage

    def _on_grid(self, pixels: np.ndarray) -> np.ndarray:
        _, H, W = _checked(pixels)
        return np.pad(pixels, ((0, 0), (0, -H % self.grid), (0, -W % self.grid)), mode="reflect")


def blended(looks: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean of looks.

    Parameters
    ----------
    looks : sequence of ndarray (L,)
    weights : sequence of float
        As many, 0 or more, not all 0; their sum does not matter.
    """
    if len(looks) != len(weights) or not looks:
        raise OptionError(f"style_blend: expected {len(looks)} weights, one per style, got {len(weights)}")
    total = float(sum(weights))
    if not (min(weights) >= 0 and 0 < total < float("inf")):
        raise OptionError(f"style_blend: expected weights of 0 or more, not all 0, got {list(weights)}")
    return sum((w / total * look for w, look in zip(weights, looks, strict=True)), np.zeros_like(looks[0]))


def _layers_of(weights: FastWeights) -> list[str]:
    return [name.removesuffix("/weight") for name in weights.tensors if name.endswith("/weight")]


def _counter(multiplications: Sequence[int], on_share: Share) -> Callable[[], object]:
    """Call it after each layer."""
    shares = iter(np.cumsum(multiplications) / sum(multiplications))
    return lambda: on_share(float(next(shares)))


def _checked(pixels: np.ndarray) -> tuple[int, int, int]:
    if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.size:
        raise ShapeError(f"pixels: expected a picture (3, H, W), got shape {pixels.shape}")
    return 3, pixels.shape[1], pixels.shape[2]
