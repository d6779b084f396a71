"""TensorFlow Lite: what the files stand for, and everything that is not the published network, refused in one line."""

from __future__ import annotations

import contextlib
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tflite_files as files
from conftest import SHARED
from tflite_files import FORMS, RELU, RELU6, SAME, VALID, Graph
from weights_files import refused

from nstcore.errors import WeightsError
from nstcore.pretrained import fast_tensors
from nstcore.pretrained.readers import flatbuffer, magenta, tflite

NETWORKS = {
    "prediction": (files.prediction, magenta.read_prediction),
    "transfer": (files.transfer, magenta.read_transfer),
}


@pytest.fixture(scope="module")
def graphs() -> dict[tuple[str, str], Graph]:
    return {(name, form): NETWORKS[name][0](form) for name in NETWORKS for form in FORMS}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name])
        and found[name].dtype == np.float32
        and found[name].flags.c_contiguous
        for name in expected
    )


# ---- what the files stand for


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_weights_of_a_file_are_read_whatever_its_tensors_are_called(tmp_path, graphs, name, form):
    graph = graphs[name, form]
    found = NETWORKS[name][1](graph.write(tmp_path / "x", newer=form == "fp16"))
    assert same(found, graph.weights)
    assert {key: array.shape for key, array in found.items()} == {
        key: shape for key, shape in fast_tensors("magenta").items() if key.startswith(name)
    }


def test_the_order_of_the_two_factors_and_of_the_two_terms_is_of_no_matter(tmp_path, graphs):
    graph = graphs["transfer", "int8"].copy()
    for op in graph.ops:
        if op.kind in ("ADD", "MUL", "SQUARED_DIFFERENCE"):
            op.inputs.reverse()
    assert same(magenta.read_transfer(graph.write(tmp_path / "x")), graph.weights)


def test_scale_and_shift_are_told_by_where_their_outputs_go(tmp_path, graphs):
    graph = graphs["transfer", "int8"].copy()
    subtraction = graph.of("SUB")[0]
    product = next(op for op in graph.of("MUL") if graph.maker(op.inputs[0]).kind == "RSQRT")
    subtraction.inputs[0], product.inputs[1] = product.inputs[1], subtraction.inputs[0]
    found = magenta.read_transfer(graph.write(tmp_path / "x"))
    first = "transfer/residual1/conv1"
    for part in ("weight", "bias"):
        assert np.array_equal(found[f"{first}/scale/{part}"], graph.weights[f"{first}/shift/{part}"])
        assert np.array_equal(found[f"{first}/shift/{part}"], graph.weights[f"{first}/scale/{part}"])


def test_one_scale_for_a_whole_tensor_and_zero_points_are_understood(tmp_path, graphs):
    graph = graphs["prediction", "int8"].copy()
    weight, bias = (graph.tensors[i] for i in graph.of("CONV_2D")[0].inputs[1:])
    weight.scale, weight.zero = np.array([0.25], np.float32), np.array([3])
    bias.zero = np.arange(32)
    found = magenta.read_prediction(graph.write(tmp_path / "x"))
    assert np.array_equal(found["prediction/stem/weight"], (weight.data.transpose(0, 3, 1, 2) - 3.0) * 0.25)
    expected = (bias.data - np.arange(32.0)) * bias.scale.astype(np.float64)
    assert np.array_equal(found["prediction/stem/bias"], expected.astype(np.float32))


# ---- what is not the published network


def options(kind: str, number: int, place: int, value: int):
    def change(graph: Graph) -> None:
        graph.of(kind)[number].options[place] = value

    return change


def constant(kind: str, number: int, value: object):
    def change(graph: Graph) -> None:
        tensor = graph.tensors[graph.of(kind)[number].inputs[1]]
        tensor.data = np.array(value, np.int32)
        tensor.shape = tensor.data.shape

    return change


def without(kind: str, number: int):
    return lambda graph: graph.bypass(graph.of(kind)[number])


def swapped(kind: str, number: int):
    return lambda graph: graph.of(kind)[number].inputs.reverse()


def weights_of_another(one: int, other: int):
    def change(graph: Graph) -> None:
        a, b = (graph.of("CONV_2D")[i] for i in (one, other))
        a.inputs[1:], b.inputs[1:] = b.inputs[1:], a.inputs[1:]

    return change


def epsilon(value: float):
    def change(graph: Graph) -> None:
        tensor = graph.tensors[graph.of("ADD")[0].inputs[1]]
        tensor.scale = np.array([value / 127], np.float32)

    return change


def another_kind(kind: str, other: str):
    def change(graph: Graph) -> None:
        op = graph.of(kind)[0]
        op.kind = other

    return change


def skip_from(number: int, earlier: int, place: int):
    """The sum takes what stood before an earlier block."""

    def change(graph: Graph) -> None:
        sums = [op for op in graph.of("ADD") if graph.tensors[op.inputs[1]].data is None and not op.options[0]]
        sums = [op for op in sums if graph.maker(op.inputs[0]).kind in ("ADD", "CONV_2D")]
        sums[number].inputs[place] = sums[earlier].inputs[place]

    return change


def style_from_the_picture(graph: Graph) -> None:
    style = next(op for op in graph.of("QUANTIZE") if op.inputs == [graph.inputs[1]])
    used = next(op for op in graph.of("CONV_2D") if op.inputs[0] == style.outputs[0])
    used.inputs[0] = graph.inputs[0]


def one_more(graph: Graph) -> None:
    graph.tensors.append(files.Tensor((1,), "float32"))
    graph.ops.append(files.Op("LOGISTIC", [graph.inputs[0]], [len(graph.tensors) - 1]))


def out_of_order(graph: Graph) -> None:
    graph.ops.reverse()


TRANSFER = {
    "a stride": (options("CONV_2D", 1, 1, 1), "transfer/contract2: CONV_2D: expected stride_w 2, found 1"),
    "a border": (options("CONV_2D", 1, 0, SAME), "expected padding VALID, found SAME"),
    "an activation": (options("CONV_2D", 0, 3, 0), "transfer/contract1: CONV_2D: expected activation RELU, found NONE"),
    "a clipped activation": (options("CONV_2D", 2, 3, RELU6), "expected activation RELU, found RELU6"),
    "an activation of no name": (options("CONV_2D", 2, 3, 77), "expected activation RELU, found number 77"),
    "a dilation": (options("CONV_2D", 3, 4, 2), "transfer/residual1/conv1: CONV_2D: expected dilation_w 1, found 2"),
    "an amount": (constant("MIRROR_PAD", 0, [[0, 0], [4, 4], [4, 3], [0, 0]]), "expected 4 positions on each side"),
    "a mirror": (options("MIRROR_PAD", 3, 0, 1), "transfer/residual1/conv1: MIRROR_PAD: expected mode 0, found 1"),
    "no border": (without("MIRROR_PAD", 5), "expected MIRROR_PAD, found ADD"),
    "an epsilon": (epsilon(1e-3), "transfer/residual1/conv1: expected the epsilon 1e-05, found 0.001"),
    "no epsilon": (without("ADD", 0), "expected ADD, found MEAN"),
    "a subtraction turned": (swapped("SUB", 4), "transfer/residual3/conv1: expected MUL, found CONV_2D"),
    "a normalisation without activation": (options("ADD", 1, 0, 0), "expected activation RELU, found NONE"),
    "a normalisation with one too many": (options("ADD", 3, 0, RELU), "expected activation NONE, found RELU"),
    "a product with one": (options("MUL", 2, 0, RELU), "MUL: expected activation NONE, found RELU"),
    "axes": (constant("MEAN", 0, [1, 3]), "MEAN: expected one over rows and columns"),
    "lost axes": (options("MEAN", 1, 0, 0), "MEAN: expected one over rows and columns"),
    "a size": (constant("RESIZE_NEAREST_NEIGHBOR", 0, [288, 288]), "transfer/expand1: RESIZE_NEAREST_NEIGHBOR: exp"),
    "corners": (options("RESIZE_NEAREST_NEIGHBOR", 1, 0, 1), "transfer/expand2: RESIZE_NEAREST_NEIGHBOR: expected al"),
    "centres": (options("RESIZE_NEAREST_NEIGHBOR", 1, 1, 1), "expected half_pixel_centers 0, found 1"),
    "no resize": (without("RESIZE_NEAREST_NEIGHBOR", 0), "expected RESIZE_NEAREST_NEIGHBOR, found ADD"),
    "no sigmoid": (without("LOGISTIC", 0), "transfer/expand3: expected LOGISTIC, found ADD"),
    "another operator": (another_kind("LOGISTIC", "TANH"), "expected LOGISTIC, found operator 28"),
    "no root": (
        without("RSQRT", 0),
        "transfer/residual1/conv1: MUL: expected the outputs of RSQRT and CONV_2D, found A",
    ),
    "layers in another order": (weights_of_another(1, 2), "CONV_2D: expected a weight of (32, 3, 3, 16), found (16,"),
    "a sum with another": (skip_from(2, 1, 0), "transfer/residual3: expected two branches of one tensor"),
    "a style of the picture": (style_from_the_picture, "expected every scale and shift to be made of the style's"),
    "one operator more": (one_more, "expected no more operators, found LOGISTIC as number"),
    "operators in another order": (out_of_order, "is made by none before it"),
}
PREDICTION = {
    "a stride": (options("DEPTHWISE_CONV_2D", 1, 2, 1), "prediction/block2/depthwise: DEPTHWISE_CONV_2D: expected str"),
    "a border": (options("DEPTHWISE_CONV_2D", 0, 0, VALID), "expected padding SAME, found VALID"),
    "a stem's border": (
        options("CONV_2D", 0, 0, VALID),
        "prediction/stem: CONV_2D: expected padding SAME, found VALID",
    ),
    "an activation": (options("CONV_2D", 2, 3, RELU), "prediction/block2/expand: CONV_2D: expected activation RELU6"),
    "a projection's": (options("CONV_2D", 3, 3, RELU6), "prediction/block2/project: CONV_2D: expected activation NONE"),
    "a multiplier": (options("DEPTHWISE_CONV_2D", 4, 3, 2), "expected multiplier 1, found 2"),
    "no sum": (without("ADD", 3), "expected ADD, found CONV_2D"),
    "a sum with another": (skip_from(4, 3, 1), "expected two branches of one tensor"),
    "axes": (constant("MEAN", 0, [2]), "prediction/style: MEAN: expected one over rows and columns"),
    "no average": (without("MEAN", 0), "prediction/style: expected MEAN, found CONV_2D"),
    "a block too few": (without("DEPTHWISE_CONV_2D", 16), "expected DEPTHWISE_CONV_2D, found CONV_2D"),
}
PLANTED = [("transfer", what, *case) for what, case in TRANSFER.items()]
PLANTED += [("prediction", what, *case) for what, case in PREDICTION.items()]


@pytest.mark.parametrize(
    ("name", "change", "words"), [(n, c, w) for n, _, c, w in PLANTED], ids=[p[1] for p in PLANTED]
)
def test_every_difference_to_the_published_network_is_refused(tmp_path, graphs, name, change, words):
    graph = graphs[name, "int8"].copy()
    change(graph)
    message = refused(NETWORKS[name][1], graph.write(tmp_path / "x.tflite"))
    assert words in message
    assert str(tmp_path / "x.tflite") in message


def test_the_two_networks_are_not_taken_for_one_another(tmp_path, graphs):
    paths = tuple(graphs[name, "int8"].write(tmp_path / f"{i}.tflite") for i, name in enumerate(NETWORKS))
    assert magenta.roles(paths) == magenta.roles(paths[::-1]) == paths
    assert "expected one network with one input and one with two" in refused(magenta.roles, (paths[0], paths[0]))
    assert "expected 1 input and one output, found 2 and 1" in refused(magenta.read_prediction, paths[1])


# ---- numbers that make no sense


def stem(graph: Graph) -> files.Tensor:
    return graph.tensors[graph.of("CONV_2D")[0].inputs[1]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": np.array([np.nan], np.float32), "zero": None}, "expected scales above 0"),
        ({"scale": np.array([-1], np.float32), "zero": None}, "expected scales above 0"),
        ({"scale": np.ones(7, np.float32)}, "expected one scale or one for each channel, found 7"),
        ({"axis": 4}, "expected one scale or one for each channel"),
        ({"zero": np.zeros(3)}, "and as many zero points"),
        ({"scale": None}, "expected a scale for its whole numbers, found none"),
        ({"data": np.zeros(32, np.int8)}, "expected int8 (32, 3, 3, 3), found 32 bytes"),
        ({"shape": (32, 3, 3, -3)}, "expected a weight of (32, 3, 3, 3)"),
        ({"shape": (2**31 - 1,) * 8}, "expected a weight of (32, 3, 3, 3)"),
        ({"shape": (1,) * 9}, "expected a tensor of at most 8 axes, found 9"),
        ({"data": None}, "is made by none before it"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path, graphs, changes, words):
    graph = graphs["prediction", "int8"].copy()
    for key, value in changes.items():
        setattr(stem(graph), key, value)
    assert words in refused(magenta.read_prediction, graph.write(tmp_path / "x"))


# ---- files that are damaged or hostile


def test_what_is_no_file_of_tensorflow_lite_is_refused(tmp_path, graphs):
    path = tmp_path / "x.tflite"
    assert "no such file" in refused(tflite.read, path)
    for content, words in (
        (b"", "found nothing"),
        (b"PK\3\4PK\3\4", "expected a file of TFL3"),
        (b"\0\0\0\0TFL3", "out"),
    ):
        path.write_bytes(content)
        assert words in refused(tflite.read, path)
    assert "expected version 3" in refused(tflite.read, graphs["transfer", "int8"].write(path, version=4))
    with path.open("wb") as file:
        file.truncate(65 << 20)
    assert "expected at most 67108864 bytes" in refused(tflite.read, path)


def test_a_reference_to_anywhere_is_refused_and_takes_no_memory():
    """Vectors of four thousand million tables or numbers, tables before and behind the file, vtables of any size."""
    head = struct.pack("<I4sHHHHi", 16, b"TFL3", 6, 8, 4, 0, 8)
    for tail in (0, 4, 2**31, 2**32 - 1):
        for count in (1, 2**30, 2**32 - 1):
            data = head + struct.pack("<II", tail, count)
            root = flatbuffer.root(data, b"TFL3")
            for call in (root.table, lambda f, r=root: r.tables(f, 9, "x"), lambda f, r=root: r.numbers(f, "<f4")):
                tracemalloc.start()
                with contextlib.suppress(WeightsError):  # a vector of one number may even lie in the file
                    call(0)
                assert tracemalloc.get_traced_memory()[1] < 100_000
                tracemalloc.stop()


def check_damage(content: bytes, path: Path, count: int) -> int:
    """How many of so many damaged files were refused; none takes long, and none ends otherwise."""
    refusals = 0
    for bad in files.damaged(content, count, seed=count):
        path.write_bytes(bad)
        began = time.monotonic()
        message = ""
        try:
            magenta.read_transfer(path)
        except WeightsError as error:
            message = str(error)
            refusals += 1
        assert message.isprintable()
        assert len(message) < 600
        assert time.monotonic() - began < 2
    return refusals


def test_damaged_files_end_in_one_line(tmp_path, graphs):
    """Among the weights a changed byte is another weight: the format has no checksums, the registry's hash has."""
    assert check_damage(files.packed(graphs["transfer", "fp16"]), tmp_path / "x", 60) > 12


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_hundreds_of_damaged_files_end_in_one_line(tmp_path, graphs, form):
    assert check_damage(files.packed(graphs["transfer", form]), tmp_path / "x", 250) > 50


# ---- the published files


@pytest.fixture(scope="module")
def published() -> tuple[Path, Path]:
    folder = SHARED / "magenta_tflite"
    if not folder.is_dir():
        pytest.skip(f"the published files are not at {folder}")
    return magenta.roles(tuple(sorted(folder.glob("*.tflite"))))


def test_the_published_files_are_dequantised_channel_by_channel(published):
    """Against q * scale, with q and scale looked up in the file by the names that its tensors have."""
    found = magenta.read(*published)
    assert {name: array.shape for name, array in found.items()} == dict(fast_tensors("magenta"))
    for path, theirs, ours, axis in (
        (published[0], "MobilenetV2/Conv/weights", "prediction/stem/weight", 0),
        (published[0], "expanded_conv_12/depthwise/depthwise_weights", "prediction/block13/depthwise/weight", 3),
        (published[1], "contract/conv1/weights", "transfer/contract1/weight", 0),
        (published[1], "expand/conv3/conv/StyleNorm/Conv/weights", "transfer/expand3/shift/weight", 0),
        (published[1], "expand/conv3/conv/StyleNorm/Conv_1/weights", "transfer/expand3/scale/weight", 0),
        (published[1], "contract/conv2/Conv2D_bias", "transfer/contract2/bias", 0),
    ):
        q, scale = by_name(path.read_bytes(), theirs)
        sides = [1] * q.ndim
        sides[axis] = -1
        w = q.astype(np.float32) * scale.reshape(sides)
        if w.ndim == 4:
            w = w.transpose(0, 3, 1, 2)
        assert np.array_equal(w.reshape(found[ours].shape), found[ours]), ours


def by_name(b: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A constant of the published file and its scales, read without the package."""

    def u32(at):
        return struct.unpack_from("<I", b, at)[0]

    def place(at, i):
        vtable = at - struct.unpack_from("<i", b, at)[0]
        offset = (
            struct.unpack_from("<H", b, vtable + 4 + 2 * i)[0] if 4 + 2 * i < b[vtable] + 256 * b[vtable + 1] else 0
        )
        return at + offset if offset else 0

    def vector(at, i, kind):
        at = place(at, i)
        at += u32(at)
        return np.frombuffer(b, kind, u32(at), at + 4)

    def tables(at, i):
        at = place(at, i)
        at += u32(at) + 4
        return [at + 4 * k + u32(at + 4 * k) for k in range(u32(at - 4))]

    model = u32(0)
    buffers = tables(model, 4)
    for tensor in tables(tables(model, 2)[0], 0):
        if vector(tensor, 3, "u1").tobytes().decode().endswith(name):
            quantisation = place(tensor, 4) + u32(place(tensor, 4))
            data = vector(buffers[u32(place(tensor, 2))], 0, "u1")
            kind = {2: "<i4", 9: "i1"}[b[place(tensor, 1)]]
            return data.view(kind).reshape(vector(tensor, 0, "<i4")), vector(quantisation, 2, "<f4")
    raise LookupError(name)


def test_the_published_files_are_told_from_damaged_ones(published, tmp_path):
    assert check_damage(published[1].read_bytes(), tmp_path / "x", 20) > 4
