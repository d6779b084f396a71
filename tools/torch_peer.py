"""The peer: the `relative` objective in PyTorch, with everything left to autograd.

For comparisons only (`tests/test_torch.py`, `tools/bench.py`); nstcore itself never needs PyTorch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from nstcore import Weights, vgg
from nstcore.objective import CONTENT_LAYERS, STYLE_LAYERS

POOLINGS = {"max": functional.max_pool2d, "average": functional.avg_pool2d}


class TorchPeer:
    """Loss and gradient by autograd, with nstcore's defaults: content 1, style 10, tv 0.5.

    Parameters
    ----------
    weights : Weights
        VGG19, down to conv5_1 at least.
    content, style : ndarray of shape (H, W, 3), in [0, 1]
    pooling : {"max", "average"}
    dtype : torch dtype
    channels_last : bool
        The memory format in which PyTorch's CPU convolutions are fastest.
    compiled : bool
        Whether the loss goes through torch.compile, at the first call; that raises where no C++ compiler works, and
        never falls back to eager execution.
    device : str
        PyTorch's name of it.
    """

    def __init__(
        self,
        weights: Weights,
        content: np.ndarray,
        style: np.ndarray,
        pooling: str = "max",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        compiled: bool = False,
        device: str = "cpu",
    ) -> None:
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.dtype, self.device, self.pool = dtype, device, POOLINGS[pooling]
        self.filters = {}
        for step in vgg.steps_for(weights.architecture, CONTENT_LAYERS + STYLE_LAYERS):
            if step.kind == "conv":
                w, b = (torch.from_numpy(a).to(device, dtype) for a in weights.filters[step.name])
                self.filters[step.name] = (w.contiguous(memory_format=self.format), b)
        p = weights.preprocessing
        self.range, self.flip = p.range, p.channel_order == "bgr"
        self.padding = weights.padding
        self.mean, self.std = (torch.tensor(v, dtype=dtype, device=device)[:, None, None] for v in (p.mean, p.std))
        with torch.no_grad():
            features = self.features(self.tensor(content))
            self.P = {name: features[name] for name in CONTENT_LAYERS}
            features = self.features(self.tensor(style))
            self.A = {name: self.gram(features[name]) for name in STYLE_LAYERS}
        self.loss = torch.compile(self._loss, fullgraph=True, dynamic=False) if compiled else self._loss

    def tensor(self, picture: np.ndarray) -> torch.Tensor:
        """(3, H, W) of a picture (H, W, 3)."""
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).to(self.device, self.dtype)

    def features(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features (N, M) after every ReLU down to relu5_1."""
        x = pixels.flip(0) if self.flip else pixels
        x = ((x * self.range - self.mean) / self.std)[None].contiguous(memory_format=self.format)
        found = {}
        for name, (w, b) in self.filters.items():
            if name.endswith("_1") and name != "conv1_1":
                x = self.pool(x, 2)
            # in place, as torchvision's VGG does it: a few per cent faster
            x = functional.relu_(convolve(x, w, b, self.padding))
            found[name.replace("conv", "relu")] = x[0].flatten(1)
        return found

    @staticmethod
    def gram(F: torch.Tensor) -> torch.Tensor:
        """Gram matrix per position."""
        return F @ F.T / F.shape[1]

    def _loss(self, x: torch.Tensor) -> torch.Tensor:
        """The loss at pixels x (3, H, W); the attribute `loss` is this function, compiled or not."""
        f = self.features(x)
        content = sum((f[n] - P).square().sum() / P.square().sum() for n, P in self.P.items())
        style = sum((self.gram(f[n]) - A).square().sum() / A.square().sum() for n, A in self.A.items())
        tv = (x.diff(dim=1).square().sum() + x.diff(dim=2).square().sum()) / x.numel()
        return content + 10 * style + 0.5 * tv

    def __call__(self, picture: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and gradient (3, H, W) at a picture (H, W, 3)."""
        x = self.tensor(picture).requires_grad_()
        loss = self.loss(x)
        loss.backward()
        return loss.item(), x.grad.cpu().numpy()


def convolve(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, padding: str) -> torch.Tensor:
    """3x3 convolution with bias of x (1, C, H, W); a replicated border costs PyTorch a padded copy of x."""
    if padding == "replicate":
        return functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), w, b)
    return functional.conv2d(x, w, b, padding=1)
