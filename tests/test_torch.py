"""Loss and gradient beside PyTorch's autograd on the same weights, where PyTorch is installed."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import smooth_picture
from gradcheck import relative_error

from nstcore import Objective, images
from nstcore.objective import STYLE_LAYERS

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
functional = torch.nn.functional
CONTENT_LAYER = "relu4_2"
SIZES = [(67, 83), (96, 75)]


class Peer:
    """The `relative` objective in PyTorch, with everything left to autograd."""

    def __init__(self, weights, content, style, pooling, dtype):
        self.filters = {
            name: tuple(torch.from_numpy(a).to(dtype) for a in pair) for name, pair in weights.filters.items()
        }
        p = weights.preprocessing
        assert p.channel_order == "bgr"
        self.range = p.range
        self.mean, self.std = (torch.tensor(v, dtype=dtype)[:, None, None] for v in (p.mean, p.std))
        self.pool = {"max": functional.max_pool2d, "average": functional.avg_pool2d}[pooling]
        self.dtype = dtype
        with torch.no_grad():
            self.P = self.features(self.tensor(content))[CONTENT_LAYER]
            features = self.features(self.tensor(style))
            self.A = {name: self.gram(features[name]) for name in STYLE_LAYERS}

    def tensor(self, picture):
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).to(self.dtype)

    def features(self, pixels):
        x = ((pixels.flip(0) * self.range - self.mean) / self.std)[None]
        found = {}
        for name, (w, b) in self.filters.items():
            if name.endswith("_1") and name != "conv1_1":
                x = self.pool(x, 2)
            x = functional.relu(functional.conv2d(x, w, b, padding=1))
            found[name.replace("conv", "relu")] = x[0].flatten(1)
            if name == "conv5_1":
                return found
        raise AssertionError("conv5_1 is missing")

    @staticmethod
    def gram(F):
        return F @ F.T / F.shape[1]

    def __call__(self, picture):
        x = self.tensor(picture).requires_grad_()
        f = self.features(x)
        content = (f[CONTENT_LAYER] - self.P).square().sum() / self.P.square().sum()
        style = sum((self.gram(f[n]) - A).square().sum() / A.square().sum() for n, A in self.A.items())
        tv = (x.diff(dim=1).square().sum() + x.diff(dim=2).square().sum()) / x.numel()
        loss = content + 10 * style + 0.5 * tv
        loss.backward()
        return loss.item(), x.grad.numpy()


def pictures(shared_images, size):
    """Real content and style at odd sizes, and a point between them."""
    content = images.resize_pixels(
        images.as_pixels(shared_images / "content" / "tuebingen_neckarfront.jpg").astype(np.float64), size
    ).transpose(1, 2, 0)
    style = images.resize_pixels(images.as_pixels(shared_images / "style" / "starry_night.jpg"), (size[1], size[0] + 3))
    x = 0.8 * content + 0.2 * smooth_picture(*size)
    return [np.ascontiguousarray(p, np.float64) for p in (content, style.transpose(1, 2, 0), x)]


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("device", "dtype", "loss_bound", "gradient_bound"),
    [
        ("reference", "float64", 1e-10, 1e-10),
        ("cpu", "float64", 1e-10, 1e-10),
        ("reference", "float32", 1e-5, 1e-3),
        # Winograd: ReLU and pooling decisions flip near ties; with them fixed, see test_real_weights
        ("cpu", "float32", 1e-5, 5e-3),
    ],
)
def test_loss_and_gradient_are_pytorchs(vgg19, shared_images, device, dtype, loss_bound, gradient_bound, size, pooling):
    content, style, x = pictures(shared_images, size)
    peer = Peer(vgg19, content, style, pooling, getattr(torch, dtype))
    loss, gradient = peer(x)
    cast = [p.astype(dtype) for p in (content, style)]
    terms, mine = Objective(vgg19, *cast, device=device, dtype=dtype, pooling=pooling)(
        np.ascontiguousarray(x.transpose(2, 0, 1), dtype)
    )
    assert terms.total == pytest.approx(loss, rel=loss_bound)
    assert relative_error(mine, gradient) <= gradient_bound
