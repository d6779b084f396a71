"""Published checkpoints: the same network through every container."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import weights_torch_files as torch_files
from conftest import ROOT, SHARED, random_weights
from weights_files import KERAS_STYLES, datasets, edit_model, keras_layer, write_keras, write_tfjs
from weights_proto_files import write_caffe, write_matconvnet

from nstcore import vgg
from nstcore.pretrained import Weights, convert, read_weights, stated_preprocessing
from nstcore.pretrained.readers import READERS
from nstcore.version import __version__


@pytest.fixture
def small(monkeypatch) -> Weights:
    """A network of a few kilobytes under the name of vgg19, and a smaller one under that of vgg16."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg16", ((1, 4), (2, 6)))
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


@pytest.mark.slow
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


def write_onnx(path: Path, weights: Weights) -> Path:
    """Through the real writer."""
    onnx = pytest.importorskip("onnx", reason="the real writer of ONNX files is not installed")
    nodes, initializers, below = [], [], "data"
    for step in vgg.steps(weights.architecture):
        if step.kind == "pool":
            geometry = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4}
            nodes.append(onnx.helper.make_node("MaxPool", [below], [step.name], **geometry))
        else:
            names = [f"{step.name}_weight", f"{step.name}_bias"]
            initializers += map(onnx.numpy_helper.from_array, weights.filters[step.name], names)
            geometry = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4}
            nodes.append(onnx.helper.make_node("Conv", [below, *names], [step.name], **geometry))
            nodes.append(onnx.helper.make_node("Relu", [step.name], [step.output]))
        below = step.output
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", channels, "h", "w"])
        for name, channels in (("data", 3), (below, step.out_channels))
    ]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "vgg", ends[:1], ends[1:], initializers)), path)
    return path


def test_one_network_is_bit_identical_through_every_container(tmp_path, small):
    state = torch_files.state_dict(small)
    sources = {
        "keras_h5": write_keras(tmp_path / "keras.h5", small),
        "torch_legacy": torch_files.write("legacy", tmp_path / "legacy.pth", state),
        "torch_zip": torch_files.write("zip", tmp_path / "zip.pth", state),
        "safetensors": torch_files.write("safetensors", tmp_path / "model.safetensors", state),
        "matconvnet": write_matconvnet(tmp_path / "vgg.mat", small),
        "caffe": write_caffe(tmp_path / "vgg.caffemodel", small),
        "onnx": write_onnx(tmp_path / "vgg.onnx", small),
        "tfjs": tmp_path / "tfjs",
    }
    write_tfjs(sources["tfjs"], small)
    assert sources.keys() == {reader.key for reader in READERS}
    expected = {
        f"{conv}/{name}": array.tobytes()
        for conv, arrays in small.filters.items()
        for name, array in zip(("weight", "bias"), arrays, strict=True)
    }
    for reader in READERS:
        source, output = sources[reader.key], tmp_path / f"{reader.key}.h5"
        assert [other.key for other in READERS if other.recognise(source)] == [reader.key]
        told = reader.read(source).preprocessing
        stated = told or stated_preprocessing("bgr", 255)
        weights = convert(source, output, preprocessing=None if told else stated)
        assert datasets(output) == expected, reader.key
        assert weights.provenance["container"] == reader.name
        assert weights.preprocessing == stated


MEASURE = """
import sys
from nstcore.pretrained import convert, stated_preprocessing
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
before = peak()
convert(sys.argv[1], sys.argv[2], preprocessing=stated_preprocessing("bgr", 255))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc/self/status")
@pytest.mark.parametrize("container", ["keras", *torch_files.READERS])
def test_a_file_of_575_megabytes_takes_little_more_memory_than_its_convolutions(tmp_path, container):
    """At most 1.3 times the convolutions' 80 MB beyond the interpreter and its libraries."""
    weights = random_weights(deepest="conv5_4")
    if container == "keras":
        source = write_keras(tmp_path / "whole.h5", weights, classifier=False)
        with h5py.File(source, "r+") as file:
            for layer, shape in (("fc1", (25088, 4096)), ("fc2", (4096, 4096)), ("predictions", (4096, 1000))):
                how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                name, space = f"{layer}_W_1:0".encode(), h5py.h5s.create_simple(shape)
                h5py.h5d.create(file.create_group(layer).id, name, h5py.h5t.IEEE_F32LE, space, how)
    else:
        source = torch_files.write(container, tmp_path / "whole", torch_files.state_dict(weights, classifier=True))
    assert source.stat().st_size > 574e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, source, tmp_path / "out.h5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    convolutions = sum(w.nbytes + b.nbytes for w, b in weights.filters.values())
    print(f"{container}: {int(done.stdout) / 1e6:.0f} MB for {convolutions / 1e6:.0f} MB of convolutions")
    assert int(done.stdout) < 1.3 * convolutions


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
