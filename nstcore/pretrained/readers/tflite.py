"""TensorFlow Lite: a network as a list of operators on numbered tensors, in one FlatBuffers file [1]_.

    Model           version 0, operator_codes 1, subgraphs 2, buffers 4
    OperatorCode    deprecated_builtin_code 0, builtin_code 3
    SubGraph        tensors 0, inputs 1, outputs 2, operators 3
    Tensor          shape 0, type 1, buffer 2, quantization 4, sparsity 6
    Quantization    scale 2, zero_point 3, details_type 4, quantized_dimension 6
    Operator        opcode_index 0, inputs 1, outputs 2, builtin_options_type 3, builtin_options 4
    Buffer          data 0

A tensor with a buffer is a constant: weights, or the sizes that an operator is told. Weights are stored as float32, as
float16, or as whole numbers q that stand for

    scale * (q - zero_point)        one scale for all, or one for each channel along quantized_dimension

What the operators compute is not evaluated here: `magenta` holds them against the network that they must be.

References
----------
.. [1] TensorFlow, tensorflow/lite/schema/schema.fbs: field numbers, and the values of the enumerations.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import WeightsError
from .. import hdf5
from . import flatbuffer
from .flatbuffer import Table
from .source import opened

NAME = "TensorFlow Lite model"
SUFFIX = ".tflite"

PADDINGS = ("SAME", "VALID")
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")

_IDENTIFIER = b"TFL3"
_VERSION = 3
_LARGEST_FILE = 64 << 20  # bytes; the largest published one has 5 million
_MOST = 4096  # tensors, operators, buffers; the transfer network has 430 tensors
_MOST_SIDES = 8

_TYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 9: "i1"}
_KINDS = {
    0: "ADD",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    14: "LOGISTIC",
    18: "MUL",
    40: "MEAN",
    41: "SUB",
    76: "RSQRT",
    97: "RESIZE_NEAREST_NEIGHBOR",
    99: "SQUARED_DIFFERENCE",
    100: "MIRROR_PAD",
    114: "QUANTIZE",
}
# Of an operator's options: their number in the union of all options, then name, field, code and default of each.
_CONV = (("padding", 0, "b", 0), ("stride_w", 1, "i", 0), ("stride_h", 2, "i", 0))
_OPTIONS: dict[str, tuple[int, tuple[tuple[str, int, str, int], ...]]] = {
    "CONV_2D": (1, (*_CONV, ("activation", 3, "b", 0), ("dilation_w", 4, "i", 1), ("dilation_h", 5, "i", 1))),
    "DEPTHWISE_CONV_2D": (
        2,
        (
            *_CONV,
            ("multiplier", 3, "i", 0),
            ("activation", 4, "b", 0),
            ("dilation_w", 5, "i", 1),
            ("dilation_h", 6, "i", 1),
        ),
    ),
    "ADD": (11, (("activation", 0, "b", 0),)),
    "MUL": (21, (("activation", 0, "b", 0),)),
    "MEAN": (27, (("keep_dims", 0, "b", 0),)),
    "SUB": (28, (("activation", 0, "b", 0),)),
    "RESIZE_NEAREST_NEIGHBOR": (74, (("align_corners", 0, "b", 0), ("half_pixel_centers", 1, "b", 0))),
    "MIRROR_PAD": (77, (("mode", 0, "b", 0),)),
}


@dataclass(frozen=True)
class Tensor:
    """What is stored of a tensor; `data` is None if an operator makes it or it is an input."""

    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None  # bytes, a view of the file
    quantization: Table | None


@dataclass(frozen=True)
class Operator:
    """One step: `kind` as the schema calls it, tensors by number (-1: an optional one is left out)."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int]


@dataclass(frozen=True)
class Graph:
    """A network; every operator comes behind those that make its inputs, and every tensor is made once at most."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def integers(self, tensor: int) -> list[int]:
        """A constant of a few plain whole numbers, as sizes and axes are, in C order; empty if it is none."""
        found = self.tensors[tensor]
        if found.data is None or found.dtype != "<i4" or found.data.nbytes > 4 * _MOST_SIDES**2:
            return []
        return _stored(found).reshape(-1).tolist()

    def floats(self, tensor: int) -> np.ndarray:
        """The numbers that a constant stands for, float32, rounded once.

        Raises
        ------
        WeightsError
            If it is no constant, or its numbers, scales and zero points do not fit together.
        """
        found = self.tensors[tensor]
        if found.data is None:
            raise WeightsError(f"tensor {tensor}: expected a constant, found what an operator makes or an input")
        stored = _stored(found)
        if stored.dtype.kind == "f":
            return stored.astype(np.float32)
        if found.quantization is None:
            raise WeightsError(f"tensor {tensor}: expected a scale for its whole numbers, found none")
        scale, zero = _scales(found.quantization, found.shape, tensor)
        with np.errstate(over="ignore", invalid="ignore"):  # `FastWeights` refuses what is not finite, and says where
            return ((stored.astype(np.float64) - zero) * scale).astype(np.float32)


def recognise(path: Path) -> bool:
    """Whether it is a file that begins as a model of TensorFlow Lite does."""
    return os.path.isfile(path) and hdf5.first_bytes(path, 8)[4:] == _IDENTIFIER


def read(path: Path) -> Graph:
    """The network of a file, its numbers still as they are stored.

    Raises
    ------
    WeightsError
        If it is damaged, no model of TensorFlow Lite, or larger or longer than any published network.
    """
    with opened(path) as (file, size):
        if size > _LARGEST_FILE:
            raise WeightsError(f"expected at most {_LARGEST_FILE} bytes, found {size}")
        return _graph(file.read())


def _graph(data: bytes) -> Graph:
    model = flatbuffer.root(data, _IDENTIFIER)
    if (version := model.number(0, "I")) != _VERSION:
        raise WeightsError(f"expected version {_VERSION} of the format, found {version}")
    subgraphs = model.tables(2, 1, "graph")
    if not subgraphs:
        raise WeightsError("expected one graph, found none")
    codes = [_kind(code) for code in model.tables(1, _MOST, "kinds of operators")]
    buffers = [buffer.numbers(0, "u1") for buffer in model.tables(4, _MOST, "buffers")]
    (graph,) = subgraphs
    tensors = tuple(_tensor(table, buffers) for table in graph.tables(0, _MOST, "tensors"))
    operators = tuple(_operator(table, codes) for table in graph.tables(3, _MOST, "operators"))
    found = Graph(tensors, operators, _indices(graph, 1), _indices(graph, 2))
    _check_order(found)
    return found


def _kind(code: Table) -> str:
    # the newer field is a larger number, or is left out
    number = max(code.number(0, "b"), code.number(3, "i"))
    return _KINDS.get(number, f"operator {number}")


def _tensor(table: Table, buffers: list[np.ndarray]) -> Tensor:
    buffer = table.number(2, "I")
    if buffer >= len(buffers):
        raise WeightsError(f"damaged: expected one of {len(buffers)} buffers, found number {buffer}")
    sides = table.numbers(0, "<i4")
    if len(sides) > _MOST_SIDES:
        raise WeightsError(f"expected a tensor of at most {_MOST_SIDES} axes, found {len(sides)}")
    kind = table.number(1, "b")
    data = buffers[buffer] if len(buffers[buffer]) else None
    if data is not None and table.table(6) is not None:
        raise WeightsError("expected dense tensors, found a sparse one")
    return Tensor(tuple(sides.tolist()), _TYPES.get(kind, f"type {kind}"), data, table.table(4))


def _operator(table: Table, codes: list[str]) -> Operator:
    index = table.number(0, "I")
    if index >= len(codes):
        raise WeightsError(f"damaged: expected one of {len(codes)} kinds of operators, found number {index}")
    kind = codes[index]
    options = table.table(4)
    values = {}
    union, fields = _OPTIONS.get(kind, (0, ()))
    if options is not None and fields and table.number(3, "B") != union:
        raise WeightsError(f"{kind}: expected its own options, number {union}, found {table.number(3, 'B')}")
    for name, field, code, default in fields:
        values[name] = default if options is None else options.number(field, code, default)
    return Operator(kind, _indices(table, 1), _indices(table, 2), values)


def _indices(table: Table, field: int) -> tuple[int, ...]:
    found = table.numbers(field, "<i4")
    if len(found) > _MOST:
        raise WeightsError(f"expected at most {_MOST} tensors, found {len(found)}")
    return tuple(found.tolist())


def _check_order(graph: Graph) -> None:
    """`WeightsError` unless every operator's inputs are there before it; so nothing can run in circles."""
    count = len(graph.tensors)
    there = {i for i, tensor in enumerate(graph.tensors) if tensor.data is not None} | set(graph.inputs)
    for step, operator in enumerate(graph.operators):
        for tensor in operator.inputs:
            if tensor not in there and tensor != -1:
                raise WeightsError(f"operator {step}, {operator.kind}: its input {tensor} is made by none before it")
        for tensor in operator.outputs:
            if tensor in there or not 0 <= tensor < count:
                raise WeightsError(f"operator {step}, {operator.kind}: expected a new output, found {tensor}")
            there.add(tensor)
    for tensor in (*graph.inputs, *graph.outputs):
        if tensor not in there or not 0 <= tensor < count:
            raise WeightsError(f"damaged: nothing makes tensor {tensor}, an input or output of the graph")


def _stored(tensor: Tensor) -> np.ndarray:
    """A constant's numbers as they lie in the file."""
    if tensor.data is None or tensor.dtype not in _TYPES.values():
        raise WeightsError(f"expected numbers of 8 to 32 bits, found {tensor.dtype}")
    kind = np.dtype(tensor.dtype)
    if min(tensor.shape, default=1) < 1 or math.prod(tensor.shape) * kind.itemsize != tensor.data.nbytes:
        raise WeightsError(f"expected {kind.name} {tensor.shape}, found {tensor.data.nbytes} bytes")
    return tensor.data.view(kind).reshape(tensor.shape)


def _scales(found: Table, shape: tuple[int, ...], tensor: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point, shaped so that they fit against the tensor."""
    if found.number(4, "B"):
        raise WeightsError(f"tensor {tensor}: expected scales, found a custom quantisation")
    scale, zero = found.numbers(2, "<f4").astype(np.float64), found.numbers(3, "<i8").astype(np.float64)
    axis = found.number(6, "i")
    sides = [1] * len(shape)
    if len(scale) != 1:
        if not 0 <= axis < len(shape) or len(scale) != shape[axis]:
            raise WeightsError(f"tensor {tensor}: expected one scale or one for each channel, found {len(scale)}")
        sides[axis] = -1
    if len(zero) == 0:
        zero = np.zeros_like(scale)
    if len(zero) != len(scale) or not (np.isfinite(scale) & (scale > 0)).all():
        raise WeightsError(f"tensor {tensor}: expected scales above 0, and as many zero points")
    return scale.reshape(sides), zero.reshape(sides)
