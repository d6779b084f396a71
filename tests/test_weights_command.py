"""Where weights lie, what names stand for, and the command `weights`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from conftest import random_weights
from weights_files import refused, write_keras

from nstcore import vgg
from nstcore.commands import weights as command
from nstcore.errors import OutputError
from nstcore.pretrained import (
    builtin_notice,
    builtin_path,
    cache_folder,
    load_weights,
    places,
    read_weights,
    storage,
    write_weights,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A cache of one's own."""
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package folder without built-in filters, inside a checkout."""
    package = tmp_path / "checkout" / "nstcore"
    package.mkdir(parents=True)
    monkeypatch.setattr(places, "_PACKAGE", package)
    return package


@pytest.fixture
def keras(tmp_path, monkeypatch) -> Path:
    """A Keras file of a small network under the name of vgg19."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return write_keras(tmp_path / "keras.h5", random_weights(deepest="conv2_3"))


def put(path: Path, name: str = "small") -> Path:
    """A weights file of the first convolution."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, replace(random_weights(deepest="conv1_1"), name=name))
    return path


def run(*arguments: object) -> int:
    """`python -m nstcore weights ...`, in this process."""
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["weights", *map(str, arguments)])
    return args.run(args)


# ---- places


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "a" / "weights"
    monkeypatch.setenv("NSTCORE_HOME", "")
    assert cache_folder() == tmp_path / "b" / "nstcore" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "c" / ".cache" / "nstcore" / "weights"


def test_the_builtin_file_is_found_in_a_checkout_and_first_in_a_package(package):
    message = refused(builtin_path)
    assert "built-in filters: expected" in message
    beside = put(package.parent / "weights" / "builtin.h5")
    assert builtin_path() == beside
    inside = put(package / "_weights" / "builtin.h5")
    assert builtin_path() == inside


def test_auto_takes_the_cached_vgg19_else_the_builtin_filters(home, package):
    put(package.parent / "weights" / "builtin.h5", "builtin")
    assert load_weights().name == "builtin"
    assert load_weights("builtin").name == "builtin"
    put(home / "weights" / "vgg19.h5", "vgg19")
    assert load_weights("auto").name == "vgg19"
    assert load_weights("vgg19").name == "vgg19"


def test_a_damaged_cached_file_is_reported_not_passed_over(home, package):
    put(package.parent / "weights" / "builtin.h5")
    cached = put(home / "weights" / "vgg19.h5")
    cached.write_bytes(cached.read_bytes()[:3000])
    assert f"{cached}: damaged or cut short" in refused(load_weights, "auto")


def test_a_network_that_is_not_cached_is_named_with_the_command(home):
    message = refused(load_weights, "vgg16")
    assert f"weights vgg16: expected {home / 'weights' / 'vgg16.h5'}" in message
    assert "python -m nstcore weights convert FILE" in message


def test_a_path_is_a_path(home, tmp_path, monkeypatch):
    put(tmp_path / "vgg19.h5", "mine")
    put(tmp_path / "vgg19", "without ending")
    monkeypatch.chdir(tmp_path)
    assert load_weights("vgg19.h5").name == "mine"
    assert load_weights(tmp_path / "vgg19.h5").name == "mine"
    assert load_weights("./vgg19").name == "without ending"
    assert "no such file" in refused(load_weights, "vgg18.h5")
    assert "neither a file nor one of the names auto, builtin, vgg16, vgg19" in refused(load_weights, "vgg18")


def test_the_notice_says_what_it_means_and_what_to_do():
    notice = builtin_notice()
    assert "built-in filters" in notice
    assert "python -m nstcore weights convert FILE" in notice
    assert all(line.isprintable() for line in notice.splitlines())


# ---- the command


def test_convert_writes_where_it_is_told_and_says_so(keras, tmp_path, capsys):
    assert run("convert", keras, "-o", tmp_path / "out.h5") == 0
    out = capsys.readouterr().out
    weights = read_weights(tmp_path / "out.h5")
    for words in (
        "keras.h5",
        "Keras HDF5",
        "4 convolutions, conv1_1 to conv2_3",
        "BGR 0-255, mean 103.939",
        weights.sha256,
    ):
        assert words in out
    assert f"{tmp_path / 'out.h5'} ({(tmp_path / 'out.h5').stat().st_size:,} bytes)" in out
    assert "rounding" not in out


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_convert_says_what_smaller_storage_cost(keras, tmp_path, capsys, stored):
    run("convert", keras, "-o", tmp_path / "out.h5", "--storage", stored)
    rounding = read_weights(tmp_path / "out.h5").provenance["rounding"]
    assert float(rounding) > 0
    assert f"{rounding} of the largest value of its filter, at most" in capsys.readouterr().out


def test_convert_fills_the_cache_and_auto_finds_it(keras, home, capsys):
    assert run("convert", keras) == 0
    assert str(home / "weights" / "vgg19.h5") in capsys.readouterr().out
    assert load_weights("auto").provenance["source"] == "keras.h5"
    assert [p.name for p in (home / "weights").iterdir()] == ["vgg19.h5"]


def test_a_cache_that_cannot_be_made_is_one_line(keras, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "file"))
    assert "the cache folder cannot be made" in refused(run, "convert", keras, error=OutputError)


def test_bad_input_leaves_the_output_as_it_was(keras, tmp_path):
    output = tmp_path / "out.h5"
    output.write_text("precious")
    keras.write_bytes(keras.read_bytes()[:2000])
    refused(run, "convert", keras, "-o", output)
    refused(run, "convert", tmp_path / "none", "-o", output)
    assert output.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keras.h5", "out.h5"]


def test_an_output_folder_that_is_not_there_is_one_line(keras, tmp_path):
    assert "does not exist; make it first" in refused(
        run, "convert", keras, "-o", tmp_path / "no" / "out.h5", error=OutputError
    )


def test_info_verify_and_path_print_what_they_say(home, tmp_path, capsys):
    path = put(tmp_path / "w.h5")
    digest = read_weights(path).sha256
    assert run("info", path) == 0
    out = capsys.readouterr().out
    assert all(words in out for words in ("small", "conv1_1 only", digest, "MIT", "float32"))
    assert run("verify", path) == 0
    assert f"{path}: whole; 1 convolution fits its hash; sha256 {digest}" in capsys.readouterr().out
    assert run("path") == 0
    assert capsys.readouterr().out == f"{home / 'weights'}\n"


def test_verify_refuses_a_changed_number(tmp_path):
    path = put(tmp_path / "w.h5")
    with h5py.File(path, "r+") as file:
        file["conv1_1/bias"][0] += 1
    assert "/conv1_1/bias: its data does not fit its sha256" in refused(run, "verify", path)


def test_the_command_offers_every_storage():
    assert tuple(storage.STORAGES) == command.STORAGES


def test_help_waits_for_nothing_heavy():
    script = "import sys, nstcore.commands.weights; print([m for m in ('numpy', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
