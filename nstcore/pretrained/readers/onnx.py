"""ONNX: a ModelProto in Protocol Buffers [1]_, of any exporter.

    ModelProto     ir_version = 1   graph = 7
    GraphProto     node = 1         initializer = 5
    NodeProto      input = 1   output = 2   op_type = 4   attribute = 5   domain = 7
    TensorProto    dims = 1    data_type = 2   float_data = 4   name = 8   raw_data = 9   external_data = 13

Exporters name tensors as they like. What a tensor is follows from the graph: from the convolution that takes the
picture along Conv, Relu and pooling nodes to the first node of another kind, where the classifier begins. Weights lie
(K, C, 3, 3), as ours do; the classifier's are never read.

Channel order, range and mean are not in the file.

References
----------
.. [1] ONNX, onnx/onnx.proto; operators Conv, MaxPool and AveragePool in docs/Operators.md.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ... import vgg
from ...errors import WeightsError
from .. import hdf5
from ..weights import Pooling, shown
from .protobuf import BYTES, Field, Input, Message, begins_with, first_field, is_text
from .sequence import Sequence, shape_of
from .source import Source, opened

NAME = "ONNX model"

# A graph says nothing about who trained it.
LICENCE = "Apache-2.0 if this is the file of the ONNX model zoo; not verified"

_BEGINNING = {
    1: "varint",  # ir_version
    2: "text",  # producer_name
    3: "text",  # producer_version
    4: "text",  # domain
    5: "varint",  # model_version
    6: "bytes",  # doc_string
    8: "bytes",  # opset_import
    14: "bytes",  # metadata_props
}
_GRAPH = 7
_POOLINGS: dict[str, Pooling] = {"MaxPool": "max", "AveragePool": "average"}
_TRANSPARENT = ("Identity", "Dropout")
_STORED = {1: "<f4", 10: "<f2"}  # TensorProto.FLOAT, FLOAT16


@dataclass
class _Node:
    operator: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: list[Field] = field(default_factory=list)


@dataclass
class _Tensor:
    """An initializer; its numbers have not been read."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    kind: int = 0
    data: list[Field] = field(default_factory=list)
    elsewhere: bool = False


def recognise(path: Path) -> bool:
    """Whether it is a file that begins as a model of ONNX does, up to the beginning of its graph."""
    if not os.path.isfile(path):
        return False
    if hdf5.first_bytes(path, 1) != b"\x08":  # ir_version, which every model states and every writer writes first
        return False
    with path.open("rb") as file:
        graph = begins_with(file, path.stat().st_size, _BEGINNING, (_GRAPH,))
        if graph is None:
            return False
        node = first_field(graph.message)
        # the name of the first node's input, output or kind; a graph without nodes begins with its own name
        return is_text(node, (2,)) or (
            node is not None
            and node.wire == BYTES
            and node.number == 1
            and is_text(first_field(node.message), (1, 2, 4))
        )


def read(path: Path) -> Source:
    """Read VGG16 or VGG19, told apart by the order of their nodes.

    Raises
    ------
    WeightsError
        If the file is damaged, keeps its weights in another file, or is not one of these networks.
    """
    with opened(path) as (file, size):
        return _read(path, file, size)


def _read(path: Path, file: BinaryIO, size: int) -> Source:
    graphs = [part for part in Input(file, size).message if part.number == _GRAPH]
    if len(graphs) != 1:
        raise WeightsError(f"expected one graph, found {len(graphs)}")
    nodes: list[_Node] = []
    tensors: dict[str, list[_Tensor]] = {}
    for part in graphs[0].message:
        if part.number == 1:
            nodes.append(_node(part.message))
        elif part.number == 5:
            tensor = _tensor(part.message)
            tensors.setdefault(tensor.name, []).append(tensor)
    named, architecture, pooling = _follow(nodes, tensors)
    filters = {}
    for conv in vgg.convolutions(architecture):
        shape = shape_of(conv)
        weight, bias = named[conv]
        filters[conv] = (_read_tensor(f"{conv}/weight", weight, shape), _read_tensor(f"{conv}/bias", bias, shape[:1]))
    return Source(
        container=NAME,
        architecture=architecture,
        filters=filters,
        preprocessing=None,
        padding="zero",
        pooling=pooling,
        licence=LICENCE,
        files=(path,),
    )


def _node(message: Message) -> _Node:
    node = _Node()
    for part in message:
        if part.number == 1:
            node.inputs.append(part.text)
        elif part.number == 2:
            node.outputs.append(part.text)
        elif part.number == 4:
            node.operator = part.text
        elif part.number == 5:
            node.attributes.append(part)
        elif part.number == 7:
            node.domain = part.text
    return node


def _tensor(message: Message) -> _Tensor:
    tensor = _Tensor()
    for part in message:
        if part.number == 1:
            tensor.dims += part.integers
        elif part.number == 2:
            tensor.kind = part.integer
        elif part.number in (4, 9):
            tensor.data.append(part)
        elif part.number == 8:
            tensor.name = part.text
        elif part.number == 13 or (part.number == 14 and part.integer):
            tensor.elsewhere = True
    return tensor


def _follow(
    nodes: list[_Node], tensors: dict[str, list[_Tensor]]
) -> tuple[dict[str, tuple[_Tensor, _Tensor]], str, Pooling]:
    """Weights and biases by convolution, the architecture and its pooling: the way of the picture through the graph."""
    produced = {output for node in nodes for output in node.outputs}
    takers: dict[str, list[_Node]] = {}
    for node in nodes:
        if node.inputs:
            takers.setdefault(node.inputs[0], []).append(node)
    first = [node for node in nodes if _is(node, "Conv") and node.inputs and node.inputs[0] not in produced]
    if len(first) != 1:
        raise WeightsError(f"expected one Conv node that takes the picture, found {len(first)}; export VGG alone")

    sequence = Sequence()
    named: dict[str, tuple[_Tensor, _Tensor]] = {}
    current, end = first[0].inputs[0], "the end"
    for _ in nodes:  # a graph with a circle has an end, too
        after = takers.get(current, [])
        if len(after) != 1:
            break
        node = after[0]
        if _is(node, "Conv"):
            weight, bias = (_initializer(tensors, node, i) for i in (1, 2))
            if len(weight.dims) == 4 and weight.dims[2:] != [3, 3] and named:
                break  # a classifier made of convolutions
            conv = sequence.convolution()
            _check_geometry(conv, node, {"pads": [1, 1, 1, 1]}, ("SAME_UPPER", "SAME_LOWER"), size=3, stride=1)
            named[conv] = weight, bias
        elif _is(node, "Relu"):
            sequence.relu()
        elif node.operator in _POOLINGS and not sequence.block_is_empty:
            _check_geometry(node.operator, node, {"pads": [0, 0, 0, 0], "ceil_mode": [0]}, ("VALID",), size=2, stride=2)
            sequence.pool(_POOLINGS[node.operator])
        elif node.operator not in _TRANSPARENT:
            end = node.operator
            break
        current = node.outputs[0] if node.outputs else ""
    architecture, pooling = sequence.finish(end)
    return named, architecture, pooling


def _is(node: _Node, operator: str) -> bool:
    return node.operator == operator and node.domain in ("", "ai.onnx")


def _initializer(tensors: dict[str, list[_Tensor]], node: _Node, i: int) -> _Tensor:
    what = ("picture", "weights", "biases")[i]
    name = node.inputs[i] if i < len(node.inputs) else ""
    found = tensors.get(name, [])
    if not name or len(found) != 1:
        raise WeightsError(f"a Conv node: expected one initializer with its {what}, found {len(found) if name else 0}")
    return found[0]


def _check_geometry(
    what: str, node: _Node, expected: dict[str, list[int]], automatic: tuple[str, ...], *, size: int, stride: int
) -> None:
    """`WeightsError` unless the node's window is VGG's; attributes that are absent have the standard's defaults."""
    found = {"pads": [0] * 4, "ceil_mode": [0], "strides": [1, 1], "dilations": [1, 1], "group": [1]}
    found["kernel_shape"] = [size] * 2  # a Conv may leave it to its weights, whose shape is checked where they are read
    auto_pad = "NOTSET"
    for attribute in node.attributes:
        name, numbers = "", []
        for part in attribute.message:
            if part.number == 1:
                name = part.text
            elif part.number in (3, 8):
                numbers += part.integers
            elif part.number == 4 and name == "auto_pad":
                auto_pad = part.text
        found[name] = numbers
    wanted = {**expected, "kernel_shape": [size] * 2, "strides": [stride] * 2, "dilations": [1, 1], "group": [1]}
    if auto_pad in automatic:  # for such a window these mean the same padding
        del wanted["pads"]
        auto_pad = "NOTSET"
    for name, values in wanted.items():
        if found[name] != values or auto_pad != "NOTSET":
            value = auto_pad if auto_pad != "NOTSET" else found[name]
            raise WeightsError(f"{what}: expected {name} {values}, found {shown(str(value))[:80]}; not a VGG")


def _read_tensor(what: str, tensor: _Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """One array; its declared shape and its length are held against the table before anything is allocated."""
    if tensor.elsewhere:
        raise WeightsError(f"{what}: expected data in this file, found external data; save the model as one file")
    if tuple(tensor.dims) != shape:
        raise WeightsError(f"{what}: expected shape {shape}, found {str(tuple(tensor.dims))[:80]}")
    stored = _STORED.get(tensor.kind)
    if stored is None:
        raise WeightsError(f"{what}: expected float32 or float16, found data type {tensor.kind}")
    if len(tensor.data) != 1 or (tensor.data[0].number == 4 and stored != "<f4"):
        raise WeightsError(f"{what}: expected its numbers in raw_data or packed float_data, found {len(tensor.data)}")
    if tensor.data[0].nbytes != math.prod(shape) * np.dtype(stored).itemsize:
        raise WeightsError(f"{what}: expected {math.prod(shape)} numbers, found {tensor.data[0].nbytes} bytes")
    out = np.empty(shape, stored)
    tensor.data[0].read_into(out)
    return out.astype(np.float32, copy=False)
