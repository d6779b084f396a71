"""TensorFlow Lite files of Magenta's two networks, to be changed in one thing; the writer knows nothing of readers.

The graphs follow the papers' tables and what the published files do, in three forms: int8 (a scale for each channel,
activations quantised between most operators), fp16 (half constants behind DEQUANTIZE) and float32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

FORMS = ("int8", "fp16", "float32")

CODES = {
    "ADD": 0,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 4,
    "DEQUANTIZE": 6,
    "LOGISTIC": 14,
    "MUL": 18,
    "TANH": 28,
    "MEAN": 40,
    "SUB": 41,
    "RSQRT": 76,
    "RESIZE_NEAREST_NEIGHBOR": 97,
    "SQUARED_DIFFERENCE": 99,
    "MIRROR_PAD": 100,
    "QUANTIZE": 114,
}
TYPES = {"float32": 0, "float16": 1, "int32": 2, "int8": 9}
# the number of an operator's options in their union, and the code of each of them, in the schema's order
OPTIONS = {
    "CONV_2D": (1, "biibii"),
    "DEPTHWISE_CONV_2D": (2, "biiibii"),
    "ADD": (11, "b"),
    "MUL": (21, "b"),
    "MEAN": (27, "b"),
    "SUB": (28, "b"),
    "RESIZE_NEAREST_NEIGHBOR": (74, "bb"),
    "SQUARED_DIFFERENCE": (76, ""),
    "MIRROR_PAD": (77, "b"),
}
NONE, RELU, RELU6 = 0, 1, 3
SAME, VALID = 0, 1
# MobileNetV2, table 2: expansion, channels, blocks, stride of the first one
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass
class Tensor:
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None = None
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None
    axis: int = 0


@dataclass
class Op:
    kind: str
    inputs: list[int]
    outputs: list[int]
    options: list[int] = field(default_factory=list)


@dataclass
class Graph:
    """What a file holds; `weights` is what it stands for, by the names of nstcore."""

    tensors: list[Tensor] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def copy(self) -> Graph:
        ops = [replace(op, inputs=[*op.inputs], outputs=[*op.outputs], options=[*op.options]) for op in self.ops]
        return replace(self, tensors=[*map(replace, self.tensors)], ops=ops, inputs=[*self.inputs])

    def of(self, kind: str) -> list[Op]:
        return [op for op in self.ops if op.kind == kind]

    def maker(self, tensor: int) -> Op:
        """Of a tensor, past what only changes its type."""
        op = next(op for op in self.ops if tensor in op.outputs)
        return self.maker(op.inputs[0]) if op.kind in ("QUANTIZE", "DEQUANTIZE") else op

    def bypass(self, op: Op) -> None:
        """Take an operator out; what used its output uses its first input."""
        self.ops.remove(op)
        for other in self.ops:
            other.inputs = [op.inputs[0] if i == op.outputs[0] else i for i in other.inputs]

    def write(self, path: Path, **options: Any) -> Path:
        path.write_bytes(packed(self, **options))
        return path


# ---- the graphs


class Builder:
    """Adds operators; every method returns the number of the tensor that it makes."""

    def __init__(self, form: str, seed: int) -> None:
        self.graph, self.form = Graph(), form
        self._random = np.random.default_rng(seed)

    def tensor(self, shape: tuple[int, ...], dtype: str = "float32", **stored: Any) -> int:
        self.graph.tensors.append(Tensor(tuple(shape), dtype, **stored))
        return len(self.graph.tensors) - 1

    def add(self, kind: str, inputs: list[int], shape: tuple[int, ...], *options: int, dtype: str = "") -> int:
        out = self.tensor(shape, dtype or ("int8" if self.form == "int8" else "float32"))
        self.graph.ops.append(Op(kind, inputs, [out], list(options)))
        return out

    def shape(self, tensor: int) -> tuple[int, ...]:
        return self.graph.tensors[tensor].shape

    def floating(self, x: int) -> int:
        return self.add("DEQUANTIZE", [x], self.shape(x), dtype="float32") if self.form == "int8" else x

    def stored(self, x: int) -> int:
        return self.add("QUANTIZE", [x], self.shape(x)) if self.form == "int8" else x

    def integers(self, values: Any) -> int:
        data = np.array(values, np.int32)
        return self.tensor(data.shape, "int32", data=data)

    def constant(self, name: str, shape: tuple[int, ...], axis: int, scale: float = 0.1) -> int:
        """Random numbers in the file's form, which are also noted as weights where they have a name."""
        w = (self._random.standard_normal(shape) * scale).astype(np.float32)
        bias = len(shape) == 1
        if self.form == "int8":
            most = 2**20 if bias else 127
            sides = tuple(i for i in range(len(shape)) if i != axis)
            scales = (np.abs(w).max(axis=sides, keepdims=True) / most + 1e-9).astype(np.float32)
            q = np.rint(w / scales).clip(-most, most).astype(np.int32 if bias else np.int8)
            w = q.astype(np.float32) * scales
            zero = np.zeros(scales.size, np.int64)
            kind = "int32" if bias else "int8"
            made = self.tensor(shape, kind, data=q, scale=scales.reshape(-1), zero=zero, axis=axis)
        elif self.form == "fp16":
            half = w.astype(np.float16)
            w = half.astype(np.float32)
            made = self.add("DEQUANTIZE", [self.tensor(shape, "float16", data=half)], shape, dtype="float32")
        else:
            made = self.tensor(shape, data=w)
        if len(shape) == 4:
            w = w.transpose(0, 3, 1, 2)
            w = w[0] if axis == 3 else w
        self.graph.weights[name] = w
        return made

    def conv(self, name: str, x: int, K: int, side: int, stride: int, padding: int, activation: int) -> int:
        _, H, W, C = self.shape(x)
        w, b = self.constant(f"{name}/weight", (K, side, side, C), 0), self.constant(f"{name}/bias", (K,), 0)
        lost = side - 1 if padding == VALID else 0
        out = (1, -(-(H - lost) // stride), -(-(W - lost) // stride), K)
        return self.add("CONV_2D", [x, w, b], out, padding, stride, stride, activation, 1, 1)

    def depthwise(self, name: str, x: int, stride: int) -> int:
        _, H, W, C = self.shape(x)
        w, b = self.constant(f"{name}/weight", (1, 3, 3, C), 3), self.constant(f"{name}/bias", (C,), 0)
        out = (1, -(-H // stride), -(-W // stride), C)
        return self.add("DEPTHWISE_CONV_2D", [x, w, b], out, SAME, stride, stride, 1, RELU6, 1, 1)

    def mean(self, x: int) -> int:
        return self.add("MEAN", [x, self.integers([1, 2])], (1, 1, 1, self.shape(x)[3]), 1)

    def reflected(self, name: str, x: int, K: int, side: int, stride: int, activation: int) -> int:
        n, (_, H, W, C) = side // 2, self.shape(x)
        amounts = self.integers([[0, 0], [n, n], [n, n], [0, 0]])
        shape = (1, H + 2 * n, W + 2 * n, C)
        padded = self.add("MIRROR_PAD", [self.floating(x), amounts], shape, 0, dtype="float32")
        return self.conv(name, self.stored(padded), K, side, stride, VALID, activation)

    def normalised(self, name: str, x: int, style: int, K: int, side: int, activation: int) -> int:
        x = self.reflected(name, x, K, side, 1, NONE)
        vector = (1, 1, 1, K)
        mean = self.mean(x)
        squares = self.add(
            "SQUARED_DIFFERENCE", [self.floating(x), self.floating(mean)], self.shape(x), dtype="float32"
        )
        variance = self.mean(self.stored(squares))
        if self.form == "int8":
            scale = np.array([1e-5 / 127], np.float32)
            stored = {"data": np.array(127, np.int8), "scale": scale, "zero": np.zeros(1, np.int64)}
            epsilon = self.tensor((), "int8", **stored)
        else:
            kind = np.float16 if self.form == "fp16" else np.float32
            epsilon = self.tensor((), np.dtype(kind).name, data=np.array(1e-5, kind))
            if self.form == "fp16":
                epsilon = self.add("DEQUANTIZE", [epsilon], (), dtype="float32")
        spread = self.add("ADD", [variance, epsilon], vector, NONE)
        root = self.stored(self.add("RSQRT", [self.floating(spread)], vector, dtype="float32"))
        shift = self.conv(f"{name}/shift", style, K, 1, 1, SAME, NONE)
        scale = self.conv(f"{name}/scale", style, K, 1, 1, SAME, NONE)
        factor = self.add("MUL", [root, scale], vector, NONE)
        scaled = self.add("MUL", [x, factor], self.shape(x), NONE)
        moved = self.add("MUL", [mean, factor], vector, NONE)
        offset = self.add("SUB", [shift, moved], vector, NONE)
        return self.add("ADD", [scaled, offset], self.shape(x), activation)

    def resized(self, x: int, factor: int) -> int:
        _, H, W, C = self.shape(x)
        size = self.integers([H * factor, W * factor])
        shape = (1, H * factor, W * factor, C)
        return self.add("RESIZE_NEAREST_NEIGHBOR", [self.floating(x), size], shape, 0, 0, dtype="float32")


def prediction(form: str, seed: int = 1) -> Graph:
    """A style picture to 100 numbers."""
    b = Builder(form, seed)
    picture = b.tensor((1, 256, 256, 3))
    x = b.conv("prediction/stem", b.stored(picture), 32, 3, 2, SAME, RELU6)
    n = 0
    for expansion, channels, blocks, first in STAGES:
        for i in range(blocks):
            n += 1
            below, stride, C = x, first if i == 0 else 1, b.shape(x)[3]
            if expansion > 1:
                x = b.conv(f"prediction/block{n}/expand", x, expansion * C, 1, 1, SAME, RELU6)
            x = b.depthwise(f"prediction/block{n}/depthwise", x, stride)
            x = b.conv(f"prediction/block{n}/project", x, channels, 1, 1, SAME, NONE)
            if stride == 1 and channels == C:
                x = b.add("ADD", [x, below], b.shape(x), NONE)
    x = b.conv("prediction/head", x, 1280, 1, 1, SAME, RELU6)
    x = b.conv("prediction/style", b.mean(x), 100, 1, 1, SAME, NONE)
    b.graph.inputs, b.graph.outputs = [picture], [b.floating(x)]
    return b.graph


def transfer(form: str, seed: int = 2) -> Graph:
    """A content picture and 100 numbers to a picture."""
    b = Builder(form, seed)
    picture, numbers = b.tensor((1, 384, 384, 3)), b.tensor((1, 1, 1, 100))
    style = b.stored(numbers)
    x = picture
    for name, K, side, stride in (("contract1", 8, 9, 1), ("contract2", 16, 3, 2), ("contract3", 32, 3, 2)):
        n, (_, H, W, C) = side // 2, b.shape(x)
        padded = x if x == picture else b.floating(x)
        amounts = b.integers([[0, 0], [n, n], [n, n], [0, 0]])
        padded = b.add("MIRROR_PAD", [padded, amounts], (1, H + 2 * n, W + 2 * n, C), 0, dtype="float32")
        x = b.conv(f"transfer/{name}", b.stored(padded), K, side, stride, VALID, RELU)
    for i in range(1, 6):
        y = b.normalised(f"transfer/residual{i}/conv1", x, style, 32, 3, RELU)
        y = b.normalised(f"transfer/residual{i}/conv2", y, style, 32, 3, NONE)
        x = b.add("ADD", [x, y], b.shape(x), NONE)
    for name, K, side, factor, activation in (("expand1", 16, 3, 2, RELU), ("expand2", 8, 3, 2, RELU)):
        x = b.normalised(f"transfer/{name}", b.stored(b.resized(x, factor)), style, K, side, activation)
    # the published file resizes once more, to the size that is there
    x = b.normalised("transfer/expand3", b.stored(b.resized(x, 1)), style, 3, 9, NONE)
    x = b.floating(b.add("LOGISTIC", [x], b.shape(x)))
    b.graph.inputs, b.graph.outputs = [picture, numbers], [x]
    return b.graph


# ---- the bytes


@dataclass(frozen=True)
class Scalar:
    code: str
    value: int


def packed(graph: Graph, version: int = 3, identifier: bytes = b"TFL3", newer: bool = False) -> bytes:
    """The file; `newer` notes the operators in the field that came later."""
    kinds = list(dict.fromkeys(op.kind for op in graph.ops))
    blobs: list[bytes] = [b""]
    tensors = []
    for i, tensor in enumerate(graph.tensors):
        fields: dict[int, Any] = {0: np.array(tensor.shape, "<i4"), 1: Scalar("b", TYPES[tensor.dtype])}
        if tensor.data is not None:
            fields[2] = Scalar("I", len(blobs))
            blobs.append(tensor.data.astype(tensor.data.dtype.newbyteorder("<")).tobytes())
        fields[3] = f"t{i}".encode()
        if tensor.scale is not None:
            fields[4] = {2: tensor.scale.astype("<f4"), 6: Scalar("i", tensor.axis)}
            if tensor.zero is not None:
                fields[4][3] = tensor.zero.astype("<i8")
        tensors.append(fields)
    operators = []
    for op in graph.ops:
        fields = {0: Scalar("I", kinds.index(op.kind)), 1: np.array(op.inputs, "<i4"), 2: np.array(op.outputs, "<i4")}
        if op.kind in OPTIONS:
            union, codes = OPTIONS[op.kind]
            values = {i: Scalar(c, v) for i, (c, v) in enumerate(zip(codes, op.options, strict=True))}
            fields |= {3: Scalar("B", union), 4: values}
        operators.append(fields)
    codes = [{3: Scalar("i", CODES[k])} if newer else {0: Scalar("b", CODES[k])} for k in kinds]
    subgraph = {0: tensors, 1: np.array(graph.inputs, "<i4"), 2: np.array(graph.outputs, "<i4"), 3: operators}
    buffers = [{0: blob} if blob else {} for blob in blobs]
    model = {0: Scalar("I", version), 1: codes, 2: [subgraph], 3: b"a test", 4: buffers}
    out = bytearray(b"\0\0\0\0" + identifier)
    refer(out, 0, table(out, model))
    return bytes(out)


def refer(out: bytearray, place: int, target: int) -> None:
    struct.pack_into("<I", out, place, target - place)


def align(out: bytearray, to: int = 8) -> None:
    out.extend(b"\0" * (-len(out) % to))


def table(out: bytearray, fields: dict[int, Any]) -> int:
    """Write a table, its vtable before it and what it refers to behind it; returns where it lies."""
    sizes = {i: struct.calcsize(v.code) if isinstance(v, Scalar) else 4 for i, v in fields.items()}
    places, size = {}, 4
    for i, width in sizes.items():
        size += -size % width
        places[i] = size
        size += width
    count = max(fields, default=-1) + 1
    align(out)
    vtable = len(out)
    out.extend(struct.pack("<HH", 4 + 2 * count, size))
    out.extend(struct.pack(f"<{count}H", *(places.get(i, 0) for i in range(count))))
    align(out)
    at = len(out)
    out.extend(struct.pack("<i", at - vtable) + b"\0" * (size - 4))
    for i, value in fields.items():
        if isinstance(value, Scalar):
            struct.pack_into(f"<{value.code}", out, at + places[i], value.value)
        else:
            refer(out, at + places[i], referred(out, value))
    return at


def referred(out: bytearray, value: Any) -> int:
    """Write what a field refers to: a table, a list of tables, an array or bytes."""
    if isinstance(value, dict):
        return table(out, value)
    align(out, 16)
    at = len(out)
    if isinstance(value, list):
        out.extend(struct.pack("<I", len(value)) + b"\0" * (4 * len(value)))
        for i, fields in enumerate(value):
            refer(out, at + 4 + 4 * i, table(out, fields))
    else:
        out.extend(struct.pack("<I", len(value)) + (value if isinstance(value, bytes) else value.tobytes()))
    return at


def damaged(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The file with one to four bytes changed somewhere, or cut."""
    random = np.random.default_rng(seed)
    for i in range(count):
        at = int(random.integers(len(content)))
        if i % 5 == 0:
            yield content[:at]
            continue
        width = int(random.integers(1, 5))
        yield content[:at] + random.bytes(width) + content[at + width :]
