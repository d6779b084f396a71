"""What is published: every entry is checked data, and what it says must agree with the file."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, SHARED, random_weights
from weights_files import conversion_refused, refused, write_keras

from nstcore import vgg
from nstcore.errors import OptionError
from nstcore.pretrained import Preprocessing, Weights, convert, places, readers, stated_preprocessing
from nstcore.pretrained.convert import convert_entry, same_preprocessing
from nstcore.pretrained.readers import Source, keras
from nstcore.pretrained.registry import Digests, Registry, default_registry, file_digests, read_registry

REGISTRY = ROOT / "weights" / "registry.toml"
OXFORD = keras.PREPROCESSING
TORCHVISION = Preprocessing("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The networks of weights/README.md, by what tells them apart
PUBLISHED = {
    "vgg19": "253f8cb515780f3b799900260a226db6",
    "vgg19-keras-full": "cbe5617147190e668d6c5d5026f83318",
    "vgg16": "6d6bbae143d832006294945121d1f1fc",
    "vgg16-keras-full": "64373286793e3c8b2b4e3219cbf3544b",
    "vgg19-torchvision": "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    "vgg16-torchvision": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "vgg19-matconvnet-beta16": "8ee3263992981a1d26e73b3ca028a123",
    "vgg19-matconvnet": "106118b7cf60435e6d8e04f6a6dc3657",
    "vgg19-caffe": "239785e7862442717d831f682bb824055e51e9ba",
    "vgg16-caffe": "9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24",
    "vgg19-onnx": "692f9f927f1df1b89033787a77a73eac59fd9b3344f9ecdf0b13221e41c2046f",
    "vgg19-timm": "11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
    "vgg19-adain": "804ca2835ecf7539f0cd2a7ac3c18ce81e6f8468969ae7117ac0c148d286bb4a",
}
ENTRIES = default_registry().entries


@pytest.fixture
def small(monkeypatch) -> Weights:
    """A network of a few kilobytes under the name of vgg19."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


def knowing(path: Path, **changes: object) -> Registry:
    """A registry that knows this file under the name of vgg19-onnx, with that entry's facts but for the changes."""
    listed = ENTRIES["vgg19-onnx"]
    file = replace(listed.files[0], nbytes=None, hashes={"md5": file_digests([path]).hashes["md5"]})
    entry = replace(listed, files=(file,), **changes)
    return Registry({entry.name: entry})


# ---- the file


VGGS = [entry for entry in ENTRIES.values() if entry.kind == "vgg"]


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda entry: entry.name)
def test_every_entry_makes_sense(entry):
    assert entry.architecture in entry.name
    assert entry.published or "address" in entry.note or "no download" in entry.note
    for file in entry.files:
        for url in file.urls:
            assert url.endswith(file.file)


@pytest.mark.parametrize("entry", VGGS, ids=lambda entry: entry.name)
def test_every_vgg_makes_sense(entry):
    assert len(entry.files) == 1
    assert entry.container in {reader.key for reader in readers.READERS}
    # one of the two trainings, in one of the two orders
    assert any(
        same_preprocessing(entry.preprocessing, pre) for pre in (OXFORD, TORCHVISION, stated_preprocessing("rgb", 255))
    )
    assert (entry.preprocessing.range == 1) == (entry.licence.startswith(("BSD", "Apache")))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_hash_is_known_and_finds_its_entry(name):
    (file,) = ENTRIES[name].files
    assert PUBLISHED[name] in file.hashes.values()
    hashes = {kind: "0" * digits for kind, digits in {"sha256": 64, "sha1": 40, "git_blob": 40, "md5": 32}.items()}
    digests = Digests(file.nbytes or 1, hashes | file.hashes)
    assert default_registry().find(digests) is ENTRIES[name]
    for kind in file.hashes:
        assert default_registry().find(replace(digests, hashes=digests.hashes | {kind: "1" * 64})) is None


def test_a_prefix_of_a_hash_finds_its_entry_and_no_hash_finds_none():
    hashes = {"sha256": "d01eb7cb" + "0" * 56, "sha1": "", "git_blob": "", "md5": ""}
    assert default_registry().find(Digests(7, hashes)).name == "vgg19-jcjohnson"
    assert not ENTRIES["vgg19-gatys"].fits([Digests(7, hashes)])
    assert ENTRIES["vgg19-gatys"].files[0].mismatch(Digests(7, hashes)) is None


def test_the_registry_travels_with_the_package():
    assert default_registry().entries == read_registry(REGISTRY).entries
    assert places.data_path("registry.toml") == REGISTRY
    assert '"*.toml"' in (ROOT / "setup.py").read_text()
    assert (
        ENTRIES[places.DEFAULT_NETWORK].nbytes
        == min(entry.nbytes or 10**9 for entry in VGGS if entry.architecture == "vgg19" and entry.published)
        or ENTRIES[places.DEFAULT_NETWORK].nbytes < 100e6
    )


def test_every_hash_is_that_of_the_common_tools(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"what is up, doc?")
    digests = file_digests([path])
    # the example of the Git book, "Git Objects"
    assert digests.hashes["git_blob"] == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"
    for kind in ("sha256", "sha1", "md5"):
        assert digests.hashes[kind] == hashlib.new(kind, path.read_bytes()).hexdigest()
    assert digests.nbytes == 16
    assert file_digests([path, path]).sha256 == hashlib.sha256(path.read_bytes() * 2).hexdigest()
    assert "cannot be read" in refused(file_digests, [tmp_path / "none"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("format = 1", "format = 2", "format: expected 1, found 2"),
        ("format = 1", "format = 1\nother = 2", "expected format and [[entry]] tables"),
        ('name = "vgg16"', 'name = "vgg19"', "entry vgg19: name: it is taken"),
        ('name = "vgg16"', 'name = "auto"', "name: expected lower-case words"),
        ('name = "vgg16"', 'name = "../vgg16"', "name: expected lower-case words"),
        ('name = "vgg16"\n', "", "entry number 2: name: missing"),
        ('kind = "vgg"', 'kind = "resnet"', "kind: expected one of vgg, magenta, adain"),
        ('kind = "magenta"', 'kind = "magenta"\nfile = "x"', "entry magenta: file: unknown"),
        ('kind = "magenta"', 'kind = "magenta"\npooling = "max"', "entry magenta: pooling: unknown"),
        ('kind = "vgg"', 'kind = "adain"', "entry vgg19: files: missing"),
        ("[[entry.files]]", "[[entry.parts]]", "entry magenta: parts: unknown"),
        ("[[entry.files]]", "[entry.files]", "not readable as TOML"),
        ("bytes = 4708350", "size = 4708350", "entry magenta-fp16: size: unknown"),
        ('file = "decoder.pth"\n', "", "entry adain: file: missing"),
        ('architecture = "vgg19"', 'architecture = "vgg18"', "architecture: expected one of vgg16, vgg19"),
        ('padding = "zero"', 'padding = "mirror"', "padding: expected one of"),
        ("bytes = 80134624", "bytes = 0", "bytes: expected a whole number above 0"),
        ("bytes = 80134624", "bytes = true", "bytes: expected a whole number above 0"),
        ("bytes = 80134624", "size = 80134624", "size: unknown"),
        ('md5 = "253f', 'md5 = "53f', "md5: expected 32 digits"),
        ('md5 = "253f', 'md5 = "X53f', "md5: expected 32 digits"),
        ('sha256_prefix = "d01eb7cb"', 'sha256_prefix = "d01"', "sha256_prefix: expected 8 digits"),
        ('sha256_prefix = "d01eb7cb"', "", "a file that is downloaded needs a hash"),
        ('urls = ["https', 'urls = ["file', "urls: expected a list of http or https addresses"),
        ('channel_order = "bgr"', 'channel_order = "bgrx"', "channel_order: expected one of rgb, bgr"),
        ("range = 255, ", "", "preprocessing: expected channel_order, range, mean, std"),
        ("mean = [103.939", 'mean = ["x"', "preprocessing: expected numbers"),
        ("[[entry]]", "[[entry]", "not readable as TOML"),
    ],
)
def test_a_registry_that_makes_no_sense_is_refused(tmp_path, old, new, words):
    text = REGISTRY.read_text()
    assert old in text
    path = tmp_path / "registry.toml"
    path.write_text(text.replace(old, new, 1))
    assert words in refused(read_registry, path)


def test_a_registry_that_is_not_there_is_one_line(tmp_path):
    assert "cannot be read" in refused(read_registry, tmp_path / "none.toml")


# ---- what a file expects of a picture


def test_a_known_file_gets_the_names_and_numbers_of_the_registry(tmp_path, small):
    source = write_keras(tmp_path / "renamed.h5", small)
    # Oxford's pre-processing, stated otherwise: the same within rounding
    stated = Preprocessing("bgr", 1.0, tuple(m / 255 for m in OXFORD.mean), (1 / 255,) * 3)
    known = knowing(source, preprocessing=stated, padding="replicate", pooling="average")
    weights = convert(source, tmp_path / "out.h5", registry=known)
    assert weights.name == "vgg19-onnx"
    assert weights.preprocessing == stated
    assert (weights.padding, weights.pooling) == ("replicate", "average")
    assert weights.provenance["source"] == "vgg19-7.onnx"
    assert weights.provenance["source_url"] == ENTRIES["vgg19-onnx"].files[0].urls[0]
    assert weights.provenance["licence"] == "Apache-2.0 (ONNX model zoo)"
    assert weights.provenance["container"] == "Keras HDF5"
    assert "source_url" not in convert(source, tmp_path / "out.h5").provenance


@pytest.mark.parametrize(
    "other",
    [
        {"channel_order": "rgb"},
        {"range": 1.0},
        {"mean": (123.68, 116.779, 103.939)},
        {"mean": (0.0, 0.0, 0.0)},
        {"std": (2.0, 1.0, 1.0)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_content_and_registry_that_disagree_are_refused_and_so_are_options(tmp_path, small, other):
    source = write_keras(tmp_path / "keras.h5", small)
    wrong = replace(OXFORD, **other)
    message = conversion_refused(source, registry=knowing(source, preprocessing=wrong))
    assert f"its content says {OXFORD.describe()}, the registry {wrong.describe()}; not converted" in message
    message = conversion_refused(source, OptionError, preprocessing=wrong)
    assert f"its content says {OXFORD.describe()}, the options {wrong.describe()}; leave them out" in message
    message = conversion_refused(
        source, OptionError, preprocessing=wrong, registry=knowing(source, preprocessing=OXFORD)
    )
    assert "the registry says" in message


def test_options_that_say_what_is_known_do_no_harm(tmp_path, small):
    source = write_keras(tmp_path / "keras.h5", small)
    assert convert(source, tmp_path / "out.h5", preprocessing=stated_preprocessing("bgr", 255)).preprocessing == OXFORD


def test_another_network_than_the_registry_says_is_refused(tmp_path, small):
    source = write_keras(tmp_path / "keras.h5", small)
    message = conversion_refused(source, registry=knowing(source, preprocessing=OXFORD, architecture="vgg16"))
    assert "the registry calls it vgg19-onnx, vgg16; it is vgg19" in message


def test_a_file_that_tells_nothing_needs_options_or_the_registry(tmp_path, small, monkeypatch):
    source = tmp_path / "plain.bin"
    source.write_bytes(b"plain")
    read = Source("plain", "vgg19", small.filters, None, "zero", "max", "unknown", (source,))
    monkeypatch.setattr(readers, "READERS", (readers.Reader("plain", "plain", lambda _: True, lambda _: read),))
    message = conversion_refused(source)
    assert "a plain file does not tell what the network expects of a picture" in message
    assert "--channel-order rgb|bgr --range 1|255 [--mean R,G,B --std R,G,B]" in message
    assert convert(source, tmp_path / "a.h5", preprocessing=TORCHVISION).preprocessing == TORCHVISION
    weights = convert(source, tmp_path / "b.h5", registry=knowing(source))
    assert weights.preprocessing == TORCHVISION
    assert convert(source, tmp_path / "c.h5", preprocessing=TORCHVISION).sha256 == weights.sha256


def test_means_are_stated_in_the_order_red_green_blue():
    assert stated_preprocessing("bgr", 255) == OXFORD
    assert stated_preprocessing("rgb", 255).mean == (123.68, 116.779, 103.939)
    assert stated_preprocessing("rgb", 1) == TORCHVISION
    assert stated_preprocessing("bgr", 1).std == (0.225, 0.224, 0.229)
    assert stated_preprocessing("bgr", 1, (1, 2, 3), (4, 5, 6)) == Preprocessing("bgr", 1.0, (3, 2, 1), (6, 5, 4))
    for options, words in (
        (("rgb", 2), "range: expected 1 or 255"),
        (("rbg", 1), "channel_order: expected one of rgb, bgr"),
        (("rgb", 1, (1, 2, 3)), "expected both or neither"),
        (("rgb", 1, (1, 2, 3), (1, 0, 1)), "std: expected three numbers above 0"),
    ):
        assert words in refused(stated_preprocessing, *options, error=OptionError)


def test_a_file_that_must_be_an_entry_is_held_against_it(tmp_path, small):
    source = write_keras(tmp_path / "keras.h5", small)
    message = refused(convert_entry, ENTRIES["vgg19"], source, tmp_path / "out.h5")
    assert f"expected 80134624 bytes, got {source.stat().st_size}" in message
    assert not (tmp_path / "out.h5").exists()


def test_the_published_tensorflow_js_model_is_known(vgg19):
    assert vgg19.name == "vgg19-tfjs-uint8"
    assert vgg19.provenance["source"] == "vgg19_uint8_tfjs/model.json"
    assert vgg19.provenance["licence"].startswith("CC BY 4.0 (Visual Geometry Group")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the published files are not at {SHARED}")
def test_the_hash_of_the_tensorflow_js_model_is_that_of_its_joined_files():
    folder = SHARED / "vgg19_uint8_tfjs"
    files = [folder / "model.json", *(folder / f"group1-shard{i}of138.bin" for i in range(1, 21))]
    joined = subprocess.run(["cat", *files], capture_output=True, check=True).stdout
    assert hashlib.sha256(joined).hexdigest() == ENTRIES["vgg19-tfjs-uint8"].files[0].hashes["sha256"]
    assert len(joined) == ENTRIES["vgg19-tfjs-uint8"].nbytes
