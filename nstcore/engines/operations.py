"""The layers of feed-forward networks on an engine: one call each, for networks that are not VGG.

`Network` is VGG and its gradient, planned as a whole. What `nstcore.fast` evaluates is forward only, and different for
every checkpoint, so it calls single layers. Maps (the features of such a network) stay inside the engine in its own
layout, from `maps` to `numpy`; vectors are maps of one position, (C, 1, 1). What fuses well with a layer is an argument
of it: the activation behind a convolution, the enlargement before it, the sum behind a normalisation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..errors import OptionError, ShapeError
from ..ops.conv import Amounts

ACTIVATIONS = ("none", "relu", "relu6", "sigmoid")


class Operations(ABC):
    """Layers on one device, in one float type.

    An argument called `x` is left as it is, unless its method says that it may be used up.

    Attributes
    ----------
    overhead : float
        Bytes that a layer takes while it is computed, at most, as a multiple of those of the maps that there are.
    """

    overhead: float = 1.25

    # -- in and out -----------------------------------------------------------------------------------------------

    @abstractmethod
    def maps(self, x: np.ndarray) -> Any:
        """A copy of x (C, H, W) in the engine's own form."""

    @abstractmethod
    def numpy(self, x: Any) -> np.ndarray:
        """A copy of maps as (C, H, W), C-contiguous."""

    @abstractmethod
    def shape(self, x: Any) -> tuple[int, int, int]:
        """(C, H, W) of maps."""

    @abstractmethod
    def filters(self, w: np.ndarray, b: np.ndarray | None = None) -> Any:
        """Filters (K, C, R, S) and bias (K,) as `conv` takes them; prepared once, used for any size."""

    @abstractmethod
    def depthwise_filters(self, w: np.ndarray, b: np.ndarray | None = None) -> Any:
        """Filters (C, R, S) and bias (C,) as `depthwise` takes them."""

    # -- layers ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def conv(
        self,
        x: Any,
        filters: Any,
        *,
        stride: int = 1,
        padding: str = "zero",
        amounts: Amounts | None = None,
        upsample: int = 1,
        activation: str = "none",
    ) -> Any:
        """activation(conv(upsampled x) + b): `ops.resize_nearest_forward` by a whole factor, `ops.conv_forward`."""

    @abstractmethod
    def depthwise(
        self,
        x: Any,
        filters: Any,
        *,
        stride: int = 1,
        padding: str = "zero",
        amounts: Amounts | None = None,
        activation: str = "none",
    ) -> Any:
        """activation(each channel convolved with its own filter + b): `ops.depthwise_forward`."""

    def linear(self, x: Any, filters: Any) -> Any:
        """`ops.linear_forward` of a vector (C, 1, 1), with filters (K, C, 1, 1): a convolution of one position."""
        if self.shape(x)[1:] != (1, 1):
            raise ShapeError(f"x: expected a vector, (C, 1, 1), got {self.shape(x)}")
        return self.conv(x, filters)

    @abstractmethod
    def instance_norm(
        self, x: Any, scale: Any, shift: Any, epsilon: float, *, activation: str = "none", plus: Any = None
    ) -> Any:
        """activation(scale (x - mean) / sqrt(variance + epsilon) + shift) + plus: `ops.instance_norm_forward`.

        scale and shift are vectors (C, 1, 1), `plus` maps like x. x may be used up: its memory may be the result's.
        """

    @abstractmethod
    def statistics(self, x: Any, epsilon: float) -> tuple[Any, Any]:
        """Mean and sqrt(variance + epsilon) of each channel over its positions, vectors (C, 1, 1)."""

    @abstractmethod
    def global_average(self, x: Any) -> Any:
        """Mean of each channel, (C, 1, 1): `ops.global_average_forward`."""

    @abstractmethod
    def max_pool(self, x: Any) -> Any:
        """2x2 maxima; where H or W is odd, the last row or column makes windows of its own, (C, ceil(H/2), ceil(W/2)):
        `ops.max_pool_forward` of x with that row or column repeated."""

    @abstractmethod
    def add(self, x: Any, y: Any) -> Any:
        """x + y. x may be used up."""

    @abstractmethod
    def resize_nearest(self, x: Any, height: int, width: int) -> Any:
        """`ops.resize_nearest_forward`."""

    @abstractmethod
    def resize_bilinear(self, x: Any, height: int, width: int) -> Any:
        """`ops.resize_bilinear_forward`."""


@dataclass(frozen=True)
class BookFilters:
    """Filters and bias in the float type of the operations."""

    w: np.ndarray
    b: np.ndarray | None


class BookOperations(Operations):
    """Calls the book; maps are arrays (C, H, W).

    Parameters
    ----------
    dtype : numpy.dtype
    """

    overhead = 5.0  # a picture enlarged, with its border, and a product for every tap

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def maps(self, x: np.ndarray) -> np.ndarray:
        return np.array(x, self.dtype, order="C")

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.array(x, order="C")

    def shape(self, x: np.ndarray) -> tuple[int, int, int]:
        C, H, W = x.shape
        return C, H, W

    def filters(self, w: np.ndarray, b: np.ndarray | None = None) -> BookFilters:
        return BookFilters(np.asarray(w, self.dtype), None if b is None else np.asarray(b, self.dtype))

    depthwise_filters = filters

    def conv(
        self,
        x: np.ndarray,
        filters: BookFilters,
        *,
        stride: int = 1,
        padding: str = "zero",
        amounts: Amounts | None = None,
        upsample: int = 1,
        activation: str = "none",
    ) -> np.ndarray:
        activate = activation_named(activation)
        if upsample != 1:
            x = ops.resize_nearest_forward(x, x.shape[1] * upsample, x.shape[2] * upsample)
        return activate(ops.conv_forward(x, filters.w, filters.b, padding, stride, amounts))

    def depthwise(
        self,
        x: np.ndarray,
        filters: BookFilters,
        *,
        stride: int = 1,
        padding: str = "zero",
        amounts: Amounts | None = None,
        activation: str = "none",
    ) -> np.ndarray:
        activate = activation_named(activation)
        return activate(ops.depthwise_forward(x, filters.w, filters.b, padding, stride, amounts))

    def instance_norm(
        self,
        x: np.ndarray,
        scale: np.ndarray,
        shift: np.ndarray,
        epsilon: float,
        *,
        activation: str = "none",
        plus: np.ndarray | None = None,
    ) -> np.ndarray:
        activate = activation_named(activation)
        if plus is not None and plus.shape != x.shape:
            raise ShapeError(f"plus: expected {x.shape}, as x, got {plus.shape}")
        y = activate(ops.instance_norm_forward(x, scale.reshape(-1), shift.reshape(-1), epsilon))
        return y if plus is None else y + plus

    def statistics(self, x: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = x.mean(axis=(1, 2), keepdims=True), x.var(axis=(1, 2), keepdims=True)
        return mean, np.sqrt(variance + x.dtype.type(epsilon))

    def global_average(self, x: np.ndarray) -> np.ndarray:
        return ops.global_average_forward(x).reshape(-1, 1, 1)

    def max_pool(self, x: np.ndarray) -> np.ndarray:
        _, H, W = x.shape
        return ops.max_pool_forward(ops.conv.pad(x, "replicate", ((0, H % 2), (0, W % 2))))[0]

    def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if y.shape != x.shape:
            raise ShapeError(f"y: expected {x.shape}, as x, got {y.shape}")
        return x + y

    def resize_nearest(self, x: np.ndarray, height: int, width: int) -> np.ndarray:
        return ops.resize_nearest_forward(x, height, width)

    def resize_bilinear(self, x: np.ndarray, height: int, width: int) -> np.ndarray:
        return ops.resize_bilinear_forward(x, height, width)


def activation_named(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The book's function for an activation; `OptionError` if there is none."""
    if name not in ACTIVATIONS:
        raise OptionError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return {
        "none": lambda x: x,
        "relu": ops.relu_forward,
        "relu6": ops.relu6_forward,
        "sigmoid": ops.sigmoid_forward,
    }[name]
