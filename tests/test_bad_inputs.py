"""Whatever a file or an option can contain ends in something valid or in one clear line: thousands of bad inputs.

What is bad is made in `bad_inputs.py` and the files beside it; here it is started, in a process of its own, and judged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bad_inputs import KINDS, LIMIT_BYTES, LIMIT_SECONDS
from bad_pictures import bomb, chunks, png, whole_pictures
from conftest import ROOT

SHARE = 15  # of all, in tests that are not marked slow
PATIENCE = 300  # seconds for all of a kind; each input has its own limit
STREAMS = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "NSTCORE_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def read_all(folder: Path, kind: str, every: int) -> int:
    """Every EVERY-th bad input of a kind; their number, once it is sure that each of them ended well."""
    command = [sys.executable, str(ROOT / "tests" / "bad_inputs.py"), str(folder), kind, str(every)]
    done = subprocess.run(command, env=ENVIRONMENT, text=True, timeout=PATIENCE, cwd=folder, **STREAMS)
    lines = done.stdout.splitlines() or ["nothing"]
    assert done.returncode == 0, f"{lines[-1]}: {done.stderr[-2000:]}"
    found = json.loads(lines[-1])
    assert not found["failures"], "\n".join(found["failures"][:20])
    count = found["valid"] + found["refused"]
    print(
        f"{kind}: {count} bad inputs, {found['refused']} refused in one line, {found['valid']} harmless; "
        f"the slowest {found['slowest']:.2f} s, peak {found['peak'] / 1e6:.0f} MB above the start"
    )
    assert found["refused"] > count / 2
    assert found["slowest"] < LIMIT_SECONDS
    assert found["peak"] < LIMIT_BYTES
    return count


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_of_the_bad_inputs_ends_well(tmp_path, kind):
    assert read_all(tmp_path, kind, SHARE) > 15


@pytest.mark.slow
def test_two_thousand_bad_inputs_end_well(tmp_path):
    counts = {}
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        counts[kind] = read_all(tmp_path / kind, kind, 1)
    print(f"{sum(counts.values())} bad inputs in all")
    assert sum(counts.values()) >= 2000
    assert min(counts.values()) >= 250


# ---- the real command line


def command_line(folder: Path, *arguments: str | bytes) -> str:
    """What `python -m nstcore` says on standard error, where it must refuse in one line with exit code 2."""
    command = [sys.executable, "-m", "nstcore", *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=folder, timeout=60, **STREAMS)
    said = done.stderr.decode()
    assert done.returncode == 2, (arguments, done.returncode, said)
    assert said.endswith("\n"), said
    assert said[:-1].isprintable(), said
    return said


def bad_command_lines(folder: Path) -> list[tuple[str | bytes, ...]]:
    """Some of each kind, with their files."""
    whole = whole_pictures()
    files = {
        "good.png": whole["rgb.png"],
        "cut.png": whole["rgb.png"][:700],
        "cut.jpg": whole["rgb.jpg"][:700],
        "cut.tif": whole["lzw.tif"][:-9],
        "noisy.tif": whole["lzw.tif"][:8] + b"\xff" * 8 + whole["lzw.tif"][16:],
        "cut.webp": whole["rgb.webp"][:150],
        "cut.gif": whole["clear.gif"][:300],
        "empty.png": b"",
        "page.png": b"<!doctype html>",
        "post.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(60),
        "huge.png": png([(b"IHDR", b"\0\1\0\0\0\1\0\0\x08\2\0\0\0"), *chunks(whole["rgb.png"])[1:]]),
        "bomb.h5": bomb(),
        "cut.h5": b"\x89HDF\r\n\x1a\n" + bytes(99),
        "bad.toml": b"size = [" * 3000,
        "huge.toml": b"style-weight = 0x" + b"f" * 5000,
        "jobs.toml": b"[[job]]\ncontent = 3\n",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    pictures = [
        name for name in files if name.startswith(("cut.", "noisy", "empty", "page", "post", "phone", "huge.p"))
    ]
    small = ("--weights", "builtin", "--size", "32", "--iterations", "1")
    return [
        *(("run", *small, name, "good.png", "-o", "out.png") for name in pictures if not name.endswith(".h5")),
        ("run", *small, "good.png", "cut.png", "-o", "out.png"),
        ("run", *small, "good.png", b"caf\xe9.png", "-o", "out.png"),
        ("run", *small, "good.png", "good.png", "--protect", "cut.gif", "-o", "out.png"),
        ("run", *small, "good.png", "good.png", "-o", "x" * 300 + ".png"),
        ("run", "--weights", "cut.h5", "good.png", "good.png"),
        ("run", "--weights", "bomb.h5", "good.png", "good.png"),
        ("run", "--settings", "bad.toml", "good.png", "good.png"),
        ("run", "--settings", "huge.toml", "good.png", "good.png"),
        ("run", "--jobs", "jobs.toml"),
        ("run", "--size", "nan", "good.png", "good.png"),
        ("run", "--style-layers", "relu9_9", *small, "good.png", "good.png"),
        ("run", "--precision", "float1", "good.png", "good.png"),
        ("run", "--content-weight", "9" * 9000, "good.png", "good.png"),
        ("weights", "convert", "page.png"),
        ("weights", "convert", "cut.h5"),
        ("rerun", "cut.png"),
        ("paint",),
    ]


@pytest.mark.slow
def test_the_command_line_refuses_in_one_line_with_exit_code_2(tmp_path):
    lines = bad_command_lines(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda arguments: command_line(tmp_path, *arguments), lines))
    print(f"{len(said)} command lines")
    assert len(said) >= 28
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


WATCHED = """
import json, subprocess, sys
from pathlib import Path
import numpy as np
import bad_inputs
from nstcore.errors import OptionError

def shout():
    print("a word", file=sys.stderr, flush=True)

def refuse(message):
    raise OptionError(message)

outside = Path(sys.argv[1]) / "outside"
CASES = {
    "good": lambda: None,
    "refused": lambda: refuse("expected this, got that"),
    "two lines": lambda: refuse("this" + chr(10) + "that"),
    "another error": lambda: 1 / 0,
    "an end of Python": lambda: sys.exit(2),
    "a word on standard error": shout,
    "a file outside": lambda: outside.write_text("x"),
    "a program": lambda: subprocess.run([sys.executable, "--version"], stdout=subprocess.DEVNULL),
    "too much memory": lambda: (np.ones(3 << 28, np.uint8), np.ones(3 << 28, np.uint8)),
}
bad_inputs.KINDS["watched"] = lambda folder: iter([("first", lambda: None), *CASES.items()])
print(json.dumps(bad_inputs.main(Path(sys.argv[1]) / "inside", "watched", 1)))
"""

HANGING = """
import sys, time
from pathlib import Path
import bad_inputs
bad_inputs.LIMIT_SECONDS = 0.2
bad_inputs.KINDS["hanging"] = lambda folder: iter([("first", lambda: None), ("for ever", lambda: time.sleep(60))])
bad_inputs.main(Path(sys.argv[1]), "hanging", 1)
"""


def watched(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, text=True, timeout=60, **STREAMS)


def test_whatever_misbehaves_is_caught(tmp_path):
    done = watched(WATCHED, tmp_path)
    found = json.loads(done.stdout.splitlines()[-1])
    caught = [failure.split(": ")[0] for failure in found["failures"]]
    wrong = [
        "two lines",
        "another error",
        "an end of Python",
        "a word on standard error",
        "a file outside",
        "a program",
    ]
    assert caught == [*wrong, "too much memory"]
    assert (found["valid"], found["refused"]) == (2, 1)


def test_what_hangs_is_ended_and_named(tmp_path):
    done = watched(HANGING, tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "for ever"
    assert "Timeout" in done.stderr
