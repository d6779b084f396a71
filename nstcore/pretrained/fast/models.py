"""The feed-forward networks by name: which tensors each has, and their shapes.

magenta: Ghiasi et al. [1]_ as the TensorFlow Hub publishes it. `prediction` turns the style picture into 100 numbers
(a MobileNetV2 [2]_ up to its last average), `transfer` paints the content picture, each of its instance normalisations
scaled and shifted by what two fully connected layers make of those numbers.

adain: Huang and Belongie [3]_. `encoder` is VGG19 up to conv4_1, `decoder` goes the way back.

A convolution's weight is (K, C, R, S) and its bias (K,), as in `nstcore.ops.conv`; a depthwise one's are (C, R, S) and
(C,). A fully connected layer is a convolution of one position, (K, C, 1, 1). How the layers follow one another, with
their strides, borders and activations, stands in `nstcore.fast`.

References
----------
.. [1] Ghiasi, Lee, Kudlur, Dumoulin, Shlens, "Exploring the structure of a real-time, arbitrary neural artistic
   stylization network", BMVC 2017.
.. [2] Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
   table 2.
.. [3] Huang, Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import MappingProxyType

from ... import vgg
from ...errors import WeightsError

MODELS = ("magenta", "adain")
STYLE_NUMBERS = 100
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """One block of MobileNetV2: `expand` to so many channels (0: not at all), depthwise with a stride, project."""

    inputs: int
    expand: int
    outputs: int
    stride: int

    @property
    def sums(self) -> bool:
        """Whether the block's input is added to its output."""
        return self.stride == 1 and self.inputs == self.outputs


# Output channels, how many blocks, stride of the first one.
_STAGES = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
_EXPANSION = 6  # but for the first block


def _blocks() -> tuple[Block, ...]:
    blocks: list[Block] = []
    inputs = STEM_CHANNELS
    for outputs, count, stride in _STAGES:
        for i in range(count):
            expand = _EXPANSION * inputs if blocks else 0
            blocks.append(Block(inputs, expand, outputs, stride if i == 0 else 1))
            inputs = outputs
    return tuple(blocks)


BLOCKS = _blocks()

# The transfer network's convolutions, (K, C, R, S): those without a normalisation, and those with one.
CONTRACT: dict[str, Shape] = {"contract1": (8, 3, 9, 9), "contract2": (16, 8, 3, 3), "contract3": (32, 16, 3, 3)}
RESIDUALS = 5
NORMALISED: dict[str, Shape] = {
    **{f"residual{i}/conv{j}": (32, 32, 3, 3) for i in range(1, RESIDUALS + 1) for j in (1, 2)},
    "expand1": (16, 32, 3, 3),
    "expand2": (8, 16, 3, 3),
    "expand3": (3, 8, 9, 9),
}

ENCODER_END = "conv4_1"
# Channels of the decoder, from the encoder's last to the picture's.
_DECODER = (512, 256, 256, 256, 256, 128, 128, 64, 64, 3)


@cache
def fast_tensors(model: str) -> MappingProxyType[str, Shape]:
    """Every tensor of a network with its shape, in reading order.

    Parameters
    ----------
    model : {"magenta", "adain"}

    Raises
    ------
    WeightsError
        If there is no such network.
    """
    if model not in MODELS:
        raise WeightsError(f"model: expected one of {', '.join(MODELS)}, got {model!r}")
    layers = _magenta() if model == "magenta" else _adain()
    tensors: dict[str, Shape] = {}
    for layer, shape in layers.items():
        tensors[f"{layer}/weight"], tensors[f"{layer}/bias"] = shape, shape[:1]
    return MappingProxyType(tensors)


def _magenta() -> dict[str, Shape]:
    """Shape of the weight of every layer."""
    layers: dict[str, Shape] = {"prediction/stem": (STEM_CHANNELS, 3, 3, 3)}
    for n, block in enumerate(BLOCKS, 1):
        middle = block.expand or block.inputs
        if block.expand:
            layers[f"prediction/block{n}/expand"] = (middle, block.inputs, 1, 1)
        layers[f"prediction/block{n}/depthwise"] = (middle, 3, 3)
        layers[f"prediction/block{n}/project"] = (block.outputs, middle, 1, 1)
    layers["prediction/head"] = (HEAD_CHANNELS, BLOCKS[-1].outputs, 1, 1)
    layers["prediction/style"] = (STYLE_NUMBERS, HEAD_CHANNELS, 1, 1)
    layers |= {f"transfer/{name}": shape for name, shape in CONTRACT.items()}
    for name, shape in NORMALISED.items():
        layers[f"transfer/{name}"] = shape
        layers[f"transfer/{name}/scale"] = layers[f"transfer/{name}/shift"] = (shape[0], STYLE_NUMBERS, 1, 1)
    return layers


def _adain() -> dict[str, Shape]:
    """Likewise."""
    layers: dict[str, Shape] = {}
    for conv, shape in vgg.convolutions("vgg19").items():
        layers[f"encoder/{conv}"] = shape
        if conv == ENCODER_END:
            break
    for n, (inputs, outputs) in enumerate(pairwise(_DECODER), 1):
        layers[f"decoder/conv{n}"] = (outputs, inputs, 3, 3)
    return layers
