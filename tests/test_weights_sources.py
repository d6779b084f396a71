"""Published checkpoints that are damaged, foreign or hostile: always one clear line, and nothing left behind."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from conftest import random_weights
from weights_files import conversion_refused, edit_model, write_keras, write_tfjs

from nstcore import vgg
from nstcore.errors import OptionError, OutputError, WeightsError
from nstcore.pretrained import Weights, convert, read_weights
from nstcore.pretrained.readers import READERS, read_source


@pytest.fixture
def small(monkeypatch) -> Weights:
    """A network of a few kilobytes under the name of vgg19, and a smaller one under that of vgg16."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg16", ((1, 4), (2, 6)))
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


# ---- Keras files that are refused


def test_a_layer_that_is_missing_is_named(tmp_path, small):
    source = write_keras(tmp_path / "keras.h5", small)
    for layer, words in (
        ("block1_conv1", "expected all 4 convolutions of vgg19; block1_conv1 is missing"),
        ("block2_conv1", "expected all 3 convolutions of vgg16; block1_conv1 is missing"),
    ):
        with h5py.File(source, "r+") as file:
            del file[layer]
            if layer == "block2_conv1":
                del file["block2_conv3"]
        assert words in conversion_refused(source)


def test_a_vgg19_without_its_last_layer_is_not_taken_for_a_vgg16(tmp_path):
    weights = random_weights(deepest="conv5_3")
    assert "expected all 16 convolutions of vgg19; block5_conv4 is missing" in conversion_refused(
        write_keras(tmp_path / "keras.h5", weights)
    )


def test_layers_of_no_known_network_are_refused(tmp_path, small):
    source = write_keras(tmp_path / "keras.h5", small)
    with h5py.File(source, "r+") as file:
        file.create_group("block6_conv1")
    assert "block6_conv1: vgg16 and vgg19 have no such layer" in conversion_refused(source)
    with h5py.File(source, "w") as file:
        file.create_group("conv2d_1")
    assert "expected VGG layers named block1_conv1" in conversion_refused(source)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("block2_conv1_W_1:0", np.zeros((3, 3, 6, 4), "f4"), "expected float32 or float16 (3, 3, 4, 6), found float32"),
        ("block2_conv1_W_1:0", np.zeros((3, 3, 4, 6), "f8"), "found float64 (3, 3, 4, 6)"),
        ("block2_conv1_b_1:0", np.zeros(5, "f4"), "expected float32 or float16 (6,), found float32 (5,)"),
        ("block2_conv1_b_1:0", np.full(6, np.inf, "f4"), "conv2_1/bias: expected finite numbers, found 6"),
        ("block2_conv1_b_1:0", h5py.ExternalLink("/etc/passwd", "/"), "found a link to elsewhere"),
        ("block2_conv1_b_1:0", h5py.SoftLink("/block2_conv2/block2_conv2_b_1:0"), "found a link to elsewhere"),
        ("block2_conv1_b_1:0", None, "expected block2_conv1_b_1:0 or block2_conv1/bias:0 or block2_conv1/bias"),
    ],
)
def test_keras_arrays_that_do_not_fit_are_refused(tmp_path, small, name, value, words):
    source = write_keras(tmp_path / "keras.h5", small)
    with h5py.File(source, "r+") as file:
        del file[f"block2_conv1/{name}"]
        if value is not None:
            file[f"block2_conv1/{name}"] = value
    assert words in conversion_refused(source)


def test_our_own_file_needs_no_conversion(tmp_path, small):
    convert(write_keras(tmp_path / "keras.h5", small), tmp_path / "own.h5")
    assert "an nstcore file needs no conversion" in conversion_refused(tmp_path / "own.h5")


# ---- TensorFlow.js models that are refused


def first(model: dict, n: int = 0) -> dict:
    return model["weightsManifest"][0]["weights"][n]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(format="graph-model"), "format: expected layers-model, found 'graph-model'"),
        (lambda m: m.pop("weightsManifest"), "weightsManifest: expected a list, found None"),
        (lambda m: m.update(weightsManifest=[3]), "weightsManifest entry: expected an object, found 3"),
        (lambda m: m["weightsManifest"][0].update(paths="x"), "paths: expected a list"),
        (lambda m: m["weightsManifest"][0].update(paths=[1]), "shard path: expected text"),
        (lambda m: m["weightsManifest"][0].update(weights=[]), "expected VGG layers"),
        (lambda m: first(m).update(name=7), "tensor name: expected text"),
        (lambda m: first(m).update(name="a/b\n/c", shape="x"), "shape: expected a list"),
        (lambda m: first(m).update(shape=[3, 3, True, 4]), "shape: expected a whole number"),
        (lambda m: first(m).update(shape=[3, 3, -3, 4]), "shape: expected up to 8 sides"),
        (lambda m: first(m).update(shape=[1 << 40]), "shape: expected up to 8 sides"),
        (lambda m: first(m).update(shape=[1] * 9), "shape: expected up to 8 sides"),
        (lambda m: first(m).update(shape=[3, 3, 4, 3]), "expected shape (3, 3, 3, 4), found (3, 3, 4, 3)"),
        (lambda m: first(m).update(shape=[1 << 30] * 4), "block1_conv1/kernel: expected shape"),
        (lambda m: first(m, -1).update(shape=[1 << 30] * 4), "shards: expected"),
        (lambda m: first(m).update(dtype="string"), "dtype: expected one of"),
        (lambda m: first(m).update(dtype="int32"), "expected float32 or a quantised type, found int32"),
        (lambda m: first(m).update(quantization=1), "quantization: expected an object"),
        (lambda m: first(m).update(quantization={"dtype": "int4"}), "quantised: expected uint8, uint16, float16"),
        (lambda m: first(m).update(quantization={"dtype": "uint8"}), "scale: expected a finite number, found None"),
        (
            lambda m: first(m).update(quantization={"dtype": "uint8", "scale": 10**400, "min": 0}),
            "scale: expected a finite number",
        ),
        (
            lambda m: first(m).update(quantization={"dtype": "uint8", "scale": float("nan"), "min": 0}),
            "scale: expected a finite number",
        ),
        (lambda m: first(m).update(name="block1_conv1/gamma"), "block1_conv1/kernel: expected once in the manifest"),
        (lambda m: first(m, 1).update(name="block1_conv1/kernel"), "expected once in the manifest, found 2 times"),
        (lambda m: first(m, -1).update(name="block1_conv1/gamma"), "expected only kernel and bias"),
        (lambda m: m["weightsManifest"][0]["weights"].pop(6), "block2_conv3/kernel: expected once"),
        (lambda m: m["weightsManifest"][0]["weights"].pop(), "shards: expected"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, small, change, words):
    write_tfjs(tmp_path / "m", small)
    edit_model(tmp_path / "m", change)
    assert words in conversion_refused(tmp_path / "m")


@pytest.mark.parametrize("path", ["../outside.bin", "/etc/passwd", "a/../../x", "", "..\\x", "C:x", "a\x00b", "a\nb"])
def test_a_shard_outside_the_folder_is_refused(tmp_path, small, path):
    write_tfjs(tmp_path / "m", small)
    (tmp_path / "outside.bin").write_bytes(bytes(5000))
    edit_model(tmp_path / "m", lambda m: m["weightsManifest"][0].update(paths=[path]))
    assert "expected a path inside the model's folder" in conversion_refused(tmp_path / "m")


def test_a_missing_shard_is_named(tmp_path, small):
    write_tfjs(tmp_path / "m", small, shard=500)
    names = json.loads((tmp_path / "m" / "model.json").read_text())["weightsManifest"][0]["paths"]
    (tmp_path / "m" / names[1]).unlink()
    assert f"shard {names[1]}: missing or not a file" in conversion_refused(tmp_path / "m")


def test_shards_cut_short_are_refused_even_where_later_ones_are_absent(tmp_path, small):
    write_tfjs(tmp_path / "m", small, shard=500)
    names = json.loads((tmp_path / "m" / "model.json").read_text())["weightsManifest"][0]["paths"]
    (tmp_path / "m" / names[1]).write_bytes(bytes(400))
    assert "one of them is cut short or foreign" in conversion_refused(tmp_path / "m")
    (tmp_path / "m" / names[-1]).unlink()
    assert "expected all but the last of one size" in conversion_refused(tmp_path / "m")


def test_quantised_values_that_overflow_are_refused(tmp_path, small):
    write_tfjs(tmp_path / "m", small, "uint8")
    edit_model(tmp_path / "m", lambda m: first(m)["quantization"].update(scale=1e300))
    assert "conv1_1/weight: expected finite numbers" in conversion_refused(tmp_path / "m")


@pytest.mark.parametrize(
    "text", [b"{", b"{}", b"[1]", b'{"weightsManifest": "x"}', b"{\xff}", b'{"a":' + b"[" * 100_000, b"{} trailing"]
)
def test_malformed_json_is_one_line(tmp_path, text):
    (tmp_path / "model.json").write_bytes(text)
    assert str(tmp_path / "model.json") in conversion_refused(tmp_path / "model.json")


# ---- any source


def test_what_no_reader_recognises_is_refused_with_what_they_are(tmp_path):
    for name, content, words in (
        ("a.gz", b"\x1f\x8b\x08\x00", "begins with 1f 8b 08 00"),
        ("empty", b"", "begins with nothing"),
    ):
        (tmp_path / name).write_bytes(content)
        message = conversion_refused(tmp_path / name)
        assert words in message
        assert all(reader.name in message for reader in READERS)
    assert "no such file" in conversion_refused(tmp_path / "none")
    assert "found a folder without model.json" in conversion_refused(tmp_path)


def test_an_unknown_storage_is_refused_before_anything_is_read(tmp_path):
    assert "storage: expected one of" in conversion_refused(tmp_path / "none", error=OptionError, storage="int4")


def test_the_output_may_not_be_the_source(tmp_path, small):
    source = write_keras(tmp_path / "keras.h5", small)
    before = source.read_bytes()
    (tmp_path / "link.h5").symlink_to(source)
    write_tfjs(tmp_path / "m", small)
    for given, output in (
        (source, source),
        (source, tmp_path / "link.h5"),
        (tmp_path / "m", tmp_path / "m" / "model.json"),
        (tmp_path / "m", next((tmp_path / "m").glob("group1-shard1of*.bin"))),
    ):
        with pytest.raises(OutputError, match="the output is the source itself"):
            convert(given, output)
    assert source.read_bytes() == before
    assert not list(tmp_path.glob("**/*.part"))


def test_no_other_file_is_written_over(tmp_path, small):
    source = write_keras(tmp_path / "keras.h5", small)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"a photograph")
    with pytest.raises(OutputError, match=r"photo\.jpg: expected a weights file or a new name, got another file"):
        convert(source, photo)
    assert photo.read_bytes() == b"a photograph"
    photo.write_bytes(b"")
    convert(source, photo)
    convert(source, photo)


def test_a_name_may_be_given(tmp_path, small):
    convert(write_keras(tmp_path / "keras.h5", small), tmp_path / "out.h5", name="mine")
    assert read_weights(tmp_path / "out.h5").name == "mine"


@pytest.mark.parametrize("container", ["keras", "tfjs"])
def test_a_damaged_source_gives_one_line_or_a_network_of_the_right_shapes(tmp_path, small, container):
    """200 files each. These containers have no checksums, so a changed number may pass; nothing else may happen."""
    if container == "keras":
        source = damaged = write_keras(tmp_path / "keras.h5", small)
    else:
        write_tfjs(tmp_path / "m", small, "uint8")
        source, damaged = tmp_path / "m", tmp_path / "m" / "model.json"
    whole = damaged.read_bytes()
    rng = np.random.default_rng(11)
    messages = []
    for i in range(200):
        content = bytearray(whole)
        at = int(rng.integers(len(whole)))
        if i % 3 == 0:
            del content[at:]
        elif i % 3 == 1:
            content[at] ^= 1 << int(rng.integers(8))
        else:
            content[at : at + 8] = rng.bytes(len(content[at : at + 8]))
        damaged.write_bytes(content)
        try:
            found = read_source(source)
        except WeightsError as error:
            messages.append(str(error))
        else:
            shapes = {conv: w.shape for conv, (w, _) in found.filters.items()}
            assert shapes == vgg.convolutions(found.architecture)
    assert len(messages) > 66
    assert all(map(str.isprintable, messages))
