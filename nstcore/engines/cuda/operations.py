"""Single layers on a GPU: `Operations` over the kernels of kernels/cuda, for networks that are not VGG.

Maps are arrays (H, W, C) of the device, float32 in every precision. No layer waits for the device or reads anything
back: only `numpy` does.
"""

from __future__ import annotations

import math

import numpy as np

from ...errors import ShapeError
from ...ops.conv import Amounts
from ...optim import Vectors
from ..operations import Operations
from . import general_conv, resize
from .device import Array, Device
from .general_conv import Filters
from .instance_norm import Normalizer


class CudaOperations(Operations):
    """Layers on one device.

    Parameters
    ----------
    device : Device
    vectors : Vectors
        Of that device.
    """

    def __init__(self, device: Device, vectors: Vectors) -> None:
        self.device = device
        self.vectors = vectors
        self.normalizer = Normalizer(device)

    # -- in and out -----------------------------------------------------------------------------------------------

    def maps(self, x: np.ndarray) -> Array:
        if x.ndim != 3 or not x.size:
            raise ShapeError(f"x: expected maps (C, H, W), got shape {x.shape}")
        return self.device.to_device(np.ascontiguousarray(x.transpose(1, 2, 0), np.float32))

    def numpy(self, x: Array) -> np.ndarray:
        return np.ascontiguousarray(self.device.to_host(x).transpose(2, 0, 1))

    def shape(self, x: Array) -> tuple[int, int, int]:
        H, W, C = x.shape
        return C, H, W

    def filters(self, w: np.ndarray, b: np.ndarray | None = None) -> Filters:
        return general_conv.pack(self.device, w, b)

    def depthwise_filters(self, w: np.ndarray, b: np.ndarray | None = None) -> Filters:
        return general_conv.pack_depthwise(self.device, w, b)

    # -- layers ---------------------------------------------------------------------------------------------------

    def conv(
        self,
        x: Array,
        filters: Filters,
        *,
        stride: int = 1,
        padding: str = "zero",
        amounts: Amounts | None = None,
        upsample: int = 1,
        activation: str = "none",
    ) -> Array:
        # ops.resize_nearest_forward, ops.conv_forward
        return general_conv.conv(
            self.device,
            x,
            filters,
            stride=stride,
            padding=padding,
            amounts=amounts,
            upsample=upsample,
            activation=activation,
        )

    def depthwise(
        self,
        x: Array,
        filters: Filters,
        *,
        stride: int = 1,
        padding: str = "zero",
        amounts: Amounts | None = None,
        activation: str = "none",
    ) -> Array:
        # ops.depthwise_forward
        return general_conv.depthwise(
            self.device, x, filters, stride=stride, padding=padding, amounts=amounts, activation=activation
        )

    def instance_norm(
        self, x: Array, scale: Array, shift: Array, epsilon: float, *, activation: str = "none", plus: Array = None
    ) -> Array:
        # ops.instance_norm_forward
        return self.normalizer.normalize(x, scale, shift, epsilon, activation, plus)

    def statistics(self, x: Array, epsilon: float) -> tuple[Array, Array]:
        return self.normalizer.statistics(x, epsilon)

    def global_average(self, x: Array) -> Array:
        # ops.global_average_forward
        return self.normalizer.means(x)

    def max_pool(self, x: Array) -> Array:
        # ops.max_pool_forward
        return resize.maxima(self.device, x)

    def add(self, x: Array, y: Array) -> Array:
        self.vectors.step(x, 1.0, y, -math.inf, math.inf, x)
        return x

    def resize_nearest(self, x: Array, height: int, width: int) -> Array:
        # ops.resize_nearest_forward
        return resize.nearest(self.device, x, height, width)

    def resize_bilinear(self, x: Array, height: int, width: int) -> Array:
        # ops.resize_bilinear_forward
        return resize.bilinear(self.device, x, height, width)
