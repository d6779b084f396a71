"""Building, installing and finding the native kernels; and doing without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, smooth_picture
from test_command_line import QUICK, nst, pair, refused  # noqa: F401

from nstcore import cli, images
from nstcore.engines.cpu import library
from nstcore.errors import DeviceError

HERE, BUILT = library.HERE, library.available()  # before a test changes them
needs_kernels = pytest.mark.skipif(not BUILT, reason="the native kernels are not built")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder in which the libraries are looked for instead."""
    folder = tmp_path / "nstcore" / "engines" / "cpu"
    folder.mkdir(parents=True)
    (tmp_path / "kernels").symlink_to(ROOT / "kernels")
    monkeypatch.setattr(library, "HERE", folder)
    monkeypatch.delenv(library.VARIABLE, raising=False)
    library._libraries.cache_clear()
    yield folder
    library._libraries.cache_clear()


def bring(place, *instructions):
    for name in instructions:
        shutil.copy(HERE / f"libnst_{name}.so", place)


def test_without_libraries_the_notice_says_what_is_missing_and_what_it_would_give(place):
    chosen, notice = library.choose()
    assert chosen is None
    assert notice == f"computing in NumPy, some two and a half times slower: {library.MISSING}"
    assert "\n" not in notice


@needs_kernels
def test_without_anything_wrong_there_is_no_notice(place):
    bring(place, *BUILT)
    chosen, notice = library.choose()
    assert chosen.instructions in library.INSTRUCTIONS
    assert notice is None


@needs_kernels
def test_libraries_of_other_sources_are_passed_over(place, monkeypatch):
    bring(place, *BUILT)
    monkeypatch.setattr(library, "sources_hash", lambda _: "0" * 64)
    chosen, notice = library.choose()
    assert chosen is None
    assert f"the native baseline kernels {library.STALE}" in notice
    assert "computing in NumPy" in notice


@needs_kernels
def test_a_library_that_lacks_a_function_is_of_other_sources(place, monkeypatch):
    bring(place, "baseline")
    monkeypatch.setitem(library._FUNCTIONS, "of_tomorrow", (None,))
    chosen, notice = library.choose()
    assert chosen is None
    assert library.STALE in notice


@needs_kernels
@pytest.mark.parametrize("rubbish", [b"", b"\x7fELF", b"no library at all" * 100])
def test_a_damaged_library_is_passed_over(place, rubbish):
    (place / "libnst_baseline.so").write_bytes(rubbish)
    chosen, notice = library.choose()
    assert chosen is None
    assert f"the native baseline kernels {library.UNLOADABLE}" in notice
    assert "\n" not in notice


@pytest.mark.skipif("avx2" not in BUILT, reason="the avx2 kernels are not built, or not for this machine")
def test_where_the_best_is_damaged_the_next_best_is_taken(place):
    bring(place, "baseline")
    (place / "libnst_avx2.so").write_bytes(b"damaged")
    chosen, notice = library.choose()
    assert chosen.instructions == "baseline"
    assert notice.startswith("computing with the baseline kernels: the native avx2 kernels cannot be loaded")


def test_numpy_is_taken_without_a_notice_where_it_is_wanted(place, monkeypatch):
    assert library.choose("numpy") == (None, None)
    monkeypatch.setenv(library.VARIABLE, "numpy")
    assert library.choose() == (None, None)


@pytest.mark.parametrize("name", [*library.INSTRUCTIONS, "sse9"])
def test_kernels_that_are_not_there_are_refused(place, name):
    with pytest.raises(DeviceError, match=f"expected one of numpy on this machine, got '{name}'") as refusal:
        library.choose(name)
    assert library.MISSING in str(refusal.value)


@needs_kernels
def test_kernels_that_this_machine_lacks_are_refused(place, monkeypatch):
    """Even where they are built, as in a wheel."""
    bring(place, "baseline")
    (place / "libnst_avx512.so").write_bytes(b"must not even be opened")
    monkeypatch.setattr(library, "Library", Older)
    with pytest.raises(DeviceError, match="expected one of baseline, numpy on this machine, got 'avx512'"):
        library.choose("avx512")
    assert library.choose()[1] is None


class Older(library.Library):
    """A library on a machine that has nothing beyond the baseline."""

    def __init__(self, instructions: str, path: Path) -> None:
        super().__init__(instructions, path)
        self.supports = lambda name: name == b"baseline"


def test_unknown_kernels_end_in_one_line(pair, tmp_path):  # noqa: F811
    done = nst("run", *pair, "-o", tmp_path / "out.png", *QUICK, NSTCORE_KERNELS="sse9")
    refused(done)
    assert "got 'sse9'" in done.stderr
    assert not (tmp_path / "out.png").exists()


def arguments(pair, output):  # noqa: F811
    return ["run", *map(str, pair), "-o", str(output), *QUICK]


def test_run_gives_the_notice_once_and_not_when_quiet(place, pair, tmp_path, capsys):  # noqa: F811
    assert cli.main(arguments(pair, tmp_path / "out.png")) == 0
    said = capsys.readouterr()
    assert "engine: cpu (NumPy" in said.out
    assert said.err.count(library.MISSING) == 1
    assert cli.main([*arguments(pair, tmp_path / "out.png"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_normalize_gives_the_notice_once(place, tmp_path, capsys):
    command = ["weights", "normalize", "builtin", "--size", "32", "-o", str(tmp_path / "w.h5")]
    assert cli.main(command) == 0
    assert capsys.readouterr().err.count(library.MISSING) == 1


def test_the_other_engines_have_no_notice(place, pair, tmp_path, capsys):  # noqa: F811
    assert cli.main([*arguments(pair, tmp_path / "out.png"), "--device", "reference"]) == 0
    assert library.MISSING not in capsys.readouterr().err


# -- installing ------------------------------------------------------------------------------------------------------


def wheel_of(checkout: Path, folder: Path, **environment: str) -> Path:
    """A wheel, built without the network."""
    pytest.importorskip("setuptools", minversion="70.1", reason="a wheel is built with setuptools 70.1 or later")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder]
    clean = {name: value for name, value in os.environ.items() if name not in ("CC", "CFLAGS", "LDSHARED")}
    done = subprocess.run([*command, checkout], env=clean | environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def installed(wheel: Path, folder: Path) -> Path:
    """A new environment with the wheel, and the interpreter of it; the dependencies come from the one that runs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(dependencies))
    return python


def paint(python: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    for i, name in enumerate(("content.png", "style.png")):
        images.write_picture(folder / name, smooth_picture(40, 50, i).transpose(2, 0, 1))
    command = [python, "-m", "nstcore", "run", "content.png", "style.png", "-o", "out.png", "--weights", "builtin"]
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", library.VARIABLE)}
    return subprocess.run(
        [*command, "--size", "48", "--iterations", "2"],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def stand_in(folder: Path, *lines: str) -> str:
    """A compiler that runs these lines of a shell, in which gcc may be called."""
    path = folder / "quick-gcc"
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def checkout(tmp_path):
    """A copy, without what was built in the original."""
    folder = tmp_path / "checkout"
    for name in ("nstcore", "kernels", "weights", "tools/cuda_on_cpu"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.slow
def test_a_machine_without_a_compiler_installs_and_paints(checkout, tmp_path):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    wheel = wheel_of(checkout, tmp_path, PATH=str(nothing))
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    done = paint(installed(wheel, tmp_path / "environment"), tmp_path, PATH=str(nothing))
    assert done.returncode == 0, done.stderr
    assert "engine: cpu (NumPy" in done.stdout
    assert done.stderr.count(library.MISSING) == 1
    assert images.as_pixels(tmp_path / "out.png").shape == (3, 38, 48)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here")
def test_a_wheel_carries_the_kernels_and_their_sources_for_any_python(checkout, tmp_path):
    # Without optimisation: half the time
    wheel = wheel_of(checkout, tmp_path, CC=stand_in(tmp_path, 'exec gcc "$@" -O0'))
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for inside, folder, pattern in (
        ("_kernels", ROOT / "kernels", "cpu/*.[ch]"),
        ("_kernels", ROOT / "kernels", "cuda/**/*.cu*"),
        ("_cuda_on_cpu", ROOT / "tools" / "cuda_on_cpu", "*.h"),
    ):
        sources = {str(path.relative_to(folder)) for path in folder.glob(pattern)}
        assert sources
        assert {f"nstcore/{inside}/{name}" for name in sources} <= set(names)
    for instructions in BUILT:
        assert f"nstcore/engines/cpu/libnst_{instructions}.so" in names
    done = paint(installed(wheel, tmp_path / "environment"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "engine: cpu (native " in done.stdout
    assert "nstcore: " not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here")
def test_a_compiler_that_knows_no_avx512_gives_the_others(checkout, tmp_path):
    """Nor anything of C: each source is compiled as an empty one."""
    pytest.importorskip("setuptools")
    compiler = stand_in(
        tmp_path,
        'for a; do case $a in -mavx512*) echo "quick-gcc: error: what is $a?" >&2; exit 1;; esac; done',
        'for a; do shift; case $a in *.c) set -- "$@" -x c /dev/null;; *) set -- "$@" "$a";; esac; done',
        'exec gcc "$@"',
    )
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=checkout,
        env=os.environ | {"CC": compiler},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    built = {path.stem.removeprefix("libnst_") for path in checkout.rglob("libnst_*.so")}
    assert built >= {"baseline", *BUILT} - {"avx512"}
    assert "avx512" not in built
    if "avx512" in BUILT:
        assert 'libnst_avx512" failed: quick-gcc: error: what is -mavx512f?' in done.stderr
