"""What a person sees while it works."""

from __future__ import annotations

import os
import sys

import pytest
from conftest import ROOT

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
