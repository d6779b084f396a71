"""MatConvNet `.mat`: a SimpleNN network in a MAT-file, of the betas and of later releases.

    layers{i}           struct: type, name, and for a convolution pad, stride and either
                            weights = {filters, biases}        or         filters, biases (the first betas)
    normalization       struct with averageImage (until beta 16); later meta.normalization

Orientation: MATLAB's images are H x W x C, and so are the filters, H x W x C x K, the row index varying fastest. What
MatConvNet published was made from Oxford's Caffe files: transposed to that order, and the input channels of the first
layer reversed from BGR to RGB [1]_. So no rows become columns here, although a widespread program does that [2]_:
filters(1,1:3,3,1) = .34119523 .33999205 -.04484424 in `imagenet-vgg-verydeep-19.mat` is the first row of the first
filter on blue, as in Keras' and Caffe's copies.

Pictures are RGB in 0-255; averageImage is subtracted, a colour or a picture, of which we take the mean per channel.

References
----------
.. [1] MatConvNet, utils/import-caffe.py and import-ref-models.sh; matlab/vl_nnconv.m, vl_simplenn.m.
.. [2] Athalye, neural-style, vgg.py: "weights are [width, height, in_channels, out_channels]".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ... import vgg
from ...errors import WeightsError
from .. import hdf5
from ..weights import Pooling, Preprocessing, shown
from . import matfile
from .matfile import Matrix
from .sequence import Sequence, shape_of
from .source import Source, opened

NAME = "MatConvNet MAT-file"

# A network says nothing about who trained it.
LICENCE = "CC BY 4.0 if these are the Oxford VGG weights as MatConvNet publishes them; not verified"

_POOLINGS: dict[str, Pooling] = {"max": "max", "avg": "average"}
_LARGEST_AVERAGE = 3 << 18  # numbers: a picture of 512x512
_VARIABLES = ("layers", "normalization", "meta")


class _Layer:
    """What one layer says of itself, and the arrays of a convolution."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.numbers: dict[str, list[float]] = {}
        self.name = ""  # of a convolution, by its place
        self.filters: np.ndarray | None = None
        self.biases: np.ndarray | None = None
        self.is_classifier = False


def recognise(path: Path) -> bool:
    """Whether it is a file that begins as a MAT-file of version 5 does."""
    if not os.path.isfile(path):
        return False
    return hdf5.first_bytes(path, len(matfile.MAGIC)) == matfile.MAGIC


def read(path: Path) -> Source:
    """Read VGG16 or VGG19, told apart by the order of their layers.

    Raises
    ------
    WeightsError
        If the file is damaged, or is not one of these networks.
    """
    with opened(path) as (file, size):
        return _read(path, file, size)


def _read(path: Path, file: BinaryIO, size: int) -> Source:
    seen: set[str] = set()
    preprocessing: Preprocessing | None = None
    filters: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    architecture, pooling = "", None
    for variable in matfile.variables(file, size):
        if variable.name not in _VARIABLES:
            continue
        if variable.name in seen:
            raise WeightsError(f"{variable.name}: expected one variable of that name, found two")
        seen.add(variable.name)
        if variable.name == "layers":
            filters, architecture, pooling = _read_layers(variable)
        elif variable.name == "normalization":
            preprocessing = _read_normalization(variable)
        else:
            for name, field in variable.fields("meta"):
                if name == "normalization":
                    preprocessing = _read_normalization(field)
    if pooling is None:
        raise WeightsError("expected a variable layers, found none; only SimpleNN networks of MatConvNet are read")
    return Source(
        container=NAME,
        architecture=architecture,
        filters=filters,
        preprocessing=preprocessing,
        padding="zero",
        pooling=pooling,
        licence=LICENCE,
        files=(path,),
    )


def _read_layers(variable: Matrix) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], str, Pooling]:
    sequence = Sequence()
    filters: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    end = "the end"
    for cell in variable.cells("layers"):
        layer = _read_layer(cell, sequence)
        kind = layer.texts.get("type", "")
        if layer.is_classifier:
            break
        if kind == "conv":
            if layer.filters is None or layer.biases is None:
                raise WeightsError(f"{layer.name or 'a convolution'}: expected filters and biases, found none")
            _check_numbers(layer, layer.name, pad=1, stride=1, dilate=1)
            filters[layer.name] = (layer.filters, layer.biases)
        elif layer.name:
            raise WeightsError(f"{layer.name}: expected a convolution, found {shown(kind)[:80]}")
        elif kind == "relu":
            _check_numbers(layer, "relu", leak=0)
            sequence.relu()
        elif kind == "pool":
            sequence.pool(_pooling(layer))
        else:
            end = kind
            break
    architecture, pooling = sequence.finish(end)
    return {conv: filters[conv] for conv in vgg.convolutions(architecture)}, architecture, pooling


def _read_layer(cell: Matrix, sequence: Sequence) -> _Layer:
    """One layer; of the classifier's only what stands before its filters, so that they need not be inflated."""
    layer = _Layer()
    for name, field in cell.fields("layer"):
        if name in ("type", "method"):
            layer.texts[name] = field.text(f"layer: {name}")
        elif name in ("pad", "stride", "pool", "dilate", "leak") and field.size:
            layer.numbers[name] = field.numbers(f"layer: {name}", 4).tolist()
        elif name == "weights" and field.size:
            for i, part in enumerate(field.cells("layer: weights")):
                if not layer.is_classifier:
                    _read_array(layer, ("filters", "biases")[min(i, 1)], part, sequence)
        elif name in ("filters", "biases"):
            _read_array(layer, name, field, sequence)
        if layer.is_classifier:
            break
    return layer


def _read_array(layer: _Layer, what: str, matrix: Matrix, sequence: Sequence) -> None:
    """Filters and biases of a convolution; shapes are held against the table before anything is allocated."""
    if getattr(layer, what) is not None:
        raise WeightsError(f"{layer.name}: expected filters and biases once, found them twice")
    if what == "filters":
        if len(matrix.dims) == 4 and matrix.dims[:2] != (3, 3) and sequence.convolutions:
            layer.is_classifier = True  # its fully connected layers are convolutions of 7x7 and 1x1
            return
        layer.name = sequence.convolution()
    elif not layer.name:
        raise WeightsError("layer: expected filters before biases, found biases alone")
    k, c, h, w = shape_of(layer.name)
    if what == "filters":
        if matrix.dims != (h, w, c, k):
            raise WeightsError(f"{layer.name}: expected filters {h}x{w}x{c}x{k}, found {shown(matrix.described)}")
        # the first index, the row, varies fastest: (K, C, W, H) to NumPy
        values = matrix.numbers(layer.name, h * w * c * k).reshape(k, c, w, h)
        layer.filters = np.ascontiguousarray(values.transpose(0, 1, 3, 2), dtype=np.float32)
    else:
        if matrix.size != k:
            raise WeightsError(f"{layer.name}: expected {k} biases, found {shown(matrix.described)}")
        layer.biases = matrix.numbers(layer.name, k).astype(np.float32, copy=False)


def _check_numbers(layer: _Layer, what: str, **expected: int) -> None:
    """`WeightsError` unless these are VGG's; a pad that is absent is 0, a stride or dilation 1."""
    for name, value in expected.items():
        found = layer.numbers.get(name, [0] if name in ("pad", "leak") else [1])
        if set(found) != {value}:
            raise WeightsError(f"{what}: expected {name} {value}, found {found}; not a VGG")


def _pooling(layer: _Layer) -> Pooling:
    _check_numbers(layer, "pool", pool=2, stride=2)
    # [top bottom left right]; old files pad by 1 at the bottom and right, which changes nothing on even sizes
    pad = layer.numbers.get("pad", [0])
    if any(pad[0::2]) or not set(pad[1::2]) <= {0, 1}:
        raise WeightsError(f"pool: expected no padding, or [0 1 0 1], found {pad}; not a VGG")
    method = layer.texts.get("method", "max")
    if method not in _POOLINGS:
        raise WeightsError(f"pool: expected method max or avg, found {shown(method)[:80]}")
    return _POOLINGS[method]


def _read_normalization(struct: Matrix) -> Preprocessing | None:
    """What is subtracted from a picture; None where the file does not say."""
    mean: tuple[float, ...] | None = None
    for name, field in struct.fields("normalization"):
        if name == "averageImage" and field.size > 2:  # [0 0] stands for none
            mean = _mean(field)
    return None if mean is None else Preprocessing("rgb", 255.0, mean, (1.0, 1.0, 1.0))  # type: ignore[arg-type]


def _mean(average: Matrix) -> tuple[float, ...]:
    """Mean of an average colour or picture, per channel."""
    if average.size != 3 and (len(average.dims) != 3 or average.dims[2] != 3):
        raise WeightsError(f"averageImage: expected a colour or HxWx3, found {shown(average.described)}")
    channels = average.numbers("averageImage", _LARGEST_AVERAGE).reshape(3, -1)
    if (channels == channels[:, :1]).all():
        # one colour: exactly that, and of a float32 the decimal that it stands for: 123.68, not 123.68000030517578
        return tuple(float(str(value)) for value in channels[:, 0])
    return tuple(float(value) for value in channels.mean(axis=1, dtype=np.float64))
