"""A disk that fills up, or goes, during a run: nothing that was saved is lost, and the picture is somewhere."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from command_desk import (
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    main,
    one_line,
    run,
    table,
)
from conftest import ROOT

import nstcore
from nstcore import files, images
from nstcore.errors import OutputError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="disks and limits as POSIX has them")
MOUNT = 'mount -t tmpfs -o size=2m tmpfs "$0" && cp previous.png "$0/out.png" && exec "$@"'


@functools.cache
def may_mount() -> bool:
    """Whether a process may have a small disk of its own here."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
            return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
        except OSError:
            return False


@pytest.fixture
def places(desk, tmp_path_factory) -> dict[str, Path]:
    """The output's folder; home and the folder for temporary files, for fallbacks; an earlier out.png."""
    found = {name: tmp_path_factory.mktemp(name) for name in ("output", "home", "temporary")}
    assert run("photos/a.png", "art/x.png", "-o", "previous.png", "--quiet") == 0
    shutil.copy("previous.png", found["output"] / "out.png")
    for path in ("photos", "art"):
        assert Path(path).is_dir()
    return found


def filled(how: str, places: dict[str, Path]) -> tuple[dict, list[str]]:
    """What `full_disk.py` found, and the lines that it wrote to standard error."""
    command = [sys.executable, str(ROOT / "tests" / "full_disk.py"), how, str(places["output"])]
    if how == "disk":
        command = ["unshare", "-rm", "sh", "-c", MOUNT, str(places["output"]), *command]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(places["home"]), "TMPDIR": str(places["temporary"])}
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr.splitlines()


def test_a_disk_filled_to_the_last_byte_loses_nothing_that_was_saved(places):
    if not may_mount():
        pytest.skip("no small disk can be mounted here; the test of the limit stands in for it")
    found, said = filled("disk", places)
    assert found["code"] == 1
    out = places["output"]
    assert found["files"][f"{out}/out.png"] == "3x20x24 whole"  # the earlier one
    assert found["files"][f"{out}/out.png.snapshot.h5"].startswith("snapshot after")
    assert found["files"]["nstcore-out.png"] == "3x20x24 whole"  # the fallback, in the current folder
    assert int(found["files"][f"{out}/log.jsonl"].split()[0]) >= 4
    assert not [name for name in found["files"] if ".part" in name or ".lock" in name]
    assert said[-1].startswith(f"nstcore: {out}/out.png: cannot be written: no space left on device; the picture is in")
    assert f"--resume goes on from {out}/out.png.snapshot.h5" in said[-1]
    assert sum("no snapshot this time" in line for line in said) >= 1
    assert sum("lines are missing from the log" in line for line in said) == 1


def test_where_no_file_can_be_written_at_all_the_earlier_ones_are_whole(places):
    found, said = filled("limit", places)
    assert found["code"] == 1
    out = places["output"]
    assert found["files"][f"{out}/out.png"] == "3x20x24 whole"
    assert found["files"][f"{out}/out.png.snapshot.h5"].startswith("snapshot after")
    assert not [name for name in found["files"] if ".part" in name or ".lock" in name or "nstcore-" in name]
    assert "file too large; nor could it be saved in the current folder, the home folder or the temp" in said[-1]


def test_a_folder_that_goes_away_costs_no_picture(places):
    found, said = filled("gone", places)
    assert found["code"] == 1
    assert found["files"]["nstcore-out.png"] == "3x20x24 whole"
    assert "does not exist" in said[-1]
    assert "the picture is in" in said[-1]


def test_inputs_that_go_away_cost_no_picture(desk, monkeypatch):
    evaluate = nstcore.Objective.__call__

    def watched(self, pixels):
        for name in ("photos/a.png", "art/x.png"):
            Path(name).unlink(missing_ok=True)
        return evaluate(self, pixels)

    monkeypatch.setattr(nstcore.Objective, "__call__", watched)
    assert run("photos/a.png", "art/x.png", "-o", "out.png", "--quiet") == 0
    assert images.read_metadata("out.png")["complete"]


def test_a_picture_too_large_for_its_format_is_refused_before_weights_are_loaded(desk, capsys):
    assert run("photos/a.png", "art/x.png", "-o", "out.webp", "--size", 20000, "--weights", "none.h5") == 2
    assert ".webp holds sides up to 16383 pixels, got 20000" in one_line(capsys)


@pytest.fixture
def full(monkeypatch, tmp_path_factory):
    """Folders where no picture can be written, once the run has begun."""
    folders, real = [], images.write_picture
    monkeypatch.setenv("HOME", str(home := tmp_path_factory.mktemp("home")))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary := tmp_path_factory.mktemp("temporary")))

    def write(path, *arguments, **options):
        if Path(path).absolute().parent in folders:
            try:
                raise OSError(28, "No space left on device")
            except OSError as error:
                raise OutputError(f"{path}: cannot be written: no space left on device; choose another") from error
        real(path, *arguments, **options)

    monkeypatch.setattr(images, "write_picture", write)
    return folders, home, temporary


def test_the_first_folder_that_takes_it_gets_the_picture(desk, full, capsys):
    folders, home, temporary = full
    folders.append(desk)
    (home / "nstcore-out.png").write_bytes(b"another")
    assert run("photos/a.png", "art/x.png", "-o", "out.png", "--quiet") == 1
    assert f"; the picture is in {home}/nstcore-out-2.png" in one_line(capsys)
    assert images.read_metadata(home / "nstcore-out-2.png")["complete"]
    folders.append(home)
    assert run("photos/a.png", "art/x.png", "-o", "out.tif", "--bits", 16, "--quiet") == 1
    (place,) = temporary.glob("*/*")
    assert str(place) in one_line(capsys)
    assert (place.name, place.parent.stat().st_mode & 0o777) == ("nstcore-out.png", 0o700)
    assert images.load(place).bits == 16
    folders.append(place.parent)
    assert (home / "nstcore-out.png").read_bytes() == b"another"


def test_jobs_go_on_after_a_picture_that_had_to_go_elsewhere(desk, full, capsys):
    full[0].append(desk / "out")
    grid = '[[job]]\ncontent = "photos/a.png"\nstyle = "art/x.png"\noutput = '
    Path("jobs.toml").write_text(f'[defaults]\n{table()}\n{grid}"out/a.png"\n{grid}"b.png"\n')
    assert main("run", "--jobs", "jobs.toml") == 1
    assert capsys.readouterr().out.strip().endswith("1 made, 1 failed")
    assert images.read_metadata("nstcore-a.png")["complete"]


@pytest.mark.parametrize(("free", "code"), [(100, 2), (5_000, 0)])
def test_a_disk_without_room_for_the_picture_is_refused_before_the_run(desk, monkeypatch, capsys, free, code):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
    assert run("photos/a.png", "art/x.png", "-o", "out.png") == code
    said = capsys.readouterr().err
    if code:
        assert said == (
            "nstcore: out.png: the picture of 24x20 takes some 1.4 kB, and 100 bytes are left there; make room, or "
            "choose another place\n"
        )
    else:
        assert "snapshots, the old and the new one, take some 58 kB, and 5.0 kB are left: they may fail" in said


@pytest.mark.parametrize("option", ["-o", "--snapshot", "--log"])
def test_places_are_checked_before_weights_are_loaded(desk, capsys, option):
    places = {"-o": "out.png", "--snapshot": "s.h5", "--log": "l.jsonl"}
    arguments = [word for pair in (places | {option: f"none/{places[option]}"}).items() for word in pair]
    assert run("photos/a.png", "art/x.png", *arguments, "--weights", "none.h5") == 2
    assert "none does not exist; make it first" in one_line(capsys)
    assert not Path("out.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("photos/a.png", "torn.png"),
        ("torn.png", "art/x.png"),
        ("photos/a.png", "art/x.png", "--protect", "torn.png"),
        ("photos/a.png", "art/x.png", "--init", "torn.png"),
        ("photos/a.png", "art/x.png", "--device", "cuda-on-cpu", "--precision", "float64"),
    ],
    ids=" ".join,
)
def test_pictures_and_devices_are_checked_before_weights_are_loaded(desk, capsys, arguments):
    Path("torn.png").write_bytes(Path("art/x.png").read_bytes()[:300])
    assert run(*arguments, "-o", "out.png", "--weights", "none.h5") == 2
    assert "none.h5" not in one_line(capsys)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_499, "999 kB"), (999_500, "1.0 MB"), (2.5e9, "2.5 GB")],
)
def test_bytes_are_shown_with_few_digits(count, text):
    assert files.shown_bytes(count) == text


def test_a_name_beside_a_long_one_fits_and_is_its_own(tmp_path):
    long = tmp_path / ("\u00e9" * 125 + ".png")
    names = {files.beside(long.with_name(name), ".snapshot.h5", ".").name for name in (long.name, "x" + long.name[1:])}
    assert len(names) == 2
    assert all(len(os.fsencode(name)) <= 255 for name in names)
    assert files.beside(tmp_path / "out.png", ".lock", ".").name == ".out.png.lock"


@pytest.mark.parametrize("name", ["\u00e9" * 124 + ".png", "\U0001f5bc" * 60 + ".png", "a b.png", "caf\u00e9.png"])
def test_any_name_that_a_file_can_have_is_an_output(desk, name):
    assert run("photos/a.png", "art/x.png", "-o", name, "--quiet") == 0
    assert images.read_metadata(name)["complete"]
    assert not list(desk.glob(".*"))


@pytest.mark.parametrize("name", ["x" * 252 + ".png", "a\0b.png", "\ud800.png"])
def test_a_name_that_no_file_can_have_is_refused_in_one_line(desk, capsys, name):
    assert run("photos/a.png", "art/x.png", "-o", name) == 2
    assert len(one_line(capsys)) < 300
