"""Caffe, ONNX and MatConvNet files as tests write them, damage them and read them within bounds."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.io
from weights_files import refused

from nstcore import vgg
from nstcore.errors import WeightsError
from nstcore.pretrained import Weights
from nstcore.pretrained.readers import Source, keras

FC6 = (4096, 25088)

# How files of other kinds begin.
FOREIGN = {
    "nothing": b"",
    "legacy torch": bytes.fromhex("80028a0a6cfc9c46f920"),
    "zip": b"PK\x03\x04" + bytes(60),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "JSON": b'{"format": "layers-model"}',
    "JSON on a second line": b'\n{"format": "layers-model", "weightsManifest": []}' * 9,
    "safetensors": (10).to_bytes(8, "little") + b'{"a": {}}',
    "MAT-file": b"MATLAB 5.0 MAT-file" + bytes(200),
    "text": b"\nname: VGG\nlayer { }\n" * 20,
    "zeros": bytes(1000),
}


# ---- Protocol Buffers, written by hand so that a test can lie


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """Varint, float, or length-delimited, after the type of the value."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + np.float32(value).tobytes()
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


# ---- Caffe


def caffe_blob(array: np.ndarray, modern: bool, data: int = 5) -> bytes:
    numbers = field(data, array.astype("<f4" if data == 5 else "<f8").tobytes())
    if modern:
        return numbers + field(7, field(1, b"".join(map(varint, array.shape))))
    sides = (1,) * (4 - array.ndim) + array.shape
    return b"".join(field(i, side) for i, side in enumerate(sides, 1)) + numbers


def caffe_layer(modern: bool, name: str, kind: str, *parts: tuple[str, bytes]) -> bytes:
    """One layer of either age; parts by name: blob, convolution, pooling, transform."""
    numbers = {"blob": (6, 7), "convolution": (10, 106), "pooling": (19, 121), "transform": (36, 100)}
    types = {"Data": 5, "Convolution": 4, "ReLU": 18, "Pooling": 17, "InnerProduct": 14}
    head = field(1, name) + field(2, kind) if modern else field(2, "below") + field(4, name) + field(5, types[kind])
    body = head + b"".join(field(numbers[part][modern], content) for part, content in parts)
    return field(100 if modern else 2, body)


def caffe_parts(
    weights: Weights, modern: bool = False, data: int = 5, transform: bytes = b"", convolution: bytes = b""
) -> Iterator[bytes]:
    """The network piece by piece; `convolution` is appended to every convolution_param, overriding it."""
    yield field(1, "VGG_ILSVRC_19_layers")
    yield field(3, "data") if not modern else b""
    if transform:
        yield caffe_layer(modern, "data", "Data", ("transform", transform))
    geometry = b"".join(field(*pair) for pair in ((1, 64), (3, 1), (4, 3), (6, 1))) + convolution
    for step in vgg.steps(weights.architecture):
        if step.kind == "pool":
            pooling = field(1, 0) + field(2, 2) + field(3, 2)
            yield caffe_layer(modern, step.name, "Pooling", ("pooling", pooling))
            continue
        blobs = [("blob", caffe_blob(array, modern, data)) for array in weights.filters[step.name]]
        yield caffe_layer(modern, step.name, "Convolution", ("convolution", geometry), *blobs)
        yield caffe_layer(modern, step.output, "ReLU")
    small = np.ones((5, 7), np.float32)
    yield caffe_layer(modern, "fc6", "InnerProduct", ("blob", caffe_blob(small, modern)))


def write_caffe(path: Path, weights: Weights, **options) -> Path:
    path.write_bytes(b"".join(caffe_parts(weights, **options)))
    return path


# ---- MatConvNet, through scipy's writer


def matconvnet_variables(weights: Weights, layout: str = "beta", classifier: bool = True) -> dict:
    """What MATLAB would hold: "first" of the earliest betas, "beta" of 2015, "tidy" of later releases."""
    layers: list[dict] = []
    for step in vgg.steps(weights.architecture):
        if step.kind == "pool":
            layers.append({"name": step.name, "type": "pool", "method": "max", "pool": [2.0, 2.0]})
            layers[-1] |= {"stride": [2.0, 2.0], "pad": [0.0, 1.0, 0.0, 1.0] if layout == "first" else [0.0] * 4}
            continue
        w, b = weights.filters[step.name]
        layers += [_matlab_convolution(step.name, w, b, layout), {"type": "relu", "name": step.output}]
        if layout == "tidy":
            layers[-1] |= {"leak": 0.0, "precious": False}
    if classifier:
        fc6 = np.ones((4, 2, 7, 7), np.float32)
        layers += [_matlab_convolution("fc6", fc6, fc6[:, 0, 0, 0], layout), {"type": "softmax", "name": "prob"}]
    cells = np.empty((1, len(layers)), object)
    cells[0] = layers
    colour = np.array([123.68, 116.779, 103.939]).reshape(1, 1, 3)
    normalization = {"imageSize": [224.0, 224.0, 3.0], "averageImage": np.broadcast_to(colour, (22, 22, 3))}
    classes = {"name": np.array(["n01440764", "n01443537"], object)}
    if layout == "tidy":
        normalization["averageImage"] = colour.astype(np.float32)
        return {"layers": cells, "meta": {"classes": classes, "normalization": normalization}}
    return {"classes": classes, "layers": cells, "normalization": normalization}


def _matlab_convolution(name: str, w: np.ndarray, b: np.ndarray, layout: str) -> dict:
    filters, biases = w.transpose(2, 3, 1, 0), b.reshape(1, -1)  # H x W x C x K
    place = {"name": name, "type": "conv", "pad": [1.0] * 4, "stride": [1.0, 1.0]}
    if layout == "first":
        return place | {"filters": filters, "biases": biases}
    both = np.empty((1, 2), object)
    both[0] = [filters, biases]
    if layout == "beta":
        return {"weights": both} | place
    return place | {"weights": both, "dilate": 1.0, "opts": np.empty((1, 0), object)}


def write_matconvnet(path: Path, weights: Weights, layout: str = "beta", compressed: bool = True, **options) -> Path:
    variables = matconvnet_variables(weights, layout, **options)
    scipy.io.savemat(path, variables, do_compression=compressed, oned_as="row")
    return path


# ---- reading within bounds


def mutations(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Truncations, flipped bits, lengths that lie, random bytes, and pieces that are lost or doubled."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        content = bytearray(whole)
        # half of them near the front or right behind one another, where the structure is
        at = int(rng.integers(len(whole))) if i % 2 else int(len(whole) * rng.random() ** 6)
        length = int(rng.integers(1, 40))
        kind = i % 6
        if kind == 0:
            del content[at:]
        elif kind == 1:
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            content[at : at + 5] = b"\xff\xff\xff\xff\x0f"
        elif kind == 3:
            content[at : at + 8] = rng.bytes(8)
        elif kind == 4:
            del content[at : at + length]
        else:
            content[at:at] = content[at : at + length]
        yield bytes(content)


def read_within(read, path: Path, memory: float, seconds: float = 5.0) -> Source:
    """What `read` gives or raises, once it is sure that it took no more than that much memory and time."""
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    start = time.process_time()
    try:
        return read(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1] - before
        if not tracing:
            tracemalloc.stop()
        assert peak < memory, f"{peak} bytes"
        assert time.process_time() - start < seconds


def survive(module, path: Path, damaged: Iterator[bytes], memory: float) -> int:
    """Read every damaged file: one line, or finite weights of the right shapes. How many were refused."""
    messages = []
    tracemalloc.start()
    for content in damaged:
        path.write_bytes(content)
        module.recognise(path)
        try:
            found = read_within(module.read, path, memory)
            Weights(
                *("damaged", found.architecture, found.filters, found.preprocessing or keras.PREPROCESSING),
                *(found.padding, found.pooling, {}),
            )
        except WeightsError as error:
            messages.append(str(error))
    tracemalloc.stop()
    assert all(map(str.isprintable, messages))
    assert max(map(len, messages)) < 500
    return len(messages)


def refusal(module, path: Path, content: bytes) -> str:
    """The message with which a file of that content is refused."""
    path.write_bytes(content)
    return refused(module.read, path)


def same_filters(source: Source, weights: Weights) -> bool:
    """Whether a file gives these weights, bit for bit, C-contiguous and in order."""
    assert list(source.filters) == list(weights.filters)
    assert source.architecture == weights.architecture
    for conv, arrays in weights.filters.items():
        for found, expected in zip(source.filters[conv], arrays, strict=True):
            assert found.dtype == np.float32
            assert found.flags.c_contiguous
            assert found.tobytes() == expected.tobytes(), conv
    return True
