"""One-pass networks beside PyTorch on the same dequantised weights, where PyTorch is installed.

Two evaluations that know nothing of `nstcore.fast`: the networks written down once more (tools/torch_fast_peer.py), at
any size; and the published graphs gone through operator by operator, at the sizes that they were published for.
"""

from __future__ import annotations

import numpy as np
import pytest
from fast_nets import random_fast_weights

from nstcore import engines, fast, images
from nstcore.errors import WeightsError
from nstcore.pretrained.readers import tflite

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
from torch.nn import functional  # noqa: E402 - after the skip
from torch_fast_peer import TorchFastPeer  # noqa: E402

BOUND = 1e-4
SIZES = [(128, 96), (253, 190), (384, 384), (301, 400)]
ENGINES = [("reference", "float64"), ("reference", "float32"), ("cpu", "float32")]


def pixels(path, size: tuple[int, int]) -> np.ndarray:
    return images.resize_pixels(images.as_pixels(path), size)


def from_torch(peer: TorchFastPeer, x: np.ndarray, look, grid: int) -> np.ndarray:
    """Continued by its reflection to multiples of the grid, painted, cut off."""
    _, H, W = x.shape
    whole = functional.pad(peer.tensor(x), (0, -W % grid, 0, -H % grid), mode="reflect")
    return peer.paint(whole, look)[0, :, :H, :W].numpy()


def assert_equal_to_torch(weights, net, dtype: str, style: np.ndarray, content: np.ndarray) -> None:
    peer = TorchFastPeer(weights, getattr(torch, dtype))
    look = peer.look(style.astype(dtype))
    mine = net.look(style)
    theirs = look.flatten().numpy()
    assert np.abs(mine - theirs).max() <= BOUND * max(1, np.abs(theirs).max())
    painted = net.paint(content, mine)
    bound = 1e-10 if dtype == "float64" else BOUND
    assert np.abs(painted - from_torch(peer, content.astype(dtype), look, net.grid)).max() <= bound


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("device", "dtype"), ENGINES)
def test_magentas_network_is_pytorchs(magenta, shared_images, device, dtype, size):
    style = pixels(shared_images / "style" / "starry_night.jpg", (256, 323))
    content = pixels(shared_images / "content" / "golden_gate.jpg", size)
    net = fast.network(magenta, engines.create(device, dtype))
    assert_equal_to_torch(magenta, net, dtype, style, content)


@pytest.mark.parametrize("size", [(64, 96), (75, 50)])
@pytest.mark.parametrize(("device", "dtype"), ENGINES)
def test_adain_is_pytorchs(shared_images, device, dtype, size):
    weights = random_fast_weights("adain")
    style = pixels(shared_images / "style" / "the_scream.jpg", (90, 70))
    content = pixels(shared_images / "content" / "chicago.jpg", size)
    net = fast.network(weights, engines.create(device, dtype))
    assert_equal_to_torch(weights, net, dtype, style, content)


# -- the published graphs, operator by operator -----------------------------------------------------------------------


def test_the_networks_are_the_published_graphs(magenta, magenta_files, shared_images):
    prediction, transfer = (
        tflite.read(next(magenta_files.glob(f"*int8_{part}_1.tflite"))) for part in ("prediction", "transfer")
    )
    style = pixels(shared_images / "style" / "kandinsky_composition_vii.jpg", (256, 256))
    content = pixels(shared_images / "content" / "tuebingen_neckarfront.jpg", (384, 384))
    look = evaluated(prediction, [channels_last(style)])
    seen = channels_last(content)
    picture = evaluated(transfer, [seen, look] if first_is_picture(transfer) else [look, seen])
    net = fast.network(magenta, engines.create("cpu", "float32"))
    mine = net.look(style)
    assert np.abs(mine - look.flatten().numpy()).max() <= BOUND
    assert np.abs(net.paint(content, mine) - picture[0].permute(2, 0, 1).numpy()).max() <= BOUND


def channels_last(x: np.ndarray):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(1, 2, 0)))[None]


def first_is_picture(graph: tflite.Graph) -> bool:
    return graph.tensors[graph.inputs[0]].shape[-1] == 3


def evaluated(graph: tflite.Graph, inputs: list):
    """The graph's only output; maps are (1, H, W, C), and what is quantised there is not rounded here."""
    values = dict(zip(graph.inputs, inputs, strict=True))
    for operator in graph.operators:
        taken = [values[i] if i in values else constant(graph, i) for i in operator.inputs]
        (made,) = operator.outputs
        values[made] = activated(compute(operator, taken), operator.options.get("activation", 0))
        assert tuple(values[made].shape) == graph.tensors[made].shape
    return values[graph.outputs[0]]


def constant(graph: tflite.Graph, i: int):
    try:
        return torch.from_numpy(np.asarray(graph.floats(i)))
    except WeightsError:  # whole numbers without a scale: sizes, axes
        return torch.tensor(graph.integers(i))


def activated(y, code: int):
    return {"NONE": lambda y: y, "RELU": torch.relu, "RELU6": functional.relu6}[tflite.ACTIVATIONS[code]](y)


def compute(operator: tflite.Operator, taken: list):
    x, *others = taken
    kind, options = operator.kind, operator.options
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        w, b = others
        alone = kind == "DEPTHWISE_CONV_2D"
        strides = options["stride_h"], options["stride_w"]
        x = x.permute(0, 3, 1, 2)
        if tflite.PADDINGS[options["padding"]] == "SAME":
            for axis, stride in ((3, strides[1]), (2, strides[0])):
                n, k = x.shape[axis], w.shape[axis - 1]
                total = max((-(-n // stride) - 1) * stride + k - n, 0)
                before, border = total // 2, [0, 0, 0, 0]
                border[2 * (3 - axis) : 2 * (3 - axis) + 2] = [before, total - before]
                x = functional.pad(x, border)
        filters = w.permute(3, 0, 1, 2) if alone else w.permute(0, 3, 1, 2)
        return functional.conv2d(x, filters, b, strides, groups=x.shape[1] if alone else 1).permute(0, 2, 3, 1)
    if kind == "MIRROR_PAD":
        (_, _), (top, bottom), (left, right), (_, _) = others[0].reshape(4, 2).tolist()
        x = functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom), mode="reflect")
        return x.permute(0, 2, 3, 1)
    if kind == "RESIZE_NEAREST_NEIGHBOR":
        size = others[0].tolist()
        return functional.interpolate(x.permute(0, 3, 1, 2), size=size, mode="nearest").permute(0, 2, 3, 1)
    return {
        "ADD": lambda: x + others[0],
        "SUB": lambda: x - others[0],
        "MUL": lambda: x * others[0],
        "SQUARED_DIFFERENCE": lambda: (x - others[0]) ** 2,
        "MEAN": lambda: x.mean(dim=others[0].tolist(), keepdim=True),
        "RSQRT": lambda: torch.rsqrt(x),
        "LOGISTIC": lambda: torch.sigmoid(x),
        "QUANTIZE": lambda: x,
        "DEQUANTIZE": lambda: x,
    }[kind]()
