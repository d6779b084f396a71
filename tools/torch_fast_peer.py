"""The peer of `nstcore.fast`: both networks in PyTorch, written down from their papers and the published graphs.

For comparisons only (`tests/test_fast_torch.py`, `tools/bench_fast.py`, `tools/gpu_check.py`); nstcore itself never
needs PyTorch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from nstcore import FastWeights

EPSILON = 1e-5
# MobileNetV2, table 2 of its paper without the first convolution: blocks of a stage, stride of its first
STAGES = ((1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))


class TorchFastPeer:
    """A network of `nstcore.fast` in PyTorch.

    Parameters
    ----------
    weights : FastWeights
    dtype : torch dtype
    channels_last : bool
        The memory format in which PyTorch's CPU convolutions may be faster.
    compiled : bool
        Whether painting goes through torch.compile, at the first call.
    device : str
    mode : str, optional
        Of torch.compile: "reduce-overhead" launches a CUDA graph.
    """

    def __init__(
        self,
        weights: FastWeights,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        compiled: bool = False,
        device: str = "cpu",
        mode: str | None = None,
    ) -> None:
        self.dtype, self.device = dtype, device
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.tensors = {}
        for name, array in weights.tensors.items():
            tensor = torch.from_numpy(array[:, None] if "depthwise/weight" in name else array).to(device, dtype)
            self.tensors[name] = tensor.contiguous(memory_format=self.format) if tensor.ndim == 4 else tensor
        look, paint = {
            "magenta": (self._predict, self._transfer),
            "adain": (self._moments, self._adain),
        }[weights.model]
        self._look, self._paint = look, paint
        if compiled:
            self._paint = torch.compile(paint, fullgraph=True, dynamic=False, mode=mode)

    def tensor(self, pixels: np.ndarray) -> torch.Tensor:
        """(1, 3, H, W) of pixels (3, H, W)."""
        return torch.from_numpy(pixels)[None].to(self.device, self.dtype).contiguous(memory_format=self.format)

    @torch.no_grad()
    def look(self, pixels: np.ndarray) -> torch.Tensor:
        """The look (1, L, 1, 1) of a picture."""
        return self._look(self.tensor(pixels))

    @torch.no_grad()
    def paint(self, x: torch.Tensor, look: torch.Tensor) -> torch.Tensor:
        """The picture (1, 3, H, W), sides multiples of 8, in that look."""
        return self._paint(x, look)

    def _conv(self, x: torch.Tensor, name: str, **how: int) -> torch.Tensor:
        return functional.conv2d(x, self.tensors[f"{name}/weight"], self.tensors[f"{name}/bias"], **how)

    def _reflected(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        size = self.tensors[f"{name}/weight"].shape[-1] // 2
        return self._conv(functional.pad(x, (size,) * 4, mode="reflect"), name, stride=stride)

    # -- Magenta ---------------------------------------------------------------------------------------------------

    def _same(self, x: torch.Tensor, name: str, stride: int, groups: int = 1) -> torch.Tensor:
        """3x3 as TensorFlow pads it: where the border is odd, there is more of it below and at the right."""
        border = []
        for n in (x.shape[3], x.shape[2]):
            total = max((-(-n // stride) - 1) * stride + 3 - n, 0)
            border += [total // 2, total - total // 2]
        return functional.relu6(self._conv(functional.pad(x, border), name, stride=stride, groups=groups))

    def _predict(self, x: torch.Tensor) -> torch.Tensor:
        x = self._same(x, "prediction/stem", 2)
        strides = [stride if first == 0 else 1 for count, stride in STAGES for first in range(count)]
        for number, stride in enumerate(strides, 1):
            name = f"prediction/block{number}"
            y = functional.relu6(self._conv(x, f"{name}/expand")) if number > 1 else x
            y = self._conv(self._same(y, f"{name}/depthwise", stride, y.shape[1]), f"{name}/project")
            x = x + y if stride == 1 and x.shape == y.shape else y
        x = functional.relu6(self._conv(x, "prediction/head"))
        return self._conv(x.mean((2, 3), keepdim=True), "prediction/style")

    def _normed(self, x: torch.Tensor, name: str, s: torch.Tensor) -> torch.Tensor:
        scale, shift = (self._conv(s, f"{name}/{what}").flatten() for what in ("scale", "shift"))
        return functional.instance_norm(x, weight=scale, bias=shift, eps=EPSILON)

    def _transfer(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        for number, stride in ((1, 1), (2, 2), (3, 2)):
            x = functional.relu(self._reflected(x, f"transfer/contract{number}", stride))
        for number in range(1, 6):
            first, second = (f"transfer/residual{number}/conv{i}" for i in (1, 2))
            y = functional.relu(self._normed(self._reflected(x, first), first, s))
            x = x + self._normed(self._reflected(y, second), second, s)
        for number in (1, 2):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            name = f"transfer/expand{number}"
            x = functional.relu(self._normed(self._reflected(x, name), name, s))
        return torch.sigmoid(self._normed(self._reflected(x, "transfer/expand3"), "transfer/expand3", s))

    # -- AdaIN -----------------------------------------------------------------------------------------------------

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        for name in ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "3_4", "4_1"):
            if name[-1] == "1" and name[0] != "1":
                x = functional.max_pool2d(x, 2, ceil_mode=True)
            x = functional.relu(self._reflected(x, f"encoder/conv{name}"))
        return x

    def _moments(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(self._encode(x), (2, 3), correction=0, keepdim=True)
        return torch.cat([mean, torch.sqrt(variance + EPSILON)], dim=1)

    def _adain(self, x: torch.Tensor, look: torch.Tensor) -> torch.Tensor:
        mean, std = (part.flatten() for part in look.chunk(2, dim=1))
        x = functional.instance_norm(self._encode(x), weight=std, bias=mean, eps=EPSILON)
        for number in range(1, 9):
            x = functional.relu(self._reflected(x, f"decoder/conv{number}"))
            if number in (1, 5, 7):
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
        return self._reflected(x, "decoder/conv9").clamp(0, 1)
