"""Weights of the feed-forward networks: from published files to memory and our own file, by name, hash or place."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import tflite_files
from conftest import ROOT, SHARED
from weights_files import refused, replace_dataset, reseal
from weights_server import Handler, Server

from nstcore.commands import weights as command
from nstcore.errors import OptionError, OutputError, WeightsError
from nstcore.pretrained import FastWeights, download, fast_tensors, hdf5, load_fast_weights, load_weights, read_weights
from nstcore.pretrained import registry as registry_module
from nstcore.pretrained.fast import models
from nstcore.pretrained.fast.convert import UNKNOWN, convert_fast
from nstcore.pretrained.fast.layout import read_fast_weights, write_fast_weights
from nstcore.pretrained.registry import Registry, default_registry, file_digests

PROVENANCE = {"source": "x", "source_sha256": "0" * 64, "licence": "MIT", "converter": "a test"}
INT8 = "magenta_arbitrary-image-stylization-v1-256_int8_{}_1.tflite"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A cache of one's own."""
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


@pytest.fixture(scope="module")
def shared_magenta() -> Path:
    folder = SHARED / "magenta_tflite"
    if not folder.is_dir():
        pytest.skip(f"the published files are not at {folder}")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder with Magenta's two networks, random, under names of one's own; and what they stand for."""
    folder = tmp_path_factory.mktemp("magenta")
    graphs = tflite_files.prediction("int8"), tflite_files.transfer("int8")
    for graph, name in zip(graphs, ("prediction", "transfer"), strict=True):
        graph.write(folder / f"my_{name}.tflite")
    return folder, graphs[0].weights | graphs[1].weights


@pytest.fixture
def tiny(monkeypatch):
    """A network of four small tensors under the name of adain."""
    layers = {"encoder/conv1_1": (4, 3, 3, 3), "decoder/conv1": (3, 4, 3, 3)}
    monkeypatch.setattr(models, "_adain", lambda: layers)
    fast_tensors.cache_clear()
    random = np.random.default_rng(0)
    tensors = {n: random.standard_normal(s).astype(np.float32) for n, s in fast_tensors("adain").items()}
    yield FastWeights("mine", "adain", tensors, PROVENANCE)
    monkeypatch.undo()
    fast_tensors.cache_clear()


def same(a: FastWeights, b: FastWeights) -> bool:
    facts = ("name", "model", "provenance", "sha256")
    return all(getattr(a, fact) == getattr(b, fact) for fact in facts) and all(
        np.array_equal(x, y) for x, y in zip(a.tensors.values(), b.tensors.values(), strict=True)
    )


def run(*arguments: object) -> int:
    """`python -m nstcore weights ...`, in this process."""
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["weights", *map(str, arguments)])
    return args.run(args)


# ---- in memory


def test_the_tables_have_the_sizes_of_the_published_networks():
    def count(model, begin=""):
        return sum(int(np.prod(shape)) for name, shape in fast_tensors(model).items() if name.startswith(begin))

    # torchvision's mobilenet_v2 trains 3,504,872 numbers, of which its classifier has 1,281,000; where it has a factor
    # and an offset for each of 17,056 channels (batch normalisation), this has one bias; 100 numbers are made of 1280
    assert count("magenta", "prediction/") == 3_504_872 - 1_281_000 - 17_056 + 1280 * 100 + 100
    assert count("adain", "decoder/") * 4 == 14_020_876  # bytes: "about 14 MB"
    assert len(fast_tensors("magenta")) == 190
    assert [block.stride for block in models.BLOCKS] == [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    assert sum(block.sums for block in models.BLOCKS) == 10
    assert "model: expected one of magenta, adain, got 'vgg19'" in refused(fast_tensors, "vgg19")


def test_weights_are_exactly_the_tensors_of_their_model(tiny):
    tensors = tiny.tensors
    mixed = dict(reversed(tensors.items()))
    assert same(FastWeights("mine", "adain", mixed, PROVENANCE), tiny)
    assert list(FastWeights("mine", "adain", mixed, PROVENANCE).tensors) == list(fast_tensors("adain"))
    first = "encoder/conv1_1/weight"
    w = tensors[first]
    for changed, words in (
        ({k: v for k, v in tensors.items() if k != first}, f"{first}: missing; adain has 4 tensors"),
        (tensors | {"x": w}, "x: expected only the tensors of adain"),
        (tensors | {first: w[:3]}, f"{first}: expected float32 (4, 3, 3, 3), got float32 (3, 3, 3, 3)"),
        (tensors | {first: w.astype(float)}, "got float64"),
        (tensors | {first: w.transpose(0, 1, 3, 2)}, "expected a C-contiguous array"),
        (tensors | {first: w * np.nan}, "expected finite numbers, found 108 that are not"),
    ):
        assert words in refused(FastWeights, "mine", "adain", changed, PROVENANCE)
    assert "one line of plain text" in refused(FastWeights, "two\nlines", "adain", tensors, PROVENANCE)


def test_the_hash_is_of_the_tensors_not_of_their_name(tiny):
    assert replace(tiny, name="other", provenance={}).sha256 == tiny.sha256
    changed = tiny.tensors | {"decoder/conv1/bias": tiny.tensors["decoder/conv1/bias"] + 1}
    assert replace(tiny, tensors=changed).sha256 != tiny.sha256
    assert tiny.describe() == f"mine: adain (4 tensors, 223 numbers), sha256 {tiny.sha256[:16]}"


# ---- our own file


def test_a_file_gives_back_what_was_written_and_the_same_bytes(tiny, tmp_path):
    for name in ("a.h5", "b.h5"):
        write_fast_weights(tmp_path / name, tiny)
    assert same(read_fast_weights(tmp_path / "a.h5"), tiny)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert "source is missing" in refused(write_fast_weights, tmp_path / "c.h5", replace(tiny, provenance={}))
    taken = replace(tiny, provenance=PROVENANCE | {"model": "x"})
    assert "model is not provenance" in refused(write_fast_weights, tmp_path / "c.h5", taken)
    assert "does not exist" in refused(write_fast_weights, tmp_path / "no" / "c.h5", tiny, error=OutputError)
    assert {path.name for path in tmp_path.iterdir()} == {"a.h5", "b.h5"}


def set_model(file: h5py.File) -> None:
    hdf5.set_attribute(file, "model", "magenta")
    reseal(file)


def link_away(file: h5py.File) -> None:
    del file["decoder"]
    file["decoder"] = h5py.ExternalLink("other.h5", "/decoder")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f["decoder/conv1/bias"].__setitem__(0, 9), "/decoder/conv1/bias: its data does not fit its sha256"),
        (lambda f: hdf5.set_attribute(f, "licence", "mine"), "attributes_sha256: does not fit"),
        (lambda f: f.__delitem__("decoder/conv1/bias"), "/decoder/conv1/bias: missing"),
        (lambda f: f.__delitem__("decoder"), "/decoder: missing"),
        (lambda f: f.create_dataset("decoder/more", data=1), "/decoder/more: expected only the tensors of adain"),
        (lambda f: f.create_group("more"), "/more: expected only the tensors of adain"),
        (lambda f: replace_dataset(f, "decoder/conv1", data=1), "/decoder/conv1: expected a group"),
        (lambda f: replace_dataset(f, "decoder/conv1/bias", data=np.ones(4, "f4")), "expected float32 (3,)"),
        (lambda f: f.attrs.__delitem__("model"), "attribute model: missing"),
        (set_model, "/decoder: expected only the tensors of magenta"),
        (link_away, "/decoder: expected data in this file, found a link to elsewhere"),
        (lambda f: hdf5.set_attribute(f, "format", "x"), "attribute format: expected nstcore-fast-weights, found x"),
    ],
)
def test_a_changed_file_is_refused(tiny, tmp_path, change, words):
    write_fast_weights(tmp_path / "w.h5", tiny)
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        change(file)
    assert words in refused(read_fast_weights, tmp_path / "w.h5")


def test_a_damaged_file_ends_in_one_line_or_gives_what_was_written(tiny, tmp_path):
    write_fast_weights(tmp_path / "w.h5", tiny)
    for bad in tflite_files.damaged((tmp_path / "w.h5").read_bytes(), 40, seed=3):
        (tmp_path / "bad.h5").write_bytes(bad)
        with contextlib.suppress(WeightsError):
            assert same(read_fast_weights(tmp_path / "bad.h5"), tiny)


def test_weights_of_the_other_kind_are_refused_with_the_command_that_takes_them(tiny, tmp_path, home):
    write_fast_weights(tmp_path / "fast.h5", tiny)
    message = refused(read_weights, tmp_path / "fast.h5")
    assert "found those of a feed-forward network; they are for: python -m nstcore fast --weights FILE" in message
    assert "python -m nstcore fast --weights magenta" in refused(load_weights, "magenta")
    for name in ("vgg19", "vgg19-timm", "auto", "builtin", ROOT / "weights" / "builtin.h5"):
        message = refused(load_fast_weights, name)
        assert "expected weights of a feed-forward network (magenta or adain)" in message
        assert "python -m nstcore run --weights" in message


# ---- from published files


def test_the_published_files_are_known_by_their_hashes(shared_magenta):
    entry = default_registry().entries["magenta"]
    for file in entry.files:
        content = (shared_magenta / file.file).read_bytes()
        assert file.hashes == {"sha256": hashlib.sha256(content).hexdigest()}
        assert file.nbytes == len(content)
    digests = [file_digests([shared_magenta / file.file]) for file in entry.files]
    assert default_registry().find_fast("magenta", digests) is entry
    assert default_registry().find_fast("magenta", digests[::-1]) is None
    assert default_registry().find_fast("magenta", digests[:1]) is None
    assert default_registry().find(digests[0]) is None


def test_a_folder_or_either_file_is_the_network(made, tmp_path, home):
    folder, tensors = made
    weights = load_fast_weights(folder)
    assert all(np.array_equal(weights.tensors[name], tensors[name]) for name in tensors)
    assert (weights.name, weights.model) == ("magenta", "magenta")
    for name in ("my_prediction.tflite", "my_transfer.tflite"):
        assert same(load_fast_weights(folder / name), weights)
    assert not home.exists()  # nothing is written
    assert same(convert_fast(folder, tmp_path / "out.h5"), weights)
    assert same(load_fast_weights(tmp_path / "out.h5"), weights)
    assert convert_fast(folder, tmp_path / "out.h5", name="mine").name == "mine"


def test_files_that_the_registry_does_not_know_say_so_and_known_ones_have_its_licence(made, tmp_path):
    folder, _ = made
    paths = [folder / f"my_{name}.tflite" for name in ("prediction", "transfer")]
    provenance = load_fast_weights(folder).provenance
    assert provenance["registry"] == UNKNOWN
    assert UNKNOWN in provenance["licence"]
    assert provenance["source"] == "my_prediction.tflite, my_transfer.tflite"
    joined = b"".join(path.read_bytes() for path in paths)
    assert provenance["source_sha256"] == hashlib.sha256(joined).hexdigest()
    provenance = convert_fast(folder, tmp_path / "out.h5", registry=knowing(paths)).provenance
    assert provenance["licence"] == default_registry().entries["magenta"].licence
    assert provenance["source"] == f"{INT8.format('prediction')}, {INT8.format('transfer')}"
    assert "arbitrary-image-stylization" in provenance["source_url"]
    assert "registry" not in provenance


def knowing(paths: list[Path], model: str = "magenta", **changes: object) -> Registry:
    """A registry that knows these files as those of the model's entry."""
    listed = default_registry().entries[model]
    files = tuple(
        replace(file, nbytes=None, hashes={"sha256": file_digests([path]).sha256}, **changes)
        for file, path in zip(listed.files, paths, strict=True)
    )
    return Registry({model: replace(listed, files=files)})


def test_what_is_not_both_files_of_one_network_is_refused(made, tmp_path, home):
    folder, _ = made
    prediction, transfer = (folder / f"my_{name}.tflite" for name in ("prediction", "transfer"))
    alone = shutil.copy(prediction, tmp_path / "my_prediction.tflite")
    assert "expected my_transfer.tflite beside it" in refused(load_fast_weights, alone)
    assert "expected two .tflite files, prediction and transfer, found 1" in refused(load_fast_weights, tmp_path)
    shutil.copy(prediction, tmp_path / "my_transfer.tflite")
    assert "expected one network with one input and one with two" in refused(load_fast_weights, alone)
    nameless = shutil.copy(transfer, tmp_path / "painter.tflite")
    assert "expected prediction or transfer in its name" in refused(load_fast_weights, nameless)
    assert "found 3 (my_prediction.tflite, my_transfer.tflite, painter.tflite)" in refused(load_fast_weights, tmp_path)
    (tmp_path / "empty").mkdir()
    assert "expected a folder with the published files" in refused(load_fast_weights, tmp_path / "empty")
    assert "no such file" in refused(load_fast_weights, tmp_path / "none.tflite")
    assert "no such file" in refused(load_fast_weights, "none.h5")
    assert "neither a file or folder nor one of the names magenta, adain" in refused(load_fast_weights, "monet")
    (tmp_path / "note.tflite").write_text("text")
    assert "expected prediction or transfer in its name" in refused(load_fast_weights, tmp_path / "note.tflite")


def test_a_name_that_is_not_in_the_cache_says_how_it_gets_there(home):
    message = refused(load_fast_weights)
    assert f"weights magenta: expected {home / 'magenta.h5'}, found no file" in message
    assert "python -m nstcore weights get magenta" in message
    assert "python -m nstcore weights convert FOLDER" in message
    assert "python -m nstcore weights get adain" in refused(load_fast_weights, "adain")


# ---- the command


def test_get_info_and_verify_of_the_published_pair(shared_magenta, home, capsys):
    assert run("get", "magenta", "--from", shared_magenta) == 0
    out = capsys.readouterr().out
    weights = load_fast_weights("magenta")
    for words in ("190, 2,512,981 numbers", "Apache-2.0", weights.sha256, f"written        {home / 'magenta.h5'}"):
        assert words in out
    assert "checked" not in out
    assert run("info", "magenta") == run("info", home / "magenta.h5") == 0
    assert weights.sha256 in capsys.readouterr().out
    assert run("verify", "magenta") == 0
    assert f"{home / 'magenta.h5'}: whole; 190 tensors fit their hashes" in capsys.readouterr().out
    assert run("get", "magenta") == 0
    assert "already there" in capsys.readouterr().out
    run("list")
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "cached" in rows["magenta"]
    assert "get --from" in rows["magenta-fp16"]
    assert [path.name for path in home.iterdir()] == ["magenta.h5"]


def test_convert_takes_the_folder_from_the_command_line(shared_magenta, tmp_path):
    line = [sys.executable, "-m", "nstcore", "weights", "convert", shared_magenta, "-o", tmp_path / "m.h5"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "name           magenta" in done.stdout
    assert read_fast_weights(tmp_path / "m.h5").sha256 == load_fast_weights(shared_magenta).sha256


def test_convert_fills_the_cache_and_refuses_what_is_for_a_vgg(made, home, tmp_path, capsys):
    folder, _ = made
    assert run("convert", folder) == 0
    assert f"written        {home / 'magenta.h5'}" in capsys.readouterr().out
    assert load_fast_weights().provenance["registry"] == UNKNOWN
    for options in (("--storage", "int8"), ("--channel-order", "rgb", "--range", "1")):
        assert "leave them out" in refused(run, "convert", folder, *options, error=OptionError)
    itself = shutil.copytree(folder, tmp_path / "itself") / "my_transfer.tflite"
    before = itself.read_bytes()
    assert "the output is the source itself" in refused(run, "convert", itself, "-o", itself, error=OutputError)
    assert itself.read_bytes() == before
    assert "no such file" in refused(run, "convert", tmp_path / "none")


def test_get_from_a_folder_wants_the_published_names_sizes_and_hashes(made, tmp_path, home, monkeypatch):
    folder, _ = made
    assert "no such file" in refused(run, "get", "magenta", "--from", folder)
    assert "expected the folder that holds" in refused(run, "get", "magenta", "--from", folder / "my_transfer.tflite")
    for name in ("prediction", "transfer"):
        shutil.copy(folder / f"my_{name}.tflite", tmp_path / INT8.format(name))
    assert "expected 2828838 bytes, got" in refused(run, "get", "magenta", "--from", tmp_path)
    assert "no address is known" in refused(run, "get", "magenta-fp16")
    assert not home.exists()


# ---- over the network


class Folder(Handler):
    """Serves files by their names."""

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.requests.append((name, self.headers["Range"], self.headers["If-Range"]))
        self.server.content = (self.server.folder / name).read_bytes()
        self.server.tag = f'"{name}"'
        self.whole()


@pytest.fixture
def served(made, tmp_path, home, monkeypatch):
    """A server of both files, and a registry that knows them there as magenta."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NSTCORE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    folder, _ = made
    names = [f"my_{name}.tflite" for name in ("prediction", "transfer")]
    with Server(b"") as server:
        server.RequestHandlerClass, server.folder = Folder, folder
        known = knowing([folder / name for name in names])
        files = tuple(
            replace(file, file=name, urls=(server.url(name),), nbytes=(folder / name).stat().st_size)
            for file, name in zip(known.entries["magenta"].files, names, strict=True)
        )
        known = Registry({"magenta": replace(known.entries["magenta"], files=files)})
        for module in (registry_module, download):
            monkeypatch.setattr(module, "default_registry", lambda: known)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_both_files_are_fetched_checked_and_converted(served, made, home):
    seen = []
    weights = load_fast_weights("magenta", download=True, progress=lambda done, total: seen.append((done, total)))
    assert [request[0] for request in served.requests] == ["my_prediction.tflite", "my_transfer.tflite"]
    total = sum((made[0] / request[0]).stat().st_size for request in served.requests)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert weights.provenance["source_url"] == ", ".join(
        map(served.url, ("my_prediction.tflite", "my_transfer.tflite"))
    )
    assert [path.name for path in home.iterdir()] == ["magenta.h5"]
    load_fast_weights("magenta", download=True)
    assert len(served.requests) == 2


def test_what_has_come_of_two_files_is_kept_and_resumed(served, home):
    served.cut = 100_000
    assert "broke off after 100000 of" in refused(lambda: load_fast_weights("magenta", download=True))
    assert sorted(p.name for p in home.iterdir()) == [".magenta.1.download", ".magenta.1.download.json"]
    load_fast_weights("magenta", download=True)
    assert [request[:2] for request in served.requests[1:]] == [
        ("my_prediction.tflite", "bytes=100000-"),
        ("my_transfer.tflite", None),
    ]
    assert [path.name for path in home.iterdir()] == ["magenta.h5"]


def test_a_base_address_serves_both_files_and_offline_means_offline(served, home, monkeypatch, capsys):
    monkeypatch.setenv("NSTCORE_OFFLINE", "1")
    assert "found no file" in refused(lambda: load_fast_weights("magenta", download=True))
    assert served.requests == []
    monkeypatch.delenv("NSTCORE_OFFLINE")
    assert run("get", "magenta", "--from", served.url("mirror/")) == 0
    assert served.url("mirror/my_transfer.tflite") in capsys.readouterr().out
