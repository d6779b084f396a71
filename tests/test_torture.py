"""Runs that are killed again and again, without warning, and go on: the picture is that of an undisturbed run, and at
no moment is there a file that does not open."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_desk import desk_fixture, furniture_fixture  # noqa: F401
from conftest import ROOT

from nstcore import images
from nstcore.transfer.snapshot import open_snapshot

KILLS = 12  # of each optimizer
COMMON = (
    *("--size", "72", "--ladder", "48", "--snapshot-every", "0.02", "--threads", "1", "--device", "cpu"),
    *("--content-layers", "relu2_1", "--style-layers", "relu1_1,relu2_1", "--weights", "weights.h5"),
)
WAYS = {
    "adam": ("--iterations", "1000", "--seed", "3", "--init", "noise"),
    "lbfgs": ("--iterations", "500", "--optimizer", "lbfgs", "--history", "5"),
}


def start(output: str, way: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "nstcore", "run", "photos/a.png", "art/x.png", "-o", output]
    with open("errors.txt", "w") as errors:
        return subprocess.Popen(
            [*command, "--quiet", *COMMON, *WAYS[way], *more],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=errors,
        )


def errors() -> str:
    return Path("errors.txt").read_text()


def everything_opens(folder: Path) -> int:
    """Every file there is whole; returns how many evaluations the snapshot stands for."""
    done = 0
    for path in folder.glob("out.png*"):
        if path.name == "out.png.snapshot.h5":
            with open_snapshot(path) as (record, read):
                done = len(record["losses"])
                assert np.isfinite(read("x")).all()
                assert np.isfinite(read("best")).all()
        else:
            images.load(path)
    return done


def is_the_picture(desk: Path) -> int:
    """The picture is the undisturbed run's, and nothing else is left; returns how often the run went on."""
    np.testing.assert_array_equal(images.load(desk / "out.png").pixels, images.load(desk / "whole.png").pixels)
    left = sorted(path.name for path in desk.iterdir() if "out.png" in path.name)
    assert left == ["out.png"], "killed runs have left something behind"
    return images.read_metadata(desk / "out.png")["resumed"]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_at_random_moments_makes_the_very_picture(way, desk):
    assert (start("whole.png", way).wait(), errors()) == (0, "")
    chance = random.Random(way)
    killed = resumed = safe = 0
    window = 1.0
    while killed < KILLS:
        run = start("out.png", way, "--resume")
        time.sleep(chance.uniform(0.0, window))
        if run.poll() is not None:  # the end came first: once more from the beginning
            assert run.returncode == 0, errors()
            resumed, safe = resumed + is_the_picture(desk), 0
            (desk / "out.png").unlink()
            continue
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, errors()
        killed += 1
        before, safe = safe, everything_opens(desk)
        assert safe >= before or (desk / "out.png").exists(), "a kill has cost what was safe before"
        if safe == before:  # it came too early: this machine takes longer to begin
            window *= 1.3
    assert start("out.png", way, "--resume").wait() == 0, errors()
    resumed += is_the_picture(desk)
    print(f"{way}: {killed} kills, {resumed} of them after a snapshot")
    assert resumed >= KILLS // 3
