"""`python -m nstcore`: exit codes, messages, files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, smooth_picture

from nstcore import cli, images
from nstcore.commands.progress import Progress

QUICK = ("--size", "32", "--iterations", "2", "--weights", "builtin")


def nst(*arguments, cwd=None, timeout=120, **environment):
    """Run the program as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "nstcore", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture
def pair(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, name in enumerate(("content.png", "style.png")):
        images.write_picture(folder / name, smooth_picture(40, 50, i).transpose(2, 0, 1))
    return folder / "content.png", folder / "style.png"


def test_run_paints_and_says_what_it_did(pair, tmp_path):
    done = nst("run", *pair, "-o", tmp_path / "out.png", *QUICK)
    assert done.returncode == 0, done.stderr
    assert images.as_pixels(tmp_path / "out.png").shape == (3, 26, 32)
    assert "convention relative: content = sum (F-P)^2 / sum P^2" in done.stdout
    assert "builtin" in done.stdout
    assert "engine: cpu (" in done.stdout
    assert "2/2: loss" in done.stderr


def test_run_without_pictures_paints_the_example_pair_under_a_new_name(tmp_path):
    for _ in range(2):
        done = nst("run", "--size", "32", "--iterations", "1", cwd=tmp_path, NSTCORE_HOME=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        assert "The example pair" in done.stdout
        assert "built-in filters" in done.stdout
        assert "weights convert" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["content-style-2.png", "content-style.png"]


def test_quiet_prints_nothing(pair, tmp_path):
    done = nst("run", *pair, "-o", tmp_path / "out.png", "--quiet", *QUICK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_save_every_leaves_numbered_pictures(pair, tmp_path):
    done = nst("run", *pair, "-o", tmp_path / "out.jpg", "--save-every", "1", *QUICK)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.glob("out*")) == ["out.jpg", "out_1.jpg"]


def test_equivalents_are_printed_as_options(pair, tmp_path):
    done = nst("run", *pair, "-o", tmp_path / "out.png", "--equivalents", *QUICK)
    assert "--convention johnson --content-weight" in done.stdout


def test_the_printed_equivalent_is_the_same_objective(pair, tmp_path):
    done = nst("run", *pair, "-o", tmp_path / "a.png", "--tv-weight", "0.25", "--equivalents", *QUICK)
    line = next(x for x in done.stdout.splitlines() if "--convention gatys2016" in x)
    options = line.split("the same as ")[1].split()
    again = nst("run", *pair, "-o", tmp_path / "b.png", *options, *QUICK)
    assert again.returncode == 0, again.stderr
    a, b = (images.read_metadata(tmp_path / n)["losses"]["start"]["total"] for n in ("a.png", "b.png"))
    assert a == pytest.approx(b, rel=1e-4)


def refused(done, code=2):
    """One clear line, no traceback."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


BAD = {
    "missing content": (["missing.png", "STYLE"], "no such file"),
    "missing style": (["CONTENT", "missing.png"], "no such file"),
    "only a content": (["CONTENT"], "STYLE"),
    "not a picture": (["text.png", "STYLE"], "text.png"),
    "missing weights": (["CONTENT", "STYLE", "--weights", "missing.h5"], "missing.h5"),
    "truncated weights": (["CONTENT", "STYLE", "--weights", "cut.h5"], "cut.h5"),
    "weights that are a picture": (["CONTENT", "STYLE", "--weights", "CONTENT"], "content.png"),
    "unknown weights": (["CONTENT", "STYLE", "--weights", "resnet"], "resnet"),
    "unknown layer": (["CONTENT", "STYLE", "--style-layers", "relu7_1"], "relu7_1"),
    "a layer beyond the weights": (["CONTENT", "STYLE", "--style-layers", "relu5_4"], "relu5_4"),
    "an empty layer": (["CONTENT", "STYLE", "--style-layers", "relu1_1,,"], "--style-layers"),
    "a layer weight that is no number": (["CONTENT", "STYLE", "--content-layers", "relu1_1=x"], "--content-layers"),
    "size 0": (["CONTENT", "STYLE", "--size", "0"], "--size"),
    "size 15": (["CONTENT", "STYLE", "--size", "15"], "16x16"),
    "a size that is no number": (["CONTENT", "STYLE", "--size", "big"], "--size"),
    "negative weight": (["CONTENT", "STYLE", "--style-weight", "-1"], "--style-weight"),
    "a weight that is nan": (["CONTENT", "STYLE", "--content-weight", "nan"], "--content-weight"),
    "no iterations": (["CONTENT", "STYLE", "--iterations", "0"], "--iterations"),
    "unknown convention": (["CONTENT", "STYLE", "--convention", "gatys"], "gatys2016"),
    "unknown pooling": (["CONTENT", "STYLE", "--pooling", "min"], "max, average, l2"),
    "unknown optimizer": (["CONTENT", "STYLE", "--optimizer", "sgd"], "adam, lbfgs"),
    "unknown device": (["CONTENT", "STYLE", "--device", "tpu"], "auto, cpu, cuda"),
    "unknown precision": (["CONTENT", "STYLE", "--precision", "int8"], "float32"),
    "unknown init": (["CONTENT", "STYLE", "--init", "blue"], "--init"),
    "negative learning rate": (["CONTENT", "STYLE", "--learning-rate", "-1"], "--learning-rate"),
    "history 0": (["CONTENT", "STYLE", "--optimizer", "lbfgs", "--history", "0"], "--history"),
    "no threads": (["CONTENT", "STYLE", "--threads", "0"], "--threads"),
    "save every 0": (["CONTENT", "STYLE", "--save-every", "0"], "--save-every"),
    "a folder that is missing": (["CONTENT", "STYLE", "-o", "missing/out.png"], "missing"),
    "an output that is a folder": (["CONTENT", "STYLE", "-o", "folder.png"], "folder"),
    "an output of unknown kind": (["CONTENT", "STYLE", "-o", "out.bmpx"], ".png"),
    "an unknown option": (["CONTENT", "STYLE", "--sise", "3"], "--sise"),
    "a seed that is no number": (["CONTENT", "STYLE", "--seed", "x"], "--seed"),
    "a negative seed": (["CONTENT", "STYLE", "--seed", "-1", "--init", "noise"], "seed"),
}


@pytest.fixture
def desk(pair, tmp_path, monkeypatch):
    """A folder with everything that `BAD` names; the files in it, before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "cache"))
    Path("text.png").write_text("not a picture")
    Path("cut.h5").write_bytes((ROOT / "weights" / "builtin.h5").read_bytes()[:100_000])
    Path("folder.png").mkdir()
    return sorted(tmp_path.rglob("*"))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_and_leaves_nothing(pair, desk, tmp_path, capsys, case):
    arguments, expected = BAD[case]
    names = {"CONTENT": str(pair[0]), "STYLE": str(pair[1])}
    arguments = [names.get(a, a) for a in arguments]
    for option, value in zip(QUICK[::2], QUICK[1::2], strict=True):
        if option not in arguments:
            arguments += [option, value]
    if "-o" not in arguments:
        arguments += ["-o", "out.png"]
    try:
        code = cli.main(["run", *arguments])
    except SystemExit as error:  # argparse's own way out
        code = error.code
    err = capsys.readouterr().err
    assert code == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert expected in err
    assert sorted(tmp_path.rglob("*")) == desk


def test_a_refusal_is_one_line_through_the_real_program(pair, tmp_path):
    refused(nst("run", pair[0], tmp_path / "missing.png", "-o", tmp_path / "out.png", *QUICK))
    refused(nst("run", *pair, "--iterations", "many"))
    refused(nst("weights", "convert", tmp_path / "missing.h5", "-o", tmp_path / "w.h5"))
    refused(nst())
    refused(nst("paint"))
    assert not (tmp_path / "out.png").exists()


def test_an_existing_picture_survives_a_refusal(pair, tmp_path):
    out = tmp_path / "out.png"
    out.write_bytes(b"precious")
    refused(nst("run", *pair, "-o", out, "--style-layers", "relu9_9", *QUICK))
    assert out.read_bytes() == b"precious"


def test_ctrl_c_keeps_the_best_picture(pair, tmp_path):
    arguments = ["run", *map(str, pair), "-o", str(tmp_path / "out.png"), "--size", "64", "--weights", "builtin"]
    with subprocess.Popen(
        [sys.executable, "-m", "nstcore", *arguments, "--iterations", "100000", "--save-every", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background inherit an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob("out_*2.png")) and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert images.as_pixels(tmp_path / "out.png").shape == (3, 51, 64)
    assert not list(tmp_path.glob(".*"))


def test_a_run_that_fails_saves_the_best_picture_and_exits_1(pair, tmp_path, monkeypatch, capsys):
    import nstcore

    evaluate = nstcore.Objective.__call__
    count = iter(range(100))

    def fail_later(self, pixels):
        terms, gradient = evaluate(self, pixels)
        return (terms if next(count) < 2 else nstcore.Terms(float("inf"), 0.0, 0.0, 0.0)), gradient

    monkeypatch.setattr(nstcore.Objective, "__call__", fail_later)
    arguments = ["run", *map(str, pair), "-o", str(tmp_path / "out.png"), "--size", "32", "--weights", "builtin"]
    assert cli.main([*arguments, "--quiet"]) == 1
    _, err = capsys.readouterr()
    assert len(err.strip().splitlines()) == 1
    assert "out.png" in err
    assert np.isfinite(images.as_pixels(tmp_path / "out.png")).all()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["weights", "--help"], ["--version"]])
def test_help_answers_at_once(arguments):
    times = []  # of the processor: what else the machine does costs nothing
    for _ in range(3):
        start = os.times()
        done = nst(*arguments)
        end = os.times()
        times.append(end.children_user + end.children_system - start.children_user - start.children_system)
        assert done.returncode == 0
        assert done.stdout
    assert 0 < min(times) < 0.4


def test_jpeg_says_once_that_it_has_no_transparency(pair, tmp_path, capsys):
    shallow = ("--content-layers", "relu2_1", "--style-layers", "relu1_1")
    opaque = images.as_pixels(pair[0])
    for name in ("a.png", "b.png"):
        images.write_picture(tmp_path / name, opaque, alpha=np.linspace(0, 1, 2000).reshape(40, 50))
    jobs = '[[grid]]\ncontents = ["a.png", "b.png"]\nstyles = "pictures/style.png"\noutput = "{content}.jpg"\n'
    (tmp_path / "jobs.toml").write_text(jobs)
    assert cli.main(["run", "--jobs", str(tmp_path / "jobs.toml"), *QUICK, *shallow]) == 0
    assert capsys.readouterr().err.count("JPEG has no transparency") == 1
    assert (
        cli.main(["run", str(tmp_path / "a.png"), str(pair[1]), "-o", str(tmp_path / "a.webp"), *QUICK, *shallow]) == 0
    )
    assert "transparency" not in capsys.readouterr().err
    assert images.load(tmp_path / "a.webp").alpha is not None


def test_the_time_left_follows_the_share_of_the_work(monkeypatch, capsys):
    for share, left in ((0.25, "00:00:30"), (None, "00:00:10")):
        monkeypatch.setattr("time.monotonic", iter([100.0, 110.0]).__next__)  # 10 s for the first half of the count
        with Progress("it") as progress:
            progress(5, 10, share=share)
        assert capsys.readouterr().err == f"5/10, {left} left\n"


@pytest.mark.parametrize("word", ["content", "style"])
def test_pictures_given_as_options_are_told_their_place(capsys, word):
    with pytest.raises(SystemExit) as end:
        cli.main(["run", f"--{word}", "a.png"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--{word}: expected the pictures without options before them, CONTENT STYLE" in line
