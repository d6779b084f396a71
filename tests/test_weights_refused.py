"""Files that are not ours, or not as they were written: always one clear line."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import random_weights
from weights_files import refused, replace_dataset, reseal, same

from nstcore import vgg
from nstcore.errors import WeightsError
from nstcore.pretrained import Weights, hdf5, read_weights, write_weights
from nstcore.pretrained.layout import FORMAT
from nstcore.pretrained.weights import array_sha256

STORAGES = ("float32", "float16", "int8")


@pytest.fixture
def weights(monkeypatch) -> Weights:
    """A network of four small convolutions under the name of vgg19, so that a file has a few kilobytes."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


@pytest.fixture
def path(tmp_path, weights) -> Path:
    path = tmp_path / "small.h5"
    write_weights(path, weights)
    return path


def test_what_is_no_file_is_refused(tmp_path):
    assert "no such file" in refused(read_weights, tmp_path / "none.h5")
    assert "found a folder" in refused(read_weights, tmp_path)
    assert "no such file" in refused(read_weights, tmp_path / ("x" * 300))
    assert "no such file" in refused(read_weights, tmp_path / "two\nlines.h5")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "expected a regular file" in refused(read_weights, tmp_path / "pipe")


def test_what_is_no_hdf5_is_refused(tmp_path):
    for content, words in ((b"", "begins with nothing"), (b"PK\x03\x04", "50 4b 03 04")):
        (tmp_path / "w.h5").write_bytes(content)
        assert words in refused(read_weights, tmp_path / "w.h5")


def test_another_hdf5_is_refused_with_the_command_that_converts_it(tmp_path):
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        file["block1_conv1/block1_conv1_W_1:0"] = np.zeros((3, 3, 3, 64), np.float32)
    assert "python -m nstcore weights convert FILE" in refused(read_weights, tmp_path / "keras.h5")


def test_another_version_is_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 2
    assert "format_version: expected 1, found 2" in refused(read_weights, path)
    with h5py.File(path, "r+") as file:
        hdf5.set_attribute(file, "format", "theirs")
    assert f"format: expected {FORMAT}, found theirs" in refused(read_weights, path)


ATTRIBUTES = (
    *("name", "architecture", "channel_order", "range", "mean", "std", "padding", "pooling", "source"),
    *("source_sha256", "licence", "converter", "storage", "rounding", "sha256", "attributes_sha256", "format_version"),
)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_missing_attribute_is_named(path, name):
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
    assert f"attribute {name}: missing" in refused(read_weights, path)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_changed_attribute_is_noticed(path, name):
    with h5py.File(path, "r+") as file:
        value = hdf5.attribute(file, name)
        changed = f"{value}x" if isinstance(value, str) else np.array(value) + 1
        hdf5.set_attribute(file, name, changed)
    refused(read_weights, path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("range", "255", "attribute range: expected float, found str"),
        ("mean", [1.0, 2.0], "mean: expected three finite numbers"),
        ("std", [1.0, 0.0, 1.0], "std: expected three numbers above 0"),
        ("name", 3, "attribute name: expected str, found int"),
        ("name", "a\nb", "attribute name: expected one line of plain text"),
        ("architecture", "vgg11", "attribute architecture: expected one of vgg16, vgg19"),
        ("storage", "int4", "attribute storage: expected one of float32, float16, int8"),
        ("padding", "mirror", "padding: expected one of"),
        ("sha256", "0" * 64, "attribute sha256: expected"),
        ("mean", np.zeros((100, 100)), "attribute mean: expected"),
    ],
)
def test_an_attribute_that_makes_no_sense_is_refused_even_if_its_hash_fits(path, name, value, words):
    with h5py.File(path, "r+") as file:
        hdf5.set_attribute(file, name, value)
        try:
            reseal(file)
        except WeightsError:
            assert isinstance(value, np.ndarray) or "\n" in str(value)  # what cannot even be read cannot be sealed
    assert words in refused(read_weights, path)


def test_text_of_variable_length_is_refused_unread(path):
    with h5py.File(path, "r+") as file:
        file.attrs["licence"] = "text as h5py writes it"
    assert "attribute licence: expected text of fixed length" in refused(read_weights, path)


@pytest.mark.parametrize("name", ["conv1_1/weight", "conv2_2/bias"])
def test_a_changed_number_is_noticed_and_its_dataset_named(path, name):
    with h5py.File(path, "r+") as file:
        file[name][...] = np.nextafter(file[name][...], np.float32(9))
    assert f"/{name}: its data does not fit its sha256" in refused(read_weights, path)


def test_numbers_that_are_not_finite_are_refused_even_if_their_hash_fits(path):
    with h5py.File(path, "r+") as file:
        dataset = file["conv2_1/weight"]
        dataset[0, 0, 0, 0] = np.inf
        hdf5.set_attribute(dataset, "sha256", array_sha256(dataset[...]))
    assert "conv2_1/weight: expected finite numbers, found 1" in refused(read_weights, path)


def test_a_scale_that_overflows_is_refused(tmp_path, weights):
    write_weights(tmp_path / "w.h5", weights, "int8")
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        dataset = file["conv2_1/scale"]
        dataset[...] = np.float32(3e38)
        hdf5.set_attribute(dataset, "sha256", array_sha256(dataset[...]))
    assert "conv2_1/weight: expected finite numbers" in refused(read_weights, tmp_path / "w.h5")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": np.zeros((6, 4, 3, 2), "f4")}, "expected float32 (6, 4, 3, 3), found float32 (6, 4, 3, 2)"),
        ({"data": np.zeros((6, 4, 3, 3), "f8")}, "found float64 (6, 4, 3, 3)"),
        ({"data": np.zeros((6, 4, 3, 3), "f2")}, "found float16 (6, 4, 3, 3)"),
        ({"data": np.zeros((6, 4, 3, 3), [("a", "f4")])}, "expected float32"),
        ({"data": np.zeros((6, 4, 3, 3), "f4"), "compression": "gzip"}, "expected plain storage"),
        ({"shape": (6, 4, 3, 3), "dtype": "f4"}, "never written"),
        ({"shape": (6, 4, 3, 3), "dtype": "f4", "external": [("secret", 0, 864)]}, "found external storage"),
        ({"shape": (10**9, 10**9), "dtype": "f4", "chunks": (1, 1)}, "found float32 (1000000000, 1000000000)"),
    ],
)
def test_a_dataset_that_is_declared_otherwise_is_refused_before_it_is_read(path, options, words):
    (path.parent / "secret").write_bytes(b"s" * 864)
    with h5py.File(path, "r+") as file:
        replace_dataset(file, "conv2_1/weight", **options)
    message = refused(read_weights, path)
    assert "/conv2_1/weight: " in message
    assert words in message


def test_a_virtual_dataset_is_refused(path):
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["w"] = np.zeros((6, 4, 3, 3), "f4")
    layout = h5py.VirtualLayout((6, 4, 3, 3), "f4")
    layout[...] = h5py.VirtualSource(path.parent / "other.h5", "w", (6, 4, 3, 3))
    with h5py.File(path, "r+") as file:
        del file["conv2_1/weight"]
        file.create_virtual_dataset("conv2_1/weight", layout)
    assert "virtual dataset" in refused(read_weights, path)


@pytest.mark.parametrize("name", ["conv2_1", "conv2_1/weight"])
@pytest.mark.parametrize("link", [h5py.SoftLink("/conv2_2/weight"), h5py.ExternalLink("other.h5", "/w")])
def test_links_are_never_followed(path, name, link):
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = link
    assert f"/{name}: expected data in this file, found a link" in refused(read_weights, path)


def test_foreign_members_are_refused(path):
    for name, words in (
        ("fc6/weight", "fc6: expected only convolutions"),
        ("conv1_1/gamma", "/conv1_1/gamma: expected"),
    ):
        with h5py.File(path, "r+") as file:
            file[name] = np.zeros(3)
        assert words in refused(read_weights, path)
        with h5py.File(path, "r+") as file:
            del file[name.split("/")[0] if name.startswith("fc6") else name]


def test_missing_members_are_named(path):
    with h5py.File(path, "r+") as file:
        del file["conv2_3/bias"]
    assert "/conv2_3/bias: missing" in refused(read_weights, path)
    with h5py.File(path, "r+") as file:
        del file["conv2_1"]
    assert "conv2_1: missing, although conv2_2 is there" in refused(read_weights, path)


def test_a_convolution_that_was_cut_off_the_end_is_noticed(path):
    with h5py.File(path, "r+") as file:
        del file["conv2_3"]
    assert "attribute sha256: expected" in refused(read_weights, path)


def test_a_dataset_in_the_place_of_a_group_is_refused(path):
    with h5py.File(path, "r+") as file:
        replace_dataset(file, "conv2_3", data=np.zeros(3))
    assert "/conv2_3: expected a group, found a dataset" in refused(read_weights, path)


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (zlib.compress(bytes(100_000)), "a chunk does not hold the 216 bytes"),
        (zlib.compress(bytes(215)), "a chunk does not hold the 216 bytes"),
        (zlib.compress(bytes(216))[:-5], "a chunk does not hold the 216 bytes"),
        (zlib.compress(bytes(10_000_000)), "a chunk is larger than the data it stands for"),
        (b"no zlib stream", "damaged or cut short"),
    ],
    ids=["bomb", "short", "cut", "huge", "noise"],
)
def test_a_chunk_that_does_not_inflate_to_its_size_is_refused(tmp_path, weights, packed, words):
    write_weights(tmp_path / "w.h5", weights, "int8")
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        shape = (6, 4, 3, 3)
        dataset = replace_dataset(
            file, "conv2_1/weight", shape=shape, dtype="i1", chunks=shape, compression="gzip", compression_opts=9
        )
        dataset.id.write_direct_chunk((0, 0, 0, 0), packed)
    assert words in refused(read_weights, tmp_path / "w.h5")


def test_chunks_of_another_shape_are_refused(tmp_path, weights):
    write_weights(tmp_path / "w.h5", weights, "int8")
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        data = file["conv2_1/weight"][...]
        replace_dataset(file, "conv2_1/weight", data=data, chunks=(1, 4, 3, 3), compression="gzip")
    assert "expected gzip chunks of (6, 4, 3, 3), found (1, 4, 3, 3)" in refused(read_weights, tmp_path / "w.h5")


@pytest.mark.parametrize("storage", STORAGES)
def test_a_damaged_file_is_refused_or_harmless(tmp_path, weights, storage):
    """200 files each: cut short, bits flipped, bytes replaced, runs overwritten."""
    path = tmp_path / "w.h5"
    stored = write_weights(path, weights, storage)
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    messages = []
    for i in range(200):
        damaged = bytearray(whole)
        at = int(rng.integers(len(whole)))
        if i % 4 == 0:
            del damaged[at:]
        elif i % 4 == 1:
            damaged[at] ^= 1 << int(rng.integers(8))
        elif i % 4 == 2:
            damaged[at] = int(rng.choice([0, 127, 128, 255]))
        else:
            damaged[at : at + 12] = rng.bytes(len(damaged[at : at + 12]))
        path.write_bytes(damaged)
        try:
            back = read_weights(path)
        except WeightsError as error:
            messages.append(str(error))
        else:
            assert same(back, stored)
    assert len(messages) > 100
    assert all(map(str.isprintable, messages))
    path.write_bytes(whole)
    assert same(read_weights(path), stored)
