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
from nstcore.commands.progress import Progress
from nstcore.commands.studio import Studio
from nstcore.errors import OptionError, OutputError, WeightsError
from nstcore.pretrained import (
    builtin_notice,
    builtin_path,
    cache_folder,
    download,
    load_weights,
    places,
    read_weights,
    readers,
    registry,
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
    assert "python -m nstcore weights get vgg16, or python -m nstcore weights convert FILE" in message


def test_every_name_of_the_registry_stands_for_a_file_in_the_cache(home, tmp_path, monkeypatch):
    put(tmp_path / "vgg19-torchvision", "a file of that name")
    monkeypatch.chdir(tmp_path)
    assert "weights get vgg19-torchvision" in refused(load_weights, "vgg19-torchvision")
    put(home / "weights" / "vgg19-torchvision.h5", "cached")
    assert load_weights("vgg19-torchvision").name == "cached"
    assert load_weights("./vgg19-torchvision").name == "a file of that name"


def test_a_path_is_a_path(home, tmp_path, monkeypatch):
    put(tmp_path / "vgg19.h5", "mine")
    put(tmp_path / "vgg19", "without ending")
    monkeypatch.chdir(tmp_path)
    assert load_weights("vgg19.h5").name == "mine"
    assert load_weights(tmp_path / "vgg19.h5").name == "mine"
    assert load_weights("./vgg19").name == "without ending"
    assert "no such file" in refused(load_weights, "vgg18.h5")
    assert "expected a file or a name, got an address" in refused(load_weights, "https://example.org/vgg19.h5")
    assert "neither a file nor one of the names auto, builtin, vgg16, vgg19" in refused(load_weights, "vgg18")


def test_the_notice_says_what_it_means_and_what_to_do():
    notice = builtin_notice()
    assert "built-in filters" in notice
    assert "python -m nstcore weights get vgg19" in notice
    assert "python -m nstcore weights convert FILE" in notice
    assert "(no network)" in builtin_notice("no network")
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
    said = refused(run, "convert", keras, error=OutputError)
    assert "the folder cannot be made: not a directory; set NSTCORE_HOME to one that can" in said


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


def test_list_shows_every_entry_and_what_is_cached(home, capsys):
    put(home / "weights" / "vgg16-torchvision.h5")
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line}
    for entry in registry.default_registry().entries.values():
        row = rows[entry.name]
        assert entry.architecture in row
        assert entry.container in row
        assert entry.licence in row
        assert ("cached" in row) == (entry.name == "vgg16-torchvision")
        assert ("get --from" in row) == (not entry.published)
    assert str(home / "weights") in lines[-1]


@pytest.fixture
def known(keras, home, monkeypatch) -> Path:
    """The registry knows the small Keras file as vgg19."""
    hashes = {"md5": registry.file_digests([keras]).hashes["md5"]}
    listed = registry.default_registry().entries["vgg19"]
    entry = replace(listed, files=(replace(listed.files[0], nbytes=None, hashes=hashes),))
    one = registry.Registry({"vgg19": entry})
    for module in (registry, download):
        monkeypatch.setattr(module, "default_registry", lambda: one)
    monkeypatch.setenv("NSTCORE_OFFLINE", "1")
    return keras


def test_get_fills_the_cache_from_a_copy_and_says_so(known, home, capsys):
    assert run("get", "vgg19", "--from", known) == 0
    out = capsys.readouterr().out
    assert f"written        {home / 'weights' / 'vgg19.h5'}" in out
    assert "CC BY 4.0 (Visual Geometry Group" in out
    assert "checked" not in out
    assert run("get", "vgg19") == 0
    assert "already there" in capsys.readouterr().out
    assert load_weights("auto").name == "vgg19"


def test_get_says_when_there_was_no_hash_to_check(known, home, monkeypatch, capsys):
    listed = registry.default_registry().entries["vgg19"]
    entry = replace(listed, files=(replace(listed.files[0], hashes={}),))
    one = registry.Registry({"vgg19": entry})
    for module in (registry, download):
        monkeypatch.setattr(module, "default_registry", lambda: one)
    assert run("get", "vgg19", "--from", known) == 0
    assert "checked        nothing: no hash of this file is known" in capsys.readouterr().out


def test_get_fetches_a_damaged_file_anew(known, home, capsys):
    run("get", "vgg19", "--from", known)
    cached = home / "weights" / "vgg19.h5"
    whole = cached.read_bytes()
    cached.write_bytes(whole[:3000])
    assert "NSTCORE_OFFLINE is set" in refused(run, "get", "vgg19")
    assert "damaged or cut short" in capsys.readouterr().err
    assert run("get", "vgg19", "--from", known) == 0
    assert cached.read_bytes() == whole


def test_a_time_out_of_nothing_is_refused(known):
    assert "timeout: expected seconds above 0, got 0" in refused(
        run, "get", "vgg19", "--timeout", "0", error=OptionError
    )


def test_an_interrupted_get_says_how_to_go_on(known, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "fetch", interrupted)
    assert run("get", "vgg19") == 130
    assert "the same command resumes the download" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--channel-order", "rgb"), "expected both"),
        (("--range", "255"), "expected both"),
        (("--mean", "1,2,3", "--std", "1,1,1"), "expected both"),
        (("--channel-order", "rgb", "--range", "1", "--mean", "1,2"), "--mean: expected three numbers as R,G,B"),
        (("--channel-order", "rgb", "--range", "1", "--std", "a,b,c"), "--std: expected three numbers as R,G,B"),
        (("--channel-order", "rgb", "--range", "255"), "its content says BGR 0-255"),
    ],
)
def test_conversion_options_that_make_no_sense_are_refused(keras, tmp_path, options, words):
    assert words in refused(run, "convert", keras, "-o", tmp_path / "out.h5", *options, error=OptionError)
    assert not (tmp_path / "out.h5").exists()


def test_conversion_options_fill_in_what_the_file_does_not_tell(keras, tmp_path, monkeypatch):
    read = replace(readers.read_source(keras), preprocessing=None)
    monkeypatch.setattr(readers, "READERS", (readers.Reader("k", "K", lambda _: True, lambda _: read),))
    assert "--channel-order rgb|bgr --range 1|255" in refused(run, "convert", keras, "-o", tmp_path / "out.h5")
    options = ("--channel-order", "bgr", "--range", "1", "--mean", ".3,.2,.1", "--std", "3,2,1")
    assert run("convert", keras, "-o", tmp_path / "out.h5", *options) == 0
    pre = read_weights(tmp_path / "out.h5").preprocessing
    assert (pre.channel_order, pre.range, pre.mean, pre.std) == ("bgr", 1.0, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_download_progress_is_ten_lines_where_there_is_no_terminal(capsys):
    with Progress("B", "vgg19") as progress:
        for done in range(1001):
            progress(done * 1000, 1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[-1].startswith("vgg19: 1.0 of 1.0 MB")
    with Progress("B", "vgg19", quiet=True) as progress:
        progress(1, 2)
    assert capsys.readouterr().err == ""


# ---- what `run` does about weights that are not there


def load_for_run(
    monkeypatch, *, offline: bool, weights: str = "auto", fails: bool = True
) -> tuple[list[str], list[str]]:
    """What was fetched, and what was said."""
    fetched: list[str] = []
    said: list[str] = []

    def fetch(name: str, **_: object) -> None:
        fetched.append(name)
        if fails:
            raise WeightsError("the server answered 404 Not Found")

    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setattr(Studio, "say", lambda _, line: said.append(line))
    studio = Studio(quiet=False)
    studio.weights(weights, offline)
    return fetched, said


def test_run_tries_the_network_once_and_says_why_it_fell_back(home, monkeypatch):
    monkeypatch.delenv("NSTCORE_OFFLINE", raising=False)
    fetched, said = load_for_run(monkeypatch, offline=False)
    assert fetched == ["vgg19"]
    assert "the server answered 404 Not Found" in said[0]
    assert "painting with the built-in filters" in said[0]
    assert load_for_run(monkeypatch, offline=False, weights="builtin") == ([], [])


@pytest.mark.parametrize("how", ["option", "environment"])
def test_run_offline_never_tries_the_network(home, monkeypatch, how):
    monkeypatch.setenv("NSTCORE_OFFLINE", "1" if how == "environment" else "0")
    fetched, said = load_for_run(monkeypatch, offline=how == "option")
    assert fetched == []
    assert "painting with the built-in filters" in said[0]


def test_the_command_offers_every_storage():
    assert tuple(storage.STORAGES) == command.STORAGES


def test_help_waits_for_nothing_heavy():
    script = "import sys, nstcore.commands.weights; print([m for m in ('numpy', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
