"""Published checkpoints: the same network through every container."""

from __future__ import annotations

import hashlib
import json

import h5py
import numpy as np
import pytest
from conftest import SHARED, random_weights
from weights_files import KERAS_STYLES, datasets, edit_model, keras_layer, write_keras, write_tfjs

from nstcore import vgg
from nstcore.pretrained import Weights, convert, read_weights
from nstcore.version import __version__


@pytest.fixture
def small(monkeypatch) -> Weights:
    """A network of a few kilobytes under the name of vgg19, and a smaller one under that of vgg16."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg16", ((1, 4), (2, 6)))
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


def test_the_whole_vgg19_is_bit_identical_through_keras_and_tfjs(tmp_path):
    weights = random_weights(deepest="conv5_4")
    keras = convert(write_keras(tmp_path / "keras.h5", weights), tmp_path / "a.h5")
    write_tfjs(tmp_path / "tfjs", weights, shard=4 << 20)
    tfjs = convert(tmp_path / "tfjs", tmp_path / "b.h5")
    assert keras.sha256 == tfjs.sha256
    assert len(keras.filters) == 16
    assert keras.deepest == "conv5_4"
    assert datasets(tmp_path / "a.h5") == datasets(tmp_path / "b.h5")
    for conv, (weight, bias) in weights.filters.items():
        assert np.array_equal(keras.filters[conv][0], weight)
        assert np.array_equal(keras.filters[conv][1], bias)


def test_the_whole_vgg16_is_recognised(tmp_path):
    weights = random_weights("vgg16", deepest="conv5_3")
    stored = convert(write_keras(tmp_path / "keras.h5", weights, "keras2"), tmp_path / "out.h5", "float16")
    assert stored.architecture == stored.name == "vgg16"
    assert len(stored.filters) == 13


@pytest.mark.parametrize("classifier", [True, False])
@pytest.mark.parametrize("style", KERAS_STYLES)
def test_every_age_of_keras_file_is_read(tmp_path, small, style, classifier):
    source = write_keras(tmp_path / "keras.h5", small, style, classifier)
    convert(source, tmp_path / "out.h5")
    back = read_weights(tmp_path / "out.h5")
    for conv, (weight, bias) in small.filters.items():
        assert np.array_equal(back.filters[conv][0], weight)
        assert np.array_equal(back.filters[conv][1], bias)
    pre = back.preprocessing
    assert (pre.channel_order, pre.range, pre.std) == ("bgr", 255.0, (1.0, 1.0, 1.0))
    assert pre.mean == (103.939, 116.779, 123.68)
    assert (back.padding, back.pooling, back.architecture) == ("zero", "max", "vgg19")
    assert back.provenance["source"] == "keras.h5"
    assert back.provenance["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert back.provenance["container"] == "Keras HDF5"
    assert back.provenance["converter"] == f"nstcore {__version__}"


@pytest.mark.parametrize("stored", ["float32", "float16", "uint8", "uint16"])
@pytest.mark.parametrize("shard", [7, 100, 10**6])
def test_tensors_that_straddle_shards_are_decoded_exactly(tmp_path, small, stored, shard):
    decoded = write_tfjs(tmp_path / "m", small, stored, shard)
    for source in (tmp_path / "m", tmp_path / "m" / "model.json"):
        weights = convert(source, tmp_path / "out.h5")
        for conv, (weight, bias) in weights.filters.items():
            assert np.array_equal(weight, decoded[f"{keras_layer(conv)}/kernel"].transpose(3, 2, 0, 1))
            assert np.array_equal(bias, decoded[f"{keras_layer(conv)}/bias"])


def test_big_endian_and_half_precision_keras_files_are_read(tmp_path, small):
    for dtype, error in ((">f4", 0.0), ("<f2", 2.0**-11)):
        source = write_keras(tmp_path / "keras.h5", small)
        with h5py.File(source, "r+") as file:
            kernel = file["block1_conv1/block1_conv1_W_1:0"][...]
            del file["block1_conv1/block1_conv1_W_1:0"]
            file["block1_conv1/block1_conv1_W_1:0"] = kernel.astype(dtype)
        weight = convert(source, tmp_path / "out.h5").filters["conv1_1"][0]
        assert np.abs(weight - small.filters["conv1_1"][0]).max() <= error * 2


def test_the_hash_of_a_tfjs_source_is_that_of_its_files_joined(tmp_path, small):
    write_tfjs(tmp_path / "m", small, shard=600)
    weights = convert(tmp_path / "m", tmp_path / "out.h5")
    convolutions = 4 * sum(w.size + b.size for w, b in small.filters.values())
    files = [tmp_path / "m" / "model.json"]
    names = json.loads(files[0].read_text())["weightsManifest"][0]["paths"]
    files += [tmp_path / "m" / name for name in names[: -(-convolutions // 600)]]
    assert len(files) < len(names)
    assert weights.provenance["source"] == "m/model.json"
    assert weights.provenance["source_sha256"] == hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def test_shards_of_the_classifier_may_be_absent(tmp_path, small):
    decoded = write_tfjs(tmp_path / "m", small, shard=600)
    for path in json.loads((tmp_path / "m" / "model.json").read_text())["weightsManifest"][0]["paths"][-5:]:
        (tmp_path / "m" / path).unlink()
    weights = convert(tmp_path / "m", tmp_path / "out.h5")
    assert np.array_equal(weights.filters["conv2_3"][1], decoded["block2_conv3/bias"])


def test_scopes_and_several_groups_make_no_difference(tmp_path, small):
    write_tfjs(tmp_path / "m", small, classifier=False)
    plain = convert(tmp_path / "m", tmp_path / "out.h5")

    def split(model):
        group = model["weightsManifest"][0]
        whole = b"".join((tmp_path / "m" / path).read_bytes() for path in group["paths"])
        head = 4 * sum(int(np.prod(entry["shape"])) for entry in group["weights"][:3])
        (tmp_path / "m" / "a.bin").write_bytes(whole[:head])
        (tmp_path / "m" / "b.bin").write_bytes(whole[head:])
        for entry in group["weights"]:
            entry["name"] = f"model/vgg/{entry['name']}:0"
        model["weightsManifest"] = [
            {"paths": ["b.bin"], "weights": group["weights"][3:]},
            {"paths": ["a.bin"], "weights": group["weights"][:3]},
        ]

    edit_model(tmp_path / "m", split)
    assert convert(tmp_path / "m", tmp_path / "out.h5").sha256 == plain.sha256


def test_the_published_vgg19_has_the_published_numbers(vgg19):
    """Filter 0 of conv1_1, first row, input channel 0, and its bias, of the Oxford weights; within a step of uint8."""
    weight, bias = vgg19.filters["conv1_1"]
    manifest = json.loads((SHARED / "vgg19_uint8_tfjs" / "model.json").read_text())["weightsManifest"][0]["weights"]
    kernel_step, bias_step = (manifest[i]["quantization"]["scale"] for i in (0, 1))
    assert np.abs(weight[0, 0, 0] - [0.341195, 0.339992, -0.044844]).max() <= kernel_step
    assert abs(bias[0] - 0.7301776) <= bias_step
    assert (vgg19.architecture, len(vgg19.filters), vgg19.deepest) == ("vgg19", 16, "conv5_4")
    assert sum(w.size + b.size for w, b in vgg19.filters.values()) == 20_024_384
