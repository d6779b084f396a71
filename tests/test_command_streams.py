"""Standard input and output in place of files, names with dashes, and what is told of a picture."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_desk import (
    OPTIONS,
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    main,
    one_line,
    run,
    table,
)
from conftest import ROOT
from PIL import Image

from nstcore import images, pretrained

QUICK = ("run", *OPTIONS, "--weights", "weights.h5")


def piped(*arguments: object, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The real program in a pipe."""
    return subprocess.run(
        [sys.executable, "-m", "nstcore", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=content,
        capture_output=True,
        timeout=60,
    )


def test_from_standard_input_to_standard_output(desk):
    assert run("photos/a.png", "art/x.png", "-o", "out.png", "--quiet") == 0
    before = sorted(desk.rglob("*"))
    done = piped(*QUICK, "-", "art/x.png", "-o", "-", content=Path("photos/a.png").read_bytes())
    assert done.returncode == 0, done.stderr
    assert b"convention relative" in done.stderr  # what is said goes elsewhere than the picture
    assert b"standard output: 24x20, 2 iterations" in done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.format == "PNG"
        assert image.tobytes() == Image.open("out.png").tobytes()
    assert sorted(desk.rglob("*")) == before  # no snapshot, no lock


@pytest.fixture
def pipe(monkeypatch):
    """Put something into standard input, in this process."""

    def fill(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        images.standard_input.cache_clear()

    yield fill
    images.standard_input.cache_clear()


def test_standard_input_may_be_the_style_and_names_its_output(desk, pipe, capsys):
    pipe(Path("art/x.png").read_bytes())
    assert run("photos/a.png", "-", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert images.read_metadata("a-input.png")["complete"]


def test_a_snapshot_of_standard_output_is_kept_where_it_is_asked_for(desk, capsysbinary):
    assert run("photos/a.png", "art/x.png", "-o", "-", "--resume", "--snapshot", "s.h5") == 0
    said = capsysbinary.readouterr()
    assert b"s.h5: no snapshot to go on from" in said.err
    assert said.out.startswith(b"\x89PNG")
    assert not Path("s.h5").exists()


def test_standard_output_that_is_closed_early_costs_no_picture(desk):
    process = subprocess.Popen(
        [sys.executable, "-m", "nstcore", *QUICK, "photos/a.png", "art/x.png", "-o", "-"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("nstcore: standard output: cannot be written: broken pipe; the picture is")
    assert images.read_metadata("nstcore-a.png")["complete"]


def test_numbered_pictures_need_a_name(desk, capsys):
    assert run("photos/a.png", "art/x.png", "-o", "-", "--save-every", 1) == 2
    assert "--save-every: expected a file" in one_line(capsys)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that is in use cannot be removed there")
@pytest.mark.parametrize("output", [(), ("-o", "out.png")], ids=["no name", "a name"])
def test_a_current_folder_that_is_gone_is_told_in_one_line(desk, monkeypatch, capsys, output):
    gone = desk / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run(desk / "photos/a.png", desk / "art/x.png", *output) == 2
    name = "out.png" if output else "a-x.png"
    assert f"{name}: the current folder is gone: no such file or directory; change to another" in one_line(capsys)


def test_names_with_leading_dashes_come_after_two_dashes(desk):
    Path("-a.png").write_bytes(Path("photos/a.png").read_bytes())
    Path("--x y.png").write_bytes(Path("art/x.png").read_bytes())
    assert main(*QUICK, "--quiet", "--output=-o.png", "--", "-a.png", "--x y.png") == 0
    assert images.read_metadata("./-o.png")["content"]["file"] == "-a.png"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are text")
def test_a_name_that_is_no_text_is_painted_and_told(desk, capsys):
    name = os.fsdecode(b"caf\xe9.png")
    Path(name).write_bytes(Path("photos/a.png").read_bytes())
    output = os.fsdecode(b"out-\xe9.png")
    assert run(name, "art/x.png", "-o", output) == 0
    assert "out-\\udce9.png: 24x20" in capsys.readouterr().out
    assert Path(output).is_file()


@pytest.mark.parametrize("arguments", [("-", "art/x.png"), ("photos/a.png", "-")], ids=" ".join)
def test_nothing_on_standard_input_is_refused_in_one_line(desk, pipe, capsys, arguments):
    pipe(b"")
    assert run(*arguments, "-o", "out.png") == 2
    assert one_line(capsys) == "nstcore: standard input: expected a picture, got nothing\n"


def test_rerun_compares_files(desk, capsys):
    assert run("photos/a.png", "art/x.png", "-o", "out.png", "--quiet") == 0
    assert main("rerun", "out.png", "-o", "-") == 2
    assert "expected a file" in one_line(capsys)


def test_an_animation_is_told_once(desk, capsys):
    frames = [Image.new("RGB", (24, 20), (i, 90, 40)) for i in (10, 200, 90)]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    jobs = '[[grid]]\ncontents = "a.gif"\nstyles = "art/*.png"\noutput = "{content}-{style}.png"\n'
    Path("jobs.toml").write_text(f"[defaults]\n{table()}\n{jobs}")
    assert main("run", "--jobs", "jobs.toml") == 0
    assert capsys.readouterr().err.count("a.gif: has 3 frames") == 1
    assert run("a.gif", "art/x.png", "-o", "out.png", "--quiet") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("weights", ["auto", "vgg19", "vgg16"])
def test_a_layer_that_the_network_does_not_have_costs_no_download(desk, capsys, monkeypatch, weights):
    def load(*_, **__):
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(pretrained, "load_weights", load)
    arguments = ("--weights", weights, "--style-layers", "relu7_1", "-o", "out.png")
    assert main("run", "photos/a.png", "art/x.png", *arguments) == 2
    assert "relu7_1" in one_line(capsys)
