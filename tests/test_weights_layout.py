"""The project's own weights file: what is written is read back, bit for bit or within the stated loss."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import random_weights
from weights_files import refused, same

from nstcore import vgg
from nstcore.errors import OptionError, OutputError
from nstcore.pretrained import Preprocessing, Weights, hdf5, read_weights, write_weights
from nstcore.pretrained.storage import decode, encode, rounding
from nstcore.pretrained.weights import text_sha256

STORAGES = ("float32", "float16", "int8")


@pytest.fixture
def weights(monkeypatch) -> Weights:
    """A network of four small convolutions under the name of vgg19, so that a file has a few kilobytes."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


@pytest.mark.parametrize("deepest", ["conv1_2", "conv5_1"])
def test_float32_comes_back_bit_for_bit(tmp_path, deepest):
    weights = random_weights(deepest=deepest)
    stored = write_weights(tmp_path / "w.h5", weights)
    back = read_weights(tmp_path / "w.h5")
    assert same(stored, back)
    assert back.sha256 == weights.sha256
    assert back.deepest == deepest
    for conv, arrays in weights.filters.items():
        for given, found in zip(arrays, back.filters[conv], strict=True):
            assert found.tobytes() == given.tobytes()
            assert found.flags.c_contiguous


def test_vgg16_and_every_convention_come_back(tmp_path):
    weights = dataclasses.replace(
        random_weights("vgg16", "conv2_1", padding="replicate", pooling="l2"),
        preprocessing=Preprocessing("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        provenance={**dict.fromkeys(("source", "source_sha256", "licence", "converter"), "x"), "seed": "7, \u00e9"},
    )
    assert same(write_weights(tmp_path / "w.h5", weights), read_weights(tmp_path / "w.h5"))
    back = read_weights(tmp_path / "w.h5")
    assert (back.padding, back.pooling, back.preprocessing) == ("replicate", "l2", weights.preprocessing)
    assert back.provenance["seed"] == "7, \u00e9"


@pytest.mark.parametrize("storage", STORAGES)
def test_what_write_returns_is_what_read_gives(tmp_path, weights, storage):
    stored = write_weights(tmp_path / "w.h5", weights, storage)
    assert same(stored, read_weights(tmp_path / "w.h5"))
    assert stored.provenance["storage"] == storage


def test_float16_is_off_by_at_most_half_a_step(tmp_path):
    weights = random_weights(deepest="conv2_2")
    stored = write_weights(tmp_path / "w.h5", weights, "float16")
    for conv, (weight, bias) in weights.filters.items():
        error = np.abs(stored.filters[conv][0] - weight)
        assert np.all(error <= np.maximum(np.abs(weight) * 2.0**-11, 2.0**-25))
        assert error.max() > 0
        assert np.array_equal(stored.filters[conv][1], bias)
    assert 0 < float(stored.provenance["rounding"]) <= 2.0**-11


def test_int8_is_off_by_at_most_a_254th_of_the_largest_of_its_filter(tmp_path):
    weights = random_weights(deepest="conv2_2")
    stored = write_weights(tmp_path / "w.h5", weights, "int8")
    worst = 0.0
    for conv, (weight, _) in weights.filters.items():
        largest = np.abs(weight).max(axis=(1, 2, 3))
        worst = max(worst, (np.abs(stored.filters[conv][0] - weight).max(axis=(1, 2, 3)) / largest).max())
    assert 0.5 / 254 < worst <= 1.0001 / 254
    assert float(stored.provenance["rounding"]) == pytest.approx(worst, rel=0.01)


def test_a_filter_of_zeros_stays_zero_in_int8():
    weight = np.ones((2, 3, 3, 3), np.float32)
    weight[1] = 0
    packed, scale = encode(weight, "int8")
    back = decode(packed, scale)
    assert np.all(back[1] == 0)
    assert rounding(weight, back) <= 1e-6


def test_float16_refuses_what_it_cannot_hold(tmp_path, weights):
    weights.filters["conv2_1"][0][0, 0, 0, 0] = 7e4
    message = refused(write_weights, tmp_path / "w.h5", weights, "float16")
    assert "conv2_1/weight: 70000 is beyond" in message
    assert list(tmp_path.iterdir()) == []


def test_int8_chunks_may_be_stored_as_they_are(tmp_path, weights):
    path = tmp_path / "w.h5"
    stored = write_weights(path, weights, "int8")
    with h5py.File(path, "r+") as file:
        dataset = file["conv2_2/weight"]
        dataset.id.write_direct_chunk((0, 0, 0, 0), dataset[...].tobytes(), filter_mask=1)
    assert same(stored, read_weights(path))


@pytest.mark.parametrize("storage", STORAGES)
def test_the_same_weights_give_the_same_bytes(tmp_path, weights, storage):
    for name in "ab":
        write_weights(tmp_path / name, weights, storage)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_hash_is_over_what_the_picture_depends_on(weights):
    same_network = dataclasses.replace(weights, name="other", provenance={"source": "elsewhere"})
    assert same_network.sha256 == weights.sha256
    pre = weights.preprocessing
    for change in (
        {"padding": "replicate"},
        {"pooling": "average"},
        {"preprocessing": dataclasses.replace(pre, channel_order="rgb")},
        {"preprocessing": dataclasses.replace(pre, mean=(1.0, 2.0, 3.0))},
        {"filters": {conv: (weight, bias * 2) for conv, (weight, bias) in weights.filters.items()}},
    ):
        assert dataclasses.replace(weights, **change).sha256 != weights.sha256


def test_the_file_says_what_the_readme_says(tmp_path, weights):
    text = (Path(__file__).parents[1] / "weights" / "README.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE))))
    write_weights(tmp_path / "w.h5", weights)
    with h5py.File(tmp_path / "w.h5") as file:
        assert set(file.attrs) == documented
        facts = {name: hdf5.attribute(file, name) for name in file.attrs}
    sealed = {name: value for name, value in facts.items() if name != "attributes_sha256"}
    assert facts["attributes_sha256"] == text_sha256(sealed)


# ---- writing


def test_missing_provenance_is_named(tmp_path, weights):
    weights = dataclasses.replace(weights, provenance={"source": "x", "source_sha256": "x", "converter": "x"})
    assert "licence is missing" in refused(write_weights, tmp_path / "w.h5", weights)


def test_provenance_cannot_pose_as_a_fact_of_the_layout(tmp_path, weights):
    weights = dataclasses.replace(weights, provenance={**weights.provenance, "padding": "mirror"})
    assert "padding is not provenance" in refused(write_weights, tmp_path / "w.h5", weights)


def test_an_unknown_storage_is_refused(tmp_path, weights):
    assert "storage: expected one of" in refused(write_weights, tmp_path / "w.h5", weights, "int4", error=OptionError)


def test_places_where_nothing_can_be_written_leave_nothing_behind(tmp_path, weights):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "no" / "w.h5", tmp_path / "file" / "w.h5"):
        refused(write_weights, place, weights, error=OutputError)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files with setrlimit")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "w.h5"
    write_weights(path, random_weights(deepest="conv1_1"))
    old = path.read_bytes()
    script = f"""
import resource, signal, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from conftest import random_weights
from nstcore.errors import OutputError
from nstcore.pretrained import write_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    write_weights({str(path)!r}, random_weights(deepest="conv2_2"))
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "cannot be written" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["w.h5"]
