"""A 3x3 convolution whose sum is split: the two launches of kernels/cuda/conv3x3/08_split_sum."""

from __future__ import annotations

from functools import partial
from typing import Any

from .device import Array, Device
from .precision import Precision
from .tile_launches import SPLIT_SUM, Launch, blocks


class SplitSum:
    """One pass by 08_split_sum: two launches, with the arguments of the other rungs' one.

    Parameters
    ----------
    device : Device
    precision : Precision
    launch : Launch
        Of the first kernel.
    scratch : float32, at least (parts, H W, channels rounded up to 4)
        What the first kernel leaves for the second.
    """

    def __init__(self, device: Device, precision: Precision, launch: Launch, scratch: Array) -> None:
        names = ("conv3x3_parts", "finish_forward", "finish_backward")
        kernels = (device.kernel(SPLIT_SUM, name, precision, **launch.defines) for name in names)
        self._sum, self._finish_forward, self._finish_backward = kernels
        self._launch, self._scratch = launch, scratch

    def _parts(self, *arguments: Any) -> None:
        self._sum(self._launch.grid, self._launch.block, *arguments, shared=self._launch.shared)

    def _grid(self, channels: int, positions: int) -> int:
        return blocks(positions * blocks(channels, 4), self._launch.block)

    def forward(
        self, x: Array, w: Array, b: Array, linear: Array, y: Array, C: int, K: int, H: int, W: int, replicate: bool
    ) -> None:
        """As conv3x3_forward."""
        self._parts(x, w, None, None, 1.0, None, self._scratch, C, K, H, W, replicate)
        finish = partial(self._finish_forward, self._grid(K, H * W), self._launch.block)
        finish(self._scratch, self._launch.parts, b, linear, y, K, H * W)

    def backward(
        self,
        dy: Array,
        w: Array,
        F: Array,
        S: Array,
        style_scale: float,
        P: Array,
        content_scale: float,
        scales: Array,
        mask: bool,
        dx: Array,
        K: int,
        C: int,
        H: int,
        W: int,
    ) -> None:
        """As conv3x3_backward."""
        self._parts(dy, w, F, S, style_scale, scales, self._scratch, K, C, H, W, False)
        finish = partial(self._finish_backward, self._grid(C, H * W), self._launch.block)
        finish(self._scratch, self._launch.parts, F, P, content_scale, scales, mask, dx, C, H * W)
