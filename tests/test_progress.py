"""What a person sees while it works."""

from __future__ import annotations

import os
import sys

import pytest
from command_desk import (
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    run,
)
from conftest import ROOT

from nstcore import images
from nstcore.commands.progress import Progress

pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")


def test_on_a_terminal_a_bar_shows_losses_and_the_time_left(tmp_path):
    arguments = ["run", "--size", "48", "--iterations", "5", "--weights", "builtin", "-o", str(tmp_path / "out.png")]
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(PYTHONPATH=str(ROOT), COLUMNS="160")
        os.execv(sys.executable, [sys.executable, "-m", "nstcore", *arguments])
    seen = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux's way of saying that the other end has closed
            break
        if not part:
            break
        seen += part
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, seen
    bar = [part for part in seen.decode().split("\r") if "100%" in part][-1]
    assert "5/5" in bar
    assert "loss" in bar
    assert "style" in bar
    assert "<00:00" in bar  # the time left


def test_that_a_large_picture_is_being_written_is_said(capsys):
    """Nothing moves meanwhile, for seconds; a small one is there at once."""
    with Progress("it") as progress, Progress("it", quiet=True) as silent:
        progress.writing("large.png", 4000, 4001)
        progress.writing("small.png", 4000, 4000)
        silent.writing("large.png", 9000, 9000)
    assert capsys.readouterr().err == "nstcore: writing large.png, 4001x4000\n"


def test_it_is_said_before_it_is_written(desk, capsys, monkeypatch):
    monkeypatch.setattr("nstcore.commands.progress.LARGE", 100)
    monkeypatch.setattr(images, "write_picture", lambda *_, **__: print("written", file=sys.stderr))
    assert run("photos/a.png", "art/x.png", "-o", "out.png") == 0
    said = capsys.readouterr().err.splitlines()
    assert said[said.index("written") - 1] == "nstcore: writing out.png, 24x20"
