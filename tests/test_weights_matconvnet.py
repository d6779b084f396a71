"""MatConvNet networks as SciPy writes them: every layout, the orientation of the filters, and files that lie."""

from __future__ import annotations

import functools
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from conftest import SHARED, random_weights
from weights_files import refused
from weights_proto_files import (
    FOREIGN,
    matconvnet_variables,
    mutations,
    read_within,
    refusal,
    same_filters,
    survive,
    write_matconvnet,
)

from nstcore import vgg
from nstcore.pretrained import Preprocessing, Weights
from nstcore.pretrained.readers import caffe, matconvnet, onnx, tfjs

LAYOUTS = pytest.mark.parametrize("layout", ["first", "beta", "tidy"])
COMPRESSION = pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
PREPROCESSING = Preprocessing("rgb", 255.0, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0))


@pytest.fixture
def small(monkeypatch) -> Weights:
    """A network of a few kilobytes under the name of vgg19, and a smaller one under that of vgg16."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg16", ((1, 4), (2, 6)))
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


@LAYOUTS
@COMPRESSION
def test_every_layout_gives_the_same_filters(tmp_path, small, layout, compressed):
    path = write_matconvnet(tmp_path / "a.mat", small, layout, compressed)
    assert matconvnet.recognise(path)
    assert not caffe.recognise(path)
    assert not onnx.recognise(path)
    source = matconvnet.read(path)
    assert same_filters(source, small)
    assert source.preprocessing == PREPROCESSING
    assert (source.padding, source.pooling, source.files) == ("zero", "max", (path,))


def test_a_network_that_ends_with_its_features_is_read(tmp_path, small):
    assert same_filters(matconvnet.read(write_matconvnet(tmp_path / "a", small, classifier=False)), small)


def test_the_smaller_network_is_told_by_its_layers(tmp_path, small):
    vgg16 = random_weights("vgg16", deepest="conv2_2")
    assert same_filters(matconvnet.read(write_matconvnet(tmp_path / "a", vgg16)), vgg16)


def test_rows_stay_rows_and_columns_columns(tmp_path, small):
    """What MATLAB calls filters(i, j, c, k) is our weight[k, c, i, j]."""
    variables = matconvnet_variables(small)
    filters = np.zeros((3, 3, 3, 4), np.float32)
    for i, j, c, k in np.ndindex(filters.shape):
        filters[i, j, c, k] = 1000 * i + 100 * j + 10 * c + k
    variables["layers"][0, 0]["weights"][0, 0] = filters
    scipy.io.savemat(tmp_path / "a.mat", variables, oned_as="row")
    weight = matconvnet.read(tmp_path / "a.mat").filters["conv1_1"][0]
    for k, c, i, j in np.ndindex(weight.shape):
        assert weight[k, c, i, j] == 1000 * i + 100 * j + 10 * c + k


def test_the_published_file_is_oriented_as_the_other_copies_of_oxfords_weights():
    """Filter 1 of conv1_1 as programs print it from imagenet-vgg-verydeep-19.mat, beside Keras' copy of the same."""
    if not (SHARED / "vgg19_uint8_tfjs").is_dir():
        pytest.skip(f"the published VGG19 is not at {SHARED}")
    filters = tfjs.read(SHARED / "vgg19_uint8_tfjs").filters["conv1_1"][0]  # (K, BGR, row, column), quantised
    printed = np.zeros((3, 3, 3))  # as loadmat gives it: [i, j, RGB] of filter 1, here its first row
    printed[0, 0] = 0.39416704, 0.46418372, 0.34119523
    printed[0, 1] = 0.37740308, 0.41810837, 0.33999205
    printed[0, 2] = -0.04594866, -0.04806903, -0.04484424
    step = 2 * np.abs(filters).max() / 255
    first_row, first_column = filters[0, ::-1, 0, :].T, filters[0, ::-1, :, 0].T
    assert np.abs(first_row - printed[0]).max() < step
    assert np.abs(first_column - printed[0]).max() > 10 * step


@pytest.fixture(scope="module")
def full() -> Weights:
    return random_weights(deepest="conv5_4")


def test_a_whole_vgg19_is_read_in_little_more_than_its_own_memory(tmp_path, full):
    path = write_matconvnet(tmp_path / "vgg19.mat", full, compressed=False)
    convolutions = sum(array.nbytes for arrays in full.filters.values() for array in arrays)
    assert same_filters(read_within(matconvnet.read, path, 1.3 * convolutions), full)


@pytest.mark.slow
def test_a_published_file_of_full_size_is_streamed(tmp_path, full, monkeypatch):
    """Compressed, 16 convolutions and a classifier of 480 MB, name before and after the filters."""
    monkeypatch.setattr(zlib, "compress", functools.partial(zlib.compress, level=1))  # SciPy's; most of the time
    convolutions = sum(array.nbytes for arrays in full.filters.values() for array in arrays)
    for layout in ("beta", "tidy"):
        variables = matconvnet_variables(full, layout)
        fc6 = np.zeros((7, 7, 512, 4096), np.float32)
        variables["layers"][0, -2]["weights"][0, 0] = fc6
        scipy.io.savemat(tmp_path / "vgg19.mat", variables, do_compression=True, oned_as="row")
        assert same_filters(read_within(matconvnet.read, tmp_path / "vgg19.mat", 1.3 * convolutions, 30), full)


# ---- preprocessing


@pytest.mark.parametrize(
    ("average", "mean"),
    [
        (np.array([1.5, 2.5, 3.5]), (1.5, 2.5, 3.5)),
        (np.array([[[0.1, 0.2, 0.3]]], np.float32), (0.1, 0.2, 0.3)),
        (np.arange(12.0).reshape(2, 2, 3), (4.5, 5.5, 6.5)),
        (np.array([[1, 2, 3]], np.float64), (1, 2, 3)),
        (np.array([0.0, 0.0]), None),
        (np.zeros((0, 0)), None),
    ],
)
def test_an_average_picture_becomes_a_mean_per_channel(tmp_path, small, average, mean):
    variables = matconvnet_variables(small)
    variables["normalization"]["averageImage"] = average
    scipy.io.savemat(tmp_path / "a.mat", variables, oned_as="row")
    found = matconvnet.read(tmp_path / "a.mat").preprocessing
    assert found == (mean and Preprocessing("rgb", 255.0, mean, (1, 1, 1)))


def test_without_normalization_the_preprocessing_is_unknown(tmp_path, small):
    variables = matconvnet_variables(small)
    del variables["normalization"]
    scipy.io.savemat(tmp_path / "a.mat", variables, oned_as="row")
    assert matconvnet.read(tmp_path / "a.mat").preprocessing is None


# ---- networks that are not VGG


def changed(layer: int, **fields) -> object:
    return lambda variables: variables["layers"][0, layer].update(fields)


def without(layer: int) -> object:
    return lambda variables: variables.update(layers=np.delete(variables["layers"], layer, 1))


def weights_of(*arrays: np.ndarray) -> np.ndarray:
    cell = np.empty((1, len(arrays)), object)
    cell[0] = arrays
    return cell


FILTERS, BIASES = np.ones((3, 3, 3, 4), np.float32), np.ones((1, 4), np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(0, pad=[0.0] * 4), "conv1_1: expected pad 1, found [0.0, 0.0, 0.0, 0.0]"),
        (changed(0, pad=[1.0, 1.0, 1.0, 0.0]), "expected pad 1"),
        (changed(0, pad=np.zeros((0, 0))), "conv1_1: expected pad 1, found [0]"),
        (changed(0, pad=np.ones(9)), "layer: pad: expected up to 4 numbers"),
        (changed(0, stride=2.0), "expected stride 1"),
        (changed(0, dilate=2.0), "expected dilate 1"),
        (changed(0, type="convt"), "conv1_1: expected a convolution, found convt"),
        (changed(0, type=3.0), "layer: type: expected a text, found double 1x1"),
        (changed(0, weights=weights_of(FILTERS)), "conv1_1: expected filters and biases, found none"),
        (changed(0, weights=weights_of(FILTERS, BIASES, BIASES)), "found them twice"),
        (
            changed(0, weights=weights_of(FILTERS[:, :, :, :2], BIASES)),
            "expected filters 3x3x3x4, found single 3x3x3x2",
        ),
        (changed(0, weights=weights_of(FILTERS, BIASES[:, :3])), "expected 4 biases, found single 1x3"),
        (changed(0, weights=weights_of(FILTERS.astype("i4"), BIASES)), "expected single or double, found class 12"),
        (changed(0, weights=weights_of(FILTERS * 1j, BIASES)), "expected real numbers, found complex"),
        (changed(0, weights=weights_of(FILTERS, "words")), "expected 4 biases, found text 1x5"),
        (changed(0, weights=weights_of(FILTERS, "four")), "expected single or double, found text 1x4"),
        (changed(0, weights=1.0), "layer: weights: expected a cell array, found double 1x1"),
        (changed(1, leak=0.1), "relu: expected leak 0"),
        (changed(1, type="bnorm"), "conv1_1: expected a ReLU after it, found bnorm"),
        (changed(2, method="sum"), "expected method max or avg, found sum"),
        (changed(2, method="avg"), "expected one pooling throughout"),
        (changed(2, pool=[3.0, 3.0]), "expected pool 2"),
        (changed(2, stride=1.0), "expected stride 2"),
        (changed(2, pad=[1.0, 0.0, 0.0, 0.0]), "expected no padding"),
        (without(1), "conv1_1: expected a ReLU after it, found a pooling"),
        (without(2), "conv1_2: vgg16 and vgg19 have no such layer"),
        (without(0), "expected one ReLU after each convolution"),
        (lambda v: v.update(layers=v["layers"][:, :5]), "expected all 3 convolutions of vgg16; conv2_2 is missing"),
        (lambda v: v.update(layers=1.0), "layers: expected a cell array, found double"),
        (lambda v: v.update(layers=np.empty((1, 0), object)), "expected the convolutions of a VGG"),
        (lambda v: v.update(layers=np.zeros((1, 5000), object)), "layers: expected up to 4096 cells, found 5000"),
        (lambda v: v.update(layers=np.full((1, 3), 1.0, object)), "layer: expected a struct"),
        (lambda v: v.pop("layers"), "expected a variable layers, found none"),
        (lambda v: v.update(normalization=2.0), "normalization: expected a struct"),
        (lambda v: v["normalization"].update(averageImage=np.zeros((2, 2))), "expected a colour or HxWx3"),
        (lambda v: v["normalization"].update(averageImage="abc"), "expected single or double, found text"),
        (lambda v: v["normalization"].update(averageImage=np.zeros((600, 600, 3))), "expected up to 786432 numbers"),
        (lambda v: v["normalization"].update(averageImage=np.full(3, np.nan)), "mean: expected three finite numbers"),
    ],
)
def test_a_network_that_is_not_vgg_is_refused(tmp_path, small, change, words):
    variables = matconvnet_variables(small)
    change(variables)
    scipy.io.savemat(tmp_path / "a.mat", variables, oned_as="row")
    assert words in refused(matconvnet.read, tmp_path / "a.mat")


# ---- files that lie


def element(kind: int, data: bytes, declared: int | None = None, order: str = "<") -> bytes:
    padding = b"" if kind == 15 else bytes(-len(data) % 8)
    return np.array([kind, len(data) if declared is None else declared], f"{order}u4").tobytes() + data + padding


def matrix(kind: int, dims: tuple[int, ...], content: bytes, name: str = "", order: str = "<") -> bytes:
    head = element(6, np.array([kind, 0], f"{order}u4").tobytes(), order=order)
    head += element(5, np.array(dims, f"{order}i4").tobytes(), order=order)
    return element(14, head + element(1, name.encode(), order=order) + content, order=order)


def struct(order: str = "<", **fields: bytes) -> bytes:
    names = b"".join(name.encode().ljust(32, b"\0") for name in fields)
    # the length of names in a small element: two halves that swap with the bytes
    width = np.array([4 << 16 | 5, 32], f"{order}u4").tobytes()
    return matrix(2, (1, 1), width + element(1, names, order=order) + b"".join(fields.values()), order=order)


def mat_file(*variables: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file, of a test".ljust(124) + b"\x00\x01IM" + b"".join(variables)


def layers_of(*cells: bytes) -> bytes:
    return matrix(1, (1, len(cells)), b"".join(cells), "layers")


def test_what_a_test_writes_by_hand_is_what_scipy_reads(tmp_path):
    (tmp_path / "a.mat").write_bytes(mat_file(layers_of(struct(type=matrix(4, (1, 4), element(16, b"conv"))))))
    assert scipy.io.loadmat(tmp_path / "a.mat")["layers"][0, 0]["type"][0, 0] == "conv"
    assert "expected filters and biases, found none" in refused(matconvnet.read, tmp_path / "a.mat")


def nested(depth: int) -> bytes:
    """Cells in cells; built from the inside, each a few bytes longer than the last."""
    content = b""
    for _ in range(depth):
        content = matrix(1, (1, 1), content)
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (mat_file(layers_of(nested(3000))), "layer: expected a struct, found cell array"),
        (mat_file(layers_of(struct(weights=nested(3000)))), "conv1_1: expected filters 3x3x3x4, found cell array 1x1"),
        (mat_file(layers_of(struct(junk=nested(3000)))), "expected the convolutions of a VGG"),
        (mat_file(matrix(1, (1 << 30, 1 << 30), b"", "layers")), "expected up to 4096 cells"),
        (mat_file(matrix(1, (-1, 2), b"", "layers")), "expected flags and two or more dimensions"),
        (mat_file(matrix(1, (3,), b"", "layers")), "expected flags and two or more dimensions"),
        (mat_file(element(14, b"", 1 << 31)), "an element declares 2147483648 bytes where 0 are left"),
        (mat_file(element(15, zlib.compress(element(14, b"", 1 << 31)))), "declares 2147483648 bytes"),
        (mat_file(element(15, zlib.compress(element(14, b"", 1000)))), "ends in the middle of an element"),
        (mat_file(element(15, b"not zlib at all")), "a compressed variable is damaged"),
        (mat_file(element(15, zlib.compress(element(15, b"")))), "expected a matrix, found an element of type 15"),
        (mat_file(element(9, bytes(8))), "expected a matrix, found an element of type 9"),
        (mat_file(b"\1\2\3"), "3 bytes are left over"),
        (mat_file(layers_of(), layers_of()), "expected the convolutions of a VGG"),
        (mat_file()[:126], "expected version 5 of the MAT-file, found a header that ends in"),
        (mat_file().replace(b"\x00\x01IM", b"\x00\x02IM"), "found a header that ends in 00 02 49 4d"),
        (mat_file(matrix(2, (1, 1), element(5, b"\0" * 4), "meta")), "expected field names of up to 1024 bytes"),
        (mat_file(matrix(2, (1, 1), element(5, b""), "meta")), "expected field names"),
    ],
)
def test_a_file_that_lies_is_refused(tmp_path, small, content, words):
    (tmp_path / "a").write_bytes(content)
    message = refused(lambda path: read_within(matconvnet.read, path, 2e6, 2), tmp_path / "a")
    assert words in message


def test_a_bomb_is_inflated_without_being_held(tmp_path, small):
    """100 MB of zeros in 100 KB, as a field that nobody asks for."""
    junk = matrix(2, (1, 1), bytes(100_000_000))
    packed = zlib.compress(layers_of(struct(junk=junk, type=matrix(4, (1, 4), element(16, b"conv")))), 9)
    (tmp_path / "a").write_bytes(mat_file(element(15, packed)))
    message = refused(lambda path: read_within(matconvnet.read, path, 1e6), tmp_path / "a")
    assert "expected filters and biases, found none" in message


def by_hand(weights: Weights, order: str) -> bytes:
    """The network without SciPy, its pads in the smaller type that MATLAB takes for them."""

    def numbers(array: np.ndarray, dims: tuple[int, ...]) -> bytes:
        return matrix(7, dims, element(7, array.astype(f"{order}f4").tobytes(), order=order), order=order)

    def small(values: list[int]) -> bytes:
        return matrix(6, (1, len(values)), element(2, bytes(values), order=order), order=order)

    def text(value: str) -> bytes:
        letters = element(17, value.encode("utf-16-le" if order == "<" else "utf-16-be"), order=order)
        return matrix(4, (1, len(value)), letters, order=order)

    cells = []
    for step in vgg.steps(weights.architecture):
        if step.kind == "pool":
            cells.append(struct(order, type=text("pool"), pool=small([2, 2]), stride=small([2])))
            continue
        w, b = weights.filters[step.name]
        k, c, _, _ = w.shape
        arrays = {"filters": numbers(w.transpose(0, 1, 3, 2), (3, 3, c, k)), "biases": numbers(b, (k, 1))}
        cells += [struct(order, type=text("conv"), pad=small([1]), **arrays), struct(order, type=text("relu"))]
    whole = matrix(1, (1, len(cells)), b"".join(cells), "layers", order)
    return mat_file().replace(b"\x00\x01IM", b"\x00\x01IM" if order == "<" else b"\x01\x00MI") + whole


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
def test_both_byte_orders_and_packed_numbers_are_read(tmp_path, small, order):
    (tmp_path / "a.mat").write_bytes(by_hand(small, order))
    assert scipy.io.loadmat(tmp_path / "a.mat")["layers"][0, 0]["pad"][0, 0] == 1
    assert same_filters(matconvnet.read(tmp_path / "a.mat"), small)


@pytest.mark.parametrize(
    "compressed", [pytest.param(False, marks=pytest.mark.slow, id="plain"), pytest.param(True, id="compressed")]
)
def test_damaged_files_give_one_line_or_finite_weights(tmp_path, small, compressed):
    whole = write_matconvnet(tmp_path / "a", small, compressed=compressed).read_bytes()
    assert 100 < survive(matconvnet, tmp_path / "a", mutations(whole, 210, seed=5), memory=600_000) < 210


@pytest.mark.slow
def test_damage_behind_the_compression_gives_one_line_or_finite_weights(tmp_path, small):
    variables = matconvnet_variables(small, "tidy")
    scipy.io.savemat(tmp_path / "a", variables, appendmat=False, oned_as="row")
    plain = (tmp_path / "a").read_bytes()[128:]
    packed = (mat_file(element(15, zlib.compress(damaged, 1))) for damaged in mutations(plain, 210, seed=7))
    assert 100 < survive(matconvnet, tmp_path / "a", packed, memory=600_000) < 210


def test_other_containers_are_not_taken_for_matlabs(tmp_path):
    for name, content in FOREIGN.items():
        (tmp_path / "a").write_bytes(content)
        assert matconvnet.recognise(tmp_path / "a") == (name == "MAT-file")
    assert not matconvnet.recognise(Path(tmp_path))
    assert "header that ends in" in refusal(matconvnet, tmp_path / "a", FOREIGN["MAT-file"])
