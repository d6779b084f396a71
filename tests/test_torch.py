"""Loss and gradient beside PyTorch's autograd on the same weights, where PyTorch is installed."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import smooth_picture

from nstcore import Objective, images
from nstcore.checks.gradcheck import relative_error

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
from torch_peer import TorchPeer  # noqa: E402 - after the skip

SIZES = [(67, 83), (96, 75)]


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
    peer = TorchPeer(vgg19, content, style, pooling, getattr(torch, dtype))
    loss, gradient = peer(x)
    cast = [p.astype(dtype) for p in (content, style)]
    terms, mine = Objective(vgg19, *cast, device=device, dtype=dtype, pooling=pooling)(
        np.ascontiguousarray(x.transpose(2, 0, 1), dtype)
    )
    assert terms.total == pytest.approx(loss, rel=loss_bound)
    assert relative_error(mine, gradient) <= gradient_bound
