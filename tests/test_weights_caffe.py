"""Caffe models of both ages: read as written, streamed, and refused in one line when they are not what they say."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_weights
from weights_files import refused
from weights_proto_files import (
    FOREIGN,
    caffe_blob,
    caffe_layer,
    caffe_parts,
    field,
    mutations,
    read_within,
    refusal,
    same_filters,
    survive,
    varint,
    write_caffe,
)

from nstcore import vgg
from nstcore.pretrained import Preprocessing, Weights
from nstcore.pretrained.readers import caffe, onnx

AGES = pytest.mark.parametrize("modern", [False, True], ids=["2014", "modern"])


@pytest.fixture
def small(monkeypatch) -> Weights:
    """A network of a few kilobytes under the name of vgg19, and a smaller one under that of vgg16."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg16", ((1, 4), (2, 6)))
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


@AGES
def test_both_ages_give_the_same_filters(tmp_path, small, modern):
    path = write_caffe(tmp_path / "a.caffemodel", small, modern=modern)
    assert caffe.recognise(path)
    assert not onnx.recognise(path)
    source = caffe.read(path)
    assert same_filters(source, small)
    assert (source.padding, source.pooling, source.files) == ("zero", "max", (path,))
    assert source.preprocessing is None


@AGES
def test_double_data_is_read_as_the_float32_that_it_holds(tmp_path, small, modern):
    assert same_filters(caffe.read(write_caffe(tmp_path / "a", small, modern=modern, data=8)), small)


def test_the_smaller_network_is_told_by_its_layers(tmp_path, small):
    vgg16 = random_weights("vgg16", deepest="conv2_2")
    assert same_filters(caffe.read(write_caffe(tmp_path / "a", vgg16)), vgg16)


@pytest.fixture(scope="module")
def full() -> Weights:
    return random_weights(deepest="conv5_4")


def test_a_whole_vgg19_is_read_without_its_classifier(tmp_path, full):
    """575 MB, of which the classifier's are a hole that no disk has to hold."""
    path = tmp_path / "vgg19.caffemodel"
    fc6 = 4 * 25088 * 4096
    head = b"".join(field(i, side) for i, side in enumerate((1, 1, 4096, 25088), 1)) + varint(5 << 3 | 2) + varint(fc6)
    name = field(4, "fc6") + field(5, 14) + varint(6 << 3 | 2) + varint(len(head) + fc6)
    with path.open("wb") as file:
        for part in caffe_parts(full):
            file.write(part)
        file.write(varint(2 << 3 | 2) + varint(len(name) + len(head) + fc6) + name + head)
        file.truncate(file.tell() + fc6)
    assert path.stat().st_size > 490e6
    convolutions = sum(array.nbytes for arrays in full.filters.values() for array in arrays)
    assert same_filters(read_within(caffe.read, path, 1.3 * convolutions), full)


def test_the_writer_of_protocol_buffers_writes_the_same_bytes(tmp_path, small):
    """The files of these tests are what Google's library writes for the published schema."""
    pytest.importorskip("google.protobuf", reason="the protobuf package is not installed")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = {"text": 9, "int": 3, "enum": 5, "floats": 2, "message": 11}
    schema = {
        "Net": [("name", 1, "text", False), ("layers", 2, "Layer", True), ("input", 3, "text", True)],
        "Layer": [
            *[("bottom", 2, "text", True), ("name", 4, "text", False), ("type", 5, "enum", False)],
            *[("blobs", 6, "Blob", True), ("convolution", 10, "Conv", False), ("pooling", 19, "Pool", False)],
        ],
        "Blob": [*((f"side{i}", i, "int", False) for i in (1, 2, 3, 4)), ("data", 5, "floats", True)],
        "Conv": [(name, i, "enum", False) for name, i in (("num", 1), ("pad", 3), ("kernel_size", 4), ("stride", 6))],
        "Pool": [(name, i, "enum", False) for name, i in (("pool", 1), ("kernel_size", 2), ("stride", 3))],
    }
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in schema.items():
        described = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            one = described.field.add(name=name, number=number, label=3 if repeated else 1)
            one.type = kinds.get(kind, kinds["message"])
            if kind in schema:
                one.type_name = f".caffe.{kind}"
            one.options.packed = kind == "floats"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    net = message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.Net"))()
    path = write_caffe(tmp_path / "a", small)
    net.ParseFromString(path.read_bytes())
    assert [layer.name for layer in net.layers][:3] == ["conv1_1", "relu1_1", "pool1"]
    assert list(net.layers[0].blobs[0].data) == small.filters["conv1_1"][0].reshape(-1).tolist()
    path.write_bytes(net.SerializeToString())
    assert caffe.recognise(path)
    assert same_filters(caffe.read(path), small)


@AGES
def test_a_data_layer_that_states_the_mean_tells_the_preprocessing(tmp_path, small, modern):
    means = b"".join(field(5, float(value)) for value in (103.939, 116.779, 123.68))
    for transform, expected in (
        (means, Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (1, 1, 1))),
        (field(1, 0.5) + means, Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (2, 2, 2))),
        (field(5, np.array([103.939, 116.779, 123.68], "<f4").tobytes()), caffe_mean()),
        (field(5, 120.0), Preprocessing("bgr", 255.0, (120, 120, 120), (1, 1, 1))),
        (field(4, "mean.binaryproto"), None),
        (field(1, 0.5), None),
        (field(1, b"") + field(5, b""), None),
        (field(1, -1.0) + means, None),
    ):
        path = write_caffe(tmp_path / "a", small, modern=modern, transform=transform)
        assert caffe.recognise(path)
        assert caffe.read(path).preprocessing == expected


def caffe_mean() -> Preprocessing:
    return Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (1, 1, 1))


def test_data_layers_that_disagree_tell_nothing(tmp_path, small):
    path = write_caffe(tmp_path / "a", small, modern=True, transform=field(5, 120.0))
    path.write_bytes(path.read_bytes() + caffe_layer(True, "data", "Data", ("transform", field(5, 110.0))))
    assert caffe.read(path).preprocessing is None


@AGES
@pytest.mark.parametrize(
    ("convolution", "words"),
    [
        (field(3, 0), "conv1_1: expected pad 1, found [0, 1]"),
        (field(9, 2) + field(10, 1), "conv1_1: expected pad 1, found [1, 2]"),
        (field(4, 5), "expected kernel_size 3"),
        (field(6, 2), "expected stride 1"),
        (field(18, 2), "expected dilation 1"),
        (field(5, 2), "expected one group and a bias"),
        (field(2, 0), "expected one group and a bias"),
        (field(3, "abc" * 999), "expected a few numbers"),
    ],
)
def test_a_convolution_that_is_not_vggs_is_refused(tmp_path, small, modern, convolution, words):
    assert words in refused(caffe.read, write_caffe(tmp_path / "a", small, modern=modern, convolution=convolution))


def layers_with(small: Weights, **changed: bytes) -> bytes:
    """The file with some layers replaced by name."""
    parts = [part for part in caffe_parts(small, modern=True) if part]
    names = ["", *(name for step in vgg.steps("vgg19") for name in step.layers), "fc6"]
    return b"".join(changed.get(name, part) for name, part in zip(names, parts, strict=True))


def convolution_layer(name: str, *blobs: bytes, kind: str = "Convolution") -> bytes:
    geometry = field(3, 1) + field(4, 3)
    return caffe_layer(True, name, kind, ("convolution", geometry), *(("blob", blob) for blob in blobs))


def test_layers_that_do_not_fit_are_refused(tmp_path, small):
    w, b = (caffe_blob(array, True) for array in small.filters["conv2_2"])
    turned = caffe_blob(small.filters["conv2_1"][0].transpose(1, 0, 2, 3), True)
    far = field(7, field(1, b"".join(map(varint, (1 << 40, 1 << 40, 3, 3))))) + field(5, b"")
    short = field(7, field(1, varint(6))) + field(5, bytes(20))
    unpacked = field(7, field(1, varint(6))) + field(5, 1.0) * 6
    for name, layer, words in (
        ("conv2_2", b"", "expected all 4 convolutions of vgg19; conv2_2 is missing"),
        ("conv1_1", b"", "conv1_1 is missing"),
        ("conv2_2", convolution_layer("conv2_2", w), "conv2_2: expected weights and biases, found 1 blobs"),
        ("conv2_2", convolution_layer("conv2_2", b, w), "conv2_2/weight: expected shape (6, 6, 3, 3), found (6,)"),
        ("conv2_1", convolution_layer("conv2_1", turned, b), "expected shape (6, 4, 3, 3), found (4, 6, 3, 3)"),
        ("conv2_2", convolution_layer("conv2_2", far, b), "expected shape (6, 6, 3, 3), found (1099511627776"),
        ("conv2_2", convolution_layer("conv2_2", w, unpacked), "expected its numbers in one packed field, found 6"),
        ("conv2_2", convolution_layer("conv2_2", w, short), "conv2_2/bias: expected 6 numbers, found 20 bytes"),
        ("conv2_2", convolution_layer("conv2_2", w, b, kind="ReLU"), "expected a convolution, found a layer of anot"),
        ("conv2_2", caffe_layer(True, "conv2_2", "Convolution"), "expected its convolution_param, found none"),
        ("conv2_2", convolution_layer("conv2_1", w, b), "conv2_1: expected one layer of that name"),
        ("conv2_2", convolution_layer("conv6_1", w, b), "conv6_1: vgg16 and vgg19 have no such layer"),
        (
            "pool1",
            caffe_layer(True, "p", "Pooling", ("pooling", field(2, 3) + field(3, 2))),
            "expected a pooling of 2x2",
        ),
        ("pool1", caffe_layer(True, "p", "Pooling", ("pooling", field(1, 1) + field(2, 2) + field(3, 2))), "average"),
        ("pool1", caffe_layer(True, "p", "Pooling", ("pooling", field(1, 2) + field(2, 2) + field(3, 2))), "method 2"),
        ("fc6", varint(100 << 3 | 3), "expected a field, found tag"),
        ("fc6", varint(100 << 3 | 2) + varint(1 << 63), "damaged or cut short"),
        ("fc6", b"\xff" * 11, "a number does not end where it should"),
        ("fc6", field(100, b"\0"), "expected a field, found tag 0x0"),
        ("fc6", field(100, field(1, "x" * 2000)), "expected a short text, found 2000 bytes"),
        ("fc6", field(100, field(1, 7)), "expected wire type 2, found 0"),
    ):
        assert words in refusal(caffe, tmp_path / "a", layers_with(small, **{name: layer})), (name, words)


def test_a_layer_twice_is_refused(tmp_path, small):
    whole = layers_with(small)
    again = layers_with(small, relu1_1=b"", pool1=b"")
    assert "conv1_1: expected one layer of that name, found two" in refusal(caffe, tmp_path / "a", whole + again)


def test_messages_nested_ten_thousand_deep_are_passed_over(tmp_path, small):
    bomb = b""
    for _ in range(10_000):
        bomb = field(7, bomb)
    (tmp_path / "a").write_bytes(layers_with(small, fc6=field(100, bomb) + field(200, bomb)))
    assert same_filters(read_within(caffe.read, tmp_path / "a", 200_000), small)


@pytest.mark.slow
def test_a_file_of_nothing_but_tiny_fields_is_given_up(tmp_path, small):
    (tmp_path / "a").write_bytes(field(1, "net") + field(5, 1) * 1_000_000)
    assert "expected a few thousand fields" in refused(lambda path: read_within(caffe.read, path, 1e5), tmp_path / "a")
    assert not caffe.recognise(tmp_path / "a")


@AGES
def test_damaged_files_give_one_line_or_finite_weights(tmp_path, small, modern):
    whole = write_caffe(tmp_path / "a", small, modern=modern, transform=field(5, 120.0)).read_bytes()
    assert 120 < survive(caffe, tmp_path / "a", mutations(whole, 240, seed=int(modern)), memory=200_000) < 240


def test_other_containers_are_not_taken_for_caffes(tmp_path):
    for name, content in FOREIGN.items():
        (tmp_path / "a").write_bytes(content)
        assert not caffe.recognise(tmp_path / "a"), name
        assert not onnx.recognise(tmp_path / "a"), name
    rng = np.random.default_rng(3)
    for i in range(500):
        (tmp_path / "a").write_bytes(bytes([0x0A if i % 2 else 0x08]) + rng.bytes(400))
        assert not caffe.recognise(tmp_path / "a")
        assert not onnx.recognise(tmp_path / "a")
    assert not caffe.recognise(tmp_path)


@AGES
def test_a_file_cut_in_its_first_layer_is_still_recognised_and_refused(tmp_path, small, modern):
    whole = write_caffe(tmp_path / "a", small, modern=modern).read_bytes()
    (tmp_path / "a").write_bytes(whole[:200])
    assert caffe.recognise(tmp_path / "a")
    assert "cut short" in refused(caffe.read, tmp_path / "a")
