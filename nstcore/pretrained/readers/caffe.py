"""Caffe `.caffemodel`: a NetParameter in Protocol Buffers, layers of both ages [1]_.

    NetParameter        layers = 2 (V1LayerParameter, until 2014: Oxford's files)     layer = 100 (LayerParameter)
    V1LayerParameter    name = 4   type = 5 (number)   blobs = 6   convolution_param = 10   pooling_param = 19
    LayerParameter      name = 1   type = 2 (text)     blobs = 7   convolution_param = 106  pooling_param = 121
    BlobProto           shape = 7, or num, channels, height, width = 1 to 4     data = 5     double_data = 8

Layers are found by the names that Oxford gave them, conv1_1 and so on; weights lie (K, C, 3, 3), as ours do.

Caffe feeds pictures as OpenCV decodes them, BGR in 0-255, but the mean is usually in another file, and a program may
have fed anything. So the pre-processing is known only where a data layer's `transform_param` is in the file and states
the mean: x = (pixel - mean_value) * scale.

References
----------
.. [1] Caffe, src/caffe/proto/caffe.proto.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ... import vgg
from ...errors import WeightsError
from .. import hdf5
from ..weights import Pooling, Preprocessing, shown
from . import sequence
from .protobuf import Field, Input, Message, begins_with, first_field, is_text
from .source import Source, opened

NAME = "Caffe model"

# The names say Oxford's layers, not whose training: a fine-tuned copy has the same ones.
LICENCE = "CC BY 4.0 if these are the VGG weights as Oxford publishes them; not verified"

_BEGINNING = {1: "text", 3: "text", 4: "varint", 5: "varint", 6: "bytes", 7: "varint", 8: "bytes"}
_POOLINGS: dict[int, Pooling] = {0: "max", 1: "average"}


@dataclass(frozen=True)
class LayerSchema:
    """Field numbers of one age of layers, and what it calls a convolution."""

    name: int
    type: int
    blobs: int
    convolution: int
    pooling: int
    transform: int
    convolution_type: int | str


# by the layer's own field number in NetParameter
_SCHEMAS = {
    2: LayerSchema(name=4, type=5, blobs=6, convolution=10, pooling=19, transform=36, convolution_type=4),
    100: LayerSchema(
        name=1, type=2, blobs=7, convolution=106, pooling=121, transform=100, convolution_type="Convolution"
    ),
}


def recognise(path: Path) -> bool:
    """Whether it is a file that begins as a network of Caffe does, up to the beginning of its first layer."""
    if not os.path.isfile(path):
        return False
    hdf5.first_bytes(path, 1)  # readable
    with path.open("rb") as file:
        layer = begins_with(file, path.stat().st_size, _BEGINNING, tuple(_SCHEMAS))
        # a layer of 2014 may begin with its inputs and outputs, which stand before its name
        names = (1,) if layer is not None and layer.number == 100 else (2, 3, 4)
        return layer is not None and is_text(first_field(layer.message), names)


def read(path: Path) -> Source:
    """Read VGG16 or VGG19, told apart by their layers' names.

    Raises
    ------
    WeightsError
        If the file is damaged, or is not one of these networks.
    """
    with opened(path) as (file, size):
        return _read(path, file, size)


def _read(path: Path, file: BinaryIO, size: int) -> Source:
    filters: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    poolings: set[Pooling] = set()
    preprocessings: list[Preprocessing | None] = []
    for field in Input(file, size).message:
        schema = _SCHEMAS.get(field.number)
        if schema is None:
            continue
        parts = _layer_parts(field.message, schema)
        name = parts.name.text if parts.name else ""
        if parts.transform is not None:
            preprocessings.append(_preprocessing(parts.transform.message))
        if parts.pooling is not None:
            poolings.add(_pooling(name, parts.pooling.message))
        if sequence.is_convolution(name):
            if name in filters:
                raise WeightsError(f"{name}: expected one layer of that name, found two")
            _check_convolution(name, parts, schema)
            filters[name] = _read_blobs(name, parts.blobs)
        elif parts.is_convolution(schema) and name.startswith("conv"):
            sequence.shape_of(name)  # refuses conv6_1 by name; fc6 as a convolution is the classifier
    architecture = sequence.architecture_of(filters)
    return Source(
        container=NAME,
        architecture=architecture,
        filters={conv: filters[conv] for conv in vgg.convolutions(architecture)},
        # layers of training and testing should agree; where they do not, nobody can say which is meant
        preprocessing=preprocessings[0] if len(set(preprocessings)) == 1 else None,
        padding="zero",
        pooling=sequence.one_pooling(poolings),
        licence=LICENCE,
        files=(path,),
    )


@dataclass
class _Parts:
    """The fields of a layer that matter here; nothing of them has been read."""

    blobs: list[Field]
    name: Field | None = None
    type: Field | None = None
    convolution: Field | None = None
    pooling: Field | None = None
    transform: Field | None = None

    def is_convolution(self, schema: LayerSchema) -> bool:
        if self.type is None:
            return False
        kind = self.type.text if isinstance(schema.convolution_type, str) else self.type.integer
        return kind == schema.convolution_type


def _layer_parts(layer: Message, schema: LayerSchema) -> _Parts:
    parts = _Parts([])
    for field in layer:
        if field.number == schema.blobs:
            parts.blobs.append(field)
        for name in ("name", "type", "convolution", "pooling", "transform"):
            if field.number == getattr(schema, name):
                setattr(parts, name, field)
    return parts


def _check_convolution(name: str, parts: _Parts, schema: LayerSchema) -> None:
    """`WeightsError` unless it is VGG's: 3x3, stride 1, padded by 1, one group, no holes, with a bias."""
    if not parts.is_convolution(schema):
        raise WeightsError(f"{name}: expected a convolution, found a layer of another type")
    if parts.convolution is None:
        raise WeightsError(f"{name}: expected its convolution_param, found none; stride and padding are not known")
    given = _numbers(parts.convolution.message, (2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 18))
    geometry = {
        "pad": _pair(given, 3, 9, 10, 0),
        "kernel_size": _pair(given, 4, 11, 12, 0),
        "stride": _pair(given, 6, 13, 14, 1),
        "dilation": _pair(given, 18, 18, 18, 1),
    }
    for what, expected in (("pad", 1), ("kernel_size", 3), ("stride", 1), ("dilation", 1)):
        if geometry[what] != {expected}:
            raise WeightsError(f"{name}: expected {what} {expected}, found {sorted(geometry[what])}")
    if given.get(5, [1]) != [1] or given.get(2, [1]) != [1]:
        raise WeightsError(f"{name}: expected one group and a bias, found groups or no bias")


def _pooling(name: str, parameter: Message) -> Pooling:
    """The method; `WeightsError` unless it is 2x2 with stride 2."""
    given = _numbers(parameter, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12))
    size, stride, pad = _pair(given, 2, 5, 6, 0), _pair(given, 3, 7, 8, 1), _pair(given, 4, 9, 10, 0)
    if size != {2} or stride != {2} or pad != {0} or given.get(12, [0]) != [0]:
        raise WeightsError(f"{shown(name)}: expected a pooling of 2x2 with stride 2 without padding, found another")
    method = (given.get(1) or [0])[-1]
    if method not in _POOLINGS:
        raise WeightsError(f"{shown(name)}: expected max or average pooling, found method {method}")
    return _POOLINGS[method]


def _numbers(message: Message, numbers: tuple[int, ...]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for field in message:
        if field.number in numbers:
            found.setdefault(field.number, []).extend(field.integers)
    return found


def _pair(given: dict[int, list[int]], both: int, height: int, width: int, default: int) -> set[int]:
    """Every value that holds along an axis: one for both axes, one for each, or the default."""
    if height in given or width in given:
        return {*given.get(height, [default]), *given.get(width, [default])}
    return set(given.get(both, [default]))


def _read_blobs(name: str, blobs: list[Field]) -> tuple[np.ndarray, np.ndarray]:
    if len(blobs) != 2:
        raise WeightsError(f"{name}: expected weights and biases, found {len(blobs)} blobs")
    shape = sequence.shape_of(name)
    weight = _read_blob(f"{name}/weight", blobs[0].message, shape)
    return weight, _read_blob(f"{name}/bias", blobs[1].message, shape[:1])


def _read_blob(what: str, blob: Message, shape: tuple[int, ...]) -> np.ndarray:
    """One array; its declared shape and its length are held against the table before anything is allocated."""
    dims: dict[int, int] = {}
    modern: list[int] | None = None
    data: list[Field] = []
    for field in blob:
        if field.number in (1, 2, 3, 4):
            dims[field.number] = field.integer
        elif field.number == 7:
            modern = [side for part in field.message if part.number == 1 for side in part.integers]
        elif field.number in (5, 8):
            data.append(field)
    found = tuple(modern) if modern is not None else tuple(dims.get(i, 0) for i in (1, 2, 3, 4))
    # a bias of 2014 has four sides too: (1, 1, 1, K)
    if found != shape and (len(shape) > 1 or found != (1, 1, 1, *shape)):
        raise WeightsError(f"{what}: expected shape {shape}, found {str(found)[:80]}")
    if len(data) != 1:
        raise WeightsError(f"{what}: expected its numbers in one packed field, found {len(data)} fields")
    stored = "<f4" if data[0].number == 5 else "<f8"
    if data[0].nbytes != math.prod(shape) * np.dtype(stored).itemsize:
        raise WeightsError(f"{what}: expected {math.prod(shape)} numbers, found {data[0].nbytes} bytes")
    out = np.empty(shape, stored)
    data[0].read_into(out)
    with np.errstate(over="ignore"):  # what is not finite is refused where the weights are put together
        return out.astype(np.float32, copy=False)


def _preprocessing(transform: Message) -> Preprocessing | None:
    """What a data layer states; None without the mean, which then is in a file that we do not have."""
    scale, mean = 1.0, []
    for field in transform:
        if field.number == 1:
            scale = (field.floats or [scale])[-1]
        elif field.number == 5:
            mean += field.floats
    if len(mean) not in (1, 3) or not scale > 0:
        return None
    b, g, r = mean * (3 // len(mean))
    return Preprocessing("bgr", 255.0, (b, g, r), (1 / scale,) * 3)
