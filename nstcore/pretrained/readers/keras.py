"""What Keras calls things, for every container that holds a Keras model.

Keras names conv4_2 `block4_conv2` and stores kernels HWIO. Its VGG16 and VGG19 are the Oxford networks, trained in
Caffe: BGR, 0-255, minus the mean of ImageNet [1]_.

References
----------
.. [1] keras.applications.vgg19.preprocess_input, mode "caffe": mean 103.939, 116.779, 123.68 (B, G, R).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ... import vgg
from ...errors import WeightsError
from ..weights import Preprocessing

PREPROCESSING = Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))

# The names say Keras, not whose training: a fine-tuned copy has the same ones.
LICENCE = "CC BY 4.0 if these are the Oxford VGG weights as Keras publishes them; not verified"

_LAYER = re.compile(r"block([1-9])_conv([1-9])")


def keras_name(conv: str) -> str:
    """block4_conv2 for conv4_2."""
    block, index = conv.removeprefix("conv").split("_")
    return f"block{block}_conv{index}"


def is_convolution(layer: str) -> bool:
    """Whether a Keras layer's name is that of a VGG convolution."""
    return _LAYER.fullmatch(layer) is not None


def architecture_of(layers: Iterable[str]) -> str:
    """The network whose convolutions are exactly these Keras layers; other layers (the classifier) do not count.

    Raises
    ------
    WeightsError
        If they are those of no network; the first missing one of the nearest network is named.
    """
    found = {layer for layer in layers if is_convolution(layer)}
    if not found:
        raise WeightsError("expected VGG layers named block1_conv1 and so on, found none")
    expected = {name: [keras_name(conv) for conv in vgg.convolutions(name)] for name in vgg.ARCHITECTURES}
    for name, names in expected.items():
        if found == set(names):
            return name
    # the smallest network that has every layer found, else the largest
    sizes = sorted(expected, key=lambda name: len(expected[name]))
    nearest = next((name for name in sizes if found <= set(expected[name])), sizes[-1])
    missing = [layer for layer in expected[nearest] if layer not in found]
    if missing:
        raise WeightsError(f"expected all {len(expected[nearest])} convolutions of {nearest}; {missing[0]} is missing")
    foreign = sorted(found.difference(expected[nearest]))
    raise WeightsError(f"{foreign[0]}: {' and '.join(vgg.ARCHITECTURES)} have no such layer")


def kernel_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """HWIO shape (3, 3, C, K) of a filter that we hold as (K, C, 3, 3)."""
    k, c, h, w = shape
    return h, w, c, k


def filters_from_kernel(kernel: np.ndarray) -> np.ndarray:
    """(K, C, 3, 3) float32, C-contiguous, from Keras' (3, 3, C, K)."""
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), dtype=np.float32)
