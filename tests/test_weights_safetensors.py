"""safetensors files; and which network named tensors are, whatever container they came in."""

from __future__ import annotations

import json
import struct
import tracemalloc
from functools import cache

import numpy as np
import pytest
from conftest import random_weights
from weights_files import refused
from weights_torch_files import (
    READERS,
    numbers,
    same_filters,
    state_dict,
    write,
    write_safetensors,
)

from nstcore import vgg
from nstcore.errors import WeightsError
from nstcore.pretrained import Preprocessing, Weights
from nstcore.pretrained.readers import Source, safetensors
from nstcore.pretrained.readers.state_dict import find_network, preprocessing_of


@pytest.fixture
def small(monkeypatch) -> Weights:
    """A network of a few kilobytes under the name of vgg19, and a smaller one under that of vgg16."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg16", ((1, 4), (2, 6)))
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


@cache
def full_weights(architecture: str = "vgg19", deepest: str = "conv5_4") -> Weights:
    return random_weights(architecture, deepest)


def to_weights(source: Source) -> Weights:
    """The source as a conversion would take it, which refuses what is not finite."""
    facts = {"source": "tests", "source_sha256": "0" * 64, "licence": source.licence, "converter": "tests"}
    preprocessing = Preprocessing("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Weights("x", source.architecture, source.filters, preprocessing, source.padding, source.pooling, facts)


# ---- what the package writes


def test_the_package_itself_writes_what_these_tests_write(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    arrays = {"b": np.arange(6, dtype="f4").reshape(2, 3), "a": np.ones(3, "f2"), "c": np.array(2.5), "d": np.array(7)}
    arrays |= {"e": np.zeros((2, 0), "f4")}
    package.save_file(arrays, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    ours = write_safetensors(tmp_path / "ours.safetensors", arrays, {"format": "pt"})
    assert ours.read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8"])
def test_what_the_package_saves_is_read_exactly(tmp_path, small, dtype):
    package = pytest.importorskip("safetensors.numpy")
    arrays = state_dict(small, dtype=dtype) | {"head.fc.weight": np.zeros((5, 7), "f4"), "steps": np.array(7)}
    package.save_file(arrays, tmp_path / "w.safetensors", metadata={"format": "pt"})
    assert safetensors.recognise(tmp_path / "w.safetensors")
    found = safetensors.read(tmp_path / "w.safetensors")
    assert found.container == "safetensors"
    assert found.preprocessing is None
    for (weight, bias), (name, array) in zip(found.filters.values(), list(state_dict(small).items())[::2], strict=True):
        assert np.array_equal(weight, array.astype(dtype).astype("f4"))
        assert np.array_equal(bias, arrays[name.replace("weight", "bias")].astype("f4"))


def test_bfloat16_is_read_exactly(tmp_path, small):
    halves = {name: (array.view("u4") >> 16).astype("u2") for name, array in state_dict(small).items()}
    for container in ("safetensors", "zip", "legacy"):
        found = READERS[container].read(write(container, tmp_path / "w", halves))
        for conv, (w, b) in small.filters.items():
            for exact, read in ((w, found.filters[conv][0]), (b, found.filters[conv][1])):
                assert np.array_equal(read, (exact.view("u4") & 0xFFFF0000).view("f4"))


# ---- networks and names, through all three containers


@pytest.mark.parametrize("container", READERS)
def test_a_whole_vgg19_of_575_megabytes_is_read_in_the_memory_of_its_convolutions(tmp_path, container):
    weights = full_weights()
    path = write(container, tmp_path / "vgg19.pth", state_dict(weights, classifier=True))
    assert path.stat().st_size > 574_000_000  # sparse: the classifier takes no disk
    assert READERS[container].recognise(path)
    tracemalloc.start()
    try:
        source = READERS[container].read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    path.unlink()
    assert peak < 1.3 * sum(w.nbytes + b.nbytes for w, b in weights.filters.values())
    assert same_filters(source, weights)
    assert (source.architecture, source.preprocessing, source.padding, source.pooling) == ("vgg19", None, "zero", "max")
    assert "BSD-3-Clause" in source.licence


@pytest.mark.parametrize("container", READERS)
@pytest.mark.parametrize("style", ["features", "named", "bare", "padded"])
@pytest.mark.parametrize(("architecture", "deepest"), [("vgg16", "conv5_3"), ("vgg19", "conv5_4")])
def test_every_style_of_names_is_told(monkeypatch, tmp_path, container, style, architecture, deepest):
    thin = {"vgg16": ((2, 2), (2, 2), (3, 2), (3, 2), (3, 2)), "vgg19": ((2, 2), (2, 2), (4, 2), (4, 2), (4, 2))}
    for name, blocks in thin.items():  # so thin that shapes tell nothing
        monkeypatch.setitem(vgg.ARCHITECTURES, name, blocks)
    weights = random_weights(architecture, deepest)
    source = READERS[container].read(write(container, tmp_path / "w", state_dict(weights, style)))
    assert source.architecture == architecture
    assert same_filters(source, weights)
    if style == "padded":
        assert source.preprocessing == Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
    else:
        assert source.preprocessing is None


def test_numbers_of_the_published_files():
    assert list(numbers("vgg19").values()) == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    assert list(numbers("vgg16").values()) == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert list(numbers("vgg19", 2, 3).values())[:10] == [2, 5, 9, 12, 16, 19, 22, 25, 29, 32]


@pytest.mark.parametrize(("architecture", "deepest"), [("vgg16", "conv5_3"), ("vgg19", "conv5_4")])
def test_full_shapes_are_told_apart(architecture, deepest):
    shapes = vgg.convolutions(architecture)
    for prefix, places in (("features.", numbers(architecture)), ("", numbers(architecture, 1, 3))):
        network = find_network({f"{prefix}{n}.weight": shapes[conv] for conv, n in places.items()})
        assert network.architecture == architecture
        assert list(network.names) == list(shapes)


@pytest.mark.parametrize(
    ("last", "architecture"), [("conv1_1", "vgg19"), ("conv3_3", "vgg19"), ("conv4_1", "vgg16"), ("conv5_2", "vgg16")]
)
def test_a_beginning_is_enough(last, architecture):
    """Up to conv3_3 both networks are one."""
    for style in ("{0}", "features.{1}"):
        shapes = {}
        for conv, n in numbers("vgg16").items():
            shapes[style.format(conv, n) + ".weight"] = vgg.convolutions("vgg16")[conv]
            if conv == last:
                break
        network = find_network(shapes)
        assert (network.architecture, list(network.names)[-1]) == (architecture, last)


def without(*names):
    return lambda arrays: {name: array for name, array in arrays.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("features.3.weight"), "features.3.weight: missing: expected conv2_1 of vgg1"),
        (without("features.3.bias"), "features.3.bias: missing"),
        (without("features.0.weight"), "expected conv2_1 of vgg"),
        (lambda a: a | {"features.9.weight": a["features.5.weight"]}, "features.9.weight: vgg19 has no convolution th"),
        (lambda a: a | {"features.1.running_mean": np.zeros(4, "f4")}, "expected a VGG without batch normalisation"),
        (lambda a: a | {"features.1.weight": np.zeros(4, "f4")}, "expected a VGG without batch normalisation"),
        (lambda a: a | {"features.3.weight": np.zeros((6, 4, 3, 2), "f4")}, "features.3.weight: expected float32"),
        (lambda a: a | {"features.3.bias": np.zeros(6, "i8")}, "found int64 (6,)"),
        (
            lambda a: {"layer1.0.conv1.weight": np.zeros(3, "f4")},
            "expected names like features.0.weight, conv1_1.weigh",
        ),
        (lambda a: {"a\nb": np.zeros(3, "f4")}, r"found a\nb"),
        (lambda a: {"conv1_1.weight": a["features.0.weight"], "conv2_2.weight": a["features.5.weight"]}, "conv2_1: mi"),
        (lambda a: {"conv9_9.weight": a["features.0.weight"]}, "conv9_9: expected only convolutions of vgg19"),
        (lambda a: {"0.weight": np.zeros((3, 3, 1, 1), "f4")}, "expected 3x3 convolutions behind the leading 1x1 one"),
    ],
)
@pytest.mark.parametrize("container", READERS)
def test_tensors_of_another_network_are_refused(tmp_path, small, container, change, words):
    path = write(container, tmp_path / "w", change(state_dict(small)))
    message = refused(READERS[container].read, path)
    assert str(path) in message
    assert words in message


def test_numbers_that_are_not_finite_are_refused_where_the_weights_are_put_together(tmp_path, small):
    arrays = state_dict(small, dtype="f8")
    arrays["features.3.bias"][0] = 1e300
    source = safetensors.read(write_safetensors(tmp_path / "w", arrays))
    assert "conv2_1/bias: expected finite numbers" in refused(to_weights, source)


# ---- a leading 1x1 convolution


def colour_map(matrix, bias) -> Preprocessing:
    weight = np.array(matrix, "f4").reshape(3, 3, 1, 1)
    return preprocessing_of(weight, np.array(bias, "f4"))


def test_a_leading_convolution_is_a_preprocessing():
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = np.random.default_rng(0).random((3, 50))
    for matrix, bias in (
        (np.diag(1 / std), -mean / std),
        (np.fliplr(np.diag(1 / std[::-1])), -mean[::-1] / std[::-1]),
        (np.eye(3) * 255, [-123.68, -116.779, -103.939]),
        (np.eye(3), -mean),
    ):
        found = colour_map(matrix, bias)
        order = [0, 1, 2] if found.channel_order == "rgb" else [2, 1, 0]
        assert (found.channel_order == "rgb") == (matrix[0][0] != 0)
        x = (found.range * pixels[order].T - found.mean) / found.std
        assert np.allclose(x, (np.asarray(matrix) @ pixels).T + bias, rtol=1e-6, atol=1e-5)
    assert colour_map(np.eye(3) * 255, [-123.68, -116.779, -103.939]).mean == (123.68, 116.779, 103.939)


@pytest.mark.parametrize(
    ("matrix", "bias", "words"),
    [
        ([[255, 0, 1], [0, 255, 0], [0, 0, 255]], [-100] * 3, "expected one factor above 0 for each channel"),
        ([[0, 255, 0], [0, 0, 255], [255, 0, 0]], [-100] * 3, "expected one factor above 0 for each channel"),
        ([[255, 0, 0], [0, -255, 0], [0, 0, 255]], [-100] * 3, "expected one factor above 0 for each channel"),
        ([[255, 0, 0], [255, 0, 0], [0, 0, 255]], [-100] * 3, "expected one factor above 0 for each channel"),
        ([[0] * 3] * 3, [-100] * 3, "expected one factor above 0 for each channel"),
        ([[np.nan, 0, 0], [0, 255, 0], [0, 0, 255]], [-100] * 3, "expected one factor above 0 for each channel"),
        (np.eye(3), [-100] * 3, "expected minus a mean colour in 0-1, times its factor"),
        (np.eye(3) * 255, [0] * 3, "expected minus a mean colour in 0-1, times its factor"),
        (np.eye(3) * 255, [100] * 3, "expected minus a mean colour in 0-1, times its factor"),
        (np.eye(3) * 255, [np.nan] * 3, "expected minus a mean colour in 0-1, times its factor"),
        (np.diag([np.inf] * 3), [-1] * 3, "expected minus a mean colour in 0-1, times its factor"),
    ],
)
def test_a_leading_convolution_that_is_no_preprocessing_is_refused(matrix, bias, words):
    assert words in refused(colour_map, matrix, bias)


# ---- files that are hostile


def header(path, change):
    """The file with another header, its length made to fit; the data stays."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    text = change(json.loads(content[8 : 8 + size]))
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    return path


def entry(**facts):
    return lambda h: h | {"features.3.bias": h["features.3.bias"] | facts}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: b'{"a":' + b"[" * 100_000, "header: not readable as JSON"),
        (lambda h: b'{"a": ' + b"9" * 9000 + b"}", "header: not readable as JSON"),
        (lambda h: b'{"a\xff": 1}', "header: not readable as JSON"),
        (lambda h: b"[1, 2]", "header: expected an object"),
        (lambda h: b'{"a": 1, "a": 2}', "header: not readable as JSON: a name is there twice"),
        (lambda h: b'{"a": 1}' + b" " * (1 << 20), "header: expected 2 to 1048576 bytes"),
        (lambda h: b"", "header: expected 2 to"),
        (lambda h: h | {"x": 3}, "x: expected dtype, shape and data_offsets"),
        (lambda h: h | {"a\nb": None}, r"a\nb: expected dtype, shape and data_offsets"),
        (entry(dtype="F4"), "features.3.bias: dtype: expected one of F32"),
        (entry(dtype=4), "features.3.bias: expected dtype, shape and data_offsets"),
        (entry(shape="6"), "features.3.bias: expected dtype, shape and data_offsets"),
        (entry(shape=[6.0]), "features.3.bias: expected dtype, shape and data_offsets"),
        (entry(shape=[-6]), "features.3.bias: expected dtype, shape and data_offsets"),
        (entry(shape=[1 << 62]), "features.3.bias: expected dtype, shape and data_offsets"),
        (entry(shape=[6] + [1] * 9), "features.3.bias: expected dtype, shape and data_offsets"),
        (entry(shape=[1 << 39] * 8), "features.3.bias: its data_offsets do not fit its float32"),
        (entry(shape=[7]), "features.3.bias: its data_offsets do not fit"),
        (entry(dtype="F64"), "features.3.bias: its data_offsets do not fit"),
        (entry(data_offsets=[24, 0]), "features.3.bias: its data_offsets do not fit"),
        (entry(data_offsets=[0, 24]), "data_offsets: expected a tensor at"),
        (entry(data_offsets=[1 << 39, (1 << 39) + 24]), "data_offsets: expected a tensor at"),
        (entry(data_offsets=[-24, 0]), "features.3.bias: expected dtype, shape and data_offsets"),
        (entry(data_offsets=[0]), "features.3.bias: expected dtype, shape and data_offsets"),
        (entry(dtype="F16", shape=[12]), "features.3.bias: expected float32, float16, float64, bfloat16 (6,)"),
        (entry(dtype="I32"), "found int32 (6,)"),
        (lambda h: dict(list(h.items())[:-1]), "the file is cut short or damaged"),
        (lambda h: dict(list(h.items())[1:]), "data_offsets: expected a tensor at 0"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, small, change, words):
    path = header(write_safetensors(tmp_path / "w", state_dict(small)), change)
    assert words in refused(safetensors.read, path)


def test_a_length_that_lies_is_refused_before_anything_is_read(tmp_path, small):
    path = write_safetensors(tmp_path / "w", state_dict(small))
    content = path.read_bytes()
    for length in (0, 1, len(content), 1 << 40, (1 << 64) - 1):
        path.write_bytes(struct.pack("<Q", length) + content[8:])
        tracemalloc.start()
        try:
            assert "header: expected 2 to 1048576 bytes" in refused(safetensors.read, path)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
    assert not safetensors.recognise(path)


@pytest.mark.parametrize("container", READERS)
def test_what_is_in_another_container_is_not_recognised(tmp_path, small, container):
    reader = READERS[container]
    for other in READERS:
        assert reader.recognise(write(other, tmp_path / "x", state_dict(small))) == (other == container)
    for content in (
        b"",
        b"{}",
        b"\x80",
        b"\x80\x01x",
        b"PK\5\6",
        struct.pack("<Q", 2),
        struct.pack("<Q", 99) + b'{"a":1}',
    ):
        (tmp_path / "x").write_bytes(content)
        assert not reader.recognise(tmp_path / "x")
    assert not reader.recognise(tmp_path)
    assert not reader.recognise(tmp_path / "none")
    assert "no such file" in refused(reader.read, tmp_path / "none")


@pytest.mark.parametrize("container", READERS)
def test_a_file_cut_short_or_too_long_is_refused(tmp_path, small, container):
    path = write(container, tmp_path / "w", state_dict(small))
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(READERS[container].read, path)
    if container != "zip":  # a zip archive may be followed by a comment
        path.write_bytes(whole + b"x")
        assert f"expected {len(whole)} bytes, found {len(whole) + 1}" in refused(READERS[container].read, path)


@pytest.mark.parametrize("container", READERS)
def test_damaged_files_give_one_line_or_finite_weights(tmp_path, small, container):
    """300 files each, most of them damaged where numbers are described. Only a zip archive has checksums, so elsewhere
    a changed number may pass; nothing else may happen.
    """
    path = write(container, tmp_path / "w", state_dict(small))
    whole = path.read_bytes()
    described = {"legacy": 1400, "zip": len(whole), "safetensors": 8 + int.from_bytes(whole[:8], "little")}[container]
    rng = np.random.default_rng(7)
    messages = []
    tracemalloc.start()
    try:
        for i in range(300):
            content = bytearray(whole)
            at = int(rng.integers(described if i % 4 else len(whole)))
            if i % 3 == 0:
                del content[at : at + int(rng.integers(1, 9))]
            elif i % 3 == 1:
                content[at] ^= 1 << int(rng.integers(8))
            else:
                content[at : at + 8] = rng.bytes(len(content[at : at + 8]))
            path.write_bytes(content)
            try:
                source = READERS[container].read(path)
                to_weights(source)  # which refuses what is not finite
            except WeightsError as error:
                messages.append(str(error))
            else:
                assert container != "zip" or same_filters(source, small)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert len(messages) > 100
    assert all(map(str.isprintable, messages))
    assert max(map(len, messages)) < 500


def test_one_network_is_the_same_from_every_container(tmp_path):
    weights = full_weights()
    found = [to_weights(READERS[c].read(write(c, tmp_path / c, state_dict(weights)))) for c in READERS]
    assert len({w.sha256 for w in found}) == 1
