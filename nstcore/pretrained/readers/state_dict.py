"""Which network named tensors are: the names of torch's state dicts, in torch's own containers and in safetensors.

    features.28.weight      torchvision [1]_ and timm: a convolution's place among ReLUs and poolings
    conv5_1.weight          the papers' names
    28.weight               a bare Sequential; with a padding layer before every convolution 45.weight

A Sequential may begin with a 1x1 convolution that turns an RGB picture in 0-1 into what the network expects: its
pre-processing. Names and shapes alone do not say what that is, and then `Source.preprocessing` is None.

References
----------
.. [1] torchvision, models/vgg.py (make_layers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, TypeVar

import numpy as np

from ... import vgg
from ...errors import WeightsError
from ..weights import Preprocessing, present_convolutions, shown
from .source import Source

ByteOrder = Literal["<", ">"]

FLOATS = ("float32", "float16", "float64", "bfloat16")

_OTHERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
# Bytes of one number. numpy has no bfloat16, the upper half of a float32.
ITEM_SIZES = {kind: 2 if kind == "bfloat16" else np.dtype(kind).itemsize for kind in (*FLOATS, *_OTHERS)}

_WRAPPERS = ("module.", "model.")  # what data parallelism and training programs put before every name
_NUMBERED = re.compile(r"(features\.)?(0|[1-9][0-9]{0,2})\.weight")
_NAMED = re.compile(r"(conv[1-9]_[1-9])\.weight")

_LICENCES = {
    "features.": "BSD-3-Clause if these are torchvision's weights; not verified",
    "": "not stated in the file",
}


class Described(Protocol):
    """A tensor that was not read yet."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...


_Tensor = TypeVar("_Tensor", bound=Described)


@dataclass(frozen=True)
class Network:
    """Which tensors are which convolutions: name without `.weight`, by convolution."""

    architecture: str
    names: dict[str, str]
    style: str  # a key of _LICENCES
    colour_map: str | None  # name of the leading 1x1 convolution


def read_floats(file: BinaryIO, start: int, count: int, dtype: str, order: ByteOrder = "<") -> np.ndarray:
    """`count` numbers from byte `start` on, as float32; the caller knows that `count` is what the network needs."""
    stored = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder(order)
    raw = np.empty(count, stored)
    file.seek(start)
    if file.readinto(raw.data) != raw.nbytes:  # type: ignore[attr-defined]
        raise WeightsError(f"expected {raw.nbytes} bytes from {start} on; the file is cut short")
    if dtype == "bfloat16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # `Weights` refuses what is not finite, and says where
        return raw.astype(np.float32, copy=False)


def assemble(
    container: str, path: Path, tensors: Mapping[str, _Tensor], read_tensor: Callable[[_Tensor], np.ndarray]
) -> Source:
    """The network that these tensors are; only those of its convolutions are read, each when its shape is known to fit.

    Parameters
    ----------
    container : str
    path : Path
    tensors : mapping of str to description
        By name, as in a state dict.
    read_tensor : callable
        Its numbers, float32 in the tensor's shape, C-contiguous.

    Raises
    ------
    WeightsError
        If it is no VGG16 or VGG19, or not the beginning of one.
    """
    named = _unwrapped(tensors)
    network = find_network({name: tensor.shape for name, tensor in named.items()})
    shapes = vgg.convolutions(network.architecture)
    expected: dict[str, tuple[int, ...]] = {}
    for conv, name in network.names.items():
        expected[f"{name}.weight"], expected[f"{name}.bias"] = shapes[conv], shapes[conv][:1]
    if network.colour_map is not None:
        expected[f"{network.colour_map}.weight"], expected[f"{network.colour_map}.bias"] = (3, 3, 1, 1), (3,)
    for name, shape in expected.items():
        check(name, named.get(name), shape)

    def numbers(name: str) -> np.ndarray:
        try:
            return read_tensor(named[name])
        except WeightsError as error:
            raise WeightsError(f"{name}: {error}") from error

    preprocessing = None
    if network.colour_map is not None:
        preprocessing = preprocessing_of(numbers(f"{network.colour_map}.weight"), numbers(f"{network.colour_map}.bias"))
    return Source(
        container=container,
        architecture=network.architecture,
        filters={conv: (numbers(f"{name}.weight"), numbers(f"{name}.bias")) for conv, name in network.names.items()},
        preprocessing=preprocessing,
        padding="zero",  # as the networks were trained, whatever a style transfer program put before the convolutions
        pooling="max",
        licence=_LICENCES[network.style],
        files=(path,),
    )


def find_network(shapes: Mapping[str, tuple[int, ...]]) -> Network:
    """Tell from names and shapes which network it is, and which tensor is which convolution.

    A file that ends at conv3_3 or before is the beginning of VGG16 and VGG19 alike, and is called VGG19.

    Raises
    ------
    WeightsError
        If it is neither, has batch normalisation, or a convolution is missing before another.
    """
    numbered = {(m[1] or "", int(m[2])): shape for name, shape in shapes.items() if (m := _NUMBERED.fullmatch(name))}
    style = max((style for style, _ in numbered), default="", key=len)
    places = {number: shape for (found, number), shape in numbered.items() if found == style}
    if any(name.endswith("running_mean") for name in shapes) or any(len(shape) == 1 for shape in places.values()):
        raise WeightsError("expected a VGG without batch normalisation, found one with; take vgg16 or vgg19, not _bn")
    # the deepest network first: where both fit, nothing is lost
    architectures = sorted(vgg.ARCHITECTURES, key=lambda name: -len(vgg.convolutions(name)))
    named = [m[1] for name in shapes if (m := _NAMED.fullmatch(name))]
    if named:
        architecture, convolutions = _named(architectures, named)
        return Network(architecture, {conv: conv for conv in convolutions}, "", None)
    filters = sorted(number for number, shape in places.items() if len(shape) == 4)
    if not filters:
        found = ", ".join(shown(name)[:40] for name in list(shapes)[:3]) or "nothing"
        raise WeightsError(f"expected names like features.0.weight, conv1_1.weight or 0.weight, found {found}")
    colour_map = f"{style}{filters[0]}" if places[filters[0]][2:] == (1, 1) else None
    architecture, numbers = _numbered(architectures, style, filters[colour_map is not None :])
    convolutions = tuple(vgg.convolutions(architecture))
    names = {conv: f"{style}{number}" for conv, number in zip(convolutions, numbers, strict=False)}
    return Network(architecture, names, style, colour_map)


def preprocessing_of(weight: np.ndarray, bias: np.ndarray) -> Preprocessing:
    """What a leading 1x1 convolution does to an RGB picture in 0-1, if that is a pre-processing.

        x[k] = sum_c weight[k,c,0,0] pixels[c] + bias[k] = (range * pixels[order[k]] - mean[k]) / std[k]

    Parameters
    ----------
    weight : ndarray of shape (3, 3, 1, 1), float32
    bias : ndarray of shape (3,), float32

    Raises
    ------
    WeightsError
        If it mixes channels, or its mean is no colour.
    """
    matrix = weight[:, :, 0, 0]
    rows, columns = np.nonzero(matrix)
    rgb = columns.tolist() == [0, 1, 2]
    if (
        not (rgb or columns.tolist() == [2, 1, 0])
        or rows.tolist() != [0, 1, 2]
        or not (matrix[rows, columns] > 0).all()
    ):
        raise WeightsError("its leading 1x1 convolution: expected one factor above 0 for each channel, RGB or BGR")
    # The shortest decimal that is this float32: 103.939, as it was meant.
    s0, s1, s2 = (float(str(v)) for v in matrix[rows, columns])
    m0, m1, m2 = (-float(str(v)) for v in bias)
    if not all(0 < m / s < 1 for m, s in ((m0, s0), (m1, s1), (m2, s2))):
        raise WeightsError("its leading 1x1 convolution: expected minus a mean colour in 0-1, times its factor")
    if s0 == s1 == s2 == 255:
        return Preprocessing("rgb" if rgb else "bgr", 255.0, (m0, m1, m2), (1.0, 1.0, 1.0))
    return Preprocessing("rgb" if rgb else "bgr", 1.0, (m0 / s0, m1 / s1, m2 / s2), (1 / s0, 1 / s1, 1 / s2))


def _named(architectures: list[str], names: list[str]) -> tuple[str, tuple[str, ...]]:
    """The first network of which these convolutions are a beginning; else what the deepest one lacks."""
    refused: list[WeightsError] = []
    for architecture in architectures:
        try:
            return architecture, present_convolutions(architecture, names)
        except WeightsError as error:
            refused.append(error)
    raise refused[0]


def _numbered(architectures: list[str], style: str, numbers: list[int]) -> tuple[str, list[int]]:
    """The first network that numbers its convolutions so; they may end before it does."""
    candidates = [(name, _places(name, numbers[:1], apart)) for name in architectures for apart in (2, 3)]
    for architecture, expected in candidates:
        if numbers and numbers == expected[: len(numbers)]:
            return architecture, numbers

    def common(expected: list[int]) -> int:
        return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(numbers, expected, strict=False))))

    architecture, expected = max(candidates, key=lambda candidate: common(candidate[1]))
    same = common(expected)
    if not numbers:
        raise WeightsError("expected 3x3 convolutions behind the leading 1x1 one, found none")
    if same == len(expected):
        raise WeightsError(f"{style}{numbers[same]}.weight: {architecture} has no convolution there")
    conv = list(vgg.convolutions(architecture))[same]
    raise WeightsError(
        f"{style}{expected[same]}.weight: missing: expected {conv} of {architecture} there; the next convolution "
        f"found is {style}{numbers[same]}.weight"
    )


def _places(architecture: str, first: list[int], apart: int) -> list[int]:
    """Numbers of the convolutions in a Sequential: each with its ReLU, and its padding if `apart` is 3; poolings."""
    places, number = [], sum(first)
    for step in vgg.steps(architecture):
        if step.kind == "conv":
            places.append(number)
        number += apart if step.kind == "conv" else 1
    return places


def _unwrapped(tensors: Mapping[str, _Tensor]) -> dict[str, _Tensor]:
    """The tensors without the prefixes that all their names share."""
    named = dict(tensors)
    while wrapper := next((w for w in _WRAPPERS if named and all(name.startswith(w) for name in named)), None):
        named = {name.removeprefix(wrapper): tensor for name, tensor in named.items()}
    return named


def check(name: str, tensor: Described | None, shape: tuple[int, ...]) -> None:
    """`WeightsError` unless the tensor is there, holds floats and has this shape."""
    if tensor is None:
        raise WeightsError(f"{name}: missing")
    if tensor.shape != shape or tensor.dtype not in FLOATS:
        found = f"{tensor.dtype} {str(tensor.shape)[:80]}"
        raise WeightsError(f"{name}: expected {', '.join(FLOATS)} {shape}, found {found}")
