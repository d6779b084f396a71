"""A desk for tests of commands: small pictures, a small network, and the command line in this process."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

import nstcore
from nstcore import cli, images
from nstcore.pretrained import write_weights

# Layers that the small network has; a picture is made in some ten milliseconds.
QUICK = {"size": 24, "iterations": 2, "content-layers": "relu2_1", "style-layers": "relu1_1", "threads": 1}
OPTIONS = [word for name, value in QUICK.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="session", name="furniture")
def furniture_fixture(tmp_path_factory) -> Path:
    """What lies on every desk: photos, paintings, a mask of the right half, and weights.h5, a network to conv2_1."""
    folder = tmp_path_factory.mktemp("furniture")
    for i, name in enumerate(("photos/a.png", "photos/b.png", "art/x.png", "art/y.png")):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        images.write_picture(path, smooth_picture(20, 24, i).transpose(2, 0, 1))
    mask = np.zeros((3, 20, 24))
    mask[:, :, 12:] = 1
    images.write_picture(folder / "mask.png", mask)
    write_weights(folder / "weights.h5", random_weights(deepest="conv2_1"))
    return folder


@pytest.fixture(name="desk")
def desk_fixture(tmp_path, monkeypatch, furniture) -> Path:
    """The working folder, with a copy of the furniture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "cache"))
    shutil.copytree(furniture, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(name="at")
def at_fixture(monkeypatch) -> Callable[[int, Callable[[], object]], None]:
    """Do something in the n-th evaluation of the objective."""
    evaluate, count, plans = nstcore.Objective.__call__, 0, {}

    def watched(self, pixels):
        nonlocal count
        count += 1
        plans.get(count, lambda: None)()
        return evaluate(self, pixels)

    monkeypatch.setattr(nstcore.Objective, "__call__", watched)
    return plans.__setitem__


@pytest.fixture(name="no_new_folder")
def no_new_folder_fixture(monkeypatch) -> Callable[[str], None]:
    """A folder of this name cannot be made: its place is read-only, which for the administrator no permission does."""
    make, closed = os.makedirs, set()

    def refused(name, *arguments, **options):
        if str(name) in closed:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(name))
        make(name, *arguments, **options)

    monkeypatch.setattr("os.makedirs", refused)
    return closed.add


def interrupt() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def main(*arguments: object) -> int:
    """The exit code of a command line."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse's own way out
        return int(end.code or 0)


def run(*arguments: object) -> int:
    """`run`, with the small network, and quick where the arguments do not say otherwise."""
    return main("run", *OPTIONS, "--weights", "weights.h5", *arguments)


def one_line(capsys) -> str:
    """What was said on standard error, which is one line."""
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1, said
    assert "Traceback" not in said
    return said


def table(**more: object) -> str:
    """Quick settings as lines of TOML."""
    values = QUICK | {"weights": "weights.h5"} | {name.replace("_", "-"): value for name, value in more.items()}
    return "\n".join(f"{name} = {value!r}" for name, value in values.items()) + "\n"
