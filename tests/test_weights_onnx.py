"""ONNX models of any exporter: the graph tells what a tensor is; external data and other graphs are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import random_weights
from weights_files import refused
from weights_proto_files import (
    FC6,
    field,
    mutations,
    read_within,
    same_filters,
    survive,
    varint,
)

from nstcore import vgg
from nstcore.pretrained import Weights
from nstcore.pretrained.readers import caffe, matconvnet
from nstcore.pretrained.readers import onnx as reader

onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")
helper = onnx.helper

CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "group": 1}
POOL = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 0, 0]}


@pytest.fixture
def small(monkeypatch) -> Weights:
    """A network of a few kilobytes under the name of vgg19, and a smaller one under that of vgg16."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg16", ((1, 4), (2, 6)))
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


def tensor(name: str, array: np.ndarray, raw: bool = True):
    if raw:
        return onnx.numpy_helper.from_array(array, name)
    return helper.make_tensor(name, onnx.TensorProto.FLOAT, array.shape, array.reshape(-1).tolist())


def model(
    weights: Weights, raw: bool = True, conv: dict | None = None, pool: dict | None = None, kind: str = "MaxPool"
):
    """A network as exporters write it: numbered names, the initializers in no helpful order, a classifier."""
    conv, pool = {**CONV, **(conv or {})}, {**POOL, **(pool or {})}
    nodes, tensors, at = [], [], "picture"
    for i, step in enumerate(vgg.steps(weights.architecture)):
        if step.kind == "pool":
            nodes.append(helper.make_node(kind, [at], [f"{i}"], **pool))
            at = f"{i}"
            continue
        tensors += [
            tensor(f"{name}{i}", array, raw) for name, array in zip("wb", weights.filters[step.name], strict=True)
        ]
        nodes.append(helper.make_node("Conv", [at, f"w{i}", f"b{i}"], [f"{i}c"], **conv))
        nodes.append(helper.make_node("Relu", [f"{i}c"], [f"{i}r"]))
        at = f"{i}r"
    nodes.append(helper.make_node("Flatten", [at], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "fc6", "fc6_bias"], ["logits"], transB=1))
    nodes.append(helper.make_node("Relu", ["logits"], ["classes"]))
    tensors += [tensor("fc6", np.ones((5, 24), np.float32)), tensor("fc6_bias", np.ones(5, np.float32))]
    picture = helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    classes = helper.make_tensor_value_info("classes", onnx.TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "vgg", [picture], [classes], tensors[::-1])
    return helper.make_model(graph, producer_name="tests", opset_imports=[helper.make_opsetid("", 13)])


def write(path: Path, proto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("raw", [True, False], ids=["raw_data", "float_data"])
def test_both_forms_of_numbers_give_the_same_filters(tmp_path, small, raw):
    proto = model(small, raw)
    onnx.checker.check_model(proto)
    path = write(tmp_path / "a.onnx", proto)
    assert reader.recognise(path)
    assert not caffe.recognise(path)
    assert not matconvnet.recognise(path)
    source = reader.read(path)
    assert same_filters(source, small)
    assert source.preprocessing is None
    assert (source.padding, source.pooling, source.files) == ("zero", "max", (path,))


def test_float16_is_widened(tmp_path, small):
    proto = model(small)
    for one in proto.graph.initializer:
        one.CopyFrom(tensor(one.name, onnx.numpy_helper.to_array(one).astype(np.float16)))
    found = reader.read(write(tmp_path / "a", proto)).filters["conv2_2"][0]
    assert np.array_equal(found, small.filters["conv2_2"][0].astype(np.float16).astype(np.float32))


def test_the_smaller_network_is_told_by_its_graph(tmp_path, small):
    vgg16 = random_weights("vgg16", deepest="conv2_2")
    assert same_filters(reader.read(write(tmp_path / "a", model(vgg16))), vgg16)


def test_a_whole_vgg19_is_read_without_its_classifier(tmp_path):
    """With the classifier's bytes as a hole that no disk has to hold."""
    full = random_weights(deepest="conv5_4")
    proto = model(full)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    nbytes = 4 * FC6[0] * FC6[1]
    head = field(1, FC6[0]) + field(1, FC6[1]) + field(2, 1) + field(8, "fc7") + varint(9 << 3 | 2) + varint(nbytes)
    head = varint(5 << 3 | 2) + varint(len(head) + nbytes) + head
    path = tmp_path / "vgg19.onnx"
    with path.open("wb") as file:
        file.write(proto.SerializeToString() + varint(7 << 3 | 2) + varint(len(graph) + len(head) + nbytes))
        file.write(graph)
        file.write(head)
        file.truncate(file.tell() + nbytes)
    del graph, proto
    convolutions = sum(array.nbytes for arrays in full.filters.values() for array in arrays)
    assert path.stat().st_size > 490e6
    assert same_filters(read_within(reader.read, path, 1.3 * convolutions), full)


@pytest.mark.parametrize(
    ("options", "pooling"),
    [
        ({"kind": "AveragePool"}, "average"),
        ({"conv": {"auto_pad": "SAME_UPPER", "pads": None}}, "max"),
        ({"conv": {"kernel_shape": None, "strides": None, "dilations": None, "group": None}}, "max"),
        ({"pool": {"auto_pad": "VALID", "pads": None}}, "max"),
        ({"pool": {"ceil_mode": 0}}, "max"),
    ],
)
def test_other_ways_to_say_the_same_are_taken(tmp_path, small, options, pooling):
    source = reader.read(write(tmp_path / "a", model(small, **options)))
    assert same_filters(source, small)
    assert source.pooling == pooling


def inserted(operator: str, after: str) -> Callable:
    """Put a node between the tensor `after` and whatever takes it."""

    def change(proto) -> None:
        for node in proto.graph.node:
            for i, name in enumerate(node.input):
                if name == after:
                    node.input[i] = "between"
        proto.graph.node.insert(0, helper.make_node(operator, [after], ["between"]))

    return change


@pytest.mark.parametrize("operator", ["Identity", "Dropout"])
def test_nodes_that_do_nothing_are_passed(tmp_path, small, operator):
    proto = model(small)
    inserted(operator, "0r")(proto)
    assert same_filters(reader.read(write(tmp_path / "a", proto)), small)


def initializer(proto, name: str):
    return next(one for one in proto.graph.initializer if one.name == name)


def renamed(old: str, new: str) -> Callable:
    return lambda proto: setattr(initializer(proto, old), "name", new)


def node_without(i: int) -> Callable:
    return lambda proto: proto.graph.node[i].input.pop()


def external(proto) -> None:
    one = initializer(proto, "w0")
    one.ClearField("raw_data")
    one.data_location = onnx.TensorProto.EXTERNAL
    one.external_data.add(key="location", value="../../etc/passwd")


def replaced(name: str, array: np.ndarray) -> Callable:
    return lambda proto: initializer(proto, name).CopyFrom(tensor(name, array))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (external, "conv1_1/weight: expected data in this file, found external data"),
        (
            replaced("w0", np.ones((4, 3, 5, 5), "f4")),
            "conv1_1/weight: expected shape (4, 3, 3, 3), found (4, 3, 5, 5)",
        ),
        (replaced("w0", np.ones((3, 4, 3, 3), "f4")), "expected shape (4, 3, 3, 3), found (3, 4, 3, 3)"),
        (replaced("w0", np.ones((4, 3, 3, 3), "f8")), "expected float32 or float16, found data type 11"),
        (replaced("b0", np.ones((4, 1), "f4")), "conv1_1/bias: expected shape (4,), found (4, 1)"),
        (lambda p: initializer(p, "w0").dims.__setitem__(0, 1 << 60), "expected shape (4, 3, 3, 3), found (1152921504"),
        (lambda p: initializer(p, "w0").dims.extend([1] * 70), "expected shape"),
        (lambda p: setattr(initializer(p, "w0"), "raw_data", b"1234"), "conv1_1/weight: expected 108 numbers, found 4"),
        (lambda p: initializer(p, "w0").float_data.extend([1.0]), "expected its numbers in raw_data or packed"),
        (renamed("w0", "other"), "expected one initializer with its weights, found 0"),
        (renamed("fc6", "w0"), "expected one initializer with its weights, found 2"),
        (node_without(0), "expected one initializer with its biases, found 0"),
        (inserted("Sub", "picture"), "expected one Conv node that takes the picture, found 0"),
        (inserted("BatchNormalization", "0c"), "conv1_1: expected a ReLU after it, found BatchNormalization"),
        (inserted("Sigmoid", "0r"), "expected all 3 convolutions of vgg16; conv2_1 is missing"),
        (inserted("Relu", "0r"), "expected one ReLU after each convolution"),
        (lambda p: p.graph.node.pop(0), "expected one Conv node that takes the picture, found 0"),
        (lambda p: p.graph.node[0].output.pop(), "conv1_1: expected a ReLU after it, found the end"),
        (lambda p: setattr(p.graph.node[0], "domain", "theirs"), "expected one Conv node that takes the picture"),
        (lambda p: setattr(p.graph.node[2], "op_type", "LpPool"), "conv2_1 is missing"),
        (lambda p: p.graph.ClearField("node"), "expected one Conv node that takes the picture, found 0"),
        (lambda p: p.ClearField("graph"), "expected one graph, found 0"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(tmp_path, small, change, words):
    proto = model(small)
    change(proto)
    assert words in refused(reader.read, write(tmp_path / "a", proto))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conv": {"pads": [0, 0, 0, 0]}}, "conv1_1: expected pads [1, 1, 1, 1], found [0, 0, 0, 0]; not a VGG"),
        ({"conv": {"pads": None}}, "expected pads [1, 1, 1, 1], found [0, 0, 0, 0]"),
        ({"conv": {"auto_pad": "VALID", "pads": None}}, "expected pads [1, 1, 1, 1], found VALID"),
        ({"conv": {"strides": [2, 2]}}, "expected strides [1, 1], found [2, 2]"),
        ({"conv": {"dilations": [2, 2]}}, "expected dilations"),
        ({"conv": {"group": 3}}, "expected group [1], found [3]"),
        ({"conv": {"kernel_shape": [5, 5]}}, "expected kernel_shape"),
        ({"pool": {"kernel_shape": [3, 3]}}, "MaxPool: expected kernel_shape [2, 2], found [3, 3]"),
        ({"pool": {"strides": None}}, "MaxPool: expected strides [2, 2], found [1, 1]"),
        ({"pool": {"pads": [0, 0, 1, 1]}}, "MaxPool: expected pads"),
        ({"pool": {"ceil_mode": 1}}, "MaxPool: expected ceil_mode [0], found [1]"),
    ],
)
def test_windows_that_are_not_vggs_are_refused(tmp_path, small, options, words):
    assert words in refused(reader.read, write(tmp_path / "a", model(small, **options)))


def test_a_circle_in_the_graph_comes_to_an_end(tmp_path, small):
    proto = model(small)
    inserted("Identity", "0r")(proto)
    proto.graph.node[0].output[0] = "0r"
    assert "conv2_1 is missing" in refused(
        lambda path: read_within(reader.read, path, 1e6), write(tmp_path / "a", proto)
    )


def test_messages_nested_ten_thousand_deep_are_passed_over(tmp_path, small):
    bomb = b""
    for _ in range(10_000):
        bomb = field(5, bomb)
    path = write(tmp_path / "a", model(small))
    path.write_bytes(path.read_bytes() + field(20, bomb))
    assert same_filters(read_within(reader.read, path, 200_000), small)


def test_damaged_files_give_one_line_or_finite_weights(tmp_path, small):
    whole = write(tmp_path / "a", model(small)).read_bytes()
    assert 120 < survive(reader, tmp_path / "a", mutations(whole, 240, seed=11), memory=200_000) < 240


def test_a_file_cut_short_is_still_recognised_and_refused(tmp_path, small):
    whole = write(tmp_path / "a", model(small)).read_bytes()
    (tmp_path / "a").write_bytes(whole[:300])
    assert reader.recognise(tmp_path / "a")
    assert "cut short" in refused(reader.read, tmp_path / "a")
